/*
 * soft_target.c - kd: T^2 * KL(softmax(z_T / T) || softmax(z_S / T)) (Hinton, Vinyals, Dean 2015).
 * The T^2, which may be off, keeps the gradient's size when T changes.
 */
#include "distill/loss.h"

static kd_status plan_logits(const kd_plan_context *context, kd_signal_plan *plan)
{
    const kd_model_config *teacher = context->teacher;
    if (kd_transport_resolve(context->transport, teacher, context->compute) ==
        KD_TRANSPORT_HIDDEN) {
        return kd_signal_plan_add(plan, KD_SIGNAL_HIDDEN, 0, context->compute, context->max_rows,
                                  teacher->hidden_size);
    }
    return kd_signal_plan_add(plan, KD_SIGNAL_LOGITS, 0, KD_F32, context->max_rows,
                              teacher->vocab_size);
}

/* The chunk's rows of the teacher's logits (R, V') f32: as they came, or by its lm_head. */
static kd_tensor teacher_logits(const kd_loss_chunk *chunk)
{
    const int64_t end = chunk->first_row + chunk->n_rows;
    const kd_signal *hidden = kd_signal_plan_find(chunk->plan, KD_SIGNAL_HIDDEN, 0);
    if (hidden == NULL) {
        const kd_signal *logits = kd_signal_plan_find(chunk->plan, KD_SIGNAL_LOGITS, 0);
        KD_CHECK(logits != NULL);
        return kd_tensor_slice_rows(kd_signal_view(logits, chunk->message, end), chunk->first_row,
                                    chunk->n_rows);
    }
    const kd_tensor x = kd_tensor_slice_rows(kd_signal_view(hidden, chunk->message, end),
                                             chunk->first_row, chunk->n_rows);
    const kd_tensor y = kd_tensor_slice_rows(chunk->teacher_logits, 0, chunk->n_rows);
    chunk->be->ops->linear(chunk->be, y, x, chunk->teacher_lm_head);
    return y;
}

static void add_soft_target(const kd_loss_chunk *chunk, double scale, kd_vocab_rows *rows)
{
    const double t = chunk->temperature;
    rows->teacher = teacher_logits(chunk);
    rows->temperature = (float)t;
    rows->kd_scale = chunk->scale_by_t2 ? (float)(t * t) : 1.0f;
    rows->kd_weight = (float)scale;
}

const kd_loss_kind kd_loss_soft_target = {
    .name = "kd",
    .sum = KD_VOCAB_SUM_KD,
    .needs_signals = true,
    .plan = plan_logits,
    .count = kd_rows_labelled,
    .vocab = add_soft_target,
};
