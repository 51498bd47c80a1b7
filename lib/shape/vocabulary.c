/* vocabulary.c - sizes alone: what the tokens mean is for whoever knows the tokenizers. */
#include "shape/vocabulary.h"

#include "base/log.h"

kd_status kd_vocab_common(const kd_model_config *student,
                          const kd_model_config *teacher,
                          int64_t *n_vocab_out)
{
    const int64_t a = student->vocab_size;
    const int64_t b = teacher->vocab_size;
    const int64_t gap = a > b ? a - b : b - a;
    if (gap >= KD_VOCAB_PADDING_MAX) {
        return kd_fail(KD_ERR_INVALID,
                       "the student's vocabulary has %lld tokens and the teacher's %lld: expected "
                       "the same, or less than %d of padding",
                       (long long)a, (long long)b, KD_VOCAB_PADDING_MAX);
    }
    *n_vocab_out = a < b ? a : b;
    return KD_OK;
}
