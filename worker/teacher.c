/*
 * teacher.c - plans, orders and messages from the teacher's side.
 *
 * Which groups travel in a step is a function of job, changes and step, but only the leader computes it: what
 * stands in the order holds even if another rank would have come to another result.
 */
#include "worker/teacher.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/stream.h"
#include "job/job.h"
#include "train/device.h"
#include "train/dtype.h"

kd_status teaching_plan(const worker *w, teaching *teaching_out)
{
    teaching t;
    kd_status st = teaching_of_job(w->job, &t);
    if (st) {
        return st;
    }
    st = batches_check_model(&w->batches, &t.student, "student");
    for (int i = 0; !st && i < t.n_teachers; i++) {
        char who[32];
        (void)snprintf(who, sizeof who, "teachers.%d", i);
        st = batches_check_model(&w->batches, &t.configs[i], who);
    }
    if (st) {
        teaching_release(&t);
        return st;
    }
    *teaching_out = t;
    return KD_OK;
}

step_span span_of_step(const worker *w, uint64_t step)
{
    const uint64_t n_micro = kd_job_micro_batches(w->job);
    return (step_span){step * n_micro, (step + 1) * n_micro};
}

int orders_lead(const Kd__Job *job)
{
    const uint64_t n_step = kd_job_micro_batches(job);
    uint64_t lead = 1;
    for (size_t i = 0; i < job->n_teachers; i++) {
        const Kd__Teacher *teacher = job->teachers[i];
        const uint64_t n_replicas = teacher->resources->ranks;
        const uint64_t n_ahead =
            teacher->stream_depth * (job->student->resources->ranks + n_replicas);
        const uint64_t n_steps = (n_ahead + n_step - 1) / n_step;
        lead = n_replicas > 0 && n_steps > lead ? n_steps : lead;
    }
    return lead < KD_ORDER_LEAD_MAX ? (int)lead : KD_ORDER_LEAD_MAX;
}

/* For the leader's orders: what the losses that have weight in that step read. */
static uint64_t groups_of_step(void *user, uint64_t step, uint64_t *groups_out)
{
    order_source *orders = user;
    live *l = &orders->w->live;
    const teaching *t = orders->teaching;
    const kd_status st = live_plan(l, step);
    const uint64_t readers = kd_objective_readers(l->ahead.job->objective, step);
    for (int i = 0; i < t->n_teachers; i++) {
        groups_out[i] = kd_signal_plan_mask(&t->plan, i, readers);
    }
    orders->fault = orders->fault ? orders->fault : st;
    return l->ahead.n_changes;
}

kd_status orders_open(worker *w, const teaching *t, order_source *orders_out)
{
    const kd_order_settings settings = {
        .first_step = w->resume.step,
        .lead = orders_lead(w->job),
        .n_teachers = t->n_teachers,
        .groups_of = groups_of_step,
        .user = orders_out,
    };
    *orders_out = (order_source){.w = w, .teaching = t};
    const kd_status st = kd_order_stream_create(w->world, &settings, &orders_out->stream);
    return st ? st : orders_out->fault;
}

void orders_close(order_source *orders)
{
    kd_order_stream_destroy(orders->stream);
    *orders = (order_source){0};
}

kd_status orders_next(order_source *orders,
                      uint64_t step,
                      const kd_order_wish *wish,
                      kd_step_order *order_out)
{
    kd_status st = kd_order_stream_next(orders->stream, step, wish, order_out);
    if (!st) {
        st = orders->fault;
    }
    return st ? st : live_take(&orders->w->live, order_out);
}

kd_status teacher_source_open(const worker *w,
                              kd_backend *be,
                              const kd_signal_plan *plan,
                              int teacher,
                              void (*on_block)(void *user),
                              void *user,
                              teacher_source *source_out)
{
    teacher_source source = {.plan = plan, .teacher = teacher};
    const kd_teacher_settings settings = {
        .max_batch = w->batches.n_batch,
        .n_tokens = w->batches.n_tokens,
        .on_block = on_block,
        .user = user,
    };
    kd_status st = batch_reader_open(&w->batches, &source.reader);
    if (!st) {
        st = kd_teacher_load(be, w->job->teachers[teacher]->checkpoint, &settings, &source.model);
    }
    if (st) {
        teacher_source_close(&source);
        return st;
    }
    *source_out = source;
    return KD_OK;
}

void teacher_source_close(teacher_source *source)
{
    kd_teacher_destroy(source->model);
    batch_reader_close(&source->reader);
    *source = (teacher_source){0};
}

kd_status teacher_source_fill(void *user, uint64_t m, uint64_t groups, void *message)
{
    teacher_source *source = user;
    const kd_teacher_part part = {source->plan, source->teacher, groups};
    kd_batch batch;
    const kd_status st = batch_reader_next(&source->reader, m, &batch);
    return st ? st : kd_teacher_fill(source->model, &batch, &part, message);
}

static void on_block(void *user)
{
    const teacher_rank *rank = user;
    if (rank->channel != NULL) {
        rank->channel->ops->progress(rank->channel);
    }
}

void teaching_log_channel(const kd_channel *channel, double elapsed_s)
{
    const double stall_s = (double)channel->stall_ns * 1e-9;
    kd_log(KD_LOG_INFO, "signals: %" PRIu64 " messages, %.1f MiB, waited for %.3f s of %.3f s",
           channel->messages_moved, (double)channel->bytes_moved / 1048576.0, stall_s, elapsed_s);
}

