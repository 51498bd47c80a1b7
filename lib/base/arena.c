/*
 * arena.c - counting and carving are one function, so that the two runs of a layout cannot differ. A size
 * that would wrap stays at one that no allocator gives: shapes come from outside, and a small slab for a
 * large shape would be written past its end.
 */
#include "base/arena.h"

#include "base/status.h"

/* Where counting stops: more than any machine gives, and a multiple of KD_ARENA_ALIGN. */
#define MAX_BYTES (SIZE_MAX / 4 + 1)

void kd_arena_init(kd_arena *arena, void *slab, size_t size_bytes)
{
    KD_CHECK(slab != NULL || size_bytes == 0);
    KD_CHECK((uintptr_t)slab % KD_ARENA_ALIGN == 0);
    *arena = (kd_arena){.base = slab, .size_bytes = size_bytes};
}

void *kd_arena_carve(kd_arena *arena, size_t size_bytes)
{
    const size_t at = arena->used;
    /* Neither term wraps: MAX_BYTES is far enough below the end of size_t. */
    const size_t padded = size_bytes < MAX_BYTES ? size_bytes + KD_ARENA_ALIGN - 1 : MAX_BYTES;
    const size_t end = at + padded / KD_ARENA_ALIGN * KD_ARENA_ALIGN;

    if (arena->base == NULL) {
        arena->used = end < MAX_BYTES ? end : MAX_BYTES;
        return NULL;
    }
    KD_CHECK(end <= arena->size_bytes);
    arena->used = end;
    return arena->base + at;
}

void kd_arena_rewind(kd_arena *arena, size_t mark)
{
    KD_CHECK(mark <= arena->used && mark % KD_ARENA_ALIGN == 0);
    arena->used = mark;
}
