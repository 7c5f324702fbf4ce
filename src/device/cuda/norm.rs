//! Batch normalisation with an optional residual and ReLU; see kernels/norm.cu and kernels/norm_channels.cu.

use candle_core::{Result, bail};

use super::machine::{Precision, Queue, Region};
use super::parameters::*;

/// Chunks of a group at most.
const MOST_CHUNKS: usize = 512;

/// Rows that a thread takes at least, where there are so many.
const ROWS_A_THREAD: usize = 16;

/// A map (groups * rows, channels) whose groups are normalised each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormShape {
    pub groups: usize,
    /// Of a group.
    pub rows: usize,
    pub channels: usize,
}

/// What follows the normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relu {
    None,
    /// Which outputs passed is computed again from the input.
    Plain,
    /// A residual came in between: the outputs tell.
    AfterResidual,
}

/// What a forward pass found out, for the passes after it: scale, shift, mean and 1 / standard deviation, each (groups, channels).
pub struct Fitted {
    pub scale: Region,
    pub shift: Region,
    pub mean: Region,
    pub inverse: Region,
}

impl Fitted {
    /// Its four parts within a region of [`NormShape::fitted_bytes`].
    ///
    /// # Errors
    /// Where the region is too small.
    pub fn within(region: &Region, shape: NormShape) -> Result<Self> {
        let part = |index: usize| region.values(index * shape.groups * shape.channels, shape.groups * shape.channels);
        Ok(Self { scale: part(0)?, shift: part(1)?, mean: part(2)?, inverse: part(3)? })
    }
}

/// Weight and bias, or their gradients; (channels) each, f32.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub weight: &'a Region,
    pub bias: &'a Region,
}

/// Running mean and variance, (channels) each, f32.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    pub mean: &'a Region,
    pub variance: &'a Region,
}

/// How the work is cut.
struct Cut {
    rows: Rows,
    blocks: [usize; 3],
    shared_bytes: usize,
    map_bytes: usize,
}

impl NormShape {
    /// Bytes of a [`Fitted`].
    pub fn fitted_bytes(&self) -> usize {
        4 * 4 * self.groups * self.channels
    }

    /// Bytes of what the passes keep between their kernels.
    ///
    /// # Errors
    /// Where the shape is empty.
    pub fn scratch_bytes(&self, precision: Precision) -> Result<usize> {
        let cut = self.cut(precision)?;
        Ok(4 * 2 * self.groups * self.channels * (cut.rows.chunks as usize + 1))
    }

    fn cut(&self, precision: Precision) -> Result<Cut> {
        let Self { groups, rows, channels } = *self;
        if groups == 0 || rows == 0 || channels == 0 {
            bail!("batch norm of an empty map: {self:?}");
        }
        let (_, lanes) = precision.kernel("", channels);
        let vectors = channels / lanes;
        let columns = vectors.min(BLOCK);
        let stride = BLOCK / columns;
        let chunk_rows = rows.div_ceil(MOST_CHUNKS).next_multiple_of(stride).max(ROWS_A_THREAD * stride);
        let chunks = rows.div_ceil(chunk_rows);
        Ok(Cut {
            rows: Rows {
                rows: rows as i64,
                channels: number(channels)?,
                chunks: number(chunks)?,
                chunk_rows: number(chunk_rows)?,
                groups: number(groups)?,
            },
            blocks: [chunks, groups, vectors.div_ceil(columns)],
            shared_bytes: BLOCK * 2 * lanes * 4,
            map_bytes: groups * rows * channels * precision.bytes(),
        })
    }

    /// Partial sums, and the two factors of the input's gradient, within the scratch.
    fn scratch(&self, cut: &Cut, scratch: &Region) -> Result<[u64; 3]> {
        let (channels, chunks) = (self.groups * self.channels, cut.rows.chunks as usize);
        let start = scratch.at("the scratch of batch norm", 8 * channels * (chunks + 1))?;
        let of_x = start + 8 * (channels * chunks) as u64;
        Ok([start, of_x, of_x + 4 * channels as u64])
    }

