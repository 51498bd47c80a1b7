/* The loss over the vocabulary, and the optimizer. */
#include "tests/support/device_runs.h"

#include <math.h>

#include "tests/support/ops_check.h"

void device_run_vocab_loss(side *d)
{
    const int64_t n = d->s.n, v = d->s.o, c = d->s.c;
    const kd_tensor labels = side_ids(d, n, v);
    for (int64_t i = 3; i < n; i += 4) {
        kd_test_ints(labels)[i] = KD_LABEL_IGNORED;
    }
    const kd_vocab_teacher teachers[] = {
        {.hidden = side_in(d, d->compute, n, c + 2),
         .lm_head = side_weight(d, d->compute, v, c + 2),
         .logits = kd_tensor_none(),
         .weight = 0.5},
        {.hidden = kd_tensor_none(), .logits = side_in(d, KD_F32, n, v), .weight = 1.5},
    };
    kd_vocab_loss loss = {.hidden = side_in(d, d->compute, n, c),
                          .lm_head = side_weight(d, d->compute, v, c),
                          .labels = labels,
                          .rows = kd_tensor_none(),
                          .sums = side_out_1d(d, KD_F64, KD_VOCAB_SUMS),
                          .d_hidden = side_out(d, KD_F32, n, c),
                          .d_lm_head = side_gradient(d, v, c),
                          .teachers = teachers,
                          .n_teachers = 2,
                          .n_vocab = v > 1 ? v - 1 : 1,
                          .temperature = 2.0f,
                          .kd_scale = 1.5f,
                          .hard_scale = 0.5f,
                          .chunk_rows = 16};
    CALL(d, vocab_loss, &loss);
    loss.n_teachers = 0;
    loss.d_hidden = side_out(d, KD_F32, n, c);
    loss.accumulate = true;
    CALL(d, vocab_loss, &loss);
}

void device_run_sum_squares(side *d)
{
    CALL(d, sum_squares, side_out_1d(d, KD_F64, 1), side_in_1d(d, d->s.n * d->s.c));
}

void device_run_adamw(side *d)
{
    const int64_t n = d->s.n * d->s.c;
    const kd_tensor guards = side_as_1d(side_weight(d, KD_F64, 1, 2));
    const kd_adamw args = {.param = side_out_1d(d, KD_F32, n),
                           .grad = side_in_1d(d, n),
                           .m = side_out_1d(d, KD_F32, n),
                           .v = side_out_1d(d, KD_F32, n),
                           .copy = side_out_1d(d, KD_BF16, n),
                           .norm_sq = side_as_1d(side_weight(d, KD_F64, 1, 1)),
                           .guards = &guards,
                           .n_guards = 1,
                           .clip_norm = 0.5,
                           .learning_rate = 1e-2,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .epsilon = 1e-8,
                           .weight_decay = 0.1,
                           .step = 3};
    for (int64_t i = 0; i < n; i++) {
        kd_test_set(args.v, 0, i, fabs(kd_test_get(args.v, 0, i)));
    }
    CALL(d, zero, args.norm_sq);
    CALL(d, sum_squares, args.norm_sq, args.grad);
    CALL(d, adamw, &args);
}
