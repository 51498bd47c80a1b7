/* hard_target.c - hard: cross-entropy with the labels; the same pass reports it at any weight. */
#include "distill/loss.h"

static void add_to_vocab(kd_loss *loss, int64_t n_rows, kd_vocab_loss *args)
{
    (void)n_rows;
    args->hard_scale = (float)kd_loss_scale(loss);
}

static double mean(const kd_loss *loss, const double *sums)
{
    return sums[KD_VOCAB_SUM_HARD] / (double)loss->count;
}

const kd_loss_kind kd_loss_hard_target = {
    .name = "hard",
    .needs_labels = true,
    .is_free = true,
    .count = kd_loss_count_labelled,
    .vocab = add_to_vocab,
    .mean = mean,
};
