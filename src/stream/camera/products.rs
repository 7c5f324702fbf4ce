//! What lies on the belt: eight products, each a shape with its texture.
//!
//! A product lives in a plane of its own, in which its half-length is about 1. Its shape is the (approximate) signed distance to its
//! edge, negative inside; its texture is a colour for each inner point. Colours overlap between products on
//! purpose: colour alone must not tell them apart.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};

use super::canvas::{Colour, blend, from_hsv, hash_unit, scaled, smooth_step};
use crate::config::Random;

/// A class of products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    Nut,
    Bottle,
    Can,
    Biscuit,
    Carton,
    Gear,
    Fruit,
    Blister,
}

impl Product {
    pub const ALL: [Self; 8] =
        [Self::Nut, Self::Bottle, Self::Can, Self::Biscuit, Self::Carton, Self::Gear, Self::Fruit, Self::Blister];

    /// Lower-case, as in scripts and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nut => "nut",
            Self::Bottle => "bottle",
            Self::Can => "can",
            Self::Biscuit => "biscuit",
            Self::Carton => "carton",
            Self::Gear => "gear",
            Self::Fruit => "fruit",
            Self::Blister => "blister",
        }
    }

    /// One of the hues this product comes in.
    pub(super) fn hue(self, random: &mut Random) -> f64 {
        let families: &[f64] = match self {
            Self::Nut => &[0.11, 0.58],
            Self::Bottle => &[0.08, 0.35, 0.58],
            Self::Can => &[0.0, 0.14, 0.36, 0.6],
            Self::Biscuit => &[0.07, 0.1],
            Self::Carton => &[0.08, 0.12, 0.6],
            Self::Gear => &[0.12, 0.6],
            Self::Fruit => &[0.0, 0.08, 0.15, 0.3],
            Self::Blister => &[0.0, 0.15, 0.55],
        };
        let family = families[random.below(families.len() as u64) as usize];
        (family + random.range(-0.03, 0.03)).rem_euclid(1.0)
    }

    fn saturation_and_value(self) -> (f64, f64) {
        match self {
            Self::Nut | Self::Gear => (0.25, 0.62),
            Self::Bottle => (0.6, 0.5),
            Self::Can | Self::Fruit => (0.8, 0.7),
            Self::Biscuit => (0.6, 0.55),
            Self::Carton => (0.45, 0.6),
            Self::Blister => (0.15, 0.75),
        }
    }
}

/// What differs between two pieces of one product.
#[derive(Debug, Clone)]
pub(super) struct Look {
    product: Product,
    base: Colour,
    accent: Colour,
    /// Teeth, chips, stripes.
    count: f32,
    /// Where texture differs from piece to piece.
    seed: u32,
    /// Length over width, around 1.
    stretch: f32,
}

type Point = [f32; 2];

impl Look {
    pub(super) fn draw(product: Product, hue: f64, random: &mut Random) -> Self {
        let (saturation, value) = product.saturation_and_value();
        let base = from_hsv(
            hue as f32,
            (saturation * random.range(0.7, 1.2)).min(1.0) as f32,
            (value * random.range(0.75, 1.25)).min(1.0) as f32,
        );
        let accent_hue = random.uniform() as f32;
        Self {
            product,
            base,
            accent: from_hsv(accent_hue, 0.7, random.range(0.4, 0.9) as f32),
            count: random.below(5) as f32,
            seed: random.next_u64() as u32,
            stretch: random.range(0.9, 1.12) as f32,
        }
    }

    /// Signed distance of a point to the edge.
    pub(super) fn distance(&self, [x, y]: Point) -> f32 {
        let (x, y) = (x, y * self.stretch);
        let radius = x.hypot(y);
        match self.product {
            Product::Nut => hexagon([x, y], 0.74).max(0.36 - radius),
            Product::Bottle => {
                let body = rounded_box([x + 0.28, y], [0.62, 0.38], 0.18);
                let neck = rounded_box([x - 0.55, y], [0.4, 0.15], 0.04);
                smooth_union(body, neck, 0.12)
            }
            Product::Can => rounded_box([x, y], [0.82, 0.5], 0.1),
            Product::Biscuit => radius - 0.8 - 0.04 * (16.0 * y.atan2(x)).cos(),
            Product::Carton => rounded_box([x, y], [0.8, 0.62], 0.02),
            Product::Gear => {
                let teeth = 9.0 + self.count;
                let tooth = smooth_step(-0.3, 0.3, (teeth * y.atan2(x)).cos());
                (radius - 0.66 - 0.17 * tooth).max(0.17 - radius)
            }
            Product::Fruit => {
                let angle = y.atan2(x);
                let body = radius - 0.72 - 0.05 * angle.cos();
                let leaf = ellipse([x - 0.82, y - 0.18], [0.22, 0.1]);
                body.min(leaf)
            }
            Product::Blister => rounded_box([x, y], [0.88, 0.58], 0.12),
        }
    }

