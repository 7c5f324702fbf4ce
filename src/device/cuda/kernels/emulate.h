/* CUDA's model of execution for one thread of a C program: blocks run one after another; the threads of a block are
 * contexts with stacks of their own that take turns at barriers. What CUDA leaves undefined is an error here: a barrier
 * that not all threads of a block reach, or shared memory beyond what the launch asked for. */
#ifndef LUMPD_EMULATE_H
#define LUMPD_EMULATE_H

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define DEVICE static inline __attribute__((unused))
#define ALIGNED(bytes) __attribute__((aligned(bytes)))
#define SHARED(type, name) type *const name = (type *)emulated_shared
#define UNROLL

/* The body of a kernel, the entry that takes its argument by address, and the argument's size. */
#define KERNEL_NAMED(name, type) EMULATED_KERNEL(name, type)
#define EMULATED_KERNEL(name, type)                                                                                    \
    static void name##_body(const type a);                                                                             \
    void name(const void *parameters) { name##_body(*(const type *)parameters); }                                      \
    const size_t name##_size = sizeof(type);                                                                           \
    static void name##_body(const type a)

/* Signed, as kernels compare and subtract them. On a GPU they are unsigned and every use converts to int. */
typedef struct {
    int x, y, z;
} EmulatedPlace;

static __thread EmulatedPlace threadIdx, blockIdx, gridDim;
static __thread unsigned char *emulated_shared;

typedef struct {
    ucontext_t context;
    int done;
} EmulatedThread;

#define EMULATED_STACK (64 * 1024)
#define EMULATED_GUARD 64

static __thread ucontext_t emulated_scheduler;
static __thread EmulatedThread *emulated_threads, *emulated_current;
static __thread unsigned char *emulated_stacks;
static __thread void (*emulated_kernel)(const void *);
static __thread const void *emulated_parameters;

static void emulated_entry(void) {
    emulated_kernel(emulated_parameters);
    emulated_current->done = 1;
}

static __attribute__((noinline)) void emulated_wait(void) {
    swapcontext(&emulated_current->context, &emulated_scheduler);
}

#define __syncthreads() emulated_wait()

DEVICE float emulated_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE float bf16_to_float(bf16 value) { return emulated_float((unsigned)value << 16); }

/* Rounds to nearest, ties to even, as __float2bfloat16_rn. */
DEVICE bf16 bf16_from_float(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fff;
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* One block; 0, or what was wrong: 1 a barrier that some threads did not reach, 2 shared memory overrun. */
static int emulate_block(unsigned shared_bytes, int backwards) {
    memset(emulated_shared, 0xff, shared_bytes + EMULATED_GUARD);
    for (int t = 0; t < BLOCK; t++) {
        EmulatedThread *const thread = &emulated_threads[t];
        getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = emulated_stacks + (size_t)t * EMULATED_STACK;
        thread->context.uc_stack.ss_size = EMULATED_STACK;
        thread->context.uc_link = &emulated_scheduler;
        thread->done = 0;
        makecontext(&thread->context, emulated_entry, 0);
    }
    for (int running = BLOCK; running > 0;) {
        int done = 0;
        for (int turn = 0; turn < BLOCK; turn++) {
            const int t = backwards ? BLOCK - 1 - turn : turn;
            emulated_current = &emulated_threads[t];
            threadIdx.x = t;
            if (!emulated_current->done) swapcontext(&emulated_scheduler, &emulated_current->context);
            done += emulated_current->done;
        }
        if (done != 0 && done != BLOCK) return 1;
        running = BLOCK - done;
    }
    for (int byte = 0; byte < EMULATED_GUARD; byte++) {
        if (emulated_shared[shared_bytes + byte] != 0xff) return 2;
    }
    return 0;
}

/* All blocks of a grid. `backwards`: blocks and threads in reverse. As emulate_block; 3: no memory. */
int emulate_launch(void (*kernel)(const void *), const void *parameters, const unsigned *grid, unsigned shared_bytes,
                   int backwards) {
    emulated_threads = malloc(sizeof(EmulatedThread) * BLOCK);
    emulated_stacks = malloc((size_t)EMULATED_STACK * BLOCK);
    emulated_shared = aligned_alloc(16, (shared_bytes + EMULATED_GUARD + 15) / 16 * 16);
    emulated_kernel = kernel;
    emulated_parameters = parameters;
    gridDim.x = (int)grid[0], gridDim.y = (int)grid[1], gridDim.z = (int)grid[2];
    int status = emulated_threads && emulated_stacks && emulated_shared ? 0 : 3;
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned turn = 0; turn < blocks && status == 0; turn++) {
        const unsigned block = backwards ? blocks - 1 - turn : turn;
        blockIdx.x = (int)(block % grid[0]);
        blockIdx.y = (int)(block / grid[0] % grid[1]);
        blockIdx.z = (int)(block / grid[0] / grid[1]);
        status = emulate_block(shared_bytes, backwards);
    }
    free(emulated_threads);
    free(emulated_stacks);
    free(emulated_shared);
    return status;
}

#endif
