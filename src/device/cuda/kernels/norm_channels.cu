/* The parts of batch normalisation that treat channels, not maps: merging what the chunks found, in f64. */

/* A block takes CHANNELS channels with SHARES threads each. */
#define CHANNELS 32
#define SHARES (BLOCK / CHANNELS)

/* Count, mean and sum of squared deviations of some values of a channel. */
typedef struct {
    double count, mean, spread;
} Merged;

/* Chan, Golub and LeVeque 1979. */
DEVICE Merged merge(Merged one, Merged other) {
    Merged both;
    both.count = one.count + other.count;
    if (both.count == 0.0) return one;
    const double distance = other.mean - one.mean, share = other.count / both.count;
    both.mean = one.mean + distance * share;
    both.spread = one.spread + other.spread + distance * distance * one.count * share;
    return both;
}

KERNEL_NAMED(norm_finish, NormFinish) {
    SHARED(Merged, shares);
    const int channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS, share = threadIdx.x / CHANNELS;
    const int channels = a.rows.channels;
    for (int group = 0; group < a.rows.groups; group++) {
        Merged merged = {0.0, 0.0, 0.0};
        if (channel < channels) {
            const float *const partials = a.partials + (wide)group * a.rows.chunks * 2 * channels + channel;
            for (int chunk = share; chunk < a.rows.chunks; chunk += SHARES) {
                Merged found;
                found.count = (double)wide_min(a.rows.chunk_rows, a.rows.rows - (wide)chunk * a.rows.chunk_rows);
                found.mean = partials[(wide)chunk * 2 * channels];
                found.spread = partials[((wide)chunk * 2 + 1) * channels];
                merged = merge(merged, found);
            }
        }
        shares[threadIdx.x] = merged;
        __syncthreads();
        if (share == 0 && channel < channels) {
            for (int other = 1; other < SHARES; other++) merged = merge(merged, shares[other * CHANNELS + threadIdx.x]);
            const double variance = merged.spread / merged.count;
            const float inverse = (float)(1.0 / sqrt(variance + (double)a.epsilon));
            const float scale = a.weight[channel] * inverse;
            const wide place = (wide)group * channels + channel;
            a.mean[place] = (float)merged.mean;
            a.inverse[place] = inverse;
            a.scale[place] = scale;
            a.shift[place] = a.bias[channel] - (float)merged.mean * scale;
            /* A lone value has no variance: then the running statistics stay as they are. */
            if (a.rows.rows > 1) {
                const float unbiased = (float)(merged.spread / (merged.count - 1.0));
                a.running_mean[channel] += a.momentum * ((float)merged.mean - a.running_mean[channel]);
                a.running_variance[channel] += a.momentum * (unbiased - a.running_variance[channel]);
            }
        }
        __syncthreads();
    }
}

KERNEL_NAMED(norm_backward_finish, NormBackwardFinish) {
    SHARED(double, shares);
    const int channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS, share = threadIdx.x / CHANNELS;
    const int channels = a.rows.channels;
    float by_weight = 0.0f, by_bias = 0.0f;
    for (int group = 0; group < a.rows.groups; group++) {
        double sum = 0.0, product = 0.0;
        if (channel < channels) {
            const float *const partials = a.partials + (wide)group * a.rows.chunks * 2 * channels + channel;
            for (int chunk = share; chunk < a.rows.chunks; chunk += SHARES) {
                sum += (double)partials[(wide)chunk * 2 * channels];
                product += (double)partials[((wide)chunk * 2 + 1) * channels];
            }
        }
        shares[2 * threadIdx.x] = sum;
        shares[2 * threadIdx.x + 1] = product;
        __syncthreads();
        if (share == 0 && channel < channels) {
            for (int other = 1; other < SHARES; other++) {
                sum += shares[2 * (other * CHANNELS + threadIdx.x)];
                product += shares[2 * (other * CHANNELS + threadIdx.x) + 1];
            }
            const wide place = (wide)group * channels + channel;
            const double inverse = a.inverse[place], scale = a.scale[place], rows = (double)a.rows.rows;
            const double d_weight = product * inverse, of_x = -scale * inverse * d_weight / rows;
            by_weight += (float)d_weight;
            by_bias += (float)sum;
            a.of_x[place] = (float)of_x;
            a.constant[place] = (float)(-scale * sum / rows - of_x * (double)a.mean[place]);
        }
        __syncthreads();
    }
    if (share == 0 && channel < channels) {
        a.weight_gradient[channel] = by_weight;
        a.bias_gradient[channel] = by_bias;
    }
}

/* Scale and shift of every layer from its running statistics: batch norm of a frozen network is one multiply-add. */
KERNEL_NAMED(norm_inference, NormInference) {
    const int target = (int)grid_thread();
    if (target >= a.total) return;
    int layer = 0;
    while (layer + 1 < a.layers && a.places[layer + 1].target <= target) layer++;
    const NormPlace place = a.places[layer];
    const int channel = target - place.target;
    const float inverse = 1.0f / sqrtf(a.statistics[place.variance + channel] + a.epsilon);
    const float scale = a.parameters[place.weight + channel] * inverse;
    a.scale[target] = scale;
    a.shift[target] = a.parameters[place.bias + channel] - a.statistics[place.mean + channel] * scale;
}