    /// Colour of a point inside.
    pub(super) fn colour(&self, [x, y]: Point) -> Colour {
        let p = [x, y * self.stretch];
        match self.product {
            Product::Nut => self.nut(p),
            Product::Bottle => self.bottle(p),
            Product::Can => self.can(p),
            Product::Biscuit => self.biscuit(p),
            Product::Carton => self.carton(p),
            Product::Gear => self.gear(p),
            Product::Fruit => self.fruit(p),
            Product::Blister => self.blister(p),
        }
    }

    fn nut(&self, [x, y]: Point) -> Colour {
        let radius = x.hypot(y);
        let thread = 0.18 * (radius * 60.0).sin() * (1.0 - smooth_step(0.42, 0.5, radius));
        let chamfer = 0.3 * smooth_step(0.58, 0.74, hexagon([x, y], 0.0));
        scaled(self.base, 0.95 + thread - chamfer + 0.25 * x * y)
    }

    fn bottle(&self, [x, y]: Point) -> Colour {
        let glass = scaled(self.base, 0.7 + 0.6 * (-(y - 0.12).powi(2) * 60.0).exp() + 0.25 * y.abs());
        if x > 0.72 {
            return scaled(self.accent, 0.9 - 0.3 * y.abs());
        }
        let label = rounded_box([x + 0.3, y], [0.3, 0.42], 0.0);
        blend(glass, self.text([x, y], [0.82, 0.8, 0.74], 9.0), smooth_step(0.02, -0.02, label))
    }

    fn can(&self, [x, y]: Point) -> Colour {
        let round = 1.1 - 1.3 * y * y;
        if x.abs() > 0.74 {
            return scaled([0.7, 0.7, 0.7], round);
        }
        let stripe = smooth_step(-0.15, 0.15, ((4.0 + self.count) * (x + 0.35 * y)).sin());
        let painted = blend(self.base, self.accent, stripe);
        let badge = smooth_step(0.3, 0.27, x.hypot(y));
        scaled(blend(painted, [0.85, 0.85, 0.8], badge), round)
    }

    fn biscuit(&self, [x, y]: Point) -> Colour {
        let crust = scaled(self.base, 1.1 - 0.5 * smooth_step(0.5, 0.82, x.hypot(y)));
        let crumbs = 0.88 + 0.24 * hash_unit((x * 22.0).floor() as i32, (y * 22.0).floor() as i32, self.seed);
        let chips = 6 + self.count as i32;
        let chip = (0..chips).map(|i| {
            let angle = TAU * (i as f32 + 0.6 * hash_unit(i, 1, self.seed)) / chips as f32;
            let far = 0.2 + 0.42 * hash_unit(i, 2, self.seed);
            (x - far * angle.cos()).hypot(y - far * angle.sin()) - 0.07 - 0.05 * hash_unit(i, 3, self.seed)
        });
        let nearest = chip.fold(f32::INFINITY, f32::min);
        blend(scaled(crust, crumbs), [0.09, 0.05, 0.035], smooth_step(0.03, -0.02, nearest))
    }

    fn carton(&self, [x, y]: Point) -> Colour {
        let flutes = 0.97 + 0.06 * (x * 70.0).sin();
        let board = scaled(self.base, flutes + 0.12 * y);
        let tape = smooth_step(0.15, 0.13, y.abs());
        let taped = blend(board, scaled([0.8, 0.72, 0.5], 0.9 + 0.15 * x), 0.75 * tape);
        let sticker = rounded_box([x - 0.42, y - 0.4], [0.28, 0.15], 0.0);
        blend(taped, self.text([x, y], [0.9, 0.9, 0.88], 26.0), smooth_step(0.02, -0.02, sticker))
    }

