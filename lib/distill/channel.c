/*
 * channel.c - the local channel: one message at a time, since the teacher runs only when it is asked for.
 */
#include "distill/channel.h"

#include <stdlib.h>

#include "base/log.h"
#include "distill/open_steps.h"

typedef struct message_place {
    kd_backend *owner;
    kd_memory kind;
    void *memory;
} message_place;

typedef struct local_channel {
    kd_channel base; /* first: a kd_channel * to it is one to us */
    kd_channel_produce produce;
    void *user;
    kd_backend *writer, *reader;
    kd_message_plan plan;
    kd_open_steps steps;
    kd_backend *mover;      /* of messages from `from` to `to`; NULL: they are one buffer */
    message_place from, to; /* what the writer writes, and the reader reads                 */
    bool held;              /* received and not yet released                                */
    uint64_t m;             /* of the message held                                          */
    kd_event moved, done;   /* the last message has crossed, and the reader is past it        */
} local_channel;

static kd_status
local_open_step(kd_channel *channel, uint64_t first_m, uint64_t end_m, uint64_t groups)
{
    local_channel *local = (local_channel *)channel;
    const kd_open_step step = {first_m, end_m, groups};
    return kd_open_steps_add(&local->steps, &step);
}

static kd_status local_begin_send(kd_channel *channel, uint64_t m, void **buffer_out)
{
    (void)channel;
    (void)buffer_out;
    return kd_fail(KD_ERR_STATE, "micro-batch %llu: a local channel is not sent to",
                   (unsigned long long)m);
}

static kd_status local_end_send(kd_channel *channel, uint64_t m, kd_event ready)
{
    (void)ready;
    return local_begin_send(channel, m, NULL);
}

static kd_status local_flush(kd_channel *channel)
{
    (void)channel;
    return KD_OK;
}

kd_event kd_message_carry(kd_backend *mover,
                          const kd_message_plan *plan,
                          uint64_t groups,
                          void *dst,
                          const void *src,
                          kd_event after)
{
    kd_event end = after;
    for (int g = 0; g < plan->n_groups; g++) {
        const kd_signal_group *group = &plan->groups[g];
        if ((groups >> g & 1) != 0) {
            end = mover->ops->transfer(mover, (char *)dst + group->offset_bytes,
                                       (const char *)src + group->offset_bytes, group->size_bytes,
                                       after);
        }
    }
    return end;
}

/* Between the queues: written after it was read the last time, read after it was written. */
static kd_status produce(local_channel *local, uint64_t m, uint64_t groups)
{
    kd_backend *writer = local->writer, *reader = local->reader;
    writer->ops->event_wait(writer, local->moved);
    writer->ops->event_wait(writer, local->done);
    const kd_status st = local->produce(local->user, m, groups, local->from.memory);
    if (!st) {
        kd_event here = writer->ops->event_record(writer);
        if (local->mover != NULL) {
            here = local->moved = kd_message_carry(local->mover, &local->plan, groups,
                                                   local->to.memory, local->from.memory, here);
        }
        reader->ops->event_wait(reader, here);
    }
    return st;
}

/* The time in `produce` is the teacher's work, not a stall: there is nobody to wait for. */
static kd_status local_receive(kd_channel *channel, uint64_t m, void **message_out)
{
    local_channel *local = (local_channel *)channel;
    if (local->held) {
        return kd_fail(KD_ERR_STATE,
                       "micro-batch %llu received before micro-batch %llu was released",
                       (unsigned long long)m, (unsigned long long)local->m);
    }
    const kd_open_step *step = kd_open_steps_find(&local->steps, m);
    if (step == NULL) {
        return kd_fail(KD_ERR_STATE, "micro-batch %llu received before its step was opened",
                       (unsigned long long)m);
    }
    const uint64_t groups = step->groups;
    kd_open_steps_pass(&local->steps, m);
    if (groups == 0) {
        *message_out = NULL;
        return KD_OK;
    }
    const kd_status st = produce(local, m, groups);
    if (st) {
        return st;
    }
    local->held = true;
    local->m = m;
    channel->bytes_moved += kd_message_plan_bytes(&local->plan, groups);
    channel->messages_moved++;
    *message_out = local->to.memory;
    return KD_OK;
}

