/*
 * reduce_staged.c - two halves of staging memory, which the pieces take in turn. No event says that a piece
 * has gone up before the one after next comes down into the same half: transfers run in order.
 */
#include "train/reduce_staged.h"

#include "base/log.h"

/* The sums under way. */
typedef struct pieces {
    const kd_reduce_stage *stage;
    float *values; /* of the device */
    int64_t n;
} pieces;

static int64_t n_of(const pieces *p, int64_t i)
{
    const int64_t left = p->n - i * KD_REDUCE_PIECE;
    return left < KD_REDUCE_PIECE ? left : KD_REDUCE_PIECE;
}

static kd_event bring_down(const pieces *p, int64_t i, kd_event after)
{
    kd_backend *be = p->stage->be;
    return be->ops->transfer(be, p->stage->halves[i % 2], p->values + i * KD_REDUCE_PIECE,
                             (size_t)n_of(p, i) * sizeof(float), after);
}

static kd_event send_up(const pieces *p, int64_t i)
{
    kd_backend *be = p->stage->be;
    return be->ops->transfer(be, p->values + i * KD_REDUCE_PIECE, p->stage->halves[i % 2],
                             (size_t)n_of(p, i) * sizeof(float), (kd_event){0});
}

static kd_status take_halves(kd_reduce_stage *stage)
{
    kd_status st = KD_OK;
    for (int i = 0; !st && i < 2; i++) {
        if (stage->halves[i] == NULL) {
            st =
                kd_backend_place(stage->be, KD_MEMORY_HOST, (size_t)KD_REDUCE_PIECE * sizeof(float),
                                 &stage->halves[i], "a gradient on its way to other ranks");
        }
    }
    return st;
}

kd_status kd_reduce_staged(kd_reduce_stage *stage, const kd_reduce *reduce, kd_tensor values)
{
    kd_backend *be = stage->be;
    const pieces p = {stage, values.data, kd_tensor_elements(values)};
    const int64_t n_pieces = (p.n + KD_REDUCE_PIECE - 1) / KD_REDUCE_PIECE;
    kd_event sent = {0};
    kd_status st = take_halves(stage);
    if (st || n_pieces == 0) {
        return st;
    }
    kd_event here = bring_down(&p, 0, be->ops->event_record(be));
    for (int64_t i = 0; !st && i < n_pieces; i++) {
        kd_event_sync(here);
        st = kd_backend_tell_fault(be);
        if (!st && i + 1 < n_pieces) {
            here = bring_down(&p, i + 1, (kd_event){0});
        }
        if (!st) {
            st = reduce->sum_f32(reduce->user, stage->halves[i % 2], n_of(&p, i));
        }
        if (!st) {
            sent = send_up(&p, i);
        }
    }
    be->ops->event_wait(be, sent);
    return st;
}

void kd_reduce_stage_release(kd_reduce_stage *stage)
{
    for (int i = 0; i < 2; i++) {
        stage->be->ops->free(stage->be, stage->halves[i]);
        stage->halves[i] = NULL;
    }
}
