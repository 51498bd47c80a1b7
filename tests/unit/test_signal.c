#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"
#include "distill/loss.h"
#include "distill/signal.h"
#include "tests/support/fault.h"

Test(signal, places_are_aligned_and_do_not_overlap)
{
    kd_signal_plan plan = {0};
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_LOGITS, 0, KD_F32, 3, 11), KD_OK);
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_HIDDEN, 0, KD_BF16, 3, 7), KD_OK);
    cr_assert_eq(plan.n_signals, 2);
    const kd_signal *logits = &plan.signals[0], *hidden = &plan.signals[1];
    cr_expect_eq(logits->offset_bytes, 0);
    cr_expect_eq(logits->size_bytes, 3 * 11 * 4);
    cr_expect_eq(hidden->offset_bytes % KD_ARENA_ALIGN, 0);
    cr_expect_geq(hidden->offset_bytes, logits->offset_bytes + logits->size_bytes);
    cr_expect_geq(plan.message_bytes, hidden->offset_bytes + hidden->size_bytes);
    cr_expect_eq(plan.message_bytes % KD_ARENA_ALIGN, 0);
}

Test(signal, one_that_two_losses_need_stands_once)
{
    kd_signal_plan plan = {0};
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_LOGITS, 0, KD_F32, 3, 11), KD_OK);
    const size_t bytes = plan.message_bytes;
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_LOGITS, 0, KD_F32, 3, 11), KD_OK);
    cr_expect_eq(plan.n_signals, 1);
    cr_expect_eq(plan.message_bytes, bytes);
}

Test(signal, a_full_plan_is_reported_and_unchanged)
{
    kd_signal_plan plan = {0};
    for (int i = 0; i < KD_SIGNALS_MAX; i++) {
        cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_HIDDEN, i, KD_F32, 1, 1), KD_OK);
    }
    const size_t bytes = plan.message_bytes;
    kd_fault_quiet(1);
    cr_expect_eq(kd_signal_plan_add(&plan, KD_SIGNAL_LOGITS, 0, KD_F32, 1, 1), KD_ERR_NOMEM);
    cr_expect_eq(plan.n_signals, KD_SIGNALS_MAX);
    cr_expect_eq(plan.message_bytes, bytes);
}

Test(signal, view_shows_the_first_rows_of_its_place)
{
    float message[64] = {0};
    kd_signal_plan plan = {0};
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_HIDDEN, 0, KD_F32, 4, 2), KD_OK);
    cr_assert_eq(kd_signal_plan_add(&plan, KD_SIGNAL_LOGITS, 0, KD_F32, 4, 3), KD_OK);
    const kd_signal *logits = kd_signal_plan_find(&plan, KD_SIGNAL_LOGITS, 0);
    cr_assert_not_null(logits);
    const kd_tensor view = kd_signal_view(logits, message, 2);
    cr_expect_eq(kd_tensor_rows(view), 2);
    cr_expect_eq(kd_tensor_columns(view), 3);
    cr_expect_eq((char *)view.data, (char *)message + logits->offset_bytes);
    cr_expect_null(kd_signal_plan_find(&plan, KD_SIGNAL_LOGITS, 1));
}

Test(signal, automatic_transport_moves_fewer_bytes)
{
    kd_model_config teacher = {.vocab_size = 256, .hidden_size = 256};
    cr_expect_eq(kd_transport_resolve(KD__TEACHER__TRANSPORT__AUTO, &teacher, KD_BF16),
                 KD__TEACHER__TRANSPORT__HIDDEN);
    cr_expect_eq(kd_transport_resolve(KD__TEACHER__TRANSPORT__AUTO, &teacher, KD_F32),
                 KD__TEACHER__TRANSPORT__LOGITS);
    teacher.vocab_size = 4096;
    cr_expect_eq(kd_transport_resolve(KD__TEACHER__TRANSPORT__AUTO, &teacher, KD_F32),
                 KD__TEACHER__TRANSPORT__HIDDEN);
    cr_expect_eq(kd_transport_resolve(KD__TEACHER__TRANSPORT__LOGITS, &teacher, KD_F32),
                 KD__TEACHER__TRANSPORT__LOGITS);
}

Test(signal, vocabularies_may_differ_by_padding_alone)
{
    const kd_model_config small = {.vocab_size = 256}, padded = {.vocab_size = 511};
    const kd_model_config other = {.vocab_size = 512};
    int64_t n_vocab = 7;
    cr_expect_eq(kd_vocab_common(&small, &padded, &n_vocab), KD_OK);
    cr_expect_eq(n_vocab, 256);
    cr_expect_eq(kd_vocab_common(&padded, &small, &n_vocab), KD_OK);
    cr_expect_eq(n_vocab, 256);
    kd_fault_quiet(1);
    cr_expect_eq(kd_vocab_common(&other, &small, &n_vocab), KD_ERR_INVALID);
    cr_expect(strstr(kd_fault_text(), "512") != NULL && strstr(kd_fault_text(), "256") != NULL);
}
