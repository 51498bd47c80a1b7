/*
 * barrier.cpp - where fibers meet: barriers of a block, meetings of a warp's lanes; and the groups that
 * asynchronous work is waited for in.
 */
#include "engine.h"

namespace kd_host
{
void async_groups::commit()
{
    ends.push_back(work.size());
}

void async_groups::run(size_t upto)
{
    while (done < upto)
        work[done++]();
}

bool async_groups::idle() const
{
    return done == work.size();
}

void async_groups::clear()
{
    work.clear();
    ends.clear();
    done = 0;
}

void async_groups::add(std::function<void()> f)
{
    work.push_back(std::move(f));
    if (engine().seed && engine().rnd(2))
        run(work.size()); /* in order, so all before it too */
}

void async_groups::wait(size_t left)
{
    if (ends.size() <= left)
        return;
    run(ends[ends.size() - left - 1]);
    ends.erase(ends.begin(), ends.end() - left);
    if (ends.empty() && idle())
        clear();
}

void barrier(unsigned id, int threads, bool wait, const char *file, int line)
{
    fiber *f = me();
    if (id > 15 || threads == 0 || (threads > 0 && threads % 32))
        fault("barrier %u for %d threads", id, threads);
    barrier_state &b = f->cta->bar[id];
    int expected = threads < 0 ? block_dim.x * block_dim.y * block_dim.z : threads;
    if (b.arrived == 0) {
        b.expected = expected;
        b.file = file;
        b.line = line;
    }
    if (b.expected != expected)
        fault("%s:%d: barrier %u for %d threads, others came for %d", file, line, id, expected,
              b.expected);
    /* A barrier of the whole block in divergent code: undefined, even where the hardware forgives it. */
    if (threads < 0 && (b.line != line || strcmp(b.file, file)))
        fault("divergent __syncthreads: here at %s:%d, others at %s:%d", file, line, b.file,
              b.line);
    KD_RACE(release(f, &b));
    if (++b.arrived < b.expected) {
        if (!wait)
            return;
        f->next = b.waiting;
        b.waiting = f;
        sleep(threads < 0 ? "__syncthreads" : "a named barrier", file, line);
        return;
    }
    fiber *list = nullptr; /* wake in order of arrival */
    for (fiber *w = b.waiting, *n; w; w = n) {
        n = w->next;
        w->next = list;
        list = w;
    }
    for (; list; list = list->next) {
        KD_RACE(acquire(list, &b));
        wake(list);
    }
    if (wait)
        KD_RACE(acquire(f, &b));
    KD_RACE(forget(&b));
    b.arrived = 0;
    b.waiting = nullptr;
}

void warp_meet(unsigned mask,
               const char *what,
               collective fn,
               void *arg,
               const char *file,
               int line)
{
    fiber *f = me();
    warp_state &w = *f->warp;
    if (!(mask >> f->lane & 1))
        fault("%s:%d: %s: mask %08x lacks the calling lane %u", file, line, what, mask, f->lane);
    size_t i = 0;
    while (i < w.open.size() && w.open[i].mask != mask)
        i++;
    if (i == w.open.size()) {
        for (int l = 0; l < 32; l++)
            if (mask >> l & 1 && (!w.lane[l] || w.lane[l]->done))
                fault("%s:%d: %s: mask %08x names lane %d, which %s", file, line, what, mask, l,
                      w.lane[l] ? "has exited" : "does not exist");
        w.open.push_back({mask, 0, fn, what});
    }
    meeting &m = w.open[i];
    if (m.f != fn)
        fault("%s:%d: lanes of one warp meet in %s and %s", file, line, what, m.what);
    m.arrived |= 1u << f->lane;
    f->arg = arg;
    if (m.arrived != mask) {
        sleep(what, file, line);
        return;
    }
    w.open.erase(w.open.begin() + i);
    void *args[32] = {};
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) {
            args[l] = w.lane[l]->arg;
            if (!fn)
                KD_RACE(release(w.lane[l], &w)); /* only __syncwarp orders memory */
        }
    if (fn)
        fn(mask, args);
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) {
            if (!fn)
                KD_RACE(acquire(w.lane[l], &w));
            if (w.lane[l] != f)
                wake(w.lane[l]);
        }
    if (!fn)
        KD_RACE(forget(&w));
}

} // namespace kd_host
