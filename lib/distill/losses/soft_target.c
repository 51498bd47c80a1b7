/*
 * soft_target.c - kd: T^2 * KL(softmax(z_T / T) || softmax(z_S / T)) (Hinton, Vinyals, Dean 2015).
 * The T^2, which may be off, keeps the gradient's size when T changes.
 */
#include "distill/loss.h"

typedef struct soft_target {
    double temperature; /* of this step */
    double factor;      /* T * T, or 1 */
} soft_target;

static bool has_teacher(const kd_loss_context *context)
{
    return context->n_teachers > 0;
}

static void begin(kd_loss *loss, uint64_t step)
{
    const Kd__SoftTarget *says = (const Kd__SoftTarget *)loss->message;
    soft_target *state = loss->state;
    state->temperature = kd_schedule_at(says->temperature, step);
    state->factor = says->scale_by_t2 ? state->temperature * state->temperature : 1.0;
}

static void add_to_vocab(kd_loss *loss, int64_t n_rows, kd_vocab_loss *args)
{
    const soft_target *state = loss->state;
    (void)n_rows;
    for (int i = 0; i < args->n_teachers; i++) {
        loss->context->seen[i].weight = 1.0;
    }
    args->divergence = ((const Kd__SoftTarget *)loss->message)->divergence;
    args->temperature = (float)state->temperature;
    args->kd_scale = (float)(kd_loss_scale(loss) * state->factor);
}

static double mean(const kd_loss *loss, const double *sums)
{
    const soft_target *state = loss->state;
    return sums[KD_VOCAB_SUM_KD] * state->factor / (double)loss->count;
}

const kd_loss_kind kd_loss_soft_target = {
    .name = "kd",
    .state_bytes = sizeof(soft_target),
    .exists = has_teacher,
    .plan = kd_teacher_logits_plan,
    .count = kd_loss_count_labelled,
    .begin = begin,
    .vocab = add_to_vocab,
    .mean = mean,
};
