//! Random views of images: the two faces of one image that the objectives hold against each other.
//!
//! From raw RGB bytes to normalised tensors: random resized crop, flip, colour jitter, greyscale, Gaussian blur, normalise.
//! All draws are made first, in order, from one generator; applying them is a pure function of image and draw, spread over
//! the cores. So the views do not depend on the number of threads.
//!
//! Source: the augmentation of SimSiam (Chen and He 2021, appendix A), the meaning of each step as in torchvision's
//! transforms on tensors.

mod colour;
mod geometry;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use crate::config::Random;
use crate::device::cuda::tensors;
use crate::device::cuda::views::{Adjustments, ViewChoices, ViewShape};
use crate::encoder::Preset;
use colour::Jitter;
use geometry::Crop;

/// Chance of colour jitter, greyscale and blur.
const JITTER_CHANCE: f64 = 0.8;
const GREY_CHANCE: f64 = 0.2;
const BLUR_CHANCE: f64 = 0.5;

/// Up to this many pixels images are not blurred: at 32 pixels it would leave little to see.
const SHARP_SIDE: usize = 32;

/// Two views of each image of a batch, each (n, side, side, 3), f32, normalised.
#[derive(Debug, Clone)]
pub struct Views {
    pub first: Tensor,
    pub second: Tensor,
}

impl Views {
    /// Images of which these are views.
    pub fn count(&self) -> usize {
        self.first.dims().first().copied().unwrap_or(0)
    }

    /// The views of `count` images from `start` on.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self { first: self.first.narrow(0, start, count)?, second: self.second.narrow(0, start, count)? })
    }
}

/// The random choices behind one view.
#[derive(Debug, Clone, PartialEq)]
struct Draw {
    crop: Crop,
    flip: bool,
    jitter: Option<Jitter>,
    grey: bool,
    /// Standard deviation of the blur in pixels.
    blur: Option<f32>,
}

impl Draw {
    fn new(random: &mut Random, side: usize) -> Self {
        let jitter = |random: &mut Random| (random.uniform() < JITTER_CHANCE).then(|| Jitter::draw(random));
        Self {
            crop: Crop::draw(random, side),
            flip: random.uniform() < 0.5,
            jitter: jitter(random),
            grey: random.uniform() < GREY_CHANCE,
            blur: (side > SHARP_SIDE && random.uniform() < BLUR_CHANCE).then(|| random.range(0.1, 2.0) as f32),
        }
    }
}

impl Draw {
    /// The same for a device that makes views itself.
    fn choices(&self) -> ViewChoices {
        let Crop { top, left, height, width } = self.crop;
        let adjustments = self.jitter.as_ref().map(|jitter| Adjustments {
            brightness: jitter.brightness,
            contrast: jitter.contrast,
            saturation: jitter.saturation,
            hue: jitter.hue,
            order: jitter.order.map(|adjustment| adjustment as u8),
        });
        ViewChoices { crop: [top, left, height, width], flip: self.flip, adjustments, grey: self.grey, blur: self.blur }
    }
}

/// Makes views of images of one size.
#[derive(Debug, Clone)]
pub struct ViewMaker {
    side: usize,
    /// Of each channel: normalised = pixel * scale + shift.
    scale: [f32; 3],
    shift: [f32; 3],
}

impl ViewMaker {
    /// For the size and normalisation of a preset.
    pub fn new(preset: &Preset) -> Self {
        let scale = preset.std.map(|std| 1.0 / std);
        let shift = std::array::from_fn(|channel| -preset.mean[channel] / preset.std[channel]);
        Self { side: preset.side, scale, shift }
    }

    /// Two views of each image. `images`: packed RGB8, n times side x side x 3 bytes.
    ///
    /// # Errors
    /// Where the bytes are no whole number of images, or the device fails.
    pub fn pair(&self, images: &[u8], random: &mut Random, device: &Device) -> Result<Views> {
        let size = self.side * self.side * 3;
        if !images.len().is_multiple_of(size) {
            candle_core::bail!("{} bytes are no whole number of {}-pixel images", images.len(), self.side);
        }
        let count = images.len() / size;
        let draws: Vec<Draw> = (0..2 * count).map(|_| Draw::new(random, self.side)).collect();
        let choices: Vec<ViewChoices> = draws.iter().map(Draw::choices).collect();
        if let Some(views) = tensors::make_views(device, self.shape(), images, &choices) {
            let views = views?;
            return Ok(Views { first: views.narrow(0, 0, count)?, second: views.narrow(0, count, count)? });
        }
        let (first, second): (Vec<Draw>, Vec<Draw>) = {
            let mut halves = draws.into_iter();
            let first = halves.by_ref().take(count).collect();
            (first, halves.collect())
        };
        let make = |draws: &[Draw]| {
            let mut pixels = vec![0f32; images.len()];
            pixels.par_chunks_exact_mut(size).zip(images.par_chunks_exact(size)).zip(draws).for_each_init(
                || Scratch::new(self.side),
                |scratch, ((out, image), draw)| {
                    self.apply(image, draw, scratch, out);
                },
            );
            Tensor::from_vec(pixels, (count, self.side, self.side, 3), device)
        };
        Ok(Views { first: make(&first)?, second: make(&second)? })
    }

