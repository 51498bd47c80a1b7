/*
 * scratch.h - memory of the operations that run: a stack, of a device or of the host.
 *
 * An operation marks the stack, takes what it needs and rewinds when it is done. So operations nest:
 * one that hands a chunk to a listener keeps its memory while the listener's operations run. Blocks
 * never move while they are in use. Once the stack is empty again, what took several blocks becomes
 * one, so that the same work allocates nothing the second time. Where operations are queued, "done" means
 * put on the queue: what is taken next runs behind it.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TENSOR_SCRATCH_H
#define KD_TENSOR_SCRATCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KD_SCRATCH_ALIGN 256 /* what products on a device want */

/* Where blocks come from: NULL where there is no memory; `give` waits for those who still use it. */
typedef struct kd_scratch_source {
    void *(*take)(void *user, size_t size_bytes);
    void (*give)(void *user, void *memory);
    void *user;
} kd_scratch_source;

typedef struct kd_scratch_block kd_scratch_block;

typedef struct kd_scratch { /* zero but for `source`: empty */
    kd_scratch_source source;
    kd_scratch_block *top;
    size_t used_bytes; /* in all blocks: what a mark is */
    size_t peak_bytes; /* of used_bytes                 */
} kd_scratch;

/* At least that many bytes, aligned as the source's blocks are but to KD_SCRATCH_ALIGN at most; contents
 * undefined. NULL with a fault reported: no memory. */
void *kd_scratch_take(kd_scratch *scratch, size_t size_bytes);

/* Gives back all that was taken since used_bytes was `mark`. */
void kd_scratch_rewind(kd_scratch *scratch, size_t mark);

void kd_scratch_release(kd_scratch *scratch);

#ifdef __cplusplus
}
#endif

#endif