    fn gear(&self, [x, y]: Point) -> Colour {
        let (radius, angle) = (x.hypot(y), y.atan2(x));
        let holes = 4.0 + (self.seed % 3) as f32;
        let sector = (angle.rem_euclid(TAU / holes)) - TAU / holes / 2.0;
        let hole = (radius * sector.cos() - 0.42).hypot(radius * sector.sin()) - 0.11;
        let brushed = 0.9 + 0.12 * (radius * 45.0).sin() + 0.22 * (2.0 * angle).cos();
        let rim = 0.25 * smooth_step(0.58, 0.62, radius);
        blend(scaled(self.base, brushed - rim), [0.05, 0.05, 0.055], smooth_step(0.02, -0.02, hole))
    }

    fn fruit(&self, [x, y]: Point) -> Colour {
        if x > 0.76 {
            return [0.12, 0.32, 0.08];
        }
        let (dx, dy) = (x + 0.25, y + 0.28);
        let shade = 1.15 - 0.75 * (x * x + y * y);
        let blush = smooth_step(0.3, -0.5, x + 0.4 * y) * 0.35;
        let skin = scaled(blend(self.base, self.accent, blush), shade);
        let shine = 0.7 * (-(dx * dx + dy * dy) * 22.0).exp();
        let stalk = smooth_step(0.09, 0.05, (x - 0.62).hypot(y));
        blend(blend(skin, [1.0, 1.0, 0.95], shine), [0.1, 0.06, 0.03], stalk)
    }

    fn blister(&self, [x, y]: Point) -> Colour {
        let foil = scaled(self.base, 0.85 + 0.2 * (x * 9.0 + y * 5.0).sin() * (y * 31.0).sin());
        let (columns, rows) = (4.0, 2.0);
        let (u, v) = ((x / 0.84 + 1.0) / 2.0 * columns, (y / 0.5 + 1.0) / 2.0 * rows);
        if !(0.0..columns).contains(&u) || !(0.0..rows).contains(&v) {
            return foil;
        }
        let (dx, dy) = ((u.fract() - 0.5) * 0.42, (v.fract() - 0.5) * 0.5);
        let far = dx.hypot(dy);
        // Now and then a pill is missing.
        let empty = hash_unit(u as i32, v as i32, self.seed) < 0.12;
        let pill = if empty { [0.12, 0.12, 0.13] } else { scaled(self.accent, 1.1 + 2.0 * -(dx + dy)) };
        blend(foil, pill, smooth_step(0.16, 0.13, far))
    }

    /// Dark bars of random width on paper, as print looks from afar.
    fn text(&self, [x, y]: Point, paper: Colour, density: f32) -> Colour {
        let (column, row) = ((x * density).floor() as i32, (y * 6.0).floor() as i32);
        let ink = hash_unit(column, row, self.seed) < 0.5;
        if ink { scaled(self.accent, 0.35) } else { paper }
    }
}

fn rounded_box([x, y]: Point, [half_x, half_y]: Point, corner: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_x + corner, y.abs() - half_y + corner);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - corner
}

/// The furthest of three pairs of sides.
fn hexagon([x, y]: Point, apothem: f32) -> f32 {
    const HALF_ROOT_3: f32 = 0.866_025_4;
    y.abs().max((HALF_ROOT_3 * x.abs()) + 0.5 * y.abs()) - apothem
}

fn ellipse([x, y]: Point, [half_x, half_y]: Point) -> f32 {
    ((x / half_x).hypot(y / half_y) - 1.0) * half_y
}

/// Minimum of two distances with a blend of the given width.
fn smooth_union(a: f32, b: f32, width: f32) -> f32 {
    let overlap = (width - (a - b).abs()).max(0.0) / width;
    a.min(b) - overlap * overlap * width / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seed;

    #[test]
    fn every_product_fits_its_plane() {
        for product in Product::ALL {
            for draw in 0..50 {
                let look = Look::draw(product, 0.3, &mut Seed(1).random("look", draw));
                for step in 0..64 {
                    let angle = TAU * step as f32 / 64.0;
                    let edge = look.distance([1.25 * angle.cos(), 1.25 * angle.sin()]);
                    assert!(edge > 0.0, "{product:?} reaches out of its plane");
                }
                assert!(look.distance([0.55, 0.02]) < 0.0, "{product:?} is not there");
            }
        }
    }

    #[test]
    fn names_are_those_of_scripts() {
        for product in Product::ALL {
            assert_eq!(toml::Value::try_from(product).unwrap().as_str(), Some(product.name()));
        }
    }
}
