//! CIFAR-10 in other lights: every image in one of ten transformations, which are the domains.

use std::path::Path;

use rayon::prelude::*;

use super::{Dataset, Labelled, cifar, resized};
use crate::config::Seed;
use crate::experiment::ExperimentError;

/// Pixels of a side of the images that are transformed.
const SIDE: usize = 32;
/// Bytes of such an image.
const PIXELS: usize = SIDE * SIDE * 3;

/// What is done to the images.
pub const DOMAINS: [&str; 10] =
    ["clean", "invert", "rot90", "blur", "dark", "bright", "contrast", "gray", "noise", "warm"];

/// CIFAR-10, of each class every tenth training image in the same domain, and every test image in each.
pub(super) fn read(folder: &Path, side: usize) -> Result<Dataset, ExperimentError> {
    let mut dataset = cifar::ten(folder, SIDE)?;
    let train = std::mem::take(&mut dataset.train);
    let domains = in_turn(&train.classes, dataset.class_names.len());
    let pixels = shown(&train, &domains, side);
    dataset.train = Labelled { pixels, domains, ..train };
    let test = std::mem::take(&mut dataset.test);
    for domain in 0..DOMAINS.len() as u32 {
        let domains = vec![domain; test.classes.len()];
        dataset.test.pixels.extend(shown(&test, &domains, side));
        dataset.test.classes.extend(&test.classes);
        dataset.test.domains.extend(domains);
    }
    (dataset.name, dataset.side) = ("cifar10-domains".into(), side);
    Ok(dataset)
}

/// Of each class the domains in turn.
fn in_turn(classes: &[u32], count: usize) -> Vec<u32> {
    let mut seen = vec![0; count];
    let of = |&class: &u32| {
        seen[class as usize] += 1;
        (seen[class as usize] - 1) % DOMAINS.len() as u32
    };
    classes.iter().map(of).collect()
}

/// The images, each in its domain, at another size.
fn shown(part: &Labelled, domains: &[u32], side: usize) -> Vec<u8> {
    let images = part.pixels.par_chunks_exact(PIXELS).zip(domains).enumerate();
    let images: Vec<Vec<u8>> =
        images.map(|(number, (image, &domain))| transform(image, domain as usize, number as u64)).collect();
    resized(images.concat(), SIDE, side)
}

/// One image of 32x32 RGB pixels in one of the [`DOMAINS`]; `number` draws its noise.
///
/// # Panics
/// If there is no such domain, or the image has another size.
pub fn transform(image: &[u8], domain: usize, number: u64) -> Vec<u8> {
    assert_eq!(image.len(), PIXELS, "an image of 32x32 RGB pixels");
    let map = |f: &mut dyn FnMut(usize, f64) -> f64| -> Vec<u8> {
        image.iter().enumerate().map(|(i, &x)| f(i, f64::from(x)).clamp(0.0, 255.0) as u8).collect()
    };
    match DOMAINS[domain] {
        "invert" => map(&mut |_, x| 255.0 - x),
        "rot90" => (0..PIXELS).map(|i| image[((i / 3 % SIDE) * SIDE + SIDE - 1 - i / 3 / SIDE) * 3 + i % 3]).collect(),
        "blur" => blur(image, 0.8),
        "dark" => map(&mut |_, x| 0.7 * x),
        "bright" => map(&mut |_, x| 1.15 * x + 15.0),
        "contrast" => {
            let mean = |channel| image.iter().skip(channel).step_by(3).map(|&x| f64::from(x)).sum::<f64>() / 1024.0;
            let means = [mean(0), mean(1), mean(2)];
            map(&mut |i, x| 0.6 * (x - means[i % 3]) + means[i % 3])
        }
        "gray" => map(&mut |i, _| image[i / 3 * 3..i / 3 * 3 + 3].iter().map(|&x| f64::from(x)).sum::<f64>() / 3.0),
        "noise" => {
            let mut random = Seed(3).random("noise", number);
            map(&mut |_, x| x + 15.0 * random.normal())
        }
        "warm" => map(&mut |i, x| x * [1.12, 1.0, 0.85][i % 3]),
        _ => image.to_vec(),
    }
}

/// Gaussian blur, the border mirrored.
fn blur(image: &[u8], sigma: f64) -> Vec<u8> {
    let weights: Vec<f64> = (-3i32..=3).map(|d| (-f64::from(d * d) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mirror = |at: i32| {
        (if at < 0 {
            -1 - at
        } else if at > 31 {
            63 - at
        } else {
            at
        }) as usize
    };
    let pass = |source: &[f64], along_rows: bool| -> Vec<f64> {
        let tap = |i: usize, d: i32| {
            let (row, column) = (i / 3 / SIDE, i / 3 % SIDE);
            let (row, column) =
                if along_rows { (row, mirror(column as i32 + d)) } else { (mirror(row as i32 + d), column) };
            source[(row * SIDE + column) * 3 + i % 3]
        };
        (0..PIXELS).map(|i| weights.iter().zip(-3..).map(|(w, d)| w * tap(i, d)).sum::<f64>() / sum).collect()
    };
    let wide: Vec<f64> = image.iter().map(|&x| f64::from(x)).collect();
    pass(&pass(&wide, true), false).iter().map(|&x| x.clamp(0.0, 255.0) as u8).collect()
}
