#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"
#include "distill/channel.h"
#include "distill/open_steps.h"
#include "tests/support/back_end.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"

/* Two groups of 64 bytes. */
static const kd_message_plan two_groups = {.groups = {{1, 0, 64}, {2, 64, 64}},
                                           .n_groups = 2,
                                           .message_bytes = 128};

static const kd_event past = {0};

static kd_backend *teacher_be, *student_be;

static void open_backends(void)
{
    teacher_be = kd_test_backend(KD_F32, 1);
    student_be = kd_test_backend(KD_F32, 1);
}

static void close_backends(void)
{
    kd_backend_destroy(teacher_be);
    kd_backend_destroy(student_be);
}

TestSuite(channel, .init = open_backends, .fini = close_backends);

/* Its first two numbers, which may be a device's. */
static kd_tensor words_of(void *message)
{
    return kd_tensor_1d(message, KD_I32, 2);
}

static void write_words(void *message, uint64_t first, uint64_t second)
{
    const int32_t words[] = {(int32_t)first, (int32_t)second};
    teacher_be->ops->upload(teacher_be, words_of(message), words);
}

static uint64_t read_word(void *message, int i)
{
    int32_t words[2] = {-1, -1};
    student_be->ops->download(student_be, words, words_of(message));
    return (uint64_t)words[i];
}

static kd_status write_number(void *user, uint64_t m, uint64_t groups, void *message)
{
    write_words(message, m + *(uint64_t *)user, groups);
    return KD_OK;
}

static kd_status refuse(void *user, uint64_t m, uint64_t groups, void *message)
{
    (void)user;
    (void)m;
    (void)groups;
    (void)message;
    return kd_fail(KD_ERR_IO, "no teacher today");
}

static kd_channel *channel_of(kd_channel_produce produce, void *user, int n_steps)
{
    kd_channel *channel = NULL;
    const kd_local_settings settings = {.plan = &two_groups,
                                        .n_steps = n_steps,
                                        .writer = teacher_be,
                                        .reader = student_be,
                                        .produce = produce,
                                        .user = user};
    cr_assert_eq(kd_channel_create_local(&settings, &channel), KD_OK);
    return channel;
}

Test(channel, receive_runs_the_teacher_at_once)
{
    uint64_t base = 100;
    kd_channel *channel = channel_of(write_number, &base, 1);
    void *message;
    cr_assert_eq(channel->ops->open_step(channel, 3, 6, 3), KD_OK);
    for (uint64_t m = 3; m < 6; m++) {
        cr_assert_eq(channel->ops->receive(channel, m, &message), KD_OK);
        cr_expect_eq(read_word(message, 0), 100 + m);
        cr_assert_eq(channel->ops->release(channel, m, past), KD_OK);
    }
    cr_expect_eq(channel->messages_moved, 3);
    cr_expect_eq(channel->bytes_moved, 3 * 128);
    cr_expect_eq(channel->stall_ns, 0);
    channel->ops->progress(channel);
    cr_expect_eq(channel->ops->flush(channel), KD_OK);
    kd_channel_destroy(channel);
    kd_channel_destroy(NULL);
}

Test(channel, only_the_groups_of_a_step_move)
{
    uint64_t base = 0;
    kd_channel *channel = channel_of(write_number, &base, 4);
    void *message = &base;
    for (uint64_t step = 0; step < 4; step++) {
        cr_assert_eq(channel->ops->open_step(channel, 2 * step, 2 * step + 2, step), KD_OK);
    }
    for (uint64_t m = 0; m < 8; m++) {
        cr_assert_eq(channel->ops->receive(channel, m, &message), KD_OK);
        cr_assert_eq(message == NULL, m / 2 == 0);
        cr_expect(message == NULL || read_word(message, 1) == m / 2);
        cr_assert_eq(channel->ops->release(channel, m, past), KD_OK);
    }
    cr_expect_eq(channel->messages_moved, 6);
    cr_expect_eq(channel->bytes_moved, 2 * (64 + 64 + 128));
    kd_channel_destroy(channel);
}

Test(channel, calls_out_of_turn_are_refused)
{
    uint64_t base = 0;
    kd_channel *channel = channel_of(write_number, &base, 1);
    void *message = &base, *untouched = &base;
    kd_fault_quiet(1);
    cr_expect_eq(channel->ops->begin_send(channel, 0, &untouched), KD_ERR_STATE);
    cr_expect_eq(channel->ops->end_send(channel, 0, past), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 0, past), KD_ERR_STATE);
    cr_expect_eq(channel->ops->receive(channel, 0, &untouched), KD_ERR_STATE);
    EXPECT_FAULT("before its step was opened");
    cr_assert_eq(channel->ops->open_step(channel, 0, 2, 1), KD_OK);
    cr_expect_eq(channel->ops->open_step(channel, 3, 4, 1), KD_ERR_STATE);
    cr_assert_eq(channel->ops->receive(channel, 0, &message), KD_OK);
    cr_expect_eq(channel->ops->receive(channel, 1, &untouched), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 1, past), KD_ERR_STATE);
    cr_expect_eq(channel->ops->release(channel, 0, past), KD_OK);
    cr_expect_eq(untouched, &base);
    kd_channel_destroy(channel);
}

