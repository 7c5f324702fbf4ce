//! Which taps each pixel of a target map sees: the geometry of a direct convolution, worked out once a shape.
//!
//! Along one axis, forward: target `o` sees source `o * stride - padding + tap`. Backward (the input gradient): target `i`
//! sees source `o` of every tap for which `o * stride - padding + tap = i`. Taps that fall outside the source map are
//! left out. Positions with the same taps at the same distances form a class; the classes of a map are the products of
//! those of its axes.

use super::super::{Isa, Products, Shape, shape::Panels, tile::Run};

/// Positions along an axis that see the same taps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AxisClass {
    /// Tap, and distance of its source position from the base.
    taps: Vec<(usize, isize)>,
    /// Target position, and base in the source.
    positions: Vec<(usize, isize)>,
}

/// Pixels of a map that see the same taps.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub runs: Vec<Run>,
    /// Where a pixel's values begin within a target image, and its base within a source image in units.
    pub pixels: Vec<(usize, isize)>,
}

/// All classes of a map.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub classes: Vec<Class>,
    pub panels: Panels,
    pub products: Products,
    /// Rows of a weight panel: taps times units (values, or pairs) of stored source channels.
    pub depth: usize,
    /// Values of one source image.
    pub source_values: usize,
    /// Values of one target image.
    pub target_values: usize,
}

impl Plan {
    /// From input maps to output maps.
    pub(super) fn forward(isa: Isa, shape: &Shape, products: Products) -> Self {
        let axis = |source: usize, target: usize| {
            classes(target, |position| {
                let base = (position * shape.stride) as isize;
                let taps = (0..shape.size).map(|tap| (tap, tap as isize - shape.padding as isize));
                (base, taps.filter(|(_, distance)| (0..source as isize).contains(&(base + distance))).collect())
            })
        };
        let rows = axis(shape.height, shape.output_height());
        let columns = axis(shape.width, shape.output_width());
        let channels = (shape.stored_inputs(isa) / products.per_unit(), isa.stored(shape.outputs));
        Self {
            classes: class_products(&rows, &columns, shape, (shape.width, shape.output_width()), channels),
            products,
            panels: Panels::new(channels.1, isa.lanes()),
            depth: shape.taps() * channels.0,
            source_values: shape.input_values(isa),
            target_values: shape.output_values(isa),
        }
    }

    /// From gradients of output maps to gradients of input maps.
    pub(super) fn backward(isa: Isa, shape: &Shape, products: Products) -> Self {
        let axis = |source: usize, target: usize| {
            classes(target, |position| {
                let reach = position + shape.padding;
                let base = (reach / shape.stride) as isize;
                let taps = (0..shape.size).filter(|&tap| tap <= reach && (reach - tap).is_multiple_of(shape.stride));
                let taps = taps.map(|tap| (tap, ((reach - tap) / shape.stride) as isize - base));
                (base, taps.filter(|(_, distance)| (0..source as isize).contains(&(base + distance))).collect())
            })
        };
        let rows = axis(shape.output_height(), shape.height);
        let columns = axis(shape.output_width(), shape.width);
        let channels = (isa.stored(shape.outputs) / products.per_unit(), isa.stored(shape.inputs));
        Self {
            classes: class_products(&rows, &columns, shape, (shape.output_width(), shape.width), channels),
            products,
            panels: Panels::new(channels.1, isa.lanes()),
            depth: shape.taps() * channels.0,
            source_values: shape.output_values(isa),
            target_values: shape.height * shape.width * channels.1,
        }
    }
}

/// Sorts the positions of an axis; `taps_of` gives a position's base and taps.
fn classes(target: usize, taps_of: impl Fn(usize) -> (isize, Vec<(usize, isize)>)) -> Vec<AxisClass> {
    let mut classes: Vec<AxisClass> = Vec::new();
    for position in 0..target {
        let (base, taps) = taps_of(position);
        match classes.iter_mut().find(|class| class.taps == taps) {
            Some(class) => class.positions.push((position, base)),
            None => classes.push(AxisClass { taps, positions: vec![(position, base)] }),
        }
    }
    classes
}

/// The classes of a map, given those of its axes, the widths of the source and target map, units of source channels and target channels.
fn class_products(
    rows: &[AxisClass],
    columns: &[AxisClass],
    shape: &Shape,
    (source_width, target_width): (usize, usize),
    (source_channels, target_channels): (usize, usize),
) -> Vec<Class> {
    let source_at = |row: isize, column: isize| (row * source_width as isize + column) * source_channels as isize;
    let mut products = Vec::with_capacity(rows.len() * columns.len());
    for row in rows {
        for column in columns {
            let mut runs = Vec::new();
            for &(row_tap, row_distance) in &row.taps {
                for &(column_tap, column_distance) in &column.taps {
                    let source = source_at(row_distance, column_distance);
                    let weights = (row_tap * shape.size + column_tap) * source_channels;
                    push_run(&mut runs, Run { source, weights, length: source_channels });
                }
            }
            let target_at = |row: usize, column: usize| (row * target_width + column) * target_channels;
            let pixels = row.positions.iter().flat_map(|&(row, row_base)| {
                let at = move |&(column, base): &(usize, isize)| (target_at(row, column), source_at(row_base, base));
                column.positions.iter().map(at)
            });
            products.push(Class { runs, pixels: pixels.collect() });
        }
    }
    products
}

/// Appends a run, or lengthens the last one where the new one continues it on both sides.
fn push_run(runs: &mut Vec<Run>, next: Run) {
    if let Some(last) = runs.last_mut() {
        let length = last.length;
        if last.source + length as isize == next.source && last.weights + length == next.weights {
            last.length += next.length;
            return;
        }
    }
    runs.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(size: usize, stride: usize, padding: usize) -> Shape {
        Shape { height: 8, width: 8, inputs: 3, outputs: 16, size, stride, padding, packed_input: true }
    }

    #[test]
    fn a_padded_3x3_kernel_has_an_interior_four_edges_and_four_corners() {
        let isa = Isa::for_channels(16);
        let plan = Plan::forward(isa, &shape(3, 1, 1), Products::F32);
        let mut sizes: Vec<usize> = plan.classes.iter().map(|class| class.pixels.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 1, 1, 1, 6, 6, 6, 6, 36]);
        let interior = plan.classes.iter().find(|class| class.pixels.len() == 36).map(|class| class.runs.clone());
        assert_eq!(
            interior.map(|runs| runs.iter().map(|run| run.length).collect()),
            Some(vec![9, 9, 9]),
            "3 rows of 3x3"
        );
    }

    #[test]
    fn every_pixel_is_in_one_class() {
        let isa = Isa::for_channels(16);
        for (size, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0), (7, 2, 3), (2, 3, 0)] {
            let mut shape = shape(size, stride, padding);
            for plan in [Plan::forward(isa, &shape, Products::F32), {
                shape.packed_input = false;
                Plan::backward(isa, &shape, Products::F32)
            }] {
                let channels = isa.stored(16);
                let mut places: Vec<usize> = plan.classes.iter().flat_map(|c| c.pixels.iter().map(|p| p.0)).collect();
                places.sort_unstable();
                let expected: Vec<usize> = (0..plan.target_values).step_by(channels.min(plan.target_values)).collect();
                assert_eq!(places.len() * (plan.target_values / places.len()), plan.target_values);
                assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{size} {stride} {padding}");
                assert!(places.len() <= expected.len() * channels);
            }
        }
    }
}
