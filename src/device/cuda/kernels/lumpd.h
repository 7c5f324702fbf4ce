/* What the kernels are written against: CUDA C under nvcc, and plain C under a C compiler, where emulate.h lends threads,
 * barriers and shared memory their meaning. So the same source runs on a GPU and in the tests.
 *
 * The subset: C99; one struct as the only argument of a kernel (parameters.h); one block size; dynamic shared memory
 * only; __syncthreads() as the only way in which threads meet; no atomics. So results do not depend on the order in
 * which threads run, and the tests run them in two. */
#ifndef LUMPD_H
#define LUMPD_H

/* Threads of every block. */
#define BLOCK 256

#define LUMPD_JOIN_(a, b) a##_##b
#define LUMPD_JOIN(a, b) LUMPD_JOIN_(a, b)

typedef unsigned short bf16;
typedef long long wide;

#ifdef __CUDACC__

#include <cuda_bf16.h>

#define DEVICE static __device__ __forceinline__
#define KERNEL_NAMED(name, type) extern "C" __global__ void __launch_bounds__(BLOCK) name(const type a)
#define ALIGNED(bytes) __align__(bytes)
/* Shared memory of the launch, as an array. */
extern __shared__ __align__(16) unsigned char lumpd_shared[];
#define SHARED(type, name) type *const name = (type *)lumpd_shared
#define UNROLL _Pragma("unroll")

DEVICE float bf16_to_float(bf16 value) { return __bfloat162float(__ushort_as_bfloat16(value)); }
DEVICE bf16 bf16_from_float(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

#else

#include "emulate.h"

#endif

DEVICE wide wide_min(wide a, wide b) { return a < b ? a : b; }
DEVICE int int_min(int a, int b) { return a < b ? a : b; }
DEVICE int int_max(int a, int b) { return a > b ? a : b; }
DEVICE float clamped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

/* The number of this thread in the grid, and of all threads of the grid; grids of one dimension. */
DEVICE wide grid_thread(void) { return (wide)blockIdx.x * BLOCK + threadIdx.x; }
DEVICE wide grid_threads(void) { return (wide)gridDim.x * BLOCK; }

#include "parameters.h"

#endif
