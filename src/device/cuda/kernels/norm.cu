/* Batch normalisation with statistics per group, an optional residual and ReLU, forward and backward, on maps of `act`.
 * The formulas are those of src/device/kernels/norm. Included once for each kind of map (maps.h). */

/* The part of a map that belongs to this thread: LANES channels of every `stride`-th row. */
typedef struct {
    int active, stride, columns, column;
    wide offset, first, last, row;
} PART;

DEVICE PART TILE(Rows rows) {
    PART part;
    const int vectors = rows.channels / LANES;
    part.columns = int_min(vectors, BLOCK);
    part.stride = BLOCK / part.columns;
    part.column = threadIdx.x % part.columns;
    const int lane = threadIdx.x / part.columns;
    const int vector = blockIdx.z * part.columns + part.column;
    part.active = lane < part.stride && vector < vectors;
    part.first = (wide)blockIdx.x * rows.chunk_rows;
    part.last = wide_min(part.first + rows.chunk_rows, rows.rows);
    part.row = part.first + lane;
    part.offset = (wide)blockIdx.y * rows.rows * rows.channels + (wide)vector * LANES;
    return part;
}

/* The first of this thread's channels in a vector (groups, channels). */
DEVICE wide CHANNEL(Rows rows, PART part, int group) {
    return (wide)group * rows.channels + ((wide)blockIdx.z * part.columns + part.column) * LANES;
}

/* Adds up what the threads of a block hold for each channel (two values), and writes it for the chunk. `with_shift`: the
 * values are sums of deviations from the chunk's first row, and of their squares; what is written is the mean and the sum
 * of squared deviations from it. */
DEVICE void REDUCE(Rows rows, PART part, const float *one, const float *two, const act *x, float *partials) {
    SHARED(float, sums);
    UNROLL for (int k = 0; k < LANES; k++) {
        sums[(threadIdx.x * 2 + 0) * LANES + k] = one[k];
        sums[(threadIdx.x * 2 + 1) * LANES + k] = two[k];
    }
    __syncthreads();
    const int tile = part.columns * LANES;
    float *const to = partials + ((wide)blockIdx.y * rows.chunks + blockIdx.x) * 2 * rows.channels;
    for (int c = threadIdx.x; c < tile; c += BLOCK) {
        const int channel = blockIdx.z * tile + c;
        if (channel < rows.channels) {
            float first = 0.0f, second = 0.0f;
            for (int lane = 0; lane < part.stride; lane++) {
                const int place = (lane * part.columns + c / LANES) * 2 * LANES + c % LANES;
                first += sums[place];
                second += sums[place + LANES];
            }
            if (x != 0) {
                const float count = (float)(part.last - part.first);
                const float offset = first / count;
                second = fmaxf(second - first * offset, 0.0f);
                first = TO_FLOAT(x[((wide)blockIdx.y * rows.rows + part.first) * rows.channels + channel]) + offset;
            }
            to[channel] = first;
            to[rows.channels + channel] = second;
        }
    }
}

/* Mean and sum of squared deviations of each channel over each chunk of rows. */
KERNEL(norm_moments, NormMoments) {
    const act *const x = (const act *)a.x;
    const PART part = TILE(a.rows);
    float sum[LANES], squares[LANES], shift[LANES], value[LANES];
    UNROLL for (int k = 0; k < LANES; k++) { sum[k] = squares[k] = 0.0f; }
    if (part.active) {
        LOAD(x + part.offset + part.first * a.rows.channels, shift);
        for (wide row = part.row; row < part.last; row += part.stride) {
            LOAD(x + part.offset + row * a.rows.channels, value);
            UNROLL for (int k = 0; k < LANES; k++) {
                const float deviation = value[k] - shift[k];
                sum[k] += deviation;
                squares[k] += deviation * deviation;
            }
        }
    }
    REDUCE(a.rows, part, sum, squares, x, a.partials);
}

