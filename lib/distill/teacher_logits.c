/*
 * teacher_logits.c - the teachers' logits as losses read them: planned once, whoever reads them, and given
 * to the loss over the vocabulary in the form in which they travelled.
 */
#include "base/log.h"
#include "distill/loss.h"

kd_status kd_teacher_logits_plan(const ProtobufCMessage *message,
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

/* What a message holds: hidden states, of which the back end forms logits, or the logits. */
static kd_vocab_teacher
view_of(const kd_loss_context *context, const kd_signal *signal, int64_t n_rows)
{
    const kd_tensor view = kd_signal_view(signal, context->messages[signal->teacher], n_rows);
    return signal->kind == KD_SIGNAL_HIDDEN
               ? (kd_vocab_teacher){.hidden = view,
                                    .lm_head = context->teachers[signal->teacher].lm_head}
               : (kd_vocab_teacher){.logits = view};
}

/* NULL: no loss reads this teacher's logits. */
static const kd_signal *find_logits(const kd_loss_context *context, int teacher)
{
    const kd_signal *hidden = kd_signal_plan_find(context->plan, teacher, KD_SIGNAL_HIDDEN, 0);
    return hidden != NULL ? hidden
                          : kd_signal_plan_find(context->plan, teacher, KD_SIGNAL_LOGITS, 0);
}

int kd_teacher_logits_give(const kd_loss_context *context, uint64_t readers, int64_t n_rows)
{
    int n = 0;
    for (int i = 0; i < context->n_teachers; i++) {
        const kd_signal *signal = context->messages[i] != NULL ? find_logits(context, i) : NULL;
        if (signal != NULL && (signal->readers & readers) != 0) {
            context->seen_signals[n] = signal;
            context->seen[n++] = view_of(context, signal, n_rows);
        }
    }
    return n;
}
