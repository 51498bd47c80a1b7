/*
 * scratch.c - blocks are chained, never moved, since operations that are under way hold pointers into
 * them; they become one when the stack is empty. What is known of a block stands apart from it: its memory
 * may be a device's.
 */
#include "tensor/scratch.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"

struct kd_scratch_block {
    kd_scratch_block *below;
    char *memory;
    size_t size_bytes, used_bytes;
};

static kd_scratch_block *push(kd_scratch *scratch, size_t size_bytes)
{
    kd_scratch_block *block = malloc(sizeof *block);
    void *memory = block != NULL ? scratch->source.take(scratch->source.user, size_bytes) : NULL;
    if (memory == NULL) {
        free(block);
        return NULL;
    }
    *block = (kd_scratch_block){.below = scratch->top, .memory = memory, .size_bytes = size_bytes};
    scratch->top = block;
    return block;
}

static void pop(kd_scratch *scratch)
{
    kd_scratch_block *top = scratch->top;
    scratch->top = top->below;
    scratch->source.give(scratch->source.user, top->memory);
    free(top);
}

void *kd_scratch_take(kd_scratch *scratch, size_t size_bytes)
{
    kd_scratch_block *block = scratch->top;
    if (size_bytes > SIZE_MAX / 4) {
        size_bytes = SIZE_MAX / 4; /* which no allocator gives */
    }
    size_bytes = size_bytes == 0 ? 1 : size_bytes; /* a pointer all the same */
    size_bytes = (size_bytes + KD_SCRATCH_ALIGN - 1) / KD_SCRATCH_ALIGN * KD_SCRATCH_ALIGN;
    if (block == NULL || block->size_bytes - block->used_bytes < size_bytes) {
        if (block != NULL && scratch->used_bytes == 0) {
            pop(scratch); /* too small, and nothing is in it */
        }
        block = push(scratch, size_bytes);
    }
    if (block == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for %zu bytes", size_bytes);
        return NULL;
    }
    char *memory = block->memory + block->used_bytes;
    block->used_bytes += size_bytes;
    scratch->used_bytes += size_bytes;
    if (scratch->used_bytes > scratch->peak_bytes) {
        scratch->peak_bytes = scratch->used_bytes;
    }
    return memory;
}

void kd_scratch_rewind(kd_scratch *scratch, size_t mark)
{
    KD_CHECK(mark <= scratch->used_bytes);
    while (scratch->used_bytes > mark) {
        kd_scratch_block *top = scratch->top;
        const size_t excess = scratch->used_bytes - mark;
        const size_t cut = excess < top->used_bytes ? excess : top->used_bytes;
        top->used_bytes -= cut;
        scratch->used_bytes -= cut;
        if (top->used_bytes == 0 && top->below != NULL) {
            pop(scratch);
        }
    }
    if (scratch->used_bytes == 0 && scratch->top != NULL &&
        scratch->top->size_bytes < scratch->peak_bytes) {
        pop(scratch);
        (void)push(scratch, scratch->peak_bytes); /* refused now: asked again when needed */
    }
}

void kd_scratch_release(kd_scratch *scratch)
{
    while (scratch->top != NULL) {
        pop(scratch);
    }
}