static kd_status local_release(kd_channel *channel, uint64_t m, kd_event done)
{
    local_channel *local = (local_channel *)channel;
    const kd_open_step *step = kd_open_steps_find(&local->steps, m);
    if (step != NULL && step->groups == 0) {
        return KD_OK; /* no message came */
    }
    if (!local->held || local->m != m) {
        return kd_fail(KD_ERR_STATE, "micro-batch %llu released, which is not held",
                       (unsigned long long)m);
    }
    local->held = false;
    local->done = done;
    return KD_OK;
}

static void local_progress(kd_channel *channel)
{
    (void)channel;
}

static void local_destroy(kd_channel *channel)
{
    local_channel *local = (local_channel *)channel;
    kd_backend_drain(local->writer); /* what is queued may write or read the message */
    kd_backend_drain(local->reader);
    kd_open_steps_release(&local->steps);
    if (local->mover != NULL) {
        local->from.owner->ops->free(local->from.owner, local->from.memory);
    }
    local->to.owner->ops->free(local->to.owner, local->to.memory);
    free(local);
}

static const kd_channel_ops local_ops = {
    .open_step = local_open_step,
    .begin_send = local_begin_send,
    .end_send = local_end_send,
    .flush = local_flush,
    .receive = local_receive,
    .release = local_release,
    .progress = local_progress,
    .destroy = local_destroy,
};

/* Near the back end's operations. Where those are the host's, a device's registered memory is as near. */
static message_place place_for(kd_backend *be, kd_backend *mover)
{
    return be->device.kind == KD_DEVICE_CPU ? (message_place){mover, KD_MEMORY_HOST, NULL}
                                            : (message_place){be, KD_MEMORY_DEVICE, NULL};
}

static bool on_one_device(const kd_backend *a, const kd_backend *b)
{
    return a->device.kind == b->device.kind && a->device.number == b->device.number;
}

static kd_status take_messages(local_channel *local)
{
    kd_backend *writer = local->writer, *reader = local->reader;
    const size_t size_bytes = kd_message_plan_slots_bytes(&local->plan, 1);
    const char *what = "signals of a micro-batch";
    kd_status st = KD_OK;
    local->to = (message_place){reader, KD_MEMORY_DEVICE, NULL};
    if (!on_one_device(writer, reader)) {
        local->mover = reader->device.kind != KD_DEVICE_CPU ? reader : writer;
        local->to = place_for(reader, local->mover);
        local->from = place_for(writer, local->mover);
        st = kd_backend_place(local->from.owner, local->from.kind, size_bytes, &local->from.memory,
                              "%s", what);
    }
    if (!st) {
        st = kd_backend_place(local->to.owner, local->to.kind, size_bytes, &local->to.memory, "%s",
                              what);
    }
    if (local->mover == NULL) {
        local->from = local->to;
    }
    return st;
}

kd_status kd_channel_create_local(const kd_local_settings *settings, kd_channel **channel_out)
{
    local_channel *local = calloc(1, sizeof *local);
    if (local == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a channel");
    }
    *local = (local_channel){.base = {.ops = &local_ops, .is_local = true},
                             .produce = settings->produce,
                             .user = settings->user,
                             .writer = settings->writer,
                             .reader = settings->reader,
                             .plan = *settings->plan};
    kd_status st = take_messages(local);
    if (!st) {
        st = kd_open_steps_init(&local->steps, settings->n_steps);
    }
    if (st) {
        local_destroy(&local->base);
        return st;
    }
    *channel_out = &local->base;
    return KD_OK;
}

void kd_channel_destroy(kd_channel *channel)
{
    if (channel != NULL) {
        channel->ops->destroy(channel);
    }
}