/* y = x * scale + shift + residual, and ReLU. */
KERNEL(norm_apply, NormApply) {
    const act *const x = (const act *)a.x, *const residual = (const act *)a.residual;
    act *const y = (act *)a.y;
    const PART part = TILE(a.rows);
    if (!part.active) return;
    float scale[LANES], shift[LANES], value[LANES], other[LANES];
    const wide channel = CHANNEL(a.rows, part, a.shared_statistics ? 0 : blockIdx.y);
    UNROLL for (int k = 0; k < LANES; k++) {
        scale[k] = a.scale[channel + k];
        shift[k] = a.shift[channel + k];
        other[k] = 0.0f;
    }
    for (wide row = part.row; row < part.last; row += part.stride) {
        const wide place = part.offset + row * a.rows.channels;
        LOAD(x + place, value);
        if (residual != 0) LOAD(residual + place, other);
        UNROLL for (int k = 0; k < LANES; k++) {
            const float result = value[k] * scale[k] + shift[k] + other[k];
            value[k] = a.relu && result <= 0.0f ? 0.0f : result;
        }
        STORE(y + place, value);
    }
}

/* The gradient behind the ReLU, of one row: zero where it stopped. */
DEVICE void MASKED(const act *y, const act *dy, wide place, int mask, const float *x, const float *scale,
                   const float *shift, float *d) {
    float output[LANES];
    LOAD(dy + place, d);
    if (mask == MASK_OUTPUT) {
        LOAD(y + place, output);
    } else if (mask == MASK_RECOMPUTE) {
        UNROLL for (int k = 0; k < LANES; k++) { output[k] = x[k] * scale[k] + shift[k]; }
    } else {
        UNROLL for (int k = 0; k < LANES; k++) { output[k] = 1.0f; }
    }
    UNROLL for (int k = 0; k < LANES; k++) { d[k] = output[k] > 0.0f ? d[k] : 0.0f; }
}

/* Sums of d and of d (x - mean) over each chunk of rows; d is the gradient behind the ReLU. */
KERNEL(norm_backward_sums, NormBackwardSums) {
    const act *const x = (const act *)a.x, *const y = (const act *)a.y, *const dy = (const act *)a.dy;
    const PART part = TILE(a.rows);
    float sum[LANES], product[LANES], mean[LANES], scale[LANES], shift[LANES], value[LANES], d[LANES];
    UNROLL for (int k = 0; k < LANES; k++) { sum[k] = product[k] = 0.0f; }
    if (part.active) {
        const wide channel = CHANNEL(a.rows, part, blockIdx.y);
        UNROLL for (int k = 0; k < LANES; k++) {
            mean[k] = a.mean[channel + k];
            scale[k] = a.scale[channel + k];
            shift[k] = a.shift[channel + k];
        }
        for (wide row = part.row; row < part.last; row += part.stride) {
            const wide place = part.offset + row * a.rows.channels;
            LOAD(x + place, value);
            MASKED(y, dy, place, a.mask, value, scale, shift, d);
            UNROLL for (int k = 0; k < LANES; k++) {
                sum[k] += d[k];
                product[k] += d[k] * (value[k] - mean[k]);
            }
        }
    }
    REDUCE(a.rows, part, sum, product, 0, a.partials);
}

/* dx = scale * d + of_x * x + constant; and d itself for the residual. */
KERNEL(norm_backward_apply, NormBackwardApply) {
    const act *const x = (const act *)a.x, *const y = (const act *)a.y, *const dy = (const act *)a.dy;
    act *const dx = (act *)a.dx, *const residual_gradient = (act *)a.residual_gradient;
    const PART part = TILE(a.rows);
    if (!part.active) return;
    float scale[LANES], shift[LANES], of_x[LANES], constant[LANES], value[LANES], d[LANES];
    const wide channel = CHANNEL(a.rows, part, blockIdx.y);
    UNROLL for (int k = 0; k < LANES; k++) {
        scale[k] = a.scale[channel + k];
        shift[k] = a.shift[channel + k];
        of_x[k] = a.of_x[channel + k];
        constant[k] = a.constant[channel + k];
    }
    for (wide row = part.row; row < part.last; row += part.stride) {
        const wide place = part.offset + row * a.rows.channels;
        LOAD(x + place, value);
        MASKED(y, dy, place, a.mask, value, scale, shift, d);
        if (residual_gradient != 0) STORE(residual_gradient + place, d);
        UNROLL for (int k = 0; k < LANES; k++) { value[k] = scale[k] * d[k] + of_x[k] * value[k] + constant[k]; }
        STORE(dx + place, value);
    }
}
