//! Colours, edges and the lens: what every part of the scene is drawn with.

use crate::config::Random;

/// Linear intensities of red, green and blue; 1 is white under the usual light.
pub(super) type Colour = [f32; 3];

pub(super) fn scaled(colour: Colour, factor: f32) -> Colour {
    colour.map(|channel| channel * factor)
}

/// `over` where `coverage` is 1, `under` where it is 0.
pub(super) fn blend(under: Colour, over: Colour, coverage: f32) -> Colour {
    std::array::from_fn(|c| under[c] + (over[c] - under[c]) * coverage)
}

/// From hue, saturation and value, all 0 to 1 (Smith 1978, in the form with one clamp a channel).
pub(super) fn from_hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|offset| {
        let ramp = (((hue + offset).rem_euclid(1.0) * 6.0 - 3.0).abs() - 1.0).clamp(0.0, 1.0);
        value * (1.0 - saturation * (1.0 - ramp))
    })
}

/// 0 below `low`, 1 above `high`, a smooth cubic between.
pub(super) fn smooth_step(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A fixed random number in [0, 1) for a point of a lattice. Mixes with the constants of MurmurHash3's finaliser.
pub(super) fn hash_unit(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77) ^ seed;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    (((h ^ (h >> 16)) >> 8) as f32) / (1 << 24) as f32
}

/// Blurs rows and columns with a triangle of the given half-width in pixels; `side * side` colours.
pub(super) fn blur(colours: &mut [Colour], side: usize, radius: f32) {
    if radius < 0.05 {
        return;
    }
    let reach = radius.ceil() as usize;
    let weights: Vec<f32> = (0..=reach).map(|d| (1.0 - d as f32 / (radius + 1.0)).max(0.0)).collect();
    let total = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
    let mut line = vec![[0.0; 3]; side];
    for (start_step, step) in [(side, 1), (1, side)] {
        for start in (0..side).map(|i| i * start_step) {
            for (i, colour) in line.iter_mut().enumerate() {
                *colour = colours[start + i * step];
            }
            for i in 0..side {
                let mut sum = scaled(line[i], weights[0]);
                for (d, weight) in weights.iter().enumerate().skip(1) {
                    let (before, after) = (line[i.saturating_sub(d)], line[(i + d).min(side - 1)]);
                    sum = std::array::from_fn(|c| sum[c] + weight * (before[c] + after[c]));
                }
                colours[start + i * step] = scaled(sum, 1.0 / total);
            }
        }
    }
}

/// To 8 bits with the square root as gamma and the noise of a cheap sensor: a triangle of about `amplitude` levels to either side.
pub(super) fn expose(colours: &[Colour], amplitude: f32, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(colours.len() * 3);
    for colour in colours {
        let mut chance = random.next_u64();
        for channel in colour {
            let two = (chance & 0xff) + (chance >> 8 & 0xff);
            chance >>= 16;
            let noise = (two as f32 / 255.0 - 1.0) * amplitude;
            bytes.push((channel.max(0.0).sqrt() * 255.0 + noise).round().clamp(0.0, 255.0) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_are_the_primary_colours_at_their_thirds() {
        for (third, channel) in [0, 1, 2].into_iter().enumerate() {
            let colour = from_hsv(third as f32 / 3.0, 1.0, 1.0);
            for (c, value) in colour.into_iter().enumerate() {
                assert!((value - f32::from(u8::from(c == channel))).abs() < 1e-5, "{third}: {colour:?}");
            }
        }
    }

    #[test]
    fn blur_keeps_a_plain_picture_and_spreads_a_point() {
        let mut plain = vec![[0.3, 0.5, 0.7]; 64];
        blur(&mut plain, 8, 2.0);
        assert!(plain.iter().all(|colour| (colour[1] - 0.5).abs() < 1e-5));
        let mut point = vec![[0.0; 3]; 64];
        point[27] = [1.0; 3];
        blur(&mut point, 8, 1.0);
        assert!(point[27][0] < 0.5 && point[26][0] > 0.05);
        assert!((point.iter().map(|colour| colour[0]).sum::<f32>() - 1.0).abs() < 1e-4);
    }
}
