/*
 * engine.h - what the parts of the emulator share; kernels never see it.
 *
 * fiber.cpp       fibers, the schedule, faults
 * barrier.cpp     barriers, meetings of a warp, groups of asynchronous work
 * shared.cpp      shared memory of a block
 * launch.cpp      the run of a kernel
 * cluster.cpp     clusters and mbarriers
 * matrix.cpp      ldmatrix, mma, wgmma
 * tma.cpp         cp.async and TMA
 * race.cpp        the race detector, in the build that has it
 *
 * One kernel runs at a time in a process; the lock of the runtime (runtime.h) sees to that.
 */
#ifndef KD_CUDA_HOST_ENGINE_H
#define KD_CUDA_HOST_ENGINE_H

#include "cuda_host.h"

#include <functional>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#define KD_ASAN 1
#include <sanitizer/asan_interface.h>
#else
#define KD_ASAN                           0
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace kd_host
{
const size_t STACK = KD_ASAN ? 256 << 10 : 64 << 10; /* of a fiber */

/* Asynchronous work that is committed and waited for in groups (cp.async, bulk stores, wgmma). The
 * hardware may do it at any time between issue and wait. Late (at the wait) shows readers that do
 * not wait; early shows writers that overtake readers. Seed 0 is late, the others mix. */
struct async_groups {
    std::vector<std::function<void()>> work; /* in order of issue */
    std::vector<size_t> ends;                /* committed groups: how much of work each closes */
    size_t done = 0;

    void add(std::function<void()> f);
    void commit();
    void run(size_t upto);
    void wait(size_t left);
    bool idle() const;
    void clear();
};

/* A block's shared memory: fence, dynamic part, fence, KD_SHARED variables with fences between. */
const size_t SMEM_MAX = 227 << 10, SMEM_STATIC_MAX = 48 << 10, GUARD = 1024, DYN = GUARD,
             STATIC = DYN + SMEM_MAX + GUARD, ARENA = STATIC + (64 << 10);
const char FENCE = (char)0xa5;
const int UNINITIALISED = 0xff; /* NaN as float and bf16, -1 as int */

struct cta_state;
struct warp_state;

struct fiber : thread_state {
    void *sp, *asan_stack;
    char *stack; /* lowest address */
    cta_state *cta;
    warp_state *warp;
    unsigned index; /* within the cluster */
    bool done;
    const char *what, *file; /* where it waits, for the deadlock report */
    int line;
    void *arg;              /* of the collective it waits in */
    fiber *next;            /* in a barrier's list */
    uint64_t *mbar;         /* the mbarrier it waits for */
    unsigned cluster_phase; /* of the cluster barrier, when it arrived there */
    async_groups cp_async, bulk;
};

struct meeting {
    unsigned mask, arrived;
    collective f;
    const char *what;
};

struct warp_state {
    fiber *lane[32];
    std::vector<meeting> open;
    async_groups wgmma;
    bool wgmma_fenced;
};

struct barrier_state {
    int expected, arrived;
    fiber *waiting;
    const char *file;
    int line;
};

struct cta_state {
    uint3 bid;
    unsigned rank, live;
    char *smem; /* the arena; a shared address is rank << 24 | offset in it */
    barrier_state bar[16];
    std::vector<warp_state> warps;
};

struct shared_variable {
    const void *key;
    const char *name;
    size_t offset, size;
};

struct tma_copy { /* into this block's shared memory */
    cta_state *cta;
    std::function<void()> work;
};

struct engine_state {
    unsigned seed = 0;
    uint64_t rng = 1;
    std::vector<fiber *> fibers, ready; /* ready is a ring */
    size_t head = 0, n_ready = 0, n_fibers = 0;
    std::vector<cta_state> ctas; /* of the running cluster */
    std::vector<char *> arenas;
    std::vector<tma_copy> copies; /* what the copy engine (TMA) has yet to do */
    std::vector<fiber *> mbar_waiters, cluster_waiters;
    unsigned cluster_size = 1, live = 0, cluster_arrived = 0, cluster_phase = 0;
    unsigned long idle = 0;               /* polls since anything happened */
    std::vector<shared_variable> statics; /* equal offsets in every block, whatever the schedule */
    size_t dyn_size = 0, static_end = 0;
    bool smem_asked = false;
    void (*body)(void *) = nullptr;
    void *context = nullptr;
    void *main_sp = nullptr, *main_asan = nullptr;
    const void *main_stack = nullptr;
    size_t main_stack_size = 0;
    std::string fault;
    kd_cuda_host_work done = {};
    unsigned long fault_at = 0; /* the launch that is to fail, counted from 1; 0: none */
    int fault_device = -1;      /* whose launches are counted for that; -1: all devices'    */
    unsigned long n_for_fault = 0;
    int device = 0; /* whose work runs */

    /* Below n. */
    unsigned rnd(size_t n)
    {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        return (unsigned)((rng >> 20) % n);
    }
};

engine_state &engine();
/* Within the limits of a device, whatever the kernel. */
bool launch_is_valid(const launch_shape &shape);

static inline fiber *me()
{
    return (fiber *)self;
}

/* Until somebody wakes this fiber. */
void sleep(const char *what, const char *file, int line);
void wake(fiber *f);
/* Switches to a fiber, null: to the launching thread. */
void switch_to(fiber *to);
/* Completes the first switch to a fiber; its first act. */
void arrived_on_stack(void *asan_stack);
/* The next fiber of the schedule; runs copies of TMA between; null: all have ended. */
fiber *pick();
void run_another();
void make_ready(fiber *f);
/* Completes the cluster barrier if nobody is missing. */
void cluster_check();

/* Shared memory at the begin and end of a block. */
void shared_begin(cta_state &c);
void shared_end(cta_state &c);
/* The block of the running cluster whose shared memory p lies in; a fault where none has. */
cta_state &shared_owner(const void *p);
/* The shared variable that p points into. */
std::string shared_name(const char *arena, const void *p);

/* Of an mbarrier that a copy of TMA has brought n bytes to. */
void mbar_complete(fiber *f, uint64_t *bar, unsigned n_bytes);
void mbar_require(uint64_t *bar);
/* A swizzle of 32, 64 or 128 bytes (16: none) permutes the 16-byte chunks of absolute addresses: for 128,
 * bits 4-6 ^= bits 7-9; for the others fewer bits. */
char *swizzled(char *p, unsigned width);

/* Happens-before, for the race detector; null unless race.cpp is linked in. */
struct race_hooks {
    void (*allocated)(const void *p, size_t n); /* n = 0: freed */
    void (*begin)(bool launch);                 /* of a cluster; the first of a launch */
    /* What f did is before whoever acquires the object next. */
    void (*release)(fiber *f, const void *object);
    void (*acquire)(fiber *f, const void *object);
    void (*forget)(const void *object);
    void (*atomic)(fiber *f, const void *p);
    /* What an emulated unit reads or writes on behalf of f (kernels' own accesses come by the compiler);
     * async: by the async proxy, which sees only writes that a kd_fence_async() of the writer followed. */
    void (*access)(fiber *f, const void *p, size_t n, bool write, bool async);
    void (*fence_async)(fiber *f);
};

extern race_hooks *race;
#define KD_RACE(call)                                                                              \
    do {                                                                                           \
        if (kd_host::race)                                                                         \
            kd_host::race->call;                                                                   \
    } while (0)
} // namespace kd_host

#endif
