//! Global average pooling, forward and backward.

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
}
