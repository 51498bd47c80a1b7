/*
 * logits.h - all logits of a micro-batch, for those who want to see them; training never does.
 *
 * Threads: that of the back end.
 */
#ifndef KD_MODEL_LOGITS_H
#define KD_MODEL_LOGITS_H

#include "tensor/ops.h"

/*
 * logits_out (N, V) f32, host = hidden (N, C) lm_head (V, C)^T, by the chunks of the vocabulary loss.
 * Blocks.
 */
KD_MUST_USE kd_status kd_logits_download(kd_backend *be,
                                         kd_tensor hidden,
                                         kd_tensor lm_head,
                                         float *logits_out);

#endif
