/*
 * fiber.cpp - the threads of a kernel: fibers, the schedule that runs them, and how a faulty kernel ends.
 */
#include "engine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>

#if KD_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace kd_host
{
thread_state *self;
dim3 grid_dim, block_dim;
race_hooks *race;

engine_state &engine()
{
    static engine_state *state =
        new engine_state; /* never destroyed: exit handlers may still copy */
    return *state;
}

/* The switch saves what the ABI says a call preserves; ucontext would add two system calls to it. */
extern "C" void kd_fiber_switch(void **save_sp, void *load_sp);
asm(".text\n.globl kd_fiber_switch\n.type kd_fiber_switch,@function\nkd_fiber_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

void arrived_on_stack(void *asan_stack)
{
#if KD_ASAN
    engine_state &e = engine();
    const void *from;
    size_t size;
    __sanitizer_finish_switch_fiber(asan_stack, &from, &size);
    if (!e.main_stack) {
        e.main_stack = from;
        e.main_stack_size = size;
    } /* first switch: from main */
#else
    (void)asan_stack;
#endif
}

void switch_to(fiber *to)
{
    engine_state &e = engine();
    fiber *from = me();
    void **asan_stack = from ? &from->asan_stack : &e.main_asan;
    self = to;
    e.done.n_switches++;
#if KD_ASAN
    __sanitizer_start_switch_fiber(asan_stack, to ? to->stack : e.main_stack,
                                   to ? STACK : e.main_stack_size);
#endif
    kd_fiber_switch(from ? &from->sp : &e.main_sp, to ? to->sp : e.main_sp);
    arrived_on_stack(*asan_stack);
}

/* The launch fails, with engine().fault; its fibers are never resumed: nothing of theirs is released. */
[[noreturn]] static void give_up()
{
    switch_to(nullptr);
    abort();
}

void fault(const char *fmt, ...)
{
    char text[2048];
    int n = 0;
    if (fiber *f = me())
        n = snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u): ", f->bid.x, f->bid.y,
                     f->bid.z, f->tid.x, f->tid.y, f->tid.z);
    va_list va;
    va_start(va, fmt);
    vsnprintf(text + n, sizeof text - n, fmt, va);
    va_end(va);
    if (!me()) {
        fprintf(stderr, "cuda_host: %s\n", text);
        abort();
    }
    engine().fault = text;
    give_up();
}

/* Everybody waits or is gone: say where, grouped. */
static std::string describe_deadlock()
{
    engine_state &e = engine();
    std::map<std::string, unsigned> where;
    for (size_t i = 0; i < e.n_fibers; i++) {
        fiber *f = e.fibers[i];
        const char *slash = f->file ? strrchr(f->file, '/') : nullptr;
        std::string s = f->done ? "have exited" : std::string("wait at ") + f->what;
        if (!f->done && f->file)
            s += std::string(" (") + (slash ? slash + 1 : f->file) + ":" + std::to_string(f->line) +
                 ")";
        where[s]++;
    }
    const uint3 &b = e.ctas[0].bid;
    std::string text = "deadlock in the cluster of block (" + std::to_string(b.x) + "," +
                       std::to_string(b.y) + "," + std::to_string(b.z) + ")";
    for (auto &w : where)
        text += (&w == &*where.begin() ? ": " : ", ") + std::to_string(w.second) + " threads " +
                w.first;
    return text;
}

[[noreturn]] static void deadlock()
{
    engine().fault = describe_deadlock();
    give_up();
}

fiber *pick()
{
    engine_state &e = engine();
    for (;;) {
        if (!e.copies.empty() && (!e.n_ready || (e.seed && e.rnd(8) == 0))) {
            size_t i = e.seed ? e.rnd(e.copies.size()) : 0; /* they may finish in any order */
            auto work = std::move(e.copies[i].work);
            e.copies.erase(e.copies.begin() + i);
            work();
            continue;
        }
        if (!e.n_ready) {
            if (e.live)
                deadlock();
            return nullptr;
        }
        size_t size = e.ready.size();
        if (e.seed)
            std::swap(e.ready[e.head % size], e.ready[(e.head + e.rnd(e.n_ready)) % size]);
        e.n_ready--;
        return e.ready[e.head++ % size];
    }
}

void run_another()
{
    fiber *to = pick();
    if (to != me())
        switch_to(to);
}

void make_ready(fiber *f)
{
    engine_state &e = engine();
    e.ready[(e.head + e.n_ready++) % e.ready.size()] = f;
}

void wake(fiber *f)
{
    engine().idle = 0;
    make_ready(f);
}

void sleep(const char *what, const char *file, int line)
{
    fiber *f = me();
    f->what = what;
    f->file = file;
    f->line = line;
    run_another();
}

void yield(bool idle)
{
    engine_state &e = engine();
    if (idle && ++e.idle > 1000000)
        fault("livelock: all threads only poll (blocks run one after another: none may wait for a "
              "later one)");
    make_ready(me());
    run_another();
}

void before_atomic(const void *p)
{
    if (engine().seed && engine().rnd(4) == 0)
        yield(false);
    KD_RACE(atomic(me(), p));
}

} // namespace kd_host
