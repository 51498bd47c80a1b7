/*
 * arena.h - one slab, carved at start and never returned piece by piece.
 *
 * A layout function runs twice: over an arena without memory, which only counts,
 * and over the slab of the size so found. Both runs carve the same pieces in the
 * same order; a piece of the counting run is NULL.
 *
 *     kd_arena a = {0};                 // counts
 *     layout(&a, &buffers);
 *     kd_arena_init(&a, slab, a.used);  // carves
 *     layout(&a, &buffers);
 *
 * Not thread-safe; the memory belongs to the caller.
 */
#ifndef KD_BASE_ARENA_H
#define KD_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KD_ARENA_ALIGN 64 /* a cache line, and a full AVX-512 vector */

typedef struct kd_arena {
    uint8_t *base;     /* NULL while counting                      */
    size_t used;       /* bytes carved or counted, aligned         */
    size_t size_bytes; /* of the slab; unused while counting       */
} kd_arena;

/* `slab` is aligned to KD_ARENA_ALIGN; NULL only if size_bytes is 0. */
void kd_arena_init(kd_arena *arena, void *slab, size_t size_bytes);

/*
 * A piece aligned to KD_ARENA_ALIGN, not cleared; carving past the end is a KD_CHECK. Sizes come from
 * shapes of outside: a count that would overflow stays at a number of bytes that no allocator gives.
 */
void *kd_arena_carve(kd_arena *arena, size_t size_bytes);

/* Gives back everything carved since `mark` (an earlier value of arena->used). */
void kd_arena_rewind(kd_arena *arena, size_t mark);

#ifdef __cplusplus
}
#endif

#endif