void teaching_log_memory(kd_memory_usage usage)
{
    kd_log(KD_LOG_INFO, "memory: %zu B held, %zu B of scratch, %zu B for products",
           usage.held_bytes, usage.scratch_bytes, usage.products_bytes);
}

static const kd_message_plan *message_of(const teacher_rank *rank)
{
    return &rank->teaching.plan.messages[rank->teacher];
}

kd_status teacher_rank_prepare(worker *w, teacher_rank *rank)
{
    *rank = (teacher_rank){.w = w, .teacher = kd_world_teacher(w->world)};
    kd_status st = teaching_plan(w, &rank->teaching);
    if (st || message_of(rank)->n_groups == 0) {
        return st;
    }
    const Kd__Teacher *teacher = w->job->teachers[rank->teacher];
    const kd_device_place place = {.device = teacher->resources->device,
                                   .local_rank = kd_world_local_rank(w->world),
                                   .n_threads = (int)teacher->resources->threads};
    st = devices_open(&w->devices, &place, kd_dtype_of_word(teacher->dtype), &rank->be);
    if (!st) {
        st = teacher_source_open(w, rank->be, &rank->teaching.plan, rank->teacher, on_block, rank,
                                 &rank->source);
    }
    if (!st) {
        rank->clock = kd_step_clock_of(rank->be);
        char role[PLACE_ROLE_BYTES];
        (void)snprintf(role, sizeof role, "teachers.%d", rank->teacher);
        st = places_add(&rank->places, rank->be, role);
        places_tell(&rank->places, w->link);
    }
    return st;
}

kd_status teacher_rank_connect(teacher_rank *rank)
{
    worker *w = rank->w;
    kd_status st = orders_open(w, &rank->teaching, &rank->orders);
    if (st || message_of(rank)->n_groups == 0) {
        return st;
    }
    const kd_stream_settings settings = {
        .teacher = rank->teacher,
        .plan = message_of(rank),
        .be = rank->be,
        .depth = (int)w->job->teachers[rank->teacher]->stream_depth,
        .n_steps = 1,
    };
    return kd_stream_create(w->world, &settings, &rank->channel);
}

static kd_status teach_batch(teacher_rank *rank, uint64_t m, uint64_t groups)
{
    kd_channel *channel = rank->channel;
    void *message = NULL;
    kd_status st = channel->ops->begin_send(channel, m, &message);
    kd_step_clock_close(&rank->clock, KD_STEP_SIGNALS);
    if (!st) {
        st = teacher_source_fill(&rank->source, m, groups, message);
        kd_step_clock_close(&rank->clock, KD_STEP_TEACHER);
    }
    if (!st) {
        st = channel->ops->end_send(channel, m, rank->be->ops->event_record(rank->be));
    }
    return st;
}

/* Times are those of a step that the queue is past, be it an earlier one: nobody waits for them. */
static void tell_places(teacher_rank *rank)
{
    kd_step_times times;
    if (rank->channel != NULL && kd_step_clock_read(&rank->clock, &times)) {
        places_set_times(&rank->places, &times);
    }
    places_tell(&rank->places, rank->w->link);
}

/* This rank's micro-batches of one step, with what its order says travels. */
static kd_status teach_step(teacher_rank *rank, const kd_step_order *order)
{
    const uint64_t n_replicas = (uint64_t)kd_world_replicas(rank->w->world, rank->teacher);
    const uint64_t mine = (uint64_t)kd_world_role_rank(rank->w->world);
    const uint64_t groups = order->groups[rank->teacher];
    const step_span span = span_of_step(rank->w, order->step);

    kd_status st = rank->channel->ops->open_step(rank->channel, span.first_m, span.end_m, groups);
    kd_step_clock_begin(&rank->clock, (int64_t)((span.end_m - span.first_m) / n_replicas + 1) * 2);
    for (uint64_t m = span.first_m; !st && groups != 0 && m < span.end_m; m++) {
        if (m % n_replicas == mine) {
            st = teach_batch(rank, m, groups);
            kd_log(KD_LOG_DEBUG, "micro-batch %llu is on its way", (unsigned long long)m);
        }
    }
    return st;
}

kd_status teacher_rank_run(teacher_rank *rank, worker_outcome *outcome_out)
{
    const worker *w = rank->w;
    const double started_s = kd_clock_monotonic_s();
    worker_outcome outcome = WORKER_COMPLETED;
    kd_status st = KD_OK;

    for (uint64_t step = w->resume.step; !st && step < w->job->training->steps; step++) {
        kd_step_order order;
        st = orders_next(&rank->orders, step, NULL, &order);
        if (!st && order.kind == KD_ORDER_STOP) {
            outcome = WORKER_STOPPED;
            break;
        }
        if (!st && rank->channel != NULL) {
            st = teach_step(rank, &order);
        }
        rank_link_set_step(w->link, step + 1);
        tell_places(rank);
    }
    if (!st && rank->channel != NULL) {
        st = rank->channel->ops->flush(rank->channel);
        teaching_log_channel(rank->channel, kd_clock_monotonic_s() - started_s);
        teaching_log_memory(rank->be->ops->memory_usage(rank->be));
    }
    if (!st) {
        *outcome_out = outcome;
    }
    return st;
}

void teacher_rank_release(teacher_rank *rank)
{
    places_release(&rank->places);
    kd_channel_destroy(rank->channel);
    orders_close(&rank->orders);
    teacher_source_close(&rank->source);
    kd_step_clock_release(&rank->clock);
    kd_backend_destroy(rank->be);
    teaching_release(&rank->teaching);
}
