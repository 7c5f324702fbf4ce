/* Pooling, forward and backward, on NHWC maps of `act`. Included once for each kind of map (maps.h). */

/* Mean over all pixels of an image, in f32. */
KERNEL(average_pool, AveragePool) {
    const act *const x = (const act *)a.x;
    const int vectors = a.channels / LANES;
    const wide total = a.images * vectors;
    for (wide item = grid_thread(); item < total; item += grid_threads()) {
        const wide image = item / vectors;
        const int channel = (int)(item % vectors) * LANES;
        float sum[LANES], value[LANES];
        UNROLL for (int k = 0; k < LANES; k++) { sum[k] = 0.0f; }
        for (int pixel = 0; pixel < a.pixels; pixel++) {
            LOAD(x + (image * a.pixels + pixel) * a.channels + channel, value);
            UNROLL for (int k = 0; k < LANES; k++) { sum[k] += value[k]; }
        }
        UNROLL for (int k = 0; k < LANES; k++) { a.y[image * a.channels + channel + k] = sum[k] / (float)a.pixels; }
    }
}

/* The gradient of a mean goes to every pixel in equal parts. */
KERNEL(average_pool_backward, AveragePoolBackward) {
    act *const dx = (act *)a.dx;
    const int vectors = a.channels / LANES;
    const wide total = a.images * a.pixels * vectors;
    for (wide item = grid_thread(); item < total; item += grid_threads()) {
        const wide pixel = item / vectors;
        const int channel = (int)(item % vectors) * LANES;
        float value[LANES];
        UNROLL for (int k = 0; k < LANES; k++) {
            value[k] = a.dy[pixel / a.pixels * a.channels + channel + k] / (float)a.pixels;
        }
        STORE(dx + pixel * a.channels + channel, value);
    }
}

/* The greatest value of each window; of equal ones the first, and NaN before all, as PyTorch has it. */
KERNEL(max_pool, MaxPool) {
    const act *const x = (const act *)a.x;
    act *const y = (act *)a.y;
    const int vectors = a.channels / LANES;
    const wide total = a.images * a.output_height * a.output_width * vectors;
    for (wide item = grid_thread(); item < total; item += grid_threads()) {
        const wide pixel = item / vectors;
        const int channel = (int)(item % vectors) * LANES;
        const int ox = (int)(pixel % a.output_width), oy = (int)(pixel / a.output_width % a.output_height);
        const wide image = pixel / ((wide)a.output_width * a.output_height);
        float best[LANES], value[LANES];
        int taken[LANES], any = 0;
        UNROLL for (int k = 0; k < LANES; k++) {
            best[k] = 0.0f;
            taken[k] = 0;
        }
        for (int ky = 0; ky < a.size; ky++) {
            const int iy = oy * a.stride + ky - a.padding;
            if (iy < 0 || iy >= a.height) continue;
            for (int kx = 0; kx < a.size; kx++) {
                const int ix = ox * a.stride + kx - a.padding;
                if (ix < 0 || ix >= a.width) continue;
                LOAD(x + ((image * a.height + iy) * a.width + ix) * a.channels + channel, value);
                UNROLL for (int k = 0; k < LANES; k++) {
                    if (!any || value[k] > best[k] || (value[k] != value[k] && best[k] == best[k])) {
                        best[k] = value[k];
                        taken[k] = ky * a.size + kx;
                    }
                }
                any = 1;
            }
        }
        STORE(y + pixel * a.channels + channel, best);
        UNROLL for (int k = 0; k < LANES; k++) {
            a.taps[pixel * a.channels + channel + k] = (unsigned char)taken[k];
        }
    }
}

/* Gathers: each input pixel asks the windows over it whether it was their greatest. So nothing is added by two threads. */
KERNEL(max_pool_backward, MaxPool) {
    const act *const dy = (const act *)a.x;
    act *const dx = (act *)a.y;
    const int vectors = a.channels / LANES;
    const wide total = a.images * a.height * a.width * vectors;
    for (wide item = grid_thread(); item < total; item += grid_threads()) {
        const wide pixel = item / vectors;
        const int channel = (int)(item % vectors) * LANES;
        const int ix = (int)(pixel % a.width) + a.padding, iy = (int)(pixel / a.width % a.height) + a.padding;
        const wide image = pixel / ((wide)a.width * a.height);
        float sum[LANES], value[LANES];
        UNROLL for (int k = 0; k < LANES; k++) { sum[k] = 0.0f; }
        for (int oy = int_max(0, (iy - a.size + a.stride) / a.stride); oy <= int_min(iy / a.stride, a.output_height - 1); oy++) {
            for (int ox = int_max(0, (ix - a.size + a.stride) / a.stride); ox <= int_min(ix / a.stride, a.output_width - 1); ox++) {
                const int tap = (iy - oy * a.stride) * a.size + ix - ox * a.stride;
                const wide place = ((image * a.output_height + oy) * a.output_width + ox) * a.channels + channel;
                LOAD(dy + place, value);
                UNROLL for (int k = 0; k < LANES; k++) { sum[k] += a.taps[place + k] == tap ? value[k] : 0.0f; }
            }
        }
        STORE(dx + pixel * a.channels + channel, sum);
    }
}
