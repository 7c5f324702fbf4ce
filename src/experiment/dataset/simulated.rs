//! The built-in simulated stream: the camera above the belt, whose products are the classes and whose phases are the domains.

use rayon::prelude::*;

use super::{Dataset, Labelled, resized};
use crate::config::Seed;
use crate::experiment::ExperimentError;
use crate::stream::camera::{Camera, Product, SIDE, Script};

/// Cameras whose shots are tested: fewer leave more than a point of chance in the accuracy of a phase.
const TEST_CAMERAS: u64 = 4;

pub(super) fn make(side: usize, seed: Seed) -> Result<Dataset, ExperimentError> {
    let script = Script::default();
    let class_names = Product::ALL.iter().map(|product| product.name().to_owned()).collect();
    let train = shots(&[Camera::new(script.clone(), seed)], script.frames(), side);
    // Other cameras of the same script: other shots of the same phases.
    let other = |number| Seed(seed.random("test camera", number).next_u64());
    let others: Vec<Camera> = (0..TEST_CAMERAS).map(|number| Camera::new(script.clone(), other(number))).collect();
    let test = shots(&others, script.frames(), side);
    Ok(Dataset { name: "simulated".into(), side, class_names, train, test, notes: Vec::new() })
}

fn shots(cameras: &[Camera], frames: u64, side: usize) -> Labelled {
    let shots: Vec<_> =
        cameras.par_iter().flat_map(|camera| (0..frames).into_par_iter().map(|number| camera.shot(number))).collect();
    let mut labelled = Labelled::default();
    for shot in shots {
        let class = Product::ALL.iter().position(|product| *product == shot.truth.product).unwrap_or(0);
        labelled.push(&resized(shot.pixels, SIDE as usize, side), class as u32);
        labelled.domains.push(shot.truth.phase as u32);
    }
    labelled
}
