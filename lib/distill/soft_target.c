/*
 * soft_target.c - kd: T^2 * KL(softmax(z_T / T) || softmax(z_S / T)) (Hinton, Vinyals, Dean 2015).
 * The T^2, which may be off, keeps the gradient's size when T changes.
 */
#include "base/log.h"
#include "distill/loss.h"

typedef struct soft_target {
    double temperature; /* of this step */
    double factor;      /* T * T, or 1 */
} soft_target;

static bool has_teacher(const kd_loss_context *context)
{
    return context->n_teachers > 0;
}

static kd_status plan_logits(const ProtobufCMessage *message,
                             const kd_loss_context *context,
                             int reader,
                             kd_signal_plan *plan)
{
    kd_status st = KD_OK;
    (void)message;
    for (int i = 0; !st && i < context->n_teachers; i++) {
        const kd_teacher_view *teacher = &context->teachers[i];
        const bool hidden =
            kd_transport_resolve(teacher->transport, teacher->config, teacher->compute) ==
            KD__TEACHER__TRANSPORT__HIDDEN;
        const kd_signal signal = {
            .teacher = i,
            .kind = hidden ? KD_SIGNAL_HIDDEN : KD_SIGNAL_LOGITS,
            .dtype = hidden ? teacher->compute : KD_F32,
            .rows = context->max_rows,
            .columns = hidden ? teacher->config->hidden_size : teacher->config->vocab_size,
        };
        st = kd_signal_plan_add(plan, &signal, reader);
    }
    return st;
}

static void begin(kd_loss *loss, uint64_t step)
{
    const Kd__SoftTarget *says = (const Kd__SoftTarget *)loss->message;
    soft_target *state = loss->state;
    state->temperature = kd_schedule_at(says->temperature, step);
    state->factor = says->scale_by_t2 ? state->temperature * state->temperature : 1.0;
}

/* What a message holds: hidden states, of which the back end forms logits, or the logits. */
static kd_vocab_teacher
read_message(const kd_loss_context *context, int i, void *message, int64_t n_rows)
{
    kd_vocab_teacher teacher = {.weight = 1.0};
    const kd_signal *hidden = kd_signal_plan_find(context->plan, i, KD_SIGNAL_HIDDEN, 0);
    if (hidden != NULL) {
        teacher.hidden = kd_signal_view(hidden, message, n_rows);
        teacher.lm_head = context->teachers[i].lm_head;
    } else {
        const kd_signal *logits = kd_signal_plan_find(context->plan, i, KD_SIGNAL_LOGITS, 0);
        KD_CHECK(logits != NULL);
        teacher.logits = kd_signal_view(logits, message, n_rows);
    }
    return teacher;
}

static void add_to_vocab(kd_loss *loss, int64_t n_rows, kd_vocab_loss *args)
{
    const soft_target *state = loss->state;
    const kd_loss_context *context = loss->context;
    int n = 0;
    for (int i = 0; i < context->n_teachers; i++) {
        if (context->messages[i] != NULL) {
            context->seen[n++] = read_message(context, i, context->messages[i], n_rows);
        }
    }
    args->teachers = context->seen;
    args->n_teachers = n;
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
    .plan = plan_logits,
    .count = kd_loss_count_labelled,
    .begin = begin,
    .vocab = add_to_vocab,
    .mean = mean,
};