    fn fitted(&self, fitted: &Fitted) -> Result<[u64; 4]> {
        let bytes = 4 * self.groups * self.channels;
        let [scale, shift, mean, inverse] =
            [&fitted.scale, &fitted.shift, &fitted.mean, &fitted.inverse].map(|region| region.at("statistics", bytes));
        Ok([scale?, shift?, mean?, inverse?])
    }
}

/// A forward pass in training.
pub struct Forward<'a> {
    pub x: &'a Region,
    pub residual: Option<&'a Region>,
    pub y: &'a Region,
    pub affine: Affine<'a>,
    pub running: Running<'a>,
    pub fitted: &'a Fitted,
    pub scratch: &'a Region,
    pub relu: bool,
    /// Added to the variance.
    pub epsilon: f32,
    /// Share of the batch in the running statistics.
    pub momentum: f32,
}

/// y = relu((x - mean) / sqrt(variance + epsilon) * weight + bias + residual), with the statistics of each group; the running
/// ones move towards those of each group in turn.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn forward(queue: &dyn Queue, precision: Precision, shape: NormShape, pass: &Forward) -> Result<()> {
    let Forward { x, residual, y, affine, running, fitted, scratch, .. } = *pass;
    let cut = shape.cut(precision)?;
    let [partials, ..] = shape.scratch(&cut, scratch)?;
    let [scale, shift, mean, inverse] = shape.fitted(fitted)?;
    let of_channels = |region: &Region| region.at("the values of channels", 4 * shape.channels);
    let x_at = x.at("the input of batch norm", cut.map_bytes)?;
    let moments = NormMoments { x: x_at, partials, rows: cut.rows };
    let finish = NormFinish {
        partials,
        weight: of_channels(affine.weight)?,
        bias: of_channels(affine.bias)?,
        running_mean: of_channels(running.mean)?,
        running_variance: of_channels(running.variance)?,
        scale,
        shift,
        mean,
        inverse,
        rows: cut.rows,
        epsilon: pass.epsilon,
        momentum: pass.momentum,
    };
    let Fitted { scale, shift, mean, inverse } = fitted;
    let merged = [scratch, affine.weight, affine.bias, running.mean, running.variance, scale, shift, mean, inverse];
    // SAFETY: both kernels stay within the sizes that `cut` states and the regions were checked for.
    unsafe {
        let (kernel, _) = precision.kernel("norm_moments", shape.channels);
        launch(queue, &kernel, cut.blocks, cut.shared_bytes, &moments, &[x, scratch])?;
        launch(queue, "norm_finish", channel_blocks(shape), BLOCK * 3 * 8, &finish, &merged)?;
    }
    apply(queue, precision, shape, Apply { x, residual, y, scale, shift, relu: pass.relu, shared: false })
}

/// `y = relu(x * scale + shift + residual)`.
pub struct Apply<'a> {
    pub x: &'a Region,
    pub residual: Option<&'a Region>,
    /// May be `x`.
    pub y: &'a Region,
    pub scale: &'a Region,
    pub shift: &'a Region,
    pub relu: bool,
    /// Scale and shift are (channels), not (groups, channels).
    pub shared: bool,
}

/// The last kernel of the forward pass; all of it for a frozen network.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn apply(queue: &dyn Queue, precision: Precision, shape: NormShape, pass: Apply) -> Result<()> {
    let Apply { x, residual, y, scale, shift, .. } = pass;
    let cut = shape.cut(precision)?;
    let statistics = 4 * shape.channels * if pass.shared { 1 } else { shape.groups };
    let argument = NormApply {
        x: x.at("the input of batch norm", cut.map_bytes)?,
        residual: residual.map_or(Ok(0), |residual| residual.at("the residual", cut.map_bytes))?,
        y: y.at("the output of batch norm", cut.map_bytes)?,
        scale: scale.at("scale", statistics)?,
        shift: shift.at("shift", statistics)?,
        rows: cut.rows,
        relu: pass.relu.into(),
        shared_statistics: pass.shared.into(),
    };
    let (kernel, _) = precision.kernel("norm_apply", shape.channels);
    let regions = [x, y, scale, shift, residual.unwrap_or(x)];
    // SAFETY: the kernel stays within the sizes that `cut` states and the regions were checked for.
    unsafe { launch(queue, &kernel, cut.blocks, 0, &argument, &regions) }
}

