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

/* What the message holds: hidden states, of which the back end forms logits, or the logits. */
static kd_vocab_teacher read_message(const kd_loss_input *input)
{
    kd_vocab_teacher teacher = {.weight = 1.0};
    const kd_signal *hidden = kd_signal_plan_find(input->plan, KD_SIGNAL_HIDDEN, 0);
    if (hidden != NULL) {
        teacher.hidden = kd_signal_view(hidden, input->message, input->n_rows);
        teacher.lm_head = input->teacher_lm_head;
    } else {
        const kd_signal *logits = kd_signal_plan_find(input->plan, KD_SIGNAL_LOGITS, 0);
        KD_CHECK(logits != NULL);
        teacher.logits = kd_signal_view(logits, input->message, input->n_rows);
    }
    return teacher;
}

static void add_soft_target(const kd_loss_input *input, double scale, kd_vocab_loss *loss)
{
    const double t = input->temperature;
    *input->teacher = read_message(input);
    loss->teachers = input->teacher;
    loss->n_teachers = 1;
    loss->temperature = (float)t;
    loss->kd_scale = (float)(scale * (input->scale_by_t2 ? t * t : 1.0));
}

const kd_loss_kind kd_loss_soft_target = {
    .name = "kd",
    .sum = KD_VOCAB_SUM_KD,
    .needs_signals = true,
    .by_t2 = true,
    .plan = plan_logits,
    .count = kd_rows_labelled,
    .vocab = add_soft_target,
};
