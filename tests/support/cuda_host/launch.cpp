/*
 * launch.cpp - the run of a kernel: one cluster of blocks after another, in an order that the seed gives.
 */
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

namespace kd_host
{
static void fiber_main()
{
    arrived_on_stack(nullptr);
    engine_state &e = engine();
    fiber *f = me();
    e.body(e.context);
    f->cp_async.run(f->cp_async.work.size());
    if (!f->bulk.idle())
        fault("exits before its bulk stores have read shared memory");
    if (!f->warp->wgmma.idle())
        fault("exits before its wgmma are waited for");
    f->done = true;
    e.live--;
    e.idle = 0;
    if (--f->cta->live == 0)
        shared_end(*f->cta);
    cluster_check();
    run_another();
    abort();
}

static void prepare(fiber *f, unsigned i)
{
    if (!f->stack) { /* lazily touched; the lowest page stays a guard against overflow */
        f->stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED || mprotect(f->stack, 4096, PROT_NONE)) {
            perror("cuda_host: stack");
            abort();
        }
    }
    /* Start the stacks at different cache sets: at equal ones a block's fibers would evict each other. */
    void **sp = (void **)(f->stack + STACK - 64 - i % 61 * 192);
    memset(sp, 0, 64);
    sp[6] = (void *)fiber_main; // where the first switch "returns" to, with rsp = 8 mod 16
    f->sp = sp;
    f->index = i;
    f->done = false;
    f->cluster_phase = ~0u;
    f->cp_async.clear();
    f->bulk.clear();
}

static void begin_block(cta_state &c, unsigned rank, unsigned block, unsigned threads)
{
    engine_state &e = engine();
    c.bid = {block % grid_dim.x, block / grid_dim.x % grid_dim.y, block / grid_dim.x / grid_dim.y};
    c.rank = rank;
    c.live = threads;
    if (e.arenas.size() <= rank) {
        e.arenas.push_back((char *)aligned_alloc(1024, ARENA));
        KD_RACE(allocated(e.arenas[rank], ARENA));
    }
    c.smem = e.arenas[rank];
    shared_begin(c);
    c.warps.resize((threads + 31) / 32);
    for (unsigned t = 0; t < threads; t++) {
        fiber *f = e.fibers[rank * threads + t];
        prepare(f, rank * threads + t);
        f->tid = {t % block_dim.x, t / block_dim.x % block_dim.y, t / block_dim.x / block_dim.y};
        f->bid = c.bid;
        f->lane = t % 32;
        f->cluster_rank = rank;
        f->cluster_size = e.cluster_size;
        f->cta = &c;
        f->warp = &c.warps[t / 32];
        f->warp->lane[t % 32] = f;
        make_ready(f);
    }
}

static void run_cluster(unsigned first_block, unsigned threads, bool first_of_launch)
{
    engine_state &e = engine();
    e.n_fibers = e.live = e.cluster_size * threads;
    e.head = e.n_ready = e.cluster_arrived = e.cluster_phase = 0;
    e.ready.resize(e.n_fibers);
    while (e.fibers.size() < e.n_fibers)
        e.fibers.push_back(new fiber());
    e.ctas.assign(e.cluster_size, cta_state());
    for (unsigned r = 0; r < e.cluster_size; r++)
        begin_block(e.ctas[r], r, first_block + r, threads);
    e.done.n_threads += e.n_fibers;
    KD_RACE(begin(first_of_launch));
    switch_to(pick());
    self = nullptr;
}

/* After a fault: its fibers are never resumed. */
static void abandon()
{
    engine_state &e = engine();
    for (fiber *f : e.fibers)
        ASAN_UNPOISON_MEMORY_REGION(f->stack + 4096, STACK - 4096);
    e.copies.clear();
    e.mbar_waiters.clear();
    e.cluster_waiters.clear();
}

bool launch_is_valid(const launch_shape &s)
{
    size_t threads = (size_t)s.block.x * s.block.y * s.block.z;
    size_t blocks = (size_t)s.grid.x * s.grid.y * s.grid.z;
    unsigned cluster = s.cluster ? s.cluster : 1;
    return threads && threads <= 1024 && s.block.z <= 64 && blocks && s.grid.x <= 0x7fffffff &&
           s.grid.y <= 65535 && s.grid.z <= 65535 && cluster <= 16 && s.grid.x % cluster == 0 &&
           s.smem <= SMEM_MAX;
}

cudaError_t launch(const launch_shape &shape, void (*body)(void *), void *context)
{
    engine_state &e = engine();
    unsigned threads = shape.block.x * shape.block.y * shape.block.z;
    grid_dim = shape.grid;
    block_dim = shape.block;
    e.cluster_size = shape.cluster ? shape.cluster : 1;
    e.dyn_size = shape.smem;
    e.smem_asked = shape.smem_asked;
    e.statics.clear();
    e.static_end = STATIC;
    e.body = body;
    e.context = context;
    e.main_stack = nullptr;
    const std::string before = std::move(e.fault); /* of another device */
    e.fault.clear();
    e.done.n_launches++;
    e.n_for_fault += e.fault_device < 0 || e.fault_device == e.device;
    if (e.n_for_fault == e.fault_at && e.fault_at > 0) {
        e.fault = "launch " + std::to_string(e.fault_at) + " fails, as KD_CUDA_HOST_FAULT_AT says";
        return cudaErrorLaunchFailure;
    }
    std::vector<unsigned> order((size_t)grid_dim.x * grid_dim.y * grid_dim.z / e.cluster_size);
    for (size_t i = 0; i < order.size(); i++)
        order[i] = (unsigned)i;
    for (size_t i = order.size(); e.seed && i > 1; i--)
        std::swap(order[i - 1], order[e.rnd(i)]);
    for (size_t i = 0; i < order.size(); i++) {
        run_cluster(order[i] * e.cluster_size, threads, i == 0);
        if (!e.fault.empty()) {
            abandon();
            return cudaErrorLaunchFailure;
        }
    }
    e.fault = before;
    return cudaSuccess;
}
} // namespace kd_host
