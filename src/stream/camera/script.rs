//! What the camera gets to see, and when: a list of phases.

use serde::{Deserialize, Serialize};

use super::belt::Belt;
use super::products::Product;

/// A stretch of shots with the same products. Light and blur go from their first to their second value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phase {
    pub products: Vec<Product>,
    pub frames: u64,
    /// Brightness of the lamp, 0.2 to 2; 1 is usual.
    pub light: [f64; 2],
    /// Radius of the blur in pixels, 0 to 6.
    pub blur: [f64; 2],
    pub belt: Belt,
}

impl Default for Phase {
    fn default() -> Self {
        let products = vec![Product::Nut, Product::Bottle];
        Self { products, frames: 600, light: [1.0, 1.0], blur: [0.0, 0.0], belt: Belt::Rubber }
    }
}

/// One phase or more, with at least one frame and one product each.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    phases: Vec<Phase>,
}

/// Why a script cannot be played. Phases are counted from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    #[error("the script cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("the script has no phase: add a [[phase]] with products and frames")]
    Empty,
    #[error("phase {phase} has no {what}: give it at least one")]
    Nothing { phase: usize, what: &'static str },
    #[error("phase {phase} has {what} = {value}: it must be from {low} to {high}")]
    Range { phase: usize, what: &'static str, value: f64, low: f64, high: f64 },
}

impl ScriptError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "script-syntax",
            Self::Empty => "script-empty",
            Self::Nothing { .. } => "script-phase-empty",
            Self::Range { .. } => "script-out-of-range",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    phase: Vec<Phase>,
}

/// Most frames of one phase: beyond it sums of phases could leave the range of a number.
const MOST_FRAMES: u64 = 1 << 40;

impl Script {
    pub fn new(phases: Vec<Phase>) -> Result<Self, ScriptError> {
        if phases.is_empty() {
            return Err(ScriptError::Empty);
        }
        for (index, phase) in phases.iter().enumerate() {
            check(index + 1, phase)?;
        }
        Ok(Self { phases })
    }

    /// Reads `[[phase]]` tables of TOML.
    ///
    /// ```
    /// use lumpd::stream::camera::Script;
    /// let text = "[[phase]]\nproducts = [\"gear\"]\nframes = 100\nlight = [1.0, 0.5]\nbelt = \"mesh\"";
    /// assert_eq!(Script::parse(text).unwrap().frames(), 100);
    /// ```
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        Self::new(toml::from_str::<File>(text)?.phase)
    }

    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Frames of all phases together.
    pub fn frames(&self) -> u64 {
        self.phases.iter().map(|phase| phase.frames).sum()
    }

    /// The first frame of every phase but the first: where a perfect segmentation has its boundaries.
    pub fn boundaries(&self) -> Vec<u64> {
        let ends = self.phases.iter().scan(0, |end, phase| {
            *end += phase.frames;
            Some(*end)
        });
        ends.take(self.phases.len() - 1).collect()
    }

    /// The phase of a frame, and how far through it the frame is, from 0 up to 1.
    pub(super) fn at(&self, frame: u64) -> (usize, &Phase, f64) {
        let mut left = frame % self.frames();
        for (index, phase) in self.phases.iter().enumerate() {
            if left < phase.frames {
                return (index, phase, left as f64 / phase.frames as f64);
            }
            left -= phase.frames;
        }
        // The remainder is below the sum of all phases, so one of them held it.
        unreachable!("a frame beyond its script")
    }
}

impl Default for Script {
    /// Four changes of product, two of the belt, a lamp that fades, a lens out of focus, and the first products again.
    ///
    /// A phase is long enough to be learnt as a task and known again: a detector's reference of 256 frames, as many to
    /// recognise a task by, and some for the delay. The lamp fades too little for a task of its own.
    fn default() -> Self {
        use Product::*;
        let phase = |products: [Product; 2]| Phase { products: products.to_vec(), ..Phase::default() };
        let phases = vec![
            phase([Nut, Bottle]),
            Phase { light: [1.0, 0.85], ..phase([Can, Biscuit]) },
            Phase { light: [0.85, 0.85], belt: Belt::Mesh, ..phase([Carton, Gear]) },
            Phase { blur: [0.8, 0.8], belt: Belt::Mesh, ..phase([Fruit, Blister]) },
            phase([Nut, Bottle]),
        ];
        Self { phases }
    }
}

fn check(number: usize, phase: &Phase) -> Result<(), ScriptError> {
    if phase.products.is_empty() {
        return Err(ScriptError::Nothing { phase: number, what: "products" });
    }
    if phase.frames == 0 {
        return Err(ScriptError::Nothing { phase: number, what: "frames" });
    }
    let range = |what, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(ScriptError::Range { phase: number, what, value, low, high }),
    };
    range("frames", phase.frames as f64, 1.0, MOST_FRAMES as f64)?;
    phase.light.iter().try_for_each(|&light| range("light", light, 0.2, 2.0))?;
    phase.blur.iter().try_for_each(|&blur| range("blur", blur, 0.0, 6.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_finds_its_phase_and_the_script_begins_anew() {
        let phase = |frames| Phase { frames, ..Phase::default() };
        let script = Script::new(vec![phase(10), phase(30)]).unwrap();
        assert_eq!(script.at(9).0, 0);
        assert_eq!(script.at(10).0, 1);
        assert_eq!(script.at(25).2, 0.5);
        assert_eq!(script.at(40).0, 0);
        assert_eq!(script.boundaries(), [10]);
    }

    #[test]
    fn a_script_that_cannot_be_played_is_refused_by_name() {
        let code = |text: &str| Script::parse(text).unwrap_err().code();
        assert_eq!(code(""), "script-empty");
        assert_eq!(code("[[phase]]\nproducts = [\"spoon\"]"), "script-syntax");
        assert_eq!(code("[[phase]]\nproducts = []"), "script-phase-empty");
        assert_eq!(code("[[phase]]\nframes = 0"), "script-phase-empty");
        assert_eq!(code("[[phase]]\nlight = [1.0, nan]"), "script-out-of-range");
        assert_eq!(code("[[phase]]\nblur = [0.0, 100.0]"), "script-out-of-range");
    }

    #[test]
    fn the_default_script_is_valid_and_comes_back_to_its_first_products() {
        let script = Script::default();
        let phases = Script::new(script.phases().to_vec()).unwrap().phases;
        assert_eq!(phases.first().unwrap().products, phases.last().unwrap().products);
        assert_eq!(script.boundaries().len(), 4);
    }
}
