/*
 * tokens.c - tokens from outside are looked at once, here, because operations treat a bad one as a mistake
 * of ours.
 */
#include "train/tokens.h"

#include "base/log.h"
#include "tensor/ops.h"

kd_status kd_tokens_check(const int32_t *tokens,
                          const int32_t *labels,
                          int64_t n_sequences,
                          int64_t n_tokens,
                          int64_t n_vocab,
                          uint64_t first)
{
    for (int64_t i = 0; i < n_sequences * n_tokens; i++) {
        const bool bad_token = tokens[i] < 0 || tokens[i] >= n_vocab;
        const bool bad_label = labels != NULL && labels[i] != KD_LABEL_IGNORED &&
                               (labels[i] < 0 || labels[i] >= n_vocab);
        if (bad_token || bad_label) {
            return kd_fail(KD_ERR_INVALID, "sequence %llu, %s %lld: found %d, expected 0 to %lld%s",
                           (unsigned long long)first + (uint64_t)(i / n_tokens),
                           bad_token ? "token" : "label", (long long)(i % n_tokens),
                           bad_token ? tokens[i] : labels[i], (long long)n_vocab - 1,
                           bad_token ? "" : ", or -100");
        }
    }
    return KD_OK;
}
