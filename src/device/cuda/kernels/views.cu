/* Random views of images from uint8, and their mixtures. What each step means is defined by src/learn/views; the draws are
 * made on the host. A block makes one view; each pixel stays with one thread until the blur. */

DEVICE float luma(float red, float green, float blue) { return 0.2989f * red + 0.587f * green + 0.114f * blue; }

/* One output coordinate between two input ones: bilinear, pixel centres at half coordinates, clamped to the crop. */
typedef struct {
    int near, far;
    float far_weight;
} Tap;

DEVICE Tap tap_of(int start, int length, int side, int output) {
    Tap tap;
    const float step = (float)length / (float)side;
    const float position = clamped(((float)output + 0.5f) * step - 0.5f, 0.0f, (float)(length - 1));
    const int near = (int)position;
    tap.near = start + near;
    tap.far = start + int_min(near + 1, length - 1);
    tap.far_weight = position - (float)near;
    return tap;
}

/* Sum over the block of one value a thread; every thread gets it. */
DEVICE float block_sum(float value, float *sums) {
    sums[threadIdx.x] = value;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    const float sum = sums[0];
    __syncthreads();
    return sum;
}

DEVICE float blended(float value, float factor, float rest) { return clamped(factor * value + rest, 0.0f, 1.0f); }

/* Channel n of HSV to RGB: value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6. */
DEVICE float channel_of_hue(float n, float hue, float value, float chroma) {
    const float position = n + hue;
    const float k = position - 6.0f * (float)(int)(position * (1.0f / 6.0f));
    return value - chroma * clamped(fminf(k, 4.0f - k), 0.0f, 1.0f);
}

DEVICE void turn_hue(float *red, float *green, float *blue, float turned) {
    const float r = *red, g = *green, b = *blue;
    const float value = fmaxf(fmaxf(r, g), b), chroma = value - fminf(fminf(r, g), b);
    const float inverse = 1.0f / (chroma > 0.0f ? chroma : 1.0f);
    const float sector = value == r   ? (g - b) * inverse
                         : value == g ? 2.0f + (b - r) * inverse
                                      : 4.0f + (r - g) * inverse;
    *red = channel_of_hue(5.0f, sector + turned, value, chroma);
    *green = channel_of_hue(3.0f, sector + turned, value, chroma);
    *blue = channel_of_hue(1.0f, sector + turned, value, chroma);
}

/* The position of a padded line within the line, mirrored at the edges. */
DEVICE int mirrored(int position, int side) {
    return position < 0 ? -position : position < side ? position : 2 * (side - 1) - position;
}

DEVICE float gaussian(int offset, float sigma) {
    const float distance = (float)offset / sigma;
    return expf(-0.5f * (distance * distance));
}

/* One pass of the blur, along a row (step 1) or a column, from one plane to another. */
DEVICE void blur_pass(const float *from, float *to, int side, int along_rows, float sigma) {
    const int reach = side / 20;
    float sum = 0.0f;
    for (int offset = -reach; offset <= reach; offset++) sum += gaussian(offset, sigma);
    for (int pixel = threadIdx.x; pixel < side * side; pixel += BLOCK) {
        const int x = pixel % side, y = pixel / side;
        float blurred = 0.0f;
        for (int offset = -reach; offset <= reach; offset++) {
            const int place = along_rows ? y * side + mirrored(x + offset, side) : mirrored(y + offset, side) * side + x;
            blurred += gaussian(offset, sigma) / sum * from[place];
        }
        to[pixel] = blurred;
    }
    __syncthreads();
}

DEVICE void resized_crop(const unsigned char *image, ViewDraw draw, int side, float *planes) {
    const int pixels = side * side;
    for (int pixel = threadIdx.x; pixel < pixels; pixel += BLOCK) {
        const int x = pixel % side;
        const Tap row = tap_of(draw.top, draw.height, side, pixel / side);
        const Tap column = tap_of(draw.left, draw.width, side, draw.flip ? side - 1 - x : x);
        const unsigned char *const corners[4] = {
            image + (row.near * side + column.near) * 3, image + (row.near * side + column.far) * 3,
            image + (row.far * side + column.near) * 3, image + (row.far * side + column.far) * 3};
        for (int c = 0; c < 3; c++) {
            const float upper = corners[0][c] + ((float)corners[1][c] - (float)corners[0][c]) * column.far_weight;
            const float lower = corners[2][c] + ((float)corners[3][c] - (float)corners[2][c]) * column.far_weight;
            planes[c * pixels + pixel] = (upper + (lower - upper) * row.far_weight) * (1.0f / 255.0f);
        }
    }
}

DEVICE void adjust(ViewDraw draw, int adjustment, int pixels, float *planes, float *sums) {
    float *const red = planes, *const green = planes + pixels, *const blue = planes + 2 * pixels;
    float mean = 0.0f;
    if (adjustment == 1) {
        float sum = 0.0f;
        for (int p = threadIdx.x; p < pixels; p += BLOCK) sum += luma(red[p], green[p], blue[p]);
        mean = block_sum(sum, sums) / (float)pixels;
    }
    for (int p = threadIdx.x; p < pixels; p += BLOCK) {
        float r = red[p], g = green[p], b = blue[p];
        if (adjustment == 3) {
            turn_hue(&r, &g, &b, 6.0f * (draw.hue + 1.0f));
        } else {
            const float factor = adjustment == 0 ? draw.brightness : adjustment == 1 ? draw.contrast : draw.saturation;
            const float reference = adjustment == 0 ? 0.0f : adjustment == 1 ? mean : luma(r, g, b);
            const float rest = (1.0f - factor) * reference;
            r = blended(r, factor, rest);
            g = blended(g, factor, rest);
            b = blended(b, factor, rest);
        }
        red[p] = r;
        green[p] = g;
        blue[p] = b;
    }
}

KERNEL_NAMED(make_views, MakeViews) {
    SHARED(float, sums);
    const int pixels = a.side * a.side;
    const int view = a.first + blockIdx.x;
    float *const planes = a.scratch != 0 ? a.scratch + (wide)blockIdx.x * 4 * pixels : sums + BLOCK;
    float *const spare = planes + 3 * pixels;
    const ViewDraw draw = a.draws[view];
    resized_crop(a.images + (wide)(view % a.images_count) * pixels * 3, draw, a.side, planes);
    if (draw.jitter != 0) {
        for (int step = 0; step < 4; step++) adjust(draw, draw.jitter >> (2 * step) & 3, pixels, planes, sums);
    }
    if (draw.grey) {
        for (int p = threadIdx.x; p < pixels; p += BLOCK) {
            planes[p] = planes[p + pixels] = planes[p + 2 * pixels] = luma(planes[p], planes[p + pixels], planes[p + 2 * pixels]);
        }
    }
    if (draw.sigma > 0.0f) {
        __syncthreads();
        for (int c = 0; c < 3; c++) {
            blur_pass(planes + c * pixels, spare, a.side, 1, draw.sigma);
            blur_pass(spare, planes + c * pixels, a.side, 0, draw.sigma);
        }
    }
    float *const to = a.views + (wide)view * pixels * 3;
    for (int p = threadIdx.x; p < pixels; p += BLOCK) {
        for (int c = 0; c < 3; c++) to[p * 3 + c] = planes[c * pixels + p] * a.scale[c] + a.shift[c];
    }
}

/* weight * images + (1 - weight) * partners. */
KERNEL_NAMED(mix, Mix) {
    for (wide item = grid_thread(); item < a.count; item += grid_threads()) {
        a.mixed[item] = a.weight * a.images[item] + (1.0f - a.weight) * a.partners[item];
    }
}
