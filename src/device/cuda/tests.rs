//! The kernels on the CPU.

use super::*;
use crate::config::Seed;

/// The machine, unless there is no C compiler here.
fn emulator(precision: Precision) -> Option<Emulator> {
    Emulator::new(precision).map_err(|reason| eprintln!("the CUDA kernels were not run: {reason}")).ok()
}

#[test]
fn every_kernel_computes_what_its_twin_does() {
    let Some(machine) = emulator(Precision::Bf16) else { return };
    let mut failed = Vec::new();
    for check in checks(Precision::Bf16) {
        match check.run(&machine) {
            Ok(error) if error <= check.tolerance => {}
            outcome => failed.push(format!("{}: {outcome:?}, tolerance {}", check.name, check.tolerance)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn regions_too_small_are_refused_before_a_kernel_sees_them() {
    let Some(machine) = emulator(Precision::F32) else { return };
    let shape = pool::AverageShape { images: 2, pixels: 4, channels: 8 };
    let (map, means) = (machine.allocate(4 * 64).unwrap(), machine.allocate(4 * 15).unwrap());
    let error = pool::average(&machine, Precision::F32, shape, &map, &means).unwrap_err();
    assert!(error.to_string().contains("needs 64 bytes, but has 60"), "{error}");
    assert!(map.slice(200, 57).is_err() && map.slice(usize::MAX, 2).is_err());
    assert!(optimiser::check_finite(&machine, 65, &map, &means).is_err());
}

#[test]
fn a_recording_does_the_work_again_on_what_is_there_then() {
    let Some(machine) = emulator(Precision::F32) else { return };
    let [images, partners, mixed] = [1.0, 3.0, 0.0].map(|value| machine.upload(&bytes_of(&[value; 5])).unwrap());
    let recording = machine
        .record(&mut |queue| {
            views::mix(queue, 0.5, 5, &images, &partners, &mixed)?;
            queue.copy(&mixed, &images)
        })
        .unwrap();
    assert_eq!(values_of(&machine.download(&mixed).unwrap()), [0.0; 5], "nothing is done while it is recorded");
    recording.replay().unwrap();
    recording.replay().unwrap();
    assert_eq!(values_of(&machine.download(&mixed).unwrap()), [2.5; 5]);
}

#[test]
fn bf16_is_rounded_to_the_nearest_and_ties_to_even() {
    let Some(machine) = emulator(Precision::Bf16) else { return };
    let mut random = Seed(3).random("values", 0);
    let mut values = vec![0.0, -0.0, 257.0 / 256.0, 259.0 / 256.0, f32::MAX, f32::MIN_POSITIVE, 1e-40, f32::INFINITY];
    values.extend((0..292).map(|_| f32::from_bits(random.next_u64() as u32)).map(|v| if v.is_nan() { 0.5 } else { v }));
    let pixels = values.len() / 3;
    let packed = machine.allocate(16 * pixels).unwrap();
    let images = machine.upload(&bytes_of(&values)).unwrap();
    filters::pack_images(&machine, Precision::Bf16, pixels, &images, &packed).unwrap();
    let found = machine.download(&packed).unwrap();
    for (place, value) in values.iter().enumerate() {
        let bytes = &found[place / 3 * 16 + place % 3 * 2..][..2];
        assert_eq!(bytes, half::bf16::from_f32(*value).to_ne_bytes(), "{value}");
    }
}
