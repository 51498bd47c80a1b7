/*
 * cuda_threads.h - what a thread of a kernel sees of the others: its index, barriers, shuffles, atomics.
 *
 * Where a kernel stands in the source comes by default arguments, so that a fault can name the line.
 */
#ifndef KD_CUDA_HOST_THREADS_H
#define KD_CUDA_HOST_THREADS_H

#include "cuda_types.h"

#include <type_traits>

#define KD_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define KD_AT    file, line

namespace kd_host
{
/* What threadIdx and its like read; the engine's fiber begins with it. */
struct thread_state {
    uint3 tid, bid;
    unsigned lane, cluster_rank, cluster_size;
};

extern thread_state *self;
extern dim3 grid_dim, block_dim;

void *shared_static(const void *key, const char *name, size_t size, size_t align);
void *shared_dynamic(size_t align);

/* Every lane of the mask calls this; the last to arrive runs f over all lanes' arguments, then all go on. */
typedef void (*collective)(unsigned mask, void **arg_of_lane);
void warp_meet(unsigned mask, const char *what, collective f, void *arg, KD_WHERE);
/* threads < 0: the whole block; without wait it only arrives. */
void barrier(unsigned id, int threads, bool wait, KD_WHERE);
/* Lets others run; idle: this thread is only waiting for somebody. */
void yield(bool idle);
/* Under a shuffled schedule it sometimes yields, so that orders vary. */
void before_atomic(const void *p);
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
} // namespace kd_host

#define threadIdx (kd_host::self->tid)
#define blockIdx  (kd_host::self->bid)
#define blockDim  (kd_host::block_dim)
#define gridDim   (kd_host::grid_dim)
static const int warpSize = 32;

static inline void __syncthreads(KD_WHERE)
{
    kd_host::barrier(0, -1, true, KD_AT);
}

static inline void __syncwarp(unsigned mask = ~0u, KD_WHERE)
{
    kd_host::warp_meet(mask, "__syncwarp", nullptr, nullptr, KD_AT);
}

static inline void __threadfence()
{
}

static inline void __threadfence_system()
{
}

static inline void __threadfence_block()
{
}

static inline void __nanosleep(unsigned)
{
    kd_host::yield(true);
}

[[noreturn]] static inline void __trap()
{
    kd_host::fault("__trap()");
}

/* Legal, and the least helpful. */
static inline unsigned __activemask()
{
    return 1u << kd_host::self->lane;
}

template <class T> struct kd_lane_arg {
    T in, out;
    int src;
};

template <class T>
static inline T kd_shuffle(unsigned mask, T v, int src, const char *what, KD_WHERE)
{
    kd_lane_arg<T> arg{v, v, src};
    kd_host::warp_meet(
        mask, what,
        [](unsigned m, void **p) {
            for (unsigned l = 0; l < 32; l++) {
                if (!(m >> l & 1))
                    continue;
                auto *mine = (kd_lane_arg<T> *)p[l];
                if (!(m >> mine->src & 1))
                    kd_host::fault("lane %u shuffles from lane %d, which is not in mask %08x", l,
                                   mine->src, m);
                mine->out = ((kd_lane_arg<T> *)p[mine->src])->in;
            }
        },
        &arg, KD_AT);
    return arg.out;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T v, int src, int width = 32, KD_WHERE)
{
    int l = (int)kd_host::self->lane;
    return kd_shuffle(mask, v, (l & ~(width - 1)) | (src & (width - 1)), "__shfl_sync", KD_AT);
}

/* Past the end of the own segment the following give the own value. */
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, KD_WHERE)
{
    int l = (int)kd_host::self->lane, s = l ^ x;
    return kd_shuffle(mask, v, s >= (l & ~(width - 1)) + width ? l : s, "__shfl_xor_sync", KD_AT);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, KD_WHERE)
{
    int l = (int)kd_host::self->lane, s = l - (int)d;
    return kd_shuffle(mask, v, s < (l & ~(width - 1)) ? l : s, "__shfl_up_sync", KD_AT);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, KD_WHERE)
{
    int l = (int)kd_host::self->lane, s = l + (int)d;
    return kd_shuffle(mask, v, s >= (l & ~(width - 1)) + width ? l : s, "__shfl_down_sync", KD_AT);
}

#define KD_REDUCE(name, first, expr)                                                               \
    static inline unsigned name(unsigned mask, unsigned own, KD_WHERE)                             \
    {                                                                                              \
        kd_lane_arg<unsigned> arg{own, own, 0};                                                    \
        kd_host::warp_meet(                                                                        \
            mask, #name,                                                                           \
            [](unsigned m, void **p) {                                                             \
                unsigned r = first;                                                                \
                for (unsigned l = 0; l < 32; l++) {                                                \
                    if (m >> l & 1) {                                                              \
                        unsigned v = ((kd_lane_arg<unsigned> *)p[l])->in;                          \
                        r = expr;                                                                  \
                    }                                                                              \
                }                                                                                  \
                for (unsigned l = 0; l < 32; l++) {                                                \
                    if (m >> l & 1)                                                                \
                        ((kd_lane_arg<unsigned> *)p[l])->out = r;                                  \
                }                                                                                  \
            },                                                                                     \
            &arg, KD_AT);                                                                          \
        return arg.out;                                                                            \
    }
KD_REDUCE(__reduce_add_sync, 0, r + v)
KD_REDUCE(__reduce_or_sync, 0, r | v)
KD_REDUCE(__reduce_and_sync, ~0u, r &v)
KD_REDUCE(__reduce_max_sync, 0, r < v ? v : r)
KD_REDUCE(__reduce_min_sync, ~0u, r < v ? r : v)
#undef KD_REDUCE

static inline unsigned __ballot_sync(unsigned mask, int pred, KD_WHERE)
{
    return __reduce_or_sync(mask, pred ? 1u << kd_host::self->lane : 0, KD_AT);
}

static inline int __any_sync(unsigned mask, int pred, KD_WHERE)
{
    return __ballot_sync(mask, pred, KD_AT) != 0;
}

static inline int __all_sync(unsigned mask, int pred, KD_WHERE)
{
    return __ballot_sync(mask, !pred, KD_AT) == 0;
}

/* Fibers of a launch share one OS thread, so plain arithmetic is atomic. No race hook inside. */
#define KD_ATOMIC(name, expr)                                                                      \
    template <class T>                                                                             \
    __attribute__((noinline, no_sanitize("thread"))) static T name(                                \
        T *p, typename std::common_type<T>::type v)                                                \
    {                                                                                              \
        kd_host::before_atomic(p);                                                                 \
        T old = *p;                                                                                \
        *p = expr;                                                                                 \
        return old;                                                                                \
    }
KD_ATOMIC(atomicAdd, old + v)
KD_ATOMIC(atomicMax, old < v ? v : old)
KD_ATOMIC(atomicMin, old < v ? old : v)
KD_ATOMIC(atomicOr, old | v)
KD_ATOMIC(atomicExch, v)
#undef KD_ATOMIC

template <class T>
__attribute__((noinline, no_sanitize("thread"))) static T
atomicCAS(T *p, typename std::common_type<T>::type expected, typename std::common_type<T>::type v)
{
    kd_host::before_atomic(p);
    T old = *p;
    if (old == expected)
        *p = v;
    return old;
}

#endif
