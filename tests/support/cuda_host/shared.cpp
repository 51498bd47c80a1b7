/*
 * shared.cpp - the shared memory of a block: an arena with fences around what kernels declare in it.
 *
 * What nobody has written is NaN. Writes into a fence show when the block ends, or at once under
 * AddressSanitizer.
 */
#include "engine.h"

namespace kd_host
{
void *shared_dynamic(size_t align)
{
    if (align > GUARD)
        fault("shared memory aligned to %zu", align);
    return me()->cta->smem + DYN;
}

void *shared_static(const void *key, const char *name, size_t size, size_t align)
{
    engine_state &e = engine();
    for (shared_variable &s : e.statics)
        if (s.key == key)
            return me()->cta->smem + s.offset;
    size_t off =
        (e.static_end + 16 + align - 1) / align * align; /* at least 16 bytes of fence between */
    size_t declared = off + size - STATIC, most = e.smem_asked ? SMEM_MAX : SMEM_STATIC_MAX;
    if (declared > SMEM_STATIC_MAX || declared + e.dyn_size > most)
        fault("too much shared memory: %zu bytes static, %zu dynamic%s", declared, e.dyn_size,
              e.smem_asked ? "" : ", for which nobody asked");
    e.statics.push_back({key, name, off, size});
    for (cta_state &c : e.ctas) {
        if (!KD_ASAN)
            memset(c.smem + e.static_end, FENCE, off + size + 16 - e.static_end);
        ASAN_UNPOISON_MEMORY_REGION(c.smem + off, size);
        memset(c.smem + off, UNINITIALISED, size);
    }
    e.static_end = off + size;
    return me()->cta->smem + off;
}

std::string shared_name(const char *arena, const void *p)
{
    engine_state &e = engine();
    size_t off = (const char *)p - arena;
    std::string s = "dynamic shared memory + " + std::to_string((long)(off - DYN)) + " of " +
                    std::to_string(e.dyn_size);
    for (shared_variable &v : e.statics)
        if (off >= v.offset)
            s = std::string(v.name) + " + " + std::to_string(off - v.offset) + " of " +
                std::to_string(v.size);
    return s + " bytes";
}

void shared_begin(cta_state &c)
{
    engine_state &e = engine();
    ASAN_UNPOISON_MEMORY_REGION(c.smem, ARENA);
    memset(c.smem, FENCE, DYN);
    memset(c.smem + DYN, UNINITIALISED, e.dyn_size);
    memset(c.smem + DYN + e.dyn_size, FENCE, GUARD);
    memset(c.smem + STATIC, FENCE, e.static_end - STATIC + 16);
    ASAN_POISON_MEMORY_REGION(c.smem, ARENA);
    ASAN_UNPOISON_MEMORY_REGION(c.smem + DYN, e.dyn_size);
    for (shared_variable &s : e.statics) {
        ASAN_UNPOISON_MEMORY_REGION(c.smem + s.offset, s.size);
        memset(c.smem + s.offset, UNINITIALISED, s.size);
    }
}

/* The block has ended: look at the fences, and let nobody in the cluster read what is gone. */
void shared_end(cta_state &c)
{
    engine_state &e = engine();
    auto intact = [&](size_t from, size_t to) {
        while (!KD_ASAN && from < to && c.smem[from] == FENCE)
            from++;
        if (!KD_ASAN && from < to)
            fault("somebody wrote outside shared memory: at %s",
                  shared_name(c.smem, c.smem + from).c_str());
    };
    for (tma_copy &copy : e.copies)
        if (copy.cta == &c)
            fault("the block exits while TMA loads into its shared memory are under way");
    intact(0, DYN);
    intact(DYN + e.dyn_size, DYN + e.dyn_size + GUARD);
    size_t end = STATIC;
    for (shared_variable &s : e.statics) {
        intact(end, s.offset);
        end = s.offset + s.size;
    }
    intact(end, end + 16);
    memset(c.smem + DYN, UNINITIALISED, e.dyn_size);
    ASAN_POISON_MEMORY_REGION(c.smem, ARENA);
}

cta_state &shared_owner(const void *p)
{
    for (cta_state &c : engine().ctas) {
        if ((const char *)p >= c.smem && (const char *)p < c.smem + ARENA)
            return c;
    }
    fault("%p is not an address in shared memory", p);
}
} // namespace kd_host
