#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"
#include "distill/channel.h"

static kd_status write_number(void *user, uint64_t m, void *message)
{
    *(uint64_t *)message = m + *(uint64_t *)user;
    return KD_OK;
}

static kd_status refuse(void *user, uint64_t m, void *message)
{
    (void)user;
    (void)m;
    (void)message;
    return kd_fail(KD_ERR_IO, "no teacher today");
}

Test(channel, receive_runs_the_teacher_at_once)
{
    uint64_t base = 100;
    kd_channel *channel;
    void *message;
    cr_assert_eq(kd_channel_create_local(64, write_number, &base, &channel), KD_OK);
    for (uint64_t m = 3; m < 6; m++) {
        cr_assert_eq(channel->ops->receive(channel, m, &message), KD_OK);
        cr_expect_eq(*(uint64_t *)message, 100 + m);
        cr_assert_eq(channel->ops->release(channel, m), KD_OK);
    }
    cr_expect_eq(channel->messages_moved, 3);
    cr_expect_eq(channel->bytes_moved, 3 * 64);
    cr_expect_eq(channel->stall_ns, 0);
    channel->ops->progress(channel);
    cr_expect_eq(channel->ops->flush(channel), KD_OK);
    kd_channel_destroy(channel);
    kd_channel_destroy(NULL);
}

Test(channel, calls_out_of_turn_are_refused)
{
    uint64_t base = 0;
    kd_channel *channel;
    void *message = &base, *untouched = &base;
    cr_assert_eq(kd_channel_create_local(8, write_number, &base, &channel), KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(channel->ops->begin_send(channel, 0, &untouched), KD_ERR_STATE);
    cr_expect_eq(channel->ops->end_send(channel, 0), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 0), KD_ERR_STATE);
    cr_assert_eq(channel->ops->receive(channel, 0, &message), KD_OK);
    cr_expect_eq(channel->ops->receive(channel, 1, &untouched), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 1), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 0), KD_OK);
    cr_expect_eq(untouched, &base);
    kd_channel_destroy(channel);
}

Test(channel, a_fault_of_the_teacher_reaches_the_student)
{
    kd_channel *channel;
    void *message = NULL;
    cr_assert_eq(kd_channel_create_local(8, refuse, NULL, &channel), KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(channel->ops->receive(channel, 0, &message), KD_ERR_IO);
    cr_expect_null(message);
    cr_expect_eq(channel->messages_moved, 0);
    cr_expect_eq(channel->ops->release(channel, 0), KD_ERR_STATE);
    kd_channel_destroy(channel);
}
