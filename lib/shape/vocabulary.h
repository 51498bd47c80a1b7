/* vocabulary.h - whether two models speak of the same tokens. */
#ifndef KD_SHAPE_VOCABULARY_H
#define KD_SHAPE_VOCABULARY_H

#include "shape/config.h"

/*
 * The columns that both vocabularies know: the smaller of the two sizes. They must share it as a
 * prefix, the rest being padding that kd leaves out: sizes that differ by KD_VOCAB_PADDING_MAX or
 * more are KD_ERR_INVALID, naming both.
 */
#define KD_VOCAB_PADDING_MAX 256
KD_MUST_USE kd_status kd_vocab_common(const kd_model_config *student,
                                      const kd_model_config *teacher,
                                      int64_t *n_vocab_out);

#endif
