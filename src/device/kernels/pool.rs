//! Global average pooling, forward and backward, and the backward pass of a ReLU on its own.

use super::Threads;

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// Through a ReLU, given what it gave: the gradient becomes 0 where that is not positive.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn relu_backward(threads: Threads, output: &[f32], gradient: &mut [f32]) {
    assert_eq!(output.len(), gradient.len(), "maps");
    threads.for_each_chunk(gradient, CHUNK, |index, gradient| {
        for (gradient, output) in gradient.iter_mut().zip(&output[index * CHUNK..]) {
            *gradient = if *output > 0.0 { *gradient } else { 0.0 };
        }
    });
}

/// `output[n][c]` = mean over the `pixels` pixels of `input[n][pixel][c]`, for stored channels.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn global_average(input: &[f32], pixels: usize, channels: usize, output: &mut [f32]) {
    assert_eq!(input.len(), output.len() * pixels, "maps");
    let share = 1.0 / pixels as f32;
    for (map, mean) in input.chunks_exact(pixels * channels).zip(output.chunks_exact_mut(channels)) {
        mean.fill(0.0);
        for pixel in map.chunks_exact(channels) {
            for (mean, value) in mean.iter_mut().zip(pixel) {
                *mean += value;
            }
        }
        for mean in mean {
            *mean *= share;
        }
    }
}

/// Gradient of the input of [`global_average`]: every pixel gets its share.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn global_average_backward(output_gradient: &[f32], pixels: usize, channels: usize, input_gradient: &mut [f32]) {
    assert_eq!(input_gradient.len(), output_gradient.len() * pixels, "maps");
    let share = 1.0 / pixels as f32;
    for (map, gradient) in
        input_gradient.chunks_exact_mut(pixels * channels).zip(output_gradient.chunks_exact(channels))
    {
        for pixel in map.chunks_exact_mut(channels) {
            for (value, gradient) in pixel.iter_mut().zip(gradient) {
                *value = gradient * share;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_each_channel_and_its_share_back() {
        let input = [1.0, 10.0, 3.0, 20.0, /* second image */ 5.0, 0.0, 7.0, 2.0];
        let mut mean = [0.0; 4];
        global_average(&input, 2, 2, &mut mean);
        assert_eq!(mean, [2.0, 15.0, 6.0, 1.0]);
        let mut back = [0.0; 8];
        global_average_backward(&mean, 2, 2, &mut back);
        assert_eq!(back, [1.0, 7.5, 1.0, 7.5, 3.0, 0.5, 3.0, 0.5]);
    }

    #[test]
    fn a_relu_stops_the_gradient_where_it_gave_nothing() {
        let output: Vec<f32> = (0..2 * CHUNK + 3).map(|place| [0.0, 2.0, f32::NAN][place % 3]).collect();
        let mut gradient = vec![5.0; output.len()];
        relu_backward(Threads::Pool, &output, &mut gradient);
        assert!(gradient.iter().enumerate().all(|(place, value)| *value == [0.0, 5.0, 0.0][place % 3]));
    }
}
