//! A simulated camera above a conveyor belt: pictures with known products and known shifts.
//!
//! It stands in for a real camera in the demonstration, in tests, and as a labelled yardstick. Shot `i` is a pure function of the
//! seed, the script and `i`: it can be taken in any order, again, and on another machine. What a shot shows is told
//! beside it, as [`Truth`]. Encoding and sending shots is left to others.
//!
//! ```
//! use lumpd::config::Seed;
//! use lumpd::stream::camera::{Camera, Script};
//! let camera = Camera::new(Script::default(), Seed(1));
//! let shot = camera.shot(7);
//! assert_eq!(shot.pixels.len(), (shot.side * shot.side * 3) as usize);
//! assert_eq!(shot.truth.phase, 0);
//! ```

mod belt;
mod canvas;
mod products;
mod scene;
mod script;

pub use belt::Belt;
pub use products::Product;
pub use script::{Phase, Script, ScriptError};

use crate::config::{Random, Seed};
use products::Look;

/// Width and height of a shot, in pixels.
pub const SIDE: u32 = 96;

/// How often something is in the way.
const OCCLUSION_RATIO: f64 = 0.08;
/// Belt movement from one shot to the next, in pixels. Not a divisor of the seams' distance, so that they wander.
const BELT_STEP_PIXELS: f64 = 37.0;

/// The camera; see the module.
#[derive(Debug, Clone)]
pub struct Camera {
    script: Script,
    seed: Seed,
}

/// One picture and what it shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shot {
    pub side: u32,
    /// RGB, 8 bits a channel, shape (side, side, 3).
    pub pixels: Vec<u8>,
    pub truth: Truth,
}

/// What a shot shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Number of the shot, from 0.
    pub index: u64,
    /// Which phase of the script, from 0.
    pub phase: usize,
    pub product: Product,
    /// Of the product, in pixels from the left and the top.
    pub centre: (f64, f64),
    /// Half the product's length, in pixels.
    pub radius: f64,
    /// Clockwise from lying along the belt.
    pub rotation_radians: f64,
    /// Colour of the product as an angle of the colour circle, 0 to 1.
    pub hue: f64,
    /// Brightness of the lamp; 1 is usual.
    pub light: f64,
    /// Radius of the blur in pixels; 0 is sharp.
    pub blur: f64,
    pub belt: Belt,
    /// Something hides a part of the product.
    pub occluded: bool,
}

impl Camera {
    pub fn new(script: Script, seed: Seed) -> Self {
        Self { script, seed }
    }

    pub fn script(&self) -> &Script {
        &self.script
    }

    /// What shot `index` will show, without rendering it. After its end the script begins anew.
    pub fn truth(&self, index: u64) -> Truth {
        self.set(index).0
    }

    /// Takes shot `index`.
    pub fn shot(&self, index: u64) -> Shot {
        let (truth, look, mut random) = self.set(index);
        let pixels = scene::render(&truth, &look, index as f64 * BELT_STEP_PIXELS, &mut random);
        Shot { side: SIDE, pixels, truth }
    }

    /// Draws everything that happens by chance, in a fixed order; the generator goes on to the noise.
    fn set(&self, index: u64) -> (Truth, Look, Random) {
        let (phase_index, phase, progress) = self.script.at(index);
        let mut random = self.seed.random("camera", index);
        let product = phase.products[random.below(phase.products.len() as u64) as usize];
        let middle = f64::from(SIDE) / 2.0;
        let truth = Truth {
            index,
            phase: phase_index,
            product,
            centre: (middle + random.range(-11.0, 11.0), middle + random.range(-9.0, 9.0)),
            radius: random.range(24.0, 37.0),
            rotation_radians: random.range(0.0, std::f64::consts::TAU),
            hue: product.hue(&mut random),
            light: mix(phase.light, progress) * random.range(0.9, 1.1),
            blur: mix(phase.blur, progress),
            belt: phase.belt,
            occluded: random.uniform() < OCCLUSION_RATIO,
        };
        let look = Look::draw(product, truth.hue, &mut random);
        (truth, look, random)
    }
}

