/* from_message.h - the shape that a job's Model describes. */
#ifndef KD_SHAPE_FROM_MESSAGE_H
#define KD_SHAPE_FROM_MESSAGE_H

#include <stddef.h>

#include "proto/job.pb-c.h"
#include "shape/config.h"

/* Sets what is left out and follows from other sizes: num_kv_heads, head_dim where it divides. */
void kd_model_message_complete(Kd__Model *model);

/* What to say of the head_dim of a completed message that has none; NULL where nothing is wrong with it. */
const char *kd_model_message_lacks_width(const Kd__Model *model, char *room, size_t room_bytes);

/*
 * For a completed message, and sequences of up to max_positions tokens. The shape is not checked
 * yet. KD_ERR_INVALID for an unknown type, as kd_model_type_find() tells it.
 */
KD_MUST_USE kd_status kd_model_config_from_message(const Kd__Model *model,
                                                   int64_t max_positions,
                                                   kd_model_config *config_out);

#endif