/// What flows through batch norm backwards.
pub struct Flow<'a> {
    pub x: &'a Region,
    /// The outputs; read only where a residual came in between.
    pub y: &'a Region,
    pub dy: &'a Region,
    /// May be `dy`.
    pub dx: &'a Region,
    /// Where the residual's gradient goes; may be `dy`.
    pub residual_gradient: Option<&'a Region>,
    pub relu: Relu,
    pub scratch: &'a Region,
}

/// The addresses of a flow.
struct Addresses {
    x: u64,
    y: u64,
    dy: u64,
    mask: i32,
}

impl Flow<'_> {
    fn addresses(&self, cut: &Cut) -> Result<Addresses> {
        let map = |region: &Region| region.at("a map of batch norm", cut.map_bytes);
        let (y, mask) = match self.relu {
            Relu::None => (0, 0),
            Relu::AfterResidual => (map(self.y)?, 1),
            Relu::Plain => (0, 2),
        };
        Ok(Addresses { x: map(self.x)?, y, dy: map(self.dy)?, mask })
    }

    /// The last kernel: from the factors in the scratch to the gradients of maps.
    fn apply(
        &self,
        queue: &dyn Queue,
        precision: Precision,
        shape: NormShape,
        cut: &Cut,
        [scale, shift]: [&Region; 2],
    ) -> Result<()> {
        let Addresses { x, y, dy, mask } = self.addresses(cut)?;
        let [_, of_x, constant] = shape.scratch(cut, self.scratch)?;
        let statistics = 4 * shape.groups * shape.channels;
        let argument = NormBackwardApply {
            x,
            y,
            dy,
            dx: self.dx.at("the input's gradient", cut.map_bytes)?,
            residual_gradient: match self.residual_gradient {
                Some(region) => region.at("the residual's gradient", cut.map_bytes)?,
                None => 0,
            },
            scale: scale.at("scale", statistics)?,
            shift: shift.at("shift", statistics)?,
            of_x,
            constant,
            rows: cut.rows,
            mask,
            unused: 0,
        };
        let (kernel, _) = precision.kernel("norm_backward_apply", shape.channels);
        let other = self.residual_gradient.unwrap_or(self.dy);
        let regions = [self.x, self.y, self.dy, self.dx, scale, shift, self.scratch, other];
        // SAFETY: the kernel stays within the sizes that `cut` states and the regions were checked for.
        unsafe { launch(queue, &kernel, cut.blocks, 0, &argument, &regions) }
    }
}

/// The backward pass: the gradients of input and residual, and those of weight and bias into `gradient`.
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn backward(
    queue: &dyn Queue,
    precision: Precision,
    shape: NormShape,
    flow: &Flow,
    fitted: &Fitted,
    gradient: Affine,
) -> Result<()> {
    let cut = shape.cut(precision)?;
    let Flow { x, y, dy, scratch, .. } = *flow;
    let [partials, of_x, constant] = shape.scratch(&cut, scratch)?;
    let [scale, shift, mean, inverse] = shape.fitted(fitted)?;
    let Addresses { x: x_at, y: y_at, dy: dy_at, mask } = flow.addresses(&cut)?;
    let rows = cut.rows;
    let sums = NormBackwardSums { x: x_at, y: y_at, dy: dy_at, mean, scale, shift, partials, rows, mask, unused: 0 };
    let finish = NormBackwardFinish {
        partials,
        mean,
        inverse,
        scale,
        weight_gradient: gradient.weight.at("the weight's gradient", 4 * shape.channels)?,
        bias_gradient: gradient.bias.at("the bias's gradient", 4 * shape.channels)?,
        of_x,
        constant,
        rows,
    };
    let Fitted { scale, shift, mean, inverse } = fitted;
    let (kernel, _) = precision.kernel("norm_backward_sums", shape.channels);
    let merged = [scratch, scale, mean, inverse, gradient.weight, gradient.bias];
    // SAFETY: the kernels stay within the sizes that `cut` states and the regions were checked for.
    unsafe {
        launch(queue, &kernel, cut.blocks, cut.shared_bytes, &sums, &[x, y, dy, mean, scale, shift, scratch])?;
        launch(queue, "norm_backward_finish", channel_blocks(shape), BLOCK * 2 * 8, &finish, &merged)?;
    }
    flow.apply(queue, precision, shape, &cut, [scale, shift])
}