    fn shape(&self) -> ViewShape {
        ViewShape { side: self.side, scale: self.scale, shift: self.shift }
    }

    fn apply(&self, image: &[u8], draw: &Draw, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { planes, spare } = scratch;
        geometry::resized_crop(image, self.side, &draw.crop, draw.flip, planes);
        if let Some(jitter) = &draw.jitter {
            jitter.apply(planes);
        }
        if draw.grey {
            colour::greyscale(planes);
        }
        if let Some(sigma) = draw.blur {
            planes.iter_mut().for_each(|plane| geometry::blur(plane, self.side, sigma, spare));
        }
        self.interleave(planes, out);
    }

    fn interleave(&self, [red, green, blue]: &Planes, out: &mut [f32]) {
        let (pixels, _) = out.as_chunks_mut::<3>();
        for (((pixel, r), g), b) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
            *pixel = [
                r * self.scale[0] + self.shift[0],
                g * self.scale[1] + self.shift[1],
                b * self.scale[2] + self.shift[2],
            ];
        }
    }
}

/// Red, green and blue of one image, each side x side values of 0..1: apart, so that arithmetic on them is vectorised.
type Planes = [Vec<f32>; 3];

/// Memory that one thread reuses from view to view.
struct Scratch {
    planes: Planes,
    spare: Vec<f32>,
}

impl Scratch {
    fn new(side: usize) -> Self {
        Self { planes: std::array::from_fn(|_| vec![0.0; side * side]), spare: vec![0.0; side * side] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;
    use crate::device::cuda::twins;

    fn preset(side: usize) -> Preset {
        Preset { side, ..Preset::load("resnet18-w16").unwrap() }
    }

    fn images(count: usize, side: usize) -> Vec<u8> {
        let mut random = Seed(5).random("pixels", 0);
        (0..count * side * side * 3).map(|_| random.below(256) as u8).collect()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_view_that_changes_nothing_is_the_normalised_image() {
        let preset = preset(32);
        let image = images(1, 32);
        let whole = Crop { top: 0, left: 0, height: 32, width: 32 };
        let draw = Draw { crop: whole, flip: false, jitter: None, grey: false, blur: None };
        let mut view = vec![0.0; image.len()];
        ViewMaker::new(&preset).apply(&image, &draw, &mut Scratch::new(32), &mut view);
        let expected = values(&preset.normalise(&image, &Device::Cpu).unwrap());
        let error = view.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error < 1e-5, "{error}");
        let mirrored = Draw { flip: true, ..draw };
        ViewMaker::new(&preset).apply(&image, &mirrored, &mut Scratch::new(32), &mut view);
        for x in 0..32 {
            assert!((view[3 * x] - expected[3 * (31 - x)]).abs() < 1e-5);
        }
    }

    #[test]
    fn views_are_the_same_for_the_same_draws_and_on_any_number_of_threads() {
        let maker = ViewMaker::new(&preset(48));
        let images = images(5, 48);
        let make = |event| {
            let views = maker.pair(&images, &mut Seed(1).random("views", event), &Device::Cpu).unwrap();
            (values(&views.first), values(&views.second))
        };
        let (first, second) = make(0);
        assert_ne!(first, second);
        assert_ne!(first, make(1).0);
        assert!(first.iter().chain(&second).all(|value| value.is_finite()));
        let lone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(lone.install(|| make(0)), (first, second));
    }

    /// The definition that the device's kernel is held against, on draws of every kind.
    #[test]
    fn a_device_that_makes_views_itself_means_the_same() {
        for side in [32, 41] {
            let (maker, images) = (ViewMaker::new(&preset(side)), images(1, side));
            let mut random = Seed(3).random("draws", 0);
            for _ in 0..40 {
                let draw = Draw::new(&mut random, side);
                let mut view = vec![0.0; images.len()];
                maker.apply(&images, &draw, &mut Scratch::new(side), &mut view);
                let twin = twins::view(maker.shape(), &images, &draw.choices());
                let error = view.iter().zip(&twin).fold(0f64, |most, (a, b)| most.max((f64::from(*a) - b).abs()));
                assert!(error < 1e-4, "{draw:?}: {error}");
            }
        }
    }

    #[test]
    fn steps_occur_as_often_as_they_should_and_small_images_are_not_blurred() {
        let mut random = Seed(2).random("draws", 0);
        let draws: Vec<Draw> = (0..10_000).map(|_| Draw::new(&mut random, 64)).collect();
        let share = |has: &dyn Fn(&Draw) -> bool| draws.iter().filter(|draw| has(draw)).count() as f64 / 10_000.0;
        assert!((share(&|draw| draw.flip) - 0.5).abs() < 0.02);
        assert!((share(&|draw| draw.jitter.is_some()) - 0.8).abs() < 0.02);
        assert!((share(&|draw| draw.grey) - 0.2).abs() < 0.02);
        assert!((share(&|draw| draw.blur.is_some()) - 0.5).abs() < 0.02);
        assert!((0..1_000).all(|_| Draw::new(&mut random, 32).blur.is_none()));
    }

    #[test]
    fn bytes_that_are_no_whole_number_of_images_are_refused() {
        let mut random = Seed(2).random("draws", 0);
        assert!(ViewMaker::new(&preset(32)).pair(&[0; 100], &mut random, &Device::Cpu).is_err());
    }
}
