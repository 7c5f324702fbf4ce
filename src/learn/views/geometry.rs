//! Where a view looks: crop, scale, mirror and blur.

use super::Planes;
use crate::config::Random;

/// A rectangle of pixels within the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Crop {
    /// Area 0.2 to 1 of the image, ratio of width to height 3/4 to 4/3 (uniform in its logarithm), anywhere; the whole
    /// image where ten such rectangles in turn do not fit (Szegedy et al. 2015, as torchvision draws them).
    pub fn draw(random: &mut Random, side: usize) -> Self {
        let area = (side * side) as f64;
        for _ in 0..10 {
            let target = area * random.range(0.2, 1.0);
            let ratio = random.range((3f64 / 4.0).ln(), (4f64 / 3.0).ln()).exp();
            let width = (target * ratio).sqrt().round() as usize;
            let height = (target / ratio).sqrt().round() as usize;
            if (1..=side).contains(&width) && (1..=side).contains(&height) {
                let top = random.below((side - height + 1) as u64) as usize;
                let left = random.below((side - width + 1) as u64) as usize;
                return Self { top, left, height, width };
            }
        }
        Self { top: 0, left: 0, height: side, width: side }
    }
}

/// One output coordinate between two input ones: value = (1 - far_weight) * near + far_weight * far.
#[derive(Clone, Copy)]
struct Tap {
    near: usize,
    far: usize,
    far_weight: f32,
}

/// Pixel centres at half coordinates, clamped at the edges of the crop: bilinear without aligned corners.
fn taps(start: usize, length: usize, side: usize) -> impl Iterator<Item = Tap> {
    let step = length as f32 / side as f32;
    (0..side).map(move |output| {
        let position = ((output as f32 + 0.5) * step - 0.5).clamp(0.0, (length - 1) as f32);
        let near = position as usize;
        let far = (near + 1).min(length - 1);
        Tap { near: start + near, far: start + far, far_weight: position - near as f32 }
    })
}

/// The crop scaled to side x side, mirrored where asked for, as planes of 0..1.
///
/// A crop is never larger than the image and so never shrinks: no anti-aliasing is needed.
pub fn resized_crop(image: &[u8], side: usize, crop: &Crop, flip: bool, planes: &mut Planes) {
    let mut columns: Vec<Tap> = taps(crop.left, crop.width, side).collect();
    if flip {
        columns.reverse();
    }
    let [red, green, blue] = planes;
    for (y, row) in taps(crop.top, crop.height, side).enumerate() {
        let line = |index: usize| image[index * side * 3..][..side * 3].as_chunks::<3>().0;
        let (near, far) = (line(row.near), line(row.far));
        let of_row = y * side..(y + 1) * side;
        let outputs = red[of_row.clone()].iter_mut().zip(&mut green[of_row.clone()]).zip(&mut blue[of_row]);
        for (column, ((r, g), b)) in columns.iter().zip(outputs) {
            let corners = [near[column.near], near[column.far], far[column.near], far[column.far]];
            let channel = |c: usize| {
                let [a, b, c, d] = corners.map(|pixel| f32::from(pixel[c]));
                let (upper, lower) = (a + (b - a) * column.far_weight, c + (d - c) * column.far_weight);
                (upper + (lower - upper) * row.far_weight) * (1.0 / 255.0)
            };
            (*r, *g, *b) = (channel(0), channel(1), channel(2));
        }
    }
}

