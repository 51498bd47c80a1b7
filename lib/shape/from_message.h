/* from_message.h - the shape that a job's Model describes. */
#ifndef KD_SHAPE_FROM_MESSAGE_H
#define KD_SHAPE_FROM_MESSAGE_H

#include "message/check.h"
#include "proto/job.pb-c.h"
#include "shape/config.h"

/* Sets what is left out and follows from other sizes: num_kv_heads, head_dim where it divides. */
void kd_model_message_complete(Kd__Model *model);

/* Adds a mistake at `path` where a completed message has no head_dim and it does not follow. */
void kd_model_message_check_width(const Kd__Model *model, kd_checker *c, const char *path);

/*
 * For a completed message, and sequences of up to max_positions tokens. The shape is not checked
 * yet. KD_ERR_INVALID for an unknown type, as kd_model_type_find() tells it.
 */
KD_MUST_USE kd_status kd_model_config_from_message(const Kd__Model *model,
                                                   int64_t max_positions,
                                                   kd_model_config *config_out);

#endif
