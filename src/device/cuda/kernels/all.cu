/* Every kernel, as one module. Kernels on maps come in four kinds: f32 and bf16, by 16 bytes a thread or by single values
 * (for widths that 16 bytes do not divide). */
#include "lumpd.h"

#include "norm_channels.cu"
#include "optimiser.cu"
#include "views.cu"

#define VARIANT f32x4
#define act float
#define LANES 4
#define TO_FLOAT(x) (x)
#define FROM_FLOAT(x) (x)
#include "maps.h"

#define VARIANT f32x1
#define act float
#define LANES 1
#define TO_FLOAT(x) (x)
#define FROM_FLOAT(x) (x)
#include "maps.h"

#define VARIANT bf16x8
#define act bf16
#define LANES 8
#define TO_FLOAT(x) bf16_to_float(x)
#define FROM_FLOAT(x) bf16_from_float(x)
#include "maps.h"

#define VARIANT bf16x1
#define act bf16
#define LANES 1
#define TO_FLOAT(x) bf16_to_float(x)
#define FROM_FLOAT(x) bf16_from_float(x)
#include "maps.h"
