#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>

#include "base/arena.h"

typedef struct buffers {
    float *a;
    char *b;
    double *c;
} buffers;

static void layout(kd_arena *arena, buffers *out)
{
    out->a = kd_arena_carve(arena, 3 * sizeof *out->a);
    out->b = kd_arena_carve(arena, 65);
    out->c = kd_arena_carve(arena, 8 * sizeof *out->c);
}

Test(arena, counting_gives_the_size_that_carving_needs)
{
    buffers b;
    kd_arena arena = {0};
    layout(&arena, &b);
    cr_expect(b.a == NULL && b.b == NULL && b.c == NULL);
    cr_expect(eq(sz, arena.used, 64 + 128 + 64));

    const size_t size = arena.used;
    void *slab = aligned_alloc(KD_ARENA_ALIGN, size);
    kd_arena_init(&arena, slab, size);
    layout(&arena, &b);
    cr_expect(eq(sz, arena.used, size));
    cr_expect(b.a == slab);
    cr_expect(b.b == (char *)slab + 64);
    cr_expect(b.c == (double *)slab + 192 / sizeof(double));
    free(slab);
}

Test(arena, pieces_are_aligned)
{
    void *slab = aligned_alloc(KD_ARENA_ALIGN, 1024);
    kd_arena arena;
    kd_arena_init(&arena, slab, 1024);
    for (size_t size = 1; size < 6; size++) {
        cr_expect(eq(u64, (uintptr_t)kd_arena_carve(&arena, size) % KD_ARENA_ALIGN, 0));
    }
    free(slab);
}

Test(arena, rewinding_gives_the_same_piece_again)
{
    void *slab = aligned_alloc(KD_ARENA_ALIGN, 256);
    kd_arena arena;
    kd_arena_init(&arena, slab, 256);
    (void)kd_arena_carve(&arena, 64);
    const size_t mark = arena.used;
    void *first = kd_arena_carve(&arena, 100);
    kd_arena_rewind(&arena, mark);
    cr_expect(kd_arena_carve(&arena, 128) == first);
    free(slab);
}

Test(arena, carving_past_the_end_is_a_check, .signal = SIGABRT)
{
    void *slab = aligned_alloc(KD_ARENA_ALIGN, 128);
    kd_arena arena;
    kd_arena_init(&arena, slab, 128);
    (void)kd_arena_carve(&arena, 129);
}

Test(arena, a_count_that_would_wrap_stays_at_more_than_there_is)
{
    kd_arena arena = {0};
    for (int i = 0; i < 9; i++) {
        cr_expect_null(kd_arena_carve(&arena, i % 2 == 0 ? SIZE_MAX - 1 : SIZE_MAX / 3));
        cr_expect_gt(arena.used, SIZE_MAX / 4);
        cr_expect_lt(arena.used, SIZE_MAX / 2);
    }
}

Test(arena, a_size_that_wraps_is_no_piece_of_a_slab, .signal = SIGABRT)
{
    void *slab = aligned_alloc(KD_ARENA_ALIGN, 128);
    kd_arena arena;
    kd_arena_init(&arena, slab, 128);
    (void)kd_arena_carve(&arena, 64);
    (void)kd_arena_carve(&arena, SIZE_MAX - 1);
}

Test(arena, a_misaligned_slab_is_a_check, .signal = SIGABRT)
{
    _Alignas(KD_ARENA_ALIGN) static char slab[128];
    kd_arena arena;
    kd_arena_init(&arena, slab + 1, 64);
}