Test(channel, a_fault_of_the_teacher_reaches_the_student)
{
    kd_channel *channel = channel_of(refuse, NULL, 1);
    void *message = NULL;
    cr_assert_eq(channel->ops->open_step(channel, 0, 1, 1), KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(channel->ops->receive(channel, 0, &message), KD_ERR_IO);
    cr_expect_null(message);
    cr_expect_eq(channel->messages_moved, 0);
    cr_expect_eq(channel->ops->release(channel, 0, past), KD_ERR_STATE);
    kd_channel_destroy(channel);
}

typedef struct turns {
    late_queue writer, reader;
    kd_event done; /* that the release before gave */
} turns;

/* What the message's queue must have been told to wait for when the teacher begins. */
static kd_status write_after_reading(void *user, uint64_t m, uint64_t groups, void *message)
{
    turns *t = user;
    (void)groups;
    cr_expect_eq(t->writer.waits_for.be, t->done.be);
    cr_expect_eq(t->writer.waits_for.number, t->done.number);
    write_words(message, m, 0);
    return KD_OK;
}

Test(channel, the_queues_wait_for_each_other_and_the_host_for_neither)
{
    turns t = {0};
    late_queue_take(&t.writer, teacher_be);
    late_queue_take(&t.reader, student_be);
    t.writer.n_late = t.reader.n_late = 1000;
    kd_channel *channel = channel_of(write_after_reading, &t, 1);
    cr_assert_eq(channel->ops->open_step(channel, 0, 3, 3), KD_OK);
    for (uint64_t m = 0; m < 3; m++) {
        void *message = NULL;
        cr_assert_eq(channel->ops->receive(channel, m, &message), KD_OK);
        cr_expect_eq(t.reader.waits_for.be, teacher_be);
        cr_expect_eq(t.reader.waits_for.number, m + 1);
        t.done = student_be->ops->event_record(student_be);
        cr_assert_eq(channel->ops->release(channel, m, t.done), KD_OK);
    }
    cr_expect_eq(t.writer.n_stops + t.reader.n_stops, 0);
    kd_channel_destroy(channel);
    late_queue_give_back(&t.writer);
    late_queue_give_back(&t.reader);
}

/* The fault is in what was queued, which the host has not waited for. */
static kd_status fail_later(void *user, uint64_t m, uint64_t groups, void *message)
{
    (void)user;
    (void)m;
    (void)groups;
    (void)message;
    teacher_be->fault = KD_ERR_NOMEM;
    return KD_OK;
}

Test(channel, a_fault_of_the_teachers_queue_is_one_of_the_students)
{
    kd_channel *channel = channel_of(fail_later, NULL, 1);
    void *message = NULL;
    cr_assert_eq(channel->ops->open_step(channel, 0, 1, 1), KD_OK);
    cr_assert_eq(channel->ops->receive(channel, 0, &message), KD_OK);
    cr_expect_eq(kd_backend_wait(student_be), KD_ERR_NOMEM);
    kd_channel_destroy(channel);
}

Test(open_steps, are_a_queue_of_bounded_length)
{
    kd_open_steps steps = {0};
    cr_assert_eq(kd_open_steps_init(&steps, 2), KD_OK);
    for (uint64_t i = 0; i < 10; i++) {
        const kd_open_step step = {4 * i, 4 * i + 4, i};
        cr_assert_eq(kd_open_steps_add(&steps, &step), KD_OK);
        cr_assert_not_null(kd_open_steps_find(&steps, 4 * i + 3));
        cr_expect_eq(kd_open_steps_find(&steps, 4 * i + 3)->groups, i);
        cr_expect_null(kd_open_steps_find(&steps, 4 * i + 4));
        kd_open_steps_pass(&steps, 4 * i);
        cr_expect(i == 0 || kd_open_steps_find(&steps, 4 * i - 1) == NULL);
    }
    kd_fault_quiet(1);
    const kd_open_step more[] = {{40, 44, 0}, {44, 48, 0}, {48, 52, 0}}, empty = {40, 40, 0};
    cr_expect_eq(kd_open_steps_add(&steps, &empty), KD_ERR_STATE);
    cr_expect_eq(kd_open_steps_add(&steps, &more[1]), KD_ERR_STATE);
    cr_expect_eq(kd_open_steps_add(&steps, &more[0]), KD_OK);
    cr_expect_eq(kd_open_steps_add(&steps, &more[1]), KD_OK);
    cr_expect_eq(kd_open_steps_add(&steps, &more[2]), KD_ERR_STATE);
    EXPECT_FAULT("no room");
    kd_open_steps_release(&steps);
}

Test(channel, its_memory_stays_until_both_queues_are_past_it)
{
    uint64_t base = 100;
    void *message = NULL;
    late_queue writer, reader;
    late_queue_take(&writer, teacher_be);
    late_queue_take(&reader, student_be);
    kd_channel *channel = channel_of(write_number, &base, 1);
    cr_assert_eq(channel->ops->open_step(channel, 0, 1, 1), KD_OK);
    cr_assert_eq(channel->ops->receive(channel, 0, &message), KD_OK);
    kd_channel_destroy(channel);
    cr_expect_eq(writer.n_past, writer.n_recorded);
    cr_expect_eq(writer.n_waits, 1);
    cr_expect_eq(reader.n_waits, 1);
    late_queue_give_back(&reader);
    late_queue_give_back(&writer);
}
