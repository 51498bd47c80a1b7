/*
 * loss.c - the table of losses, and what a loss's message has in common with the others: reflection
 * finds it by its name, and its weight, so that no other place names a loss.
 */
#include "distill/loss.h"

#include "base/log.h"
#include "message/reflect.h"

static const kd_loss_kind *const kinds[] = {
#define KD_LOSS(name) &kd_loss_##name,
#include "distill/losses/list.h"
#undef KD_LOSS
};
_Static_assert(sizeof kinds / sizeof *kinds <= KD_LOSSES_MAX, "a mask has a bit for every loss");

int kd_loss_n_kinds(void)
{
    return (int)(sizeof kinds / sizeof *kinds);
}

const kd_loss_kind *kd_loss_kind_at(int i)
{
    KD_CHECK(i >= 0 && i < kd_loss_n_kinds());
    return kinds[i];
}

static const ProtobufCMessage *message_field(const ProtobufCMessage *message, const char *name)
{
    const ProtobufCFieldDescriptor *field = kd_message_field(message->descriptor, name);
    KD_CHECK(field != NULL && field->type == PROTOBUF_C_TYPE_MESSAGE);
    if (kd_message_count(message, field) == 0) {
        return NULL;
    }
    return *(ProtobufCMessage *const *)kd_message_at(message, field, 0);
}

const ProtobufCMessage *kd_loss_message(const kd_loss_kind *kind, const Kd__Objective *objective)
{
    return message_field(&objective->base, kind->name);
}

double kd_loss_weight_at(const ProtobufCMessage *message, uint64_t step)
{
    const ProtobufCMessage *weight = message_field(message, "weight");
    KD_CHECK(weight != NULL && weight->descriptor == &kd__schedule__descriptor);
    return kd_schedule_at((const Kd__Schedule *)weight, step);
}

double kd_loss_scale(const kd_loss *loss)
{
    return loss->computed && loss->count > 0 ? loss->weight / (double)loss->count : 0.0;
}

static bool is_real(const kd_batch *batch, int64_t row)
{
    return batch->segments == NULL || batch->segments[row] >= 0;
}

int64_t kd_loss_count_labelled(const kd_loss *loss, const kd_batch *batch)
{
    int64_t n = 0;
    (void)loss;
    for (int64_t i = 0; i < batch->n_batch * batch->n_tokens; i++) {
        n += batch->labels != NULL ? batch->labels[i] != KD_LABEL_IGNORED : is_real(batch, i);
    }
    return n;
}

int64_t kd_loss_count_real(const kd_loss *loss, const kd_batch *batch)
{
    int64_t n = 0;
    (void)loss;
    for (int64_t i = 0; i < batch->n_batch * batch->n_tokens; i++) {
        n += is_real(batch, i);
    }
    return n;
}
