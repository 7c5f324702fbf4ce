//! The built-in simulated stream: the camera above the belt, whose products are the classes and whose phases are the domains.

use rayon::prelude::*;

use super::{Dataset, Labelled, resized};
use crate::config::Seed;
use crate::experiment::ExperimentError;
use crate::stream::camera::{Camera, Product, SIDE, Script};

pub(super) fn make(side: usize, seed: Seed) -> Result<Dataset, ExperimentError> {
    let script = Script::default();
    let frames = script.frames();
    let class_names = Product::ALL.iter().map(|product| product.name().to_owned()).collect();
    let train = shots(&Camera::new(script.clone(), seed), (0..frames).collect(), side);
    // Another camera of the same script: other shots of the same phases.
    let other = Seed(seed.random("test camera", 0).next_u64());
    let test = shots(&Camera::new(script, other), (0..frames).collect(), side);
    Ok(Dataset { name: "simulated".into(), side, class_names, train, test, notes: Vec::new() })
}

fn shots(camera: &Camera, numbers: Vec<u64>, side: usize) -> Labelled {
    let shots: Vec<_> = numbers.par_iter().map(|number| camera.shot(*number)).collect();
    let mut labelled = Labelled::default();
    for shot in shots {
        let class = Product::ALL.iter().position(|product| *product == shot.truth.product).unwrap_or(0);
        labelled.push(&resized(shot.pixels, SIDE as usize, side), class as u32);
        labelled.domains.push(shot.truth.phase as u32);
    }
    labelled
}
