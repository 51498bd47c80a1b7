/*
 * cluster.cpp - blocks of a cluster and their barrier; mbarriers, whose 64 bits in shared memory are the state,
 * as on the device. After the PTX ISA.
 */
#include "engine.h"

using namespace kd_host;

unsigned kd_smem(const void *p)
{
    cta_state &c = shared_owner(p);
    return c.rank << 24 | (unsigned)((const char *)p - c.smem);
}

void *kd_host_map_rank(const void *p, unsigned rank)
{
    cta_state &c = shared_owner(p);
    if (rank >= engine().ctas.size())
        fault("map to rank %u of a cluster of %zu", rank, engine().ctas.size());
    if (!engine().ctas[rank].live)
        fault("map to the shared memory of CTA %u, which has exited", rank);
    return engine().ctas[rank].smem + ((const char *)p - c.smem);
}

void kd_cluster_arrive()
{
    engine_state &e = engine();
    if (me()->cluster_phase == e.cluster_phase)
        fault("arrives twice at the cluster barrier without a wait");
    KD_RACE(release(me(), &e.cluster_arrived));
    me()->cluster_phase = e.cluster_phase;
    e.cluster_arrived++;
    cluster_check();
}

void kd_host::cluster_check() /* exited threads are not waited for */
{
    engine_state &e = engine();
    if (!e.cluster_arrived || e.cluster_arrived < e.live)
        return;
    e.cluster_arrived = 0;
    e.cluster_phase++;
    for (fiber *f : e.cluster_waiters) {
        KD_RACE(acquire(f, &e.cluster_arrived));
        wake(f);
    }
    e.cluster_waiters.clear();
}

void kd_cluster_wait(const char *file, int line)
{
    engine_state &e = engine();
    if (me()->cluster_phase == ~0u)
        fault("waits at the cluster barrier without arriving");
    if (me()->cluster_phase == e.cluster_phase) {
        e.cluster_waiters.push_back(me());
        sleep("the cluster barrier", file, line);
    } else {
        KD_RACE(acquire(me(), &e.cluster_arrived));
    }
    me()->cluster_phase = ~0u;
}

struct mbar_state {
    uint64_t pending : 20, expected : 20;
    int64_t tx : 23;
    uint64_t phase : 1;
};

static mbar_state &mbar(uint64_t *p)
{
    shared_owner(p);
    KD_RACE(access(me(), p, 8, false, false)); /* after the initialisation, for everybody */
    if (!~*p)
        fault("mbarrier used before its initialisation");
    return *(mbar_state *)p;
}

static void mbar_check(uint64_t *p)
{
    engine_state &e = engine();
    mbar_state &b = *(mbar_state *)p;
    if (b.pending || b.tx)
        return;
    b.phase ^= 1;
    b.pending = b.expected;
    for (size_t i = 0; i < e.mbar_waiters.size();)
        if (e.mbar_waiters[i]->mbar == p) {
            KD_RACE(acquire(e.mbar_waiters[i], p));
            wake(e.mbar_waiters[i]);
            e.mbar_waiters.erase(e.mbar_waiters.begin() + i);
        } else {
            i++;
        }
}

void kd_mbar_init(uint64_t *p, unsigned count)
{
    shared_owner(p);
    KD_RACE(access(me(), p, 8, true, false));
    if ((uintptr_t)p % 8 || !count || count >= 1 << 20)
        fault("mbarrier at %p for %u arrivals", (void *)p, count);
    *p = 0;
    ((mbar_state *)p)->pending = ((mbar_state *)p)->expected = count;
}

static void arrive(uint64_t *p, unsigned bytes)
{
    mbar_state &b = mbar(p);
    if (!b.pending)
        fault("mbarrier: more than %u arrivals in a phase", (unsigned)b.expected);
    KD_RACE(release(me(), p));
    b.tx += bytes;
    b.pending--;
    mbar_check(p);
}

void kd_mbar_arrive(uint64_t *p)
{
    arrive(p, 0);
}

void kd_mbar_arrive_rank(uint64_t *p, unsigned rank)
{
    arrive((uint64_t *)kd_host_map_rank(p, rank), 0);
}

void kd_mbar_arrive_expect_tx(uint64_t *p, unsigned bytes)
{
    arrive(p, bytes);
}

bool kd_mbar_try_wait(uint64_t *p, unsigned parity, const char *file, int line)
{
    engine_state &e = engine();
    if (mbar(p).phase == parity) {
        if (e.seed && e.rnd(4) == 0) {
            yield(true);
            return false;
        } /* it may time out: callers must loop */
        me()->mbar = p;
        e.mbar_waiters.push_back(me());
        sleep("an mbarrier", file, line);
    } else {
        KD_RACE(acquire(me(), p));
    }
    return true;
}

void kd_fence_async()
{
    KD_RACE(fence_async(me()));
}

void kd_host::mbar_require(uint64_t *bar)
{
    mbar(bar);
}

void kd_host::mbar_complete(fiber *f, uint64_t *bar, unsigned n_bytes)
{
    KD_RACE(release(f, bar));
    ((mbar_state *)bar)->tx -= n_bytes;
    mbar_check(bar);
}