/// The backward pass of a frozen layer, whose statistics are constants: dx = scale * d. `shape` is one group; scale and shift
/// are (channels).
///
/// # Errors
/// Where a region is too small, or the machine fails.
pub fn frozen_backward(
    queue: &dyn Queue,
    precision: Precision,
    shape: NormShape,
    flow: &Flow,
    scale: &Region,
    shift: &Region,
) -> Result<()> {
    let cut = shape.cut(precision)?;
    let channels = shape.groups * shape.channels;
    queue.clear(&flow.scratch.slice(8 * channels * cut.rows.chunks as usize, 8 * channels)?)?;
    flow.apply(queue, precision, shape, &cut, [scale, shift])
}

/// Blocks of the kernels that take 32 channels each.
fn channel_blocks(shape: NormShape) -> [usize; 3] {
    [shape.channels.div_ceil(32), 1, 1]
}

/// Scale and shift of every layer of a frozen network, one after the other.
pub struct Inference<'a> {
    /// Flat parameters and running statistics.
    pub parameters: &'a Region,
    pub statistics: &'a Region,
    pub places: &'a [NormPlace],
    /// The places, uploaded: [`NormPlace::table`].
    pub table: &'a Region,
    pub scale: &'a Region,
    pub shift: &'a Region,
    pub epsilon: f32,
}

impl NormPlace {
    /// Where a layer of `channels` channels has its values, and where they go.
    ///
    /// # Errors
    /// Where an offset is more than a kernel can count.
    pub fn new(
        [weight, bias]: [usize; 2],
        [mean, variance]: [usize; 2],
        target: usize,
        channels: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: number(weight)?,
            bias: number(bias)?,
            mean: number(mean)?,
            variance: number(variance)?,
            target: number(target)?,
            channels: number(channels)?,
        })
    }

    /// The bytes of a table of places.
    pub fn table(places: &[Self]) -> Vec<u8> {
        table(places)
    }
}

/// scale = weight / sqrt(variance + epsilon), shift = bias - mean * scale, of all layers.
///
/// # Errors
/// Where a place lies outside its region, or the machine fails.
pub fn inference(queue: &dyn Queue, pass: &Inference) -> Result<()> {
    let mut total = 0;
    for place in pass.places {
        if place.target as usize != total {
            bail!("places of batch norm are not one after the other: {place:?}");
        }
        let channels = place.channels as usize;
        let end = |first: i32| 4 * (first as usize + channels);
        pass.parameters.at("the parameters", end(place.weight).max(end(place.bias)))?;
        pass.statistics.at("the statistics", end(place.mean).max(end(place.variance)))?;
        total += channels;
    }
    if total == 0 {
        return Ok(());
    }
    let argument = NormInference {
        parameters: pass.parameters.at("the parameters", 0)?,
        statistics: pass.statistics.at("the statistics", 0)?,
        places: pass.table.at("the table of places", size_of_val(pass.places))?,
        scale: pass.scale.at("scale", 4 * total)?,
        shift: pass.shift.at("shift", 4 * total)?,
        layers: number(pass.places.len())?,
        total: number(total)?,
        epsilon: pass.epsilon,
        unused: 0,
    };
    let regions = [pass.parameters, pass.statistics, pass.table, pass.scale, pass.shift];
    // SAFETY: every place was checked against its region; the table has as many entries.
    unsafe { launch(queue, "norm_inference", [total.div_ceil(BLOCK), 1, 1], 0, &argument, &regions) }
}
