/* hard_target.c - hard: cross-entropy with the labels; vocab_loss reports it at any weight. */
#include "distill/loss.h"

static void add_hard_target(const kd_loss_input *input, double scale, kd_vocab_loss *loss)
{
    (void)input;
    loss->hard_scale = (float)scale;
}

const kd_loss_kind kd_loss_hard_target = {
    .name = "hard",
    .sum = KD_VOCAB_SUM_HARD,
    .needs_labels = true,
    .count = kd_rows_labelled,
    .vocab = add_hard_target,
};
