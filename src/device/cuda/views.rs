//! Random views of images, made on the machine from draws of the host; see kernels/views.cu.

use candle_core::{Result, bail};

use super::machine::{Machine, Queue, Region};
use super::parameters::*;

/// Planes of f32 that fit into a block's shared memory, four of them, beside the sums.
const SHARED_SIDE: usize = 52;

/// Memory for planes that do not, at most: larger batches are made in runs.
const SCRATCH_BYTES: usize = 64 << 20;

/// Changes of brightness, contrast, saturation and hue, and the order in which they are made (0 to 3 in this order).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adjustments {
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// Turns of the colour circle.
    pub hue: f32,
    pub order: [u8; 4],
}

/// The random choices behind one view, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewChoices {
    /// Top, left, height, width in pixels.
    pub crop: [usize; 4],
    pub flip: bool,
    pub adjustments: Option<Adjustments>,
    pub grey: bool,
    /// Standard deviation in pixels.
    pub blur: Option<f32>,
}

impl ViewChoices {
    fn draw(&self, side: usize) -> Result<ViewDraw> {
        let [top, left, height, width] = self.crop;
        if height == 0 || width == 0 || top + height > side || left + width > side {
            bail!("a crop of {:?} does not lie within {side} pixels", self.crop);
        }
        let none = Adjustments { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0, order: [0, 1, 2, 3] };
        let adjustments = self.adjustments.unwrap_or(none);
        let steps = adjustments.order.iter().enumerate().map(|(step, kind)| i32::from(kind & 3) << (2 * step));
        let jitter = if self.adjustments.is_some() { 256 + steps.sum::<i32>() } else { 0 };
        Ok(ViewDraw {
            top: number(top)?,
            left: number(left)?,
            height: number(height)?,
            width: number(width)?,
            flip: self.flip.into(),
            grey: self.grey.into(),
            jitter,
            brightness: adjustments.brightness,
            contrast: adjustments.contrast,
            saturation: adjustments.saturation,
            hue: adjustments.hue,
            sigma: self.blur.unwrap_or(0.0),
        })
    }
}

/// What views are made of and how they are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewShape {
    pub side: usize,
    /// Of each channel: normalised = pixel * scale + shift, pixels of 0..1.
    pub scale: [f32; 3],
    pub shift: [f32; 3],
}

/// Views (choices, side, side, 3) in f32 of packed RGB images; view v is of image v mod (number of images).
///
/// # Errors
/// Where the bytes are no whole number of images, a crop lies outside, or the machine fails.
pub fn make_views(machine: &dyn Machine, shape: ViewShape, images: &[u8], choices: &[ViewChoices]) -> Result<Region> {
    let ViewShape { side, scale, shift } = shape;
    let (pixels, size) = (side * side, side * side * 3);
    number(size)?;
    if size == 0 || images.is_empty() || !images.len().is_multiple_of(size) || choices.is_empty() {
        bail!("{} bytes and {} views are no batch of {side}-pixel images", images.len(), choices.len());
    }
    let draws = choices.iter().map(|choices| choices.draw(side)).collect::<Result<Vec<_>>>()?;
    let (images_at, draws_at) = (machine.upload(images)?, machine.upload(&table(&draws))?);
    let views = machine.allocate(4 * size * choices.len())?;
    let fits = side <= SHARED_SIDE;
    let planes = 4 * 4 * pixels;
    let run = if fits { choices.len() } else { choices.len().min((SCRATCH_BYTES / planes).max(1)) };
    let scratch = machine.allocate(if fits { 4 } else { run * planes })?;
    for first in (0..choices.len()).step_by(run) {
        let argument = MakeViews {
            images: images_at.at("images", images.len())?,
            draws: draws_at.at("draws", size_of::<ViewDraw>() * choices.len())?,
            views: views.at("views", 4 * size * choices.len())?,
            scratch: if fits { 0 } else { scratch.at("planes", run * planes)? },
            first: number(first)?,
            images_count: number(images.len() / size)?,
            side: number(side)?,
            unused: 0,
            scale,
            shift,
        };
        let shared = 4 * BLOCK + if fits { planes } else { 0 };
        let blocks = [run.min(choices.len() - first), 1, 1];
        let regions = [&images_at, &draws_at, &views, &scratch];
        // SAFETY: crops lie within the image, images and views were counted, each block has planes of its own.
        unsafe { launch(machine.queue(), "make_views", blocks, shared, &argument, &regions)? };
    }
    Ok(views)
}

/// weight * images + (1 - weight) * partners into `mixed`; f32, `count` values each.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn mix(
    queue: &dyn Queue,
    weight: f32,
    count: usize,
    images: &Region,
    partners: &Region,
    mixed: &Region,
) -> Result<()> {
    let argument = Mix {
        images: images.at("images", 4 * count)?,
        partners: partners.at("partners", 4 * count)?,
        mixed: mixed.at("the mixture", 4 * count)?,
        count: count as i64,
        weight,
        unused: 0,
    };
    // SAFETY: the kernel stays within `count` values, for which the regions were checked.
    unsafe { launch(queue, "mix", grid_of(count), 0, &argument, &[images, partners, mixed]) }
}
