/*
 * scratch.h - memory of the operations that run: a stack.
 *
 * An operation marks the stack, takes what it needs and rewinds when it is done. So operations nest:
 * one that hands a chunk to a listener keeps its memory while the listener's operations run. Blocks
 * never move while they are in use. Once the stack is empty again, what took several blocks becomes
 * one, so that the same work allocates nothing the second time.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TENSOR_CPU_SCRATCH_H
#define KD_TENSOR_CPU_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kd_scratch_block kd_scratch_block;

typedef struct kd_scratch { /* zero: empty */
    kd_scratch_block *top;
    size_t used_bytes; /* in all blocks: what a mark is */
    size_t peak_bytes; /* of used_bytes                 */
    bool rehearses;    /* most of it will not be touched */
} kd_scratch;

/* At least that many bytes, aligned to KD_ARENA_ALIGN, contents undefined; NULL: no memory. */
void *kd_scratch_take(kd_scratch *scratch, size_t size_bytes);

/* Gives back all that was taken since used_bytes was `mark`. */
void kd_scratch_rewind(kd_scratch *scratch, size_t mark);

void kd_scratch_release(kd_scratch *scratch);

#endif
