//! How a view is lit: brightness, contrast, saturation, hue, greyscale.
//!
//! Written without branches over planes, so that compilers vectorise it.

use super::Planes;
use crate::config::Random;

/// Luma weights of ITU-R BT.601, as torchvision rounds them.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

/// Factors of one colour jitter and the order in which they are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Jitter {
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// Turns of the colour circle.
    pub hue: f32,
    pub order: [Adjustment; 4],
}

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    Brightness,
    Contrast,
    Saturation,
    Hue,
}

impl Jitter {
    /// Factors within 0.6 to 1.4, hue within a tenth of a turn, in any order.
    pub fn draw(random: &mut Random) -> Self {
        use Adjustment::*;
        let mut order = [Brightness, Contrast, Saturation, Hue];
        random.shuffle(&mut order);
        let mut factor = || random.range(0.6, 1.4) as f32;
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        Self { brightness, contrast, saturation, hue: random.range(-0.1, 0.1) as f32, order }
    }

    /// Adjusts the planes in the drawn order; values stay within 0..1.
    pub fn apply(&self, planes: &mut Planes) {
        for adjustment in self.order {
            match adjustment {
                Adjustment::Brightness => blend(planes, self.brightness, |_| 0.0),
                Adjustment::Contrast => {
                    let mean = mean_luma(planes);
                    blend(planes, self.contrast, |_| mean);
                }
                Adjustment::Saturation => blend(planes, self.saturation, luma),
                Adjustment::Hue => turn_hue(planes, self.hue),
            }
        }
    }
}

fn luma([r, g, b]: [f32; 3]) -> f32 {
    LUMA[0] * r + LUMA[1] * g + LUMA[2] * b
}

fn for_each_pixel([red, green, blue]: &mut Planes, change: impl Fn([f32; 3]) -> [f32; 3]) {
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        [*r, *g, *b] = change([*r, *g, *b]);
    }
}

/// factor * pixel + (1 - factor) * reference, within 0..1.
fn blend(planes: &mut Planes, factor: f32, reference: impl Fn([f32; 3]) -> f32) {
    for_each_pixel(planes, |pixel| {
        let rest = (1.0 - factor) * reference(pixel);
        pixel.map(|value| (factor * value + rest).clamp(0.0, 1.0))
    });
}

fn mean_luma([red, green, blue]: &Planes) -> f32 {
    let sum: f32 = red.iter().zip(green).zip(blue).map(|((r, g), b)| luma([*r, *g, *b])).sum();
    sum / red.len() as f32
}

/// Every channel the luma.
pub fn greyscale(planes: &mut Planes) {
    for_each_pixel(planes, |pixel| [luma(pixel); 3]);
}

/// Turns the hue of the hexagonal HSV model, value and saturation kept.
fn turn_hue(planes: &mut Planes, turns: f32) {
    // One whole turn is added to keep what follows positive.
    let turned = 6.0 * (turns + 1.0);
    for_each_pixel(planes, |[r, g, b]| {
        let value = r.max(g).max(b);
        let chroma = value - r.min(g).min(b);
        // Without chroma there is no hue; any divisor keeps the result finite and chroma 0 makes it irrelevant.
        let inverse = 1.0 / if chroma > 0.0 { chroma } else { 1.0 };
        let sector = if value == r {
            (g - b) * inverse
        } else if value == g {
            2.0 + (b - r) * inverse
        } else {
            4.0 + (r - g) * inverse
        };
        // Channel n of HSV to RGB: value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + sector) mod 6.
        [5.0, 3.0, 1.0].map(|n: f32| {
            let position = n + sector + turned;
            let k = position - 6.0 * ((position * (1.0 / 6.0)) as i32) as f32;
            value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(rgb: [f32; 3]) -> Planes {
        rgb.map(|value| vec![value])
    }

    fn assert_pixel(planes: &Planes, expected: [f32; 3]) {
        for (plane, value) in planes.iter().zip(expected) {
            assert!((plane[0] - value).abs() < 1e-5, "{planes:?}, expected {expected:?}");
        }
    }

    #[test]
    fn hue_turns_red_to_green_to_blue_and_back() {
        let mut planes = pixel([0.9, 0.2, 0.2]);
        turn_hue(&mut planes, 1.0 / 3.0);
        assert_pixel(&planes, [0.2, 0.9, 0.2]);
        turn_hue(&mut planes, 1.0 / 3.0);
        assert_pixel(&planes, [0.2, 0.2, 0.9]);
        turn_hue(&mut planes, 1.0 / 3.0);
        assert_pixel(&planes, [0.9, 0.2, 0.2]);
        turn_hue(&mut planes, -1.0 / 6.0);
        assert_pixel(&planes, [0.9, 0.2, 0.9]);
    }

    #[test]
    fn hue_agrees_with_the_standard_conversion() {
        // Python: colorsys.hsv_to_rgb((h + 0.1) % 1, s, v) of colorsys.rgb_to_hsv(0.3, 0.7, 0.5).
        let mut planes = pixel([0.3, 0.7, 0.5]);
        turn_hue(&mut planes, 0.1);
        assert_pixel(&planes, [0.3, 0.66, 0.7]);
        let mut grey = pixel([0.4; 3]);
        turn_hue(&mut grey, 0.07);
        assert_pixel(&grey, [0.4; 3]);
    }

    #[test]
    fn brightness_contrast_and_saturation_blend_with_black_mean_and_luma() {
        let with = |brightness, contrast, saturation, planes: &mut Planes| {
            use Adjustment::*;
            let order = [Brightness, Contrast, Saturation, Hue];
            Jitter { brightness, contrast, saturation, hue: 0.0, order }.apply(planes);
        };
        let mut planes = pixel([0.2, 0.4, 0.9]);
        with(1.2, 1.0, 1.0, &mut planes);
        assert_pixel(&planes, [0.24, 0.48, 1.0]);
        let mut flat = [vec![0.2, 0.6], vec![0.2, 0.6], vec![0.2, 0.6]];
        with(1.0, 0.5, 1.0, &mut flat);
        assert!((flat[0][0] - 0.3).abs() < 1e-3 && (flat[0][1] - 0.5).abs() < 1e-3, "{flat:?}");
        let mut planes = pixel([1.0, 0.0, 0.0]);
        with(1.0, 1.0, 0.6, &mut planes);
        assert_pixel(&planes, [0.6 + 0.4 * 0.2989, 0.4 * 0.2989, 0.4 * 0.2989]);
        greyscale(&mut planes);
        assert!(planes[0] == planes[1] && planes[1] == planes[2]);
    }
}
