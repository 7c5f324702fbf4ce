//! The background: belts of different make.

use serde::{Deserialize, Serialize};

use super::canvas::{Colour, hash_unit, scaled, smooth_step};

/// What the products lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Belt {
    /// Dark, grainy, with a seam now and then.
    Rubber,
    /// Bright metal with rows of holes.
    Mesh,
    /// Green, ribbed across.
    Pvc,
}

impl Belt {
    /// Lower-case, as in scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rubber => "rubber",
            Self::Mesh => "mesh",
            Self::Pvc => "pvc",
        }
    }

    /// Colour at a point of the belt, in pixels along and across it.
    pub(super) fn colour(self, x: f32, y: f32) -> Colour {
        match self {
            Self::Rubber => {
                let seam = 1.0 - smooth_step(1.0, 2.5, (x.rem_euclid(140.0) - 70.0).abs());
                scaled([0.20, 0.205, 0.22], 0.85 + 0.3 * grain(x, y, 0.5) + 0.3 * grain(x, y, 0.08) - 0.5 * seam)
            }
            Self::Mesh => {
                let row = (y / 9.0).floor();
                let shift = if row.rem_euclid(2.0) < 1.0 { 0.0 } else { 5.5 };
                let (hole_x, hole_y) = ((x + shift).rem_euclid(11.0) - 5.5, y.rem_euclid(9.0) - 4.5);
                let open = 1.0 - smooth_step(2.2, 3.2, hole_x.hypot(hole_y));
                scaled([0.60, 0.61, 0.60], 0.9 + 0.2 * grain(x, y * 0.1, 0.4) - 0.72 * open)
            }
            Self::Pvc => {
                let rib = (x * std::f32::consts::TAU / 16.0).sin();
                scaled([0.16, 0.36, 0.25], 0.9 + 0.12 * rib + 0.2 * grain(x, y, 0.15))
            }
        }
    }
}

/// Smooth noise around 0 between -0.5 and 0.5: random values on a lattice of `frequency` points a pixel, blended between.
fn grain(x: f32, y: f32, frequency: f32) -> f32 {
    let (x, y) = (x * frequency, y * frequency);
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (x - left, y - top);
    let at = |dx: i32, dy: i32| hash_unit(left as i32 + dx, top as i32 + dy, 0x51ab);
    let upper = at(0, 0) + (at(1, 0) - at(0, 0)) * u;
    let lower = at(0, 1) + (at(1, 1) - at(0, 1)) * u;
    upper + (lower - upper) * v - 0.5
}