fn mix([from, to]: [f64; 2], progress: f64) -> f64 {
    from + (to - from) * progress
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera(seed: u64) -> Camera {
        Camera::new(Script::default(), Seed(seed))
    }

    /// Mean of each third of the rows and channel, and the mean absolute difference of neighbours: 10 numbers.
    fn statistics(shot: &Shot) -> Vec<f64> {
        let third = shot.pixels.len() / 3;
        let mut means = vec![0.0; 10];
        for (i, &value) in shot.pixels.iter().enumerate() {
            means[i / third * 3 + i % 3] += f64::from(value) / third as f64 * 3.0;
        }
        let steps = shot.pixels.windows(4).map(|w| f64::from(w[3].abs_diff(w[0])));
        means[9] = steps.sum::<f64>() / shot.pixels.len() as f64;
        means
    }

    #[test]
    fn a_shot_is_a_function_of_seed_and_number() {
        assert_eq!(camera(1).shot(40), camera(1).shot(40));
        assert_ne!(camera(1).shot(40).pixels, camera(2).shot(40).pixels);
        assert_ne!(camera(1).shot(40).pixels, camera(1).shot(41).pixels);
        assert_eq!(camera(1).shot(40).truth, camera(1).truth(40));
    }

    #[test]
    fn the_product_stands_out_from_the_belt() {
        // The same scene with and without noise differs little, with another product much: so the product is visible.
        for product in Product::ALL {
            let phase = Phase { products: vec![product], ..Phase::default() };
            let shot = Camera::new(Script::new(vec![phase]).unwrap(), Seed(5)).shot(3);
            let (cx, cy) = shot.truth.centre;
            let mut inside = Vec::new();
            let mut outside = Vec::new();
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let distance = (f64::from(x) - cx).hypot(f64::from(y) - cy);
                    let at = ((y * SIDE + x) * 3) as usize;
                    let pixel = &shot.pixels[at..at + 3];
                    if distance < 0.6 * shot.truth.radius {
                        inside.push(pixel);
                    } else if distance > 1.3 * shot.truth.radius {
                        outside.push(pixel);
                    }
                }
            }
            let mean =
                |pixels: &[&[u8]], c: usize| pixels.iter().map(|p| f64::from(p[c])).sum::<f64>() / pixels.len() as f64;
            let contrast: f64 = (0..3).map(|c| (mean(&inside, c) - mean(&outside, c)).abs()).sum();
            assert!(contrast > 30.0, "{product:?}: {contrast}");
        }
    }

    #[test]
    fn phases_differ_in_low_level_statistics_and_vary_within() {
        let camera = camera(3);
        let first = camera.script().phases()[0].frames;
        let sample = |from: u64| (from..from + 60).map(|i| statistics(&camera.shot(i))).collect::<Vec<_>>();
        let (a, b) = (sample(0), sample(first));
        let moments = |rows: &[Vec<f64>], k: usize| {
            let mean = rows.iter().map(|row| row[k]).sum::<f64>() / rows.len() as f64;
            let variance = rows.iter().map(|row| (row[k] - mean).powi(2)).sum::<f64>() / rows.len() as f64;
            (mean, variance.sqrt())
        };
        let effects = (0..10).map(|k| {
            let ((mean_a, std_a), (mean_b, std_b)) = (moments(&a, k), moments(&b, k));
            assert!(std_a > 0.2 && std_b > 0.2, "statistic {k} hardly varies: {std_a} {std_b}");
            (mean_a - mean_b).abs() / (std_a + std_b)
        });
        let strongest = effects.fold(0.0, f64::max);
        assert!(strongest > 0.5, "strongest effect {strongest}");
    }
}
