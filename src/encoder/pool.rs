//! Max-pooling in plain tensors, with the gradient that candle's own lacks where windows overlap.

use candle_core::{DType, Result, Tensor};

use crate::device::kernels::Window;

/// The largest value of each window of `x`, shape (n, channels, height, width): (n, channels, output height, output width).
///
/// As PyTorch has it: taps outside the map do not count, of equal values the first one in the order of the window gets the
/// gradient, NaN counts as the largest. Where the maxima lie is found outside the graph; the graph itself is one `gather`,
/// which every device has both ways.
pub(super) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    let (n, channels, height, width) = x.dims4()?;
    let Window { size, padding, .. } = window;
    if height.min(width) + 2 * padding < size || padding >= size {
        candle_core::bail!("a window of {window:?} does not fit a map of {height} by {width}");
    }
    let (rows, columns) = (window.output(height), window.output(width));
    let places = places(&x.detach(), window)?.reshape((n, channels, rows * columns))?;
    x.flatten_from(2)?.gather(&places, 2)?.reshape((n, channels, rows, columns))
}

/// Where the maximum of each window lies within its map, as one u32 a window.
fn places(x: &Tensor, window: Window) -> Result<Tensor> {
    let (n, channels, height, width) = x.dims4()?;
    let (rows, columns) = (window.output(height), window.output(width));
    // A tap beyond the edge reads the pixel at the edge: that one is in the window anyway, and no earlier than its copy.
    let positions = |tap: usize, windows: usize, length: usize| -> Vec<u32> {
        let at = |window_at: usize| (window_at * window.stride + tap).saturating_sub(window.padding).min(length - 1);
        (0..windows).map(|window_at| at(window_at) as u32).collect()
    };
    let mut found: Option<(Tensor, Tensor)> = None;
    for row_tap in 0..window.size {
        let ys = positions(row_tap, rows, height);
        let band = x.index_select(&Tensor::new(ys.as_slice(), x.device())?, 2)?;
        for column_tap in 0..window.size {
            let xs = positions(column_tap, columns, width);
            let values = band.index_select(&Tensor::new(xs.as_slice(), x.device())?, 3)?;
            let here: Vec<u32> = ys.iter().flat_map(|y| xs.iter().map(move |x| y * width as u32 + x)).collect();
            let here = Tensor::from_vec(here, (1, 1, rows, columns), x.device())?;
            let here = here.broadcast_as((n, channels, rows, columns))?.contiguous()?;
            found = Some(match found {
                None => (values, here),
                Some((best, place)) => {
                    // NaN differs from itself.
                    let larger =
                        (values.gt(&best)?.to_dtype(DType::U32)? + values.ne(&values)?.to_dtype(DType::U32)?)?;
                    (larger.where_cond(&values, &best)?, larger.where_cond(&here, &place)?)
                }
            });
        }
    }
    match found {
        Some((_, place)) => Ok(place),
        None => candle_core::bail!("a window without taps"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::device::kernels::{Isa, MaxPool, reference};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn values_and_gradient_are_those_of_the_definition_ties_included(
            (height, width, channels, images) in (1..9_usize, 1..9_usize, 1..4_usize, 1..3_usize),
            (size, stride, padding) in (1..5_usize, 1..4_usize, 0..3_usize),
        ) {
            prop_assume!(height.min(width) + 2 * padding >= size && padding < size);
            let window = Window { size, stride, padding };
            let pool = MaxPool { isa: Isa::for_channels(4), channels, height, width, window };
            let coarse: Vec<f64> = reference::noise(1, images * height * width * channels).iter().map(|x| x.round()).collect();
            let (expected, places) = reference::max_pool(&pool, channels, images, &coarse);
            let x = Tensor::from_vec(coarse.clone(), (images, height, width, channels), &Device::Cpu).unwrap();
            let x = Var::from_tensor(&x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()).unwrap();
            let y = max_pool(&x, window).unwrap().permute((0, 2, 3, 1)).unwrap();
            prop_assert_eq!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap(), expected);

            let gradient = reference::noise(2, places.len());
            let direction = Tensor::from_vec(gradient.clone(), y.dims(), &Device::Cpu).unwrap();
            let gradients = (y * direction).unwrap().sum_all().unwrap().backward().unwrap();
            let found = gradients.get(&x).unwrap().permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap();
            let mut by_definition = vec![0.0; coarse.len()];
            places.iter().zip(&gradient).for_each(|(place, gradient)| by_definition[*place] += gradient);
            for (found, expected) in found.to_vec1::<f64>().unwrap().into_iter().zip(by_definition) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_window_that_does_not_fit_is_refused_and_nan_is_the_largest() {
        let x = Tensor::new(&[[[[1f32, f32::NAN, 3.0]]]], &Device::Cpu).unwrap();
        assert!(max_pool(&x, Window { size: 4, stride: 1, padding: 1 }).is_err());
        let y = max_pool(&x, Window { size: 3, stride: 2, padding: 1 }).unwrap().flatten_all().unwrap();
        assert!(y.to_vec1::<f32>().unwrap().iter().all(|value| value.is_nan()));
    }
}
