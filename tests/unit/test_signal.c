#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"
#include "distill/loss.h"
#include "distill/signal.h"
#include "tests/support/fault.h"

/* One loss reads it. */
static void add(kd_signal_plan *plan, kd_signal signal, int reader)
{
    cr_assert_eq(kd_signal_plan_add(plan, &signal, reader), KD_OK);
}

static kd_signal logits_of(int teacher)
{
    return (kd_signal){
        .teacher = teacher, .kind = KD_SIGNAL_LOGITS, .dtype = KD_F32, .rows = 3, .columns = 11};
}

static kd_signal hidden_of(int teacher, int64_t layer)
{
    return (kd_signal){.teacher = teacher,
                       .kind = KD_SIGNAL_HIDDEN,
                       .layer = layer,
                       .dtype = KD_BF16,
                       .rows = 3,
                       .columns = 7};
}

Test(signal, places_are_aligned_and_do_not_overlap)
{
    kd_signal_plan plan = {0};
    add(&plan, logits_of(0), 0);
    add(&plan, hidden_of(0, 0), 0);
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    cr_assert_eq(plan.n_signals, 2);
    const kd_signal *logits = &plan.signals[0], *hidden = &plan.signals[1];
    cr_expect_eq(logits->offset_bytes, 0);
    cr_expect_eq(logits->size_bytes, 3 * 11 * 4);
    cr_expect_eq(hidden->offset_bytes % KD_ARENA_ALIGN, 0);
    cr_expect_geq(hidden->offset_bytes, logits->offset_bytes + logits->size_bytes);
    cr_expect_geq(plan.messages[0].message_bytes, hidden->offset_bytes + hidden->size_bytes);
    cr_expect_eq(plan.messages[0].message_bytes % KD_ARENA_ALIGN, 0);
    kd_signal_plan_release(&plan);
}

Test(signal, one_that_two_losses_need_stands_once)
{
    kd_signal_plan plan = {0};
    add(&plan, logits_of(0), 0);
    add(&plan, logits_of(0), 5);
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    cr_expect_eq(plan.n_signals, 1);
    cr_expect_eq(plan.messages[0].n_groups, 1);
    cr_expect_eq(plan.messages[0].groups[0].readers, 0x21);
    kd_signal_plan_release(&plan);
}

/* Whatever the order in which losses plan: both sides must find the same places. */
Test(signal, what_the_same_losses_read_is_one_group_side_by_side)
{
    for (int turn = 0; turn < 2; turn++) {
        kd_signal_plan plan = {0};
        for (int i = 0; i < 4; i++) { /* layers 0 and 2 for loss 1, 1 and 3 for loss 4 */
            const int layer = turn == 0 ? i : 3 - i;
            add(&plan, hidden_of(0, layer), layer % 2 == 0 ? 1 : 4);
        }
        add(&plan, hidden_of(0, 9), 1);
        add(&plan, hidden_of(0, 9), 4);
        cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
        const kd_message_plan *message = &plan.messages[0];
        cr_assert_eq(message->n_groups, 3);
        size_t end = 0;
        for (int g = 0; g < 3; g++) {
            cr_expect_eq(message->groups[g].offset_bytes, end);
            end += message->groups[g].size_bytes;
            cr_expect_eq(message->groups[g].size_bytes, g == 2 ? 64 : 128);
        }
        cr_expect_eq(message->message_bytes, end);
        const kd_signal *second = kd_signal_plan_find(&plan, 0, KD_SIGNAL_HIDDEN, 2);
        cr_expect_eq(second->group, 0);
        cr_expect_eq(second->offset_bytes, 64);
        cr_expect_eq(kd_signal_plan_mask(&plan, 0, 1u << 1), 5);
        cr_expect_eq(kd_signal_plan_mask(&plan, 0, 1u << 4), 6);
        cr_expect_eq(kd_signal_plan_mask(&plan, 0, 1u << 2), 0);
        cr_expect_eq(kd_message_plan_bytes(message, 6), 192);
        kd_signal_plan_release(&plan);
    }
}

