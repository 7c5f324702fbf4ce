/* The argument of each kernel. parameters.rs has the same structs; the tests compare their sizes, and every kernel's
 * result with its definition. */
#ifndef LUMPD_PARAMETERS_H
#define LUMPD_PARAMETERS_H

/* How batch norm reads a map (groups * rows, channels): a block takes `chunk_rows` rows of one group (the last chunk may
 * be shorter) and the channels of one tile. Grid: chunks, groups, tiles of BLOCK vectors. */
typedef struct {
    wide rows; /* of a group */
    int channels, chunks, chunk_rows, groups;
} Rows;

typedef struct {
    const void *x;
    float *partials; /* groups, chunks, {mean, sum of squared deviations}, channels */
    Rows rows;
} NormMoments;

typedef struct {
    const float *partials;
    const float *weight, *bias;
    float *running_mean, *running_variance;
    float *scale, *shift, *mean, *inverse; /* groups, channels each */
    Rows rows;
    float epsilon, momentum;
} NormFinish;

typedef struct {
    const void *x, *residual; /* residual may be null */
    void *y;
    const float *scale, *shift;
    Rows rows;
    int relu, shared_statistics; /* the latter: scale and shift are (channels), the same for every group */
} NormApply;

enum { MASK_NONE = 0, MASK_OUTPUT = 1, MASK_RECOMPUTE = 2 };

typedef struct {
    const void *x, *y, *dy; /* y only with MASK_OUTPUT */
    const float *mean, *scale, *shift;
    float *partials; /* groups, chunks, {sum of d, sum of d (x - mean)}, channels */
    Rows rows;
    int mask, unused;
} NormBackwardSums;

typedef struct {
    const float *partials, *mean, *inverse, *scale;
    float *weight_gradient, *bias_gradient; /* channels */
    float *of_x, *constant; /* groups, channels */
    Rows rows;
} NormBackwardFinish;

typedef struct {
    const void *x, *y, *dy;
    void *dx, *residual_gradient; /* either may be dy itself; the latter may be null */
    const float *scale, *shift, *of_x, *constant;
    Rows rows;
    int mask, unused;
} NormBackwardApply;

/* Where a layer's batch norm lies in the flat vectors, and in the result. */
typedef struct {
    int weight, bias, mean, variance, target, channels;
} NormPlace;

typedef struct {
    const float *parameters, *statistics;
    const NormPlace *places;
    float *scale, *shift;
    int layers, total;
    float epsilon;
    int unused;
} NormInference;

typedef struct {
    const void *x; /* images, pixels, channels */
    float *y;      /* images, channels */
    wide images;
    int pixels, channels;
} AveragePool;

typedef struct {
    const float *dy;
    void *dx;
    wide images;
    int pixels, channels;
} AveragePoolBackward;

typedef struct {
    const void *x; /* forward: the input; backward: the output's gradient */
    void *y;       /* forward: the output; backward: the input's gradient */
    unsigned char *taps; /* which of the window's taps was greatest, row by row; as the output */
    wide images;
    int height, width, output_height, output_width, channels, size, stride, padding;
} MaxPool;

/* A convolution's weights: (outputs, inputs, size, size) in the flat vector, (outputs, size, size, stored) as cudnn takes
 * them; the channels beyond `inputs` are zero. */
typedef struct {
    wide source, target;
    int outputs, inputs, size, stored;
} Filter;

typedef struct {
    float *flat;
    void *packed;
    const Filter *filters; /* in the order of both offsets */
    wide total;
    int count, unused;
} Filters;

typedef struct {
    const float *images; /* pixels, 3 */
    void *packed;        /* pixels, stored; the channels beyond 3 are zero */
    wide pixels;
    int stored, unused;
} Images;

/* The elements up to `end` learn at `factor` times the rate. */
typedef struct {
    wide end;
    float factor;
    int unused;
} RateRange;

typedef struct {
    float *parameters, *momentum;
    const float *gradient;
    const RateRange *ranges; /* null: all at factor 1 */
    const int *not_finite;   /* null, or a flag that forbids the step */
    wide count;
    int range_count;
    float rate, momentum_factor, decay;
} SgdStep;

typedef struct {
    const float *values;
    int *not_finite; /* set to 1, never to 0 */
    wide count;
} FiniteCheck;

/* The random choices behind one view. Words of 32 bits. */
typedef struct {
    int top, left, height, width; /* the crop */
    int flip, grey;
    int jitter; /* 0: none; else 256 + two bits for each of four adjustments, the first one lowest */
    float brightness, contrast, saturation, hue;
    float sigma; /* of the blur in pixels; 0: none */
} ViewDraw;

typedef struct {
    const unsigned char *images; /* RGB, side * side * 3 bytes each */
    const ViewDraw *draws;       /* one a view */
    float *views;                /* views, side, side, 3 */
    float *scratch;              /* blocks, 4, side, side; null: shared memory holds it */
    int first, images_count, side, unused; /* view v is of image v mod images_count */
    float scale[3], shift[3];    /* of each channel: normalised = value * scale + shift */
} MakeViews;

typedef struct {
    const float *images, *partners;
    float *mixed;
    wide count;
    float weight;
    int unused;
} Mix;

#endif
