/* Between the flat f32 vectors, in PyTorch's layouts, and what the convolutions take. Included once for each kind of map. */

/* Weights of all convolutions at once: cast, and (o, i, y, x) -> (o, y, x, i). */
KERNEL(filters_pack, Filters) {
    act *const packed = (act *)a.packed;
    for (wide item = grid_thread(); item < a.total; item += grid_threads()) {
        int index = 0;
        while (index + 1 < a.count && a.filters[index + 1].target <= item) index++;
        const Filter filter = a.filters[index];
        const int local = (int)(item - filter.target), taps = filter.size * filter.size;
        const int input = local % filter.stored, tap = local / filter.stored % taps;
        const int output = local / (filter.stored * taps);
        const wide from = filter.source + ((wide)output * filter.inputs + input) * taps + tap;
        /* Between two filters there may be a gap. */
        const int known = output < filter.outputs && input < filter.inputs;
        packed[item] = FROM_FLOAT(known ? a.flat[from] : 0.0f);
    }
}

/* The way back, of the gradients; `total` counts the packed values. */
KERNEL(filters_unpack, Filters) {
    const act *const packed = (const act *)a.packed;
    for (wide item = grid_thread(); item < a.total; item += grid_threads()) {
        int index = 0;
        while (index + 1 < a.count && a.filters[index + 1].target <= item) index++;
        const Filter filter = a.filters[index];
        const int local = (int)(item - filter.target), taps = filter.size * filter.size;
        const int input = local % filter.stored, tap = local / filter.stored % taps;
        const int output = local / (filter.stored * taps);
        if (output < filter.outputs && input < filter.inputs)
            a.flat[filter.source + ((wide)output * filter.inputs + input) * taps + tap] = TO_FLOAT(packed[item]);
    }
}

/* Images as the stem takes them. */
KERNEL(images_pack, Images) {
    act *const packed = (act *)a.packed;
    for (wide pixel = grid_thread(); pixel < a.pixels; pixel += grid_threads()) {
        for (int channel = 0; channel < a.stored; channel++) {
            packed[pixel * a.stored + channel] = FROM_FLOAT(channel < 3 ? a.images[pixel * 3 + channel] : 0.0f);
        }
    }
}