Test(signal, each_teacher_has_a_message_of_its_own)
{
    kd_signal_plan plan = {0};
    add(&plan, logits_of(2), 0);
    add(&plan, hidden_of(0, 0), 0);
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 3), KD_OK);
    cr_expect_eq(plan.messages[0].message_bytes, 64);
    cr_expect_eq(plan.messages[1].n_groups, 0);
    cr_expect_eq(plan.messages[2].message_bytes, 192);
    cr_expect_null(kd_signal_plan_find(&plan, 0, KD_SIGNAL_LOGITS, 0));
    const kd_signal *logits = kd_signal_plan_find(&plan, 2, KD_SIGNAL_LOGITS, 0);
    cr_assert_not_null(logits);
    cr_expect_eq(logits->offset_bytes, 0);
    cr_expect_eq(kd_signal_plan_mask(&plan, 1, 1), 0);
    kd_signal_plan_release(&plan);
}

Test(signal, a_plan_knows_what_it_can_carry)
{
    kd_signal_plan plan = {0}, asked = {0};
    add(&plan, hidden_of(0, 2), 1);
    add(&plan, hidden_of(0, 2), 4);
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    add(&asked, hidden_of(0, 2), 4);
    kd_signal signal = asked.signals[0];
    cr_expect(kd_signal_plan_holds(&plan, &signal));
    signal.readers = 1u << 2;
    cr_expect_not(kd_signal_plan_holds(&plan, &signal), "a loss that did not read it");
    signal.readers = 1u << 1;
    signal.columns++;
    cr_expect_not(kd_signal_plan_holds(&plan, &signal));
    signal.columns--;
    signal.dtype = KD_F32;
    cr_expect_not(kd_signal_plan_holds(&plan, &signal));
    signal.dtype = KD_BF16;
    signal.layer = 3;
    cr_expect_not(kd_signal_plan_holds(&plan, &signal));
    kd_signal_plan_release(&asked);
    kd_signal_plan_release(&plan);
}

Test(signal, a_plan_holds_any_number)
{
    kd_signal_plan plan = {0};
    for (int i = 0; i < 1000; i++) {
        add(&plan, hidden_of(0, i), 0);
    }
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    cr_expect_eq(plan.n_signals, 1000);
    cr_expect_eq(plan.messages[0].message_bytes, 1000 * 64);
    kd_signal_plan_release(&plan);
}

/* More sets of readers than a mask has bits. */
Test(signal, too_many_groups_are_refused)
{
    kd_signal_plan plan = {0};
    for (int i = 0; i <= KD_SIGNAL_GROUPS_MAX; i++) {
        for (int reader = 0; reader < 7; reader++) {
            if ((i + 1) >> reader & 1) {
                add(&plan, hidden_of(0, i), reader);
            }
        }
    }
    kd_fault_quiet(1);
    cr_expect_eq(kd_signal_plan_lay_out(&plan, 1), KD_ERR_INVALID);
    EXPECT_FAULT("more than 64 groups");
    kd_signal_plan_release(&plan);
}

Test(signal, view_shows_the_first_rows_of_its_place)
{
    float message[64] = {0};
    kd_signal_plan plan = {0};
    add(&plan, hidden_of(0, 0), 0);
    add(&plan, logits_of(0), 1);
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    const kd_signal *logits = kd_signal_plan_find(&plan, 0, KD_SIGNAL_LOGITS, 0);
    cr_assert_not_null(logits);
    const kd_tensor view = kd_signal_view(logits, message, 2);
    cr_expect_eq(kd_tensor_rows(view), 2);
    cr_expect_eq(kd_tensor_columns(view), 11);
    cr_expect_eq((char *)view.data, (char *)message + logits->offset_bytes);
    cr_expect_null(kd_signal_plan_find(&plan, 0, KD_SIGNAL_LOGITS, 1));
    kd_signal_plan_release(&plan);
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
