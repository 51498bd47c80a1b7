/*
 * race.cpp - finds data races in shared and global memory, and reads of shared memory never written.
 *
 * Kernels are compiled with -fsanitize=thread but linked without libtsan: the calls that the compiler
 * puts before every load and store come here. Each thread has a vector clock, which barriers,
 * mbarriers and __syncwarp join; two accesses, one of them a write, that no join orders are a race,
 * in whatever order the fibers ran. Blocks of a launch are never ordered, unless it uses atomics.
 */
#include "engine.h"
#include <cstdio>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <unordered_map>

namespace kd_host
{
typedef std::vector<unsigned> vector_clock;

struct access_mark {
    unsigned run, thread, clock; /* run: number of the cluster; 0: none */
    const void *pc;
};

struct race_cell {
    access_mark write, read, foreign; /* the last of each; foreign: a read by another cluster */
    /* By thread, once more than one of this cluster has read. */
    std::unique_ptr<vector_clock> reads;
};

static const size_t GRAIN = 2;         /* bytes a cell */
static const size_t PAGE_CELLS = 1024; /* cells come into being a page at a time */

struct race_area {
    size_t size;
    std::vector<std::unique_ptr<race_cell[]>> pages;
};

static std::map<uintptr_t, race_area> areas; /* shared arenas and allocations */
static std::unordered_map<const void *, vector_clock> objects;
static std::vector<vector_clock> clocks;
static vector_clock fenced; /* by thread: its writes up to this clock are seen by the async proxy */
static unsigned run, first_run; /* numbers of the running cluster, and of its launch's first */
static bool atomics;            /* the launch uses them */

static void allocated(const void *p, size_t n)
{
    areas.erase((uintptr_t)p);
    if (!n)
        return;
    race_area &area = areas[(uintptr_t)p];
    area.size = n;
    area.pages.resize(n / GRAIN / PAGE_CELLS + 1);
}

static race_cell &cell_of(race_area &area, size_t i)
{
    std::unique_ptr<race_cell[]> &page = area.pages[i / PAGE_CELLS];
    if (!page)
        page.reset(new race_cell[PAGE_CELLS]());
    return page[i % PAGE_CELLS];
}

static void begin(bool launch)
{
    engine_state &e = engine();
    run++;
    if (launch) {
        first_run = run;
        atomics = false;
    }
    clocks.assign(e.n_fibers, vector_clock(e.n_fibers));
    for (size_t i = 0; i < e.n_fibers; i++)
        clocks[i][i] = 1;
    objects.clear();
    fenced.assign(e.n_fibers, 0);
}

static void join(vector_clock &a, const vector_clock &b)
{
    a.resize(b.size());
    for (size_t i = 0; i < b.size(); i++)
        a[i] = a[i] < b[i] ? b[i] : a[i];
}

static void release(fiber *f, const void *object)
{
    join(objects[object], clocks[f->index]);
    clocks[f->index][f->index]++;
}

static void acquire(fiber *f, const void *object)
{
    auto o = objects.find(object);
    if (o != objects.end())
        join(clocks[f->index], o->second);
}

static void forget(const void *object)
{
    objects.erase(object);
}

static void fence_async(fiber *f)
{
    fenced[f->index] = clocks[f->index][f->index]++;
}

static void atomic(fiber *f, const void *p) /* every atomic counts as acquire and release */
{
    acquire(f, p);
    release(f, p);
    atomics = true;
}

static std::string source(const void *pc)
{
    Dl_info info;
    char cmd[600], line[400] = "";
    if (!pc)
        return "an emulated unit";
    if (!dladdr(pc, &info))
        return "?";
    snprintf(cmd, sizeof cmd, "addr2line -se '%s' %#zx 2>/dev/null", info.dli_fname,
             (size_t)((char *)pc - 1 - (char *)info.dli_fbase));
    if (FILE *p = popen(cmd, "r")) {
        if (!fgets(line, sizeof line, p))
            *line = 0;
        pclose(p);
    }
    line[strcspn(line, " \n")] = 0;
    return line;
}

static std::string place(const char *shared, const char *p, size_t offset)
{
    return shared ? "shared memory, " + shared_name(shared, p)
                  : "global memory, byte " + std::to_string(offset);
}

/* What is looked at: the access of a thread to a cell. */
struct visit {
    fiber *f;
    const char *shared; /* the arena, if it is one */
    size_t offset;      /* of the cell in its area */
    const void *pc;
    bool async;
};

static void conflict(const visit &v, const char *now, const char *before, const access_mark &a)
{
    if (a.run < first_run || (a.run != run && (v.shared || atomics)))
        return;
    if (a.run == run && (a.thread == v.f->index || clocks[v.f->index][a.thread] >= a.clock))
        return;
    std::string who =
        a.run == run ? "thread " + std::to_string(a.thread) + " of the cluster" : "another block";
    fault("race in %s: %s at %s, not ordered after the %s of %s at %s",
          place(v.shared, v.shared + v.offset, v.offset).c_str(), now, source(v.pc).c_str(), before,
          who.c_str(), source(a.pc).c_str());
}

static void visit_write(const visit &v, race_cell &c, const access_mark &now)
{
    conflict(v, "write", "write", c.write);
    conflict(v, "write", "read", c.read);
    conflict(v, "write", "read", c.foreign);
    for (unsigned t = 0; c.reads && t < c.reads->size(); t++) {
        if ((*c.reads)[t])
            conflict(v, "write", "read", {run, t, (*c.reads)[t], c.read.pc});
    }
    c.write = now;
    c.read = {};
    c.reads.reset();
}

static void visit_read(const visit &v, race_cell &c, const access_mark &now)
{
    const char *p = v.shared + v.offset;
    conflict(v, "read", "write", c.write);
    if (v.shared && c.write.run != run)
        fault("reads what nobody has written: %s, at %s", place(v.shared, p, 0).c_str(),
              source(v.pc).c_str());
    if (v.shared && v.async && c.write.pc && fenced[c.write.thread] < c.write.clock)
        fault("TMA or wgmma reads %s: written at %s with no kd_fence_async() after",
              place(v.shared, p, 0).c_str(), source(c.write.pc).c_str());
    if (!c.reads && c.read.run && c.read.thread != now.thread &&
        clocks[now.thread][c.read.thread] < c.read.clock) {
        c.reads.reset(new vector_clock(clocks.size()));
        (*c.reads)[c.read.thread] = c.read.clock;
    }
    if (c.reads)
        (*c.reads)[now.thread] = now.clock;
    c.read = now;
}

static void touch(fiber *f, const void *p, size_t n, bool write, bool async, const void *pc)
{
    if (!f || !n || ((const char *)p >= f->stack && (const char *)p < f->stack + STACK))
        return;
    auto at = areas.upper_bound((uintptr_t)p);
    if (at == areas.begin())
        return;
    --at;
    size_t off = (uintptr_t)p - at->first;
    if (off >= at->second.size)
        return; /* not device memory */
    visit v{f, nullptr, 0, pc, async};
    for (char *arena : engine().arenas) {
        if ((uintptr_t)arena == at->first)
            v.shared = arena;
    }
    access_mark now{run, f->index, clocks[f->index][f->index], pc};
    size_t last = (off + n - 1 < at->second.size ? off + n - 1 : at->second.size - 1) / GRAIN;
    for (size_t i = off / GRAIN; i <= last; i++) {
        race_cell &c = cell_of(at->second, i);
        v.offset = i * GRAIN;
        if (c.read.run != run) {
            if (c.read.run)
                c.foreign = c.read;
            c.read = {};
            c.reads.reset();
        }
        if (write)
            visit_write(v, c, now);
        else
            visit_read(v, c, now);
    }
}

static void access(fiber *f, const void *p, size_t n, bool write, bool async)
{
    touch(f, p, n, write, async, nullptr);
}

static race_hooks hooks = {allocated, begin, release, acquire, forget, atomic, access, fence_async};
static bool installed = (race = &hooks, true);
} // namespace kd_host

