//! Puts belt, shadow, product, whatever is in the way, light and lens together.

use super::canvas::{Colour, blend, blur, expose, scaled, smooth_step};
use super::products::Look;
use super::{SIDE, Truth};
use crate::config::Random;

/// Noise of the sensor, in levels of 255.
const NOISE_LEVELS: f32 = 9.0;

/// RGB bytes of a shot; `travel` is how far the belt has moved, in pixels.
pub(super) fn render(truth: &Truth, look: &Look, travel: f64, random: &mut Random) -> Vec<u8> {
    let scene = Scene::new(truth, look, travel, random);
    let mut colours: Vec<Colour> =
        (0..SIDE * SIDE).map(|i| scene.colour((i % SIDE) as f32, (i / SIDE) as f32)).collect();
    blur(&mut colours, SIDE as usize, truth.blur as f32);
    expose(&colours, NOISE_LEVELS, random)
}

struct Scene<'a> {
    truth: &'a Truth,
    look: &'a Look,
    /// Belt under the left edge. Wrapped where all belts repeat, so that it keeps its precision on a long run.
    travel: f32,
    centre: [f32; 2],
    radius: f32,
    /// Cosine and sine of the rotation.
    turn: [f32; 2],
    /// Where the lamp stands: the picture is brighter towards it, shadows fall away from it.
    lamp: [f32; 2],
    bar: Option<Bar>,
}

/// A cable or an arm above the belt: all points near a line.
struct Bar {
    normal: [f32; 2],
    offset: f32,
    half_width: f32,
    colour: Colour,
}

/// A multiple of the distances at which the belts repeat (140, 11 and 16 pixels).
const TRAVEL_WRAP: f64 = 61_600.0;

impl<'a> Scene<'a> {
    fn new(truth: &'a Truth, look: &'a Look, travel: f64, random: &mut Random) -> Self {
        let centre = [truth.centre.0 as f32, truth.centre.1 as f32];
        let radius = truth.radius as f32;
        let (sin, cos) = (truth.rotation_radians as f32).sin_cos();
        let (lamp_y, lamp_x) = (random.range(-2.6, -0.6) as f32).sin_cos();
        let bar = truth.occluded.then(|| Bar::draw(centre, radius, random));
        let travel = (travel + random.range(-4.0, 4.0)).rem_euclid(TRAVEL_WRAP) as f32;
        Self { truth, look, travel, centre, radius, turn: [cos, sin], lamp: [lamp_x, lamp_y], bar }
    }

    /// In the product's plane.
    fn local(&self, x: f32, y: f32) -> [f32; 2] {
        let (dx, dy) = ((x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius);
        let [cos, sin] = self.turn;
        [cos * dx + sin * dy, cos * dy - sin * dx]
    }

    fn colour(&self, x: f32, y: f32) -> Colour {
        let mut colour = self.truth.belt.colour(x + self.travel, y);
        let reach = (x - self.centre[0]).hypot(y - self.centre[1]);
        if reach < 1.6 * self.radius {
            colour = self.with_product(colour, x, y);
        }
        if let Some(bar) = &self.bar {
            colour = bar.over(colour, x, y);
        }
        scaled(colour, self.light(x, y))
    }

    fn with_product(&self, belt: Colour, x: f32, y: f32) -> Colour {
        // The shadow is the shape itself, moved away from the lamp, with a soft edge.
        let throw = 0.14 * self.radius;
        let shadow = self.look.distance(self.local(x + throw * self.lamp[0], y + throw * self.lamp[1]));
        let shaded = scaled(belt, 1.0 - 0.6 * smooth_step(0.12, -0.08, shadow));
        let p = self.local(x, y);
        let distance = self.look.distance(p) * self.radius;
        let coverage = (0.5 - distance).clamp(0.0, 1.0);
        if coverage == 0.0 {
            return shaded;
        }
        // The edge turns away from the lamp or towards it.
        let rim = smooth_step(-3.0, 0.0, distance);
        let facing = ((x - self.centre[0]) * self.lamp[0] + (y - self.centre[1]) * self.lamp[1]) / self.radius;
        blend(shaded, scaled(self.look.colour(p), 1.0 + 0.35 * rim * facing), coverage)
    }

    fn light(&self, x: f32, y: f32) -> f32 {
        let half = SIDE as f32 / 2.0;
        let (u, v) = ((x - half) / half, (y - half) / half);
        self.truth.light as f32 * (1.0 + 0.18 * (u * self.lamp[0] + v * self.lamp[1]) - 0.12 * (u * u + v * v))
    }
}

impl Bar {
    fn draw(centre: [f32; 2], radius: f32, random: &mut Random) -> Self {
        let (sin, cos) = (random.range(0.0, std::f64::consts::TAU) as f32).sin_cos();
        let beside = radius * random.range(-0.6, 0.6) as f32;
        let grey = random.range(0.03, 0.5) as f32;
        Self {
            normal: [cos, sin],
            offset: centre[0] * cos + centre[1] * sin + beside,
            half_width: random.range(3.0, 7.0) as f32,
            colour: [grey, grey, grey * 0.9],
        }
    }

    fn over(&self, under: Colour, x: f32, y: f32) -> Colour {
        let across = x * self.normal[0] + y * self.normal[1] - self.offset;
        let coverage = (self.half_width + 0.5 - across.abs()).clamp(0.0, 1.0);
        // Round, as a cable is: brightest along its middle.
        let round = 1.2 - (across / self.half_width).powi(2);
        blend(under, scaled(self.colour, round), coverage)
    }
}
