#include "base/arena.h"

#include "base/status.h"

void kd_arena_init(kd_arena *arena, void *slab, size_t size_bytes)
{
    KD_CHECK(slab != NULL || size_bytes == 0);
    KD_CHECK((uintptr_t)slab % KD_ARENA_ALIGN == 0);
    *arena = (kd_arena){.base = slab, .size_bytes = size_bytes};
}

void *kd_arena_carve(kd_arena *arena, size_t size_bytes)
{
    KD_CHECK(size_bytes <= SIZE_MAX - (KD_ARENA_ALIGN - 1));
    const size_t aligned = (size_bytes + KD_ARENA_ALIGN - 1) / KD_ARENA_ALIGN * KD_ARENA_ALIGN;
    KD_CHECK(aligned <= SIZE_MAX - arena->used);
    const size_t at = arena->used;

    if (arena->base == NULL) {
        arena->used = at + aligned;
        return NULL;
    }
    KD_CHECK(at + aligned <= arena->size_bytes);
    arena->used = at + aligned;
    return arena->base + at;
}

void kd_arena_rewind(kd_arena *arena, size_t mark)
{
    KD_CHECK(mark <= arena->used && mark % KD_ARENA_ALIGN == 0);
    arena->used = mark;
}