using namespace kd_host;

/* What the compiler calls before each load and store. */
#define KD_HOOK(name, n, write)                                                                    \
    extern "C" void __tsan_##name(void *p)                                                         \
    {                                                                                              \
        touch(me(), p, n, write, false, __builtin_return_address(0));                              \
    }
#define KD_HOOKS(n)                                                                                \
    KD_HOOK(read##n, n, false)                                                                     \
    KD_HOOK(write##n, n, true)                                                                     \
    KD_HOOK(unaligned_read##n, n, false)                                                           \
    KD_HOOK(unaligned_write##n, n, true)
KD_HOOKS(1)
KD_HOOKS(2)
KD_HOOKS(4)
KD_HOOKS(8)
KD_HOOKS(16)

extern "C" void __tsan_read_range(void *p, size_t n)
{
    touch(me(), p, n, false, false, __builtin_return_address(0));
}

extern "C" void __tsan_write_range(void *p, size_t n)
{
    touch(me(), p, n, true, false, __builtin_return_address(0));
}

extern "C" void __tsan_vptr_update(void **, void *)
{
}

extern "C" void __tsan_func_entry(void *)
{
}

extern "C" void __tsan_func_exit()
{
}

/* Atomics of host code; those of kernels are the emulator's. */
extern "C" int __tsan_atomic32_exchange(volatile int *p, int v, int)
{
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}

extern "C" void __tsan_init()
{
}
