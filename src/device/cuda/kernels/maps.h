/* The kernels that read or write maps, for one kind of map. Before it: VARIANT, a suffix; act, the type of a value; LANES,
 * the channels that a thread takes at once; TO_FLOAT and FROM_FLOAT. */
#define KERNEL(name, type) KERNEL_NAMED(LUMPD_JOIN(name, VARIANT), type)
#define PACK LUMPD_JOIN(Pack, VARIANT)
#define PART LUMPD_JOIN(Part, VARIANT)
#define LOAD LUMPD_JOIN(load, VARIANT)
#define STORE LUMPD_JOIN(store, VARIANT)
#define TILE LUMPD_JOIN(tile, VARIANT)
#define CHANNEL LUMPD_JOIN(channel, VARIANT)
#define REDUCE LUMPD_JOIN(reduce, VARIANT)
#define MASKED LUMPD_JOIN(masked, VARIANT)

/* LANES values that are moved at once: 16 bytes where LANES is not 1. */
typedef struct {
    act values[LANES];
} ALIGNED(sizeof(act) * LANES) PACK;

DEVICE void LOAD(const act *from, float *to) {
    const PACK pack = *(const PACK *)from;
    UNROLL for (int k = 0; k < LANES; k++) { to[k] = TO_FLOAT(pack.values[k]); }
}

DEVICE void STORE(act *to, const float *from) {
    PACK pack;
    UNROLL for (int k = 0; k < LANES; k++) { pack.values[k] = FROM_FLOAT(from[k]); }
    *(PACK *)to = pack;
}

#include "norm.cu"
#include "pool.cu"
#if LANES == 1
#include "filters.cu"
#endif

#undef KERNEL
#undef PACK
#undef PART
#undef LOAD
#undef STORE
#undef TILE
#undef CHANNEL
#undef REDUCE
#undef MASKED
#undef VARIANT
#undef act
#undef LANES
#undef TO_FLOAT
#undef FROM_FLOAT