/// Gaussian blur with a kernel of side / 20 * 2 + 1 pixels, mirrored at the edges. `spare`: as long as the plane.
pub fn blur(plane: &mut [f32], side: usize, sigma: f32, spare: &mut [f32]) {
    let reach = side / 20;
    let kernel = gaussian(reach, sigma);
    let mut padded = vec![0.0; side + 2 * reach];
    for (row, out) in plane.chunks_exact(side).zip(spare.chunks_exact_mut(side)) {
        for (position, value) in padded.iter_mut().enumerate() {
            *value = row[mirrored(position, reach, side)];
        }
        out.fill(0.0);
        for (offset, weight) in kernel.iter().enumerate() {
            out.iter_mut().zip(&padded[offset..]).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    for (y, out) in plane.chunks_exact_mut(side).enumerate() {
        out.fill(0.0);
        for (offset, weight) in kernel.iter().enumerate() {
            let row = mirrored(y + offset, reach, side) * side;
            out.iter_mut().zip(&spare[row..]).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

/// The position of a padded line within the line: -1 is 1, side is side - 2.
fn mirrored(padded: usize, reach: usize, side: usize) -> usize {
    match padded.checked_sub(reach) {
        None => reach - padded,
        Some(inside) if inside < side => inside,
        Some(beyond) => 2 * (side - 1) - beyond,
    }
}

fn gaussian(reach: usize, sigma: f32) -> Vec<f32> {
    let weights: Vec<f32> =
        (0..=2 * reach).map(|i| (-0.5 * ((i as f32 - reach as f32) / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    fn planes(side: usize) -> Planes {
        std::array::from_fn(|_| vec![0.0; side * side])
    }

    #[test]
    fn a_crop_of_a_ramp_is_the_ramp_between_its_edges() {
        let side = 16;
        let image: Vec<u8> =
            (0..side * side).flat_map(|i| [(10 * (i % side)) as u8, (10 * (i / side)) as u8, 0]).collect();
        let mut planes = planes(side);
        let crop = Crop { top: 4, left: 2, height: 4, width: 8 };
        resized_crop(&image, side, &crop, false, &mut planes);
        for (output, expected) in [(0, 2.0), (1, 2.25), (8, 2.0 + 3.75), (15, 9.0)] {
            assert!(
                (planes[0][output] * 25.5 - expected).abs() < 1e-4,
                "column {output}: {}",
                planes[0][output] * 25.5
            );
        }
        assert!((planes[1][15 * side] * 25.5 - 7.0).abs() < 1e-4);
        assert!((planes[1][4 * side] * 25.5 - (4.0 + 0.625)).abs() < 1e-4);
    }

    #[test]
    fn crops_stay_inside_and_have_the_area_and_ratio_asked_for() {
        let mut random = Seed(1).random("crops", 0);
        let crops: Vec<Crop> = (0..5_000).map(|_| Crop::draw(&mut random, 64)).collect();
        for crop in &crops {
            assert!(crop.top + crop.height <= 64 && crop.left + crop.width <= 64);
            let ratio = crop.width as f64 / crop.height as f64;
            assert!((0.7..1.43).contains(&ratio), "{crop:?}");
            assert!((crop.width * crop.height) as f64 > 0.18 * 4096.0, "{crop:?}");
        }
        let mean = crops.iter().map(|c| (c.width * c.height) as f64).sum::<f64>() / 5_000.0 / 4096.0;
        assert!((0.5..0.62).contains(&mean), "{mean}");
    }

    #[test]
    fn blur_keeps_a_constant_and_spreads_a_point_by_its_sigma() {
        let side = 64;
        let mut spare = vec![0.0; side * side];
        let mut constant = vec![0.3; side * side];
        blur(&mut constant, side, 1.5, &mut spare);
        assert!(constant.iter().all(|value| (value - 0.3).abs() < 1e-6));
        let mut point = vec![0.0; side * side];
        point[32 * side + 32] = 1.0;
        blur(&mut point, side, 0.8, &mut spare);
        let variance: f32 = point.iter().enumerate().map(|(i, value)| value * ((i % side) as f32 - 32.0).powi(2)).sum();
        assert!((variance - 0.64).abs() < 0.01, "{variance}");
        assert_eq!([mirrored(0, 3, 64), mirrored(2, 3, 64), mirrored(67, 3, 64)], [3, 1, 62]);
    }
}
