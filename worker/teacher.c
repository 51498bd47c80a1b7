#include "worker/teacher.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/stream.h"
#include "format/model_folder.h"
#include "worker/settings.h"

kd_teacher_view teaching_view(const worker *w, const teaching *t)
{
    if (!t->has_teacher) {
        return (kd_teacher_view){0};
    }
    return (kd_teacher_view){.config = &t->teacher, .transport = w->job->teachers[0]->transport};
}

kd_status teaching_plan(const worker *w, teaching *teaching_out)
{
    teaching t = {.has_teacher = w->job->n_teachers > 0};
    kd_status st = settings_student_model(w->job, &t.student);
    if (!st) {
        st = batches_check_model(&w->batches, &t.student, "student");
    }
    if (!st && t.has_teacher) {
        st = kd_model_folder_config(w->job->teachers[0]->checkpoint, &t.teacher);
    }
    if (!st && t.has_teacher) {
        st = batches_check_model(&w->batches, &t.teacher, "teachers.0");
    }
    if (!st) {
        const kd_teacher_view seen = teaching_view(w, &t);
        st = kd_objective_plan(w->job->objective, &t.student, &seen, t.has_teacher ? 1 : 0,
                               settings_dtype(w->job),
                               (int64_t)w->batches.n_batch * w->batches.n_tokens, &t.plan);
    }
    if (!st) {
        *teaching_out = t;
    }
    return st;
}

kd_status teacher_source_open(const worker *w,
                              kd_backend *be,
                              const kd_signal_plan *plan,
                              void (*on_block)(void *user),
                              void *user,
                              teacher_source *source_out)
{
    teacher_source source = {.plan = plan};
    const kd_teacher_settings settings = {
        .max_batch = w->batches.n_batch,
        .n_tokens = w->batches.n_tokens,
        .on_block = on_block,
        .user = user,
    };
    kd_status st = batch_reader_open(&w->batches, &source.reader);
    if (!st) {
        st = kd_teacher_load(be, w->job->teachers[0]->checkpoint, &settings, &source.model);
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

kd_status teacher_source_fill(void *user, uint64_t m, void *message)
{
    teacher_source *source = user;
    kd_batch batch;
    const kd_status st = batch_reader_next(&source->reader, m, &batch);
    return st ? st : kd_teacher_fill(source->model, &batch, source->plan, message);
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

kd_status teacher_rank_prepare(worker *w, teacher_rank *rank)
{
    *rank = (teacher_rank){.w = w};
    kd_status st = teaching_plan(w, &rank->teaching);
    if (st || rank->teaching.plan.n_signals == 0) {
        return st;
    }
    st = kd_backend_create_cpu(settings_dtype(w->job), (int)w->job->teachers[0]->resources->threads,
                               &rank->be);
    if (!st) {
        st = teacher_source_open(w, rank->be, &rank->teaching.plan, on_block, rank, &rank->source);
    }
    return st;
}

kd_status teacher_rank_connect(teacher_rank *rank)
{
    const worker *w = rank->w;
    const uint64_t n_micro = settings_micro_batches(w->job);
    kd_status st = kd_order_stream_create(w->world, w->resume.step, settings_order_lead(w->job),
                                          &rank->orders);
    if (!st && rank->teaching.plan.n_signals > 0) {
        st = kd_stream_create(w->world, rank->teaching.plan.message_bytes,
                              (int)w->job->teachers[0]->stream_depth, w->resume.step * n_micro,
                              w->job->training->steps * n_micro, &rank->channel);
    }
    return st;
}

/* This rank's micro-batches of one step. */
static kd_status teach_step(teacher_rank *rank, uint64_t step)
{
    const uint64_t n_micro = settings_micro_batches(rank->w->job);
    const uint64_t n_teachers = (uint64_t)kd_world_teachers(rank->w->world);
    const uint64_t mine = (uint64_t)kd_world_role_rank(rank->w->world);

    for (uint64_t m = step * n_micro; m < (step + 1) * n_micro; m++) {
        void *message = NULL;
        if (m % n_teachers != mine) {
            continue;
        }
        kd_status st = rank->channel->ops->begin_send(rank->channel, m, &message);
        if (!st) {
            st = teacher_source_fill(&rank->source, m, message);
        }
        if (!st) {
            st = rank->channel->ops->end_send(rank->channel, m);
        }
        if (st) {
            return st;
        }
        kd_log(KD_LOG_DEBUG, "micro-batch %llu is on its way", (unsigned long long)m);
    }
    return KD_OK;
}

kd_status teacher_rank_run(teacher_rank *rank, worker_outcome *outcome_out)
{
    const worker *w = rank->w;
    const double started_s = kd_clock_monotonic_s();
    worker_outcome outcome = WORKER_COMPLETED;
    kd_status st = KD_OK;

    for (uint64_t step = w->resume.step; !st && step < w->job->training->steps; step++) {
        kd_step_order order;
        st = kd_order_stream_next(rank->orders, step, KD_ORDER_CONTINUE, &order);
        if (!st && order.kind == KD_ORDER_STOP) {
            outcome = WORKER_STOPPED;
            break;
        }
        if (!st && rank->channel != NULL) {
            st = teach_step(rank, step);
        }
        rank_link_set_step(w->link, step + 1);
    }
    if (!st && rank->channel != NULL) {
        st = rank->channel->ops->flush(rank->channel);
        teaching_log_channel(rank->channel, kd_clock_monotonic_s() - started_s);
    }
    if (!st) {
        *outcome_out = outcome;
    }
    return st;
}

void teacher_rank_release(teacher_rank *rank)
{
    kd_channel_destroy(rank->channel);
    kd_order_stream_destroy(rank->orders);
    teacher_source_close(&rank->source);
    kd_backend_destroy(rank->be);
}
