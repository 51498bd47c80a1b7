#include "worker/student.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/stream.h"
#include "format/model_folder.h"
#include "train/checkpoint.h"
#include "worker/settings.h"

static bool is_leader(const student_rank *rank)
{
    return kd_world_is_leader(rank->w->world);
}

/* The model in this process, or only its lm_head if that is all that is needed here. */
static kd_status open_teacher(student_rank *rank)
{
    const worker *w = rank->w;
    if (settings_teacher_ranks(w->job) == 0) {
        return teacher_source_open(w, rank->be, &rank->teaching.plan, NULL, NULL, &rank->source);
    }
    if (kd_signal_plan_find(&rank->teaching.plan, KD_SIGNAL_HIDDEN, 0) == NULL) {
        return KD_OK;
    }
    return kd_model_folder_load_lm_head(w->job->teachers[0]->checkpoint, rank->be, &rank->lm_head);
}

static kd_status open_parameters(const student_rank *rank, kd_parameters **params_out)
{
    const Kd__Student *student = rank->w->job->student;
    kd_parameters *params = NULL;
    kd_status st =
        kd_parameters_create(rank->be, &rank->teaching.student, KD_PARAMS_TRAIN, &params);
    if (st) {
        return st;
    }
    if (student->init == KD__STUDENT__INIT__CHECKPOINT) {
        st = kd_model_folder_load(student->checkpoint, params);
    } else {
        st = kd_parameters_init(params, student->seed);
    }
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    *params_out = params;
    return KD_OK;
}

static kd_status open_trainer(student_rank *rank)
{
    const worker *w = rank->w;
    kd_teacher_view teacher = teaching_view(w, &rank->teaching);
    const kd_trainer_settings settings = {.objective = w->job->objective,
                                          .training = w->job->training,
                                          .max_batch = w->batches.n_batch,
                                          .n_tokens = w->batches.n_tokens};
    kd_parameters *params = NULL;
    teacher.lm_head =
        rank->source.model != NULL ? kd_teacher_lm_head(rank->source.model) : rank->lm_head;
    const kd_status st = open_parameters(rank, &params);
    return st ? st
              : kd_trainer_create(params, &settings, &teacher, rank->teaching.has_teacher ? 1 : 0,
                                  &rank->trainer);
}

/* Back to where the last attempt stood, if one came that far. */
static kd_status resume(const student_rank *rank)
{
    const resume_point *point = &rank->w->resume;
    kd_checkpoint_state state;
    if (point->path[0] == '\0') {
        return KD_OK;
    }
    const kd_status st =
        kd_checkpoint_load(point->path, kd_trainer_optimizer(rank->trainer), rank->w->hash, &state);
    if (!st && is_leader(rank)) {
        kd_log(KD_LOG_INFO, "resumes at step %llu from %s", (unsigned long long)state.step,
               point->path);
    }
    return st;
}

kd_status student_rank_prepare(worker *w, student_rank *rank)
{
    *rank = (student_rank){.w = w,
                           .lm_head = kd_tensor_none(),
                           .tokens = {.user = &rank->reader, .next = batch_reader_next}};
    kd_status st = teaching_plan(w, &rank->teaching);
    if (!st) {
        st = kd_backend_create_cpu(settings_dtype(w->job), (int)w->job->student->resources->threads,
                                   &rank->be);
    }
    if (!st && rank->teaching.plan.n_signals > 0) {
        st = open_teacher(rank);
    }
    if (!st) {
        st = open_trainer(rank);
    }
    if (!st) {
        st = resume(rank);
    }
    if (!st) {
        st = batch_reader_open(&w->batches, &rank->reader);
    }
    if (!st && is_leader(rank)) {
        st = output_open(w, &rank->output);
    }
    return st;
}

kd_status student_rank_connect(student_rank *rank)
{
    const worker *w = rank->w;
    const size_t message_bytes = rank->teaching.plan.message_bytes;
    const uint64_t n_micro = settings_micro_batches(w->job);

    rank->reduce = kd_world_reduce(w->world);
    const kd_status st = kd_order_stream_create(w->world, w->resume.step,
                                                settings_order_lead(w->job), &rank->orders);
    if (st || rank->teaching.plan.n_signals == 0) {
        return st;
    }
    if (rank->source.model != NULL) {
        return kd_channel_create_local(message_bytes, teacher_source_fill, &rank->source,
                                       &rank->channel);
    }
    return kd_stream_create(w->world, message_bytes, (int)w->job->teachers[0]->stream_depth,
                            w->resume.step * n_micro, w->job->training->steps * n_micro,
                            &rank->channel);
}

/* Student r of S takes the micro-batches of the step with m mod S == r. */
static kd_step_work work_of(const student_rank *rank, uint64_t step)
{
    const worker *w = rank->w;
    const uint64_t n_micro = settings_micro_batches(w->job);
    const uint64_t n_students = (uint64_t)kd_world_students(w->world);
    const bool local = rank->source.model != NULL;
    return (kd_step_work){
        .step = step,
        .source = &rank->tokens,
        .first_m = step * n_micro + (uint64_t)kd_world_role_rank(w->world),
        .stride = n_students,
        .n_batches = (int64_t)(n_micro / n_students),
        /* Other ranks send every message of the plan. */
        .groups = local ? kd_objective_groups(w->job->objective, step) : ~(uint64_t)0,
    };
}

static kd_status save(student_rank *rank, uint64_t step)
{
    return is_leader(rank) ? output_save_checkpoint(&rank->output, rank->trainer, step) : KD_OK;
}

/* All students together; the leader tells. */
static kd_status evaluate(student_rank *rank, uint64_t step)
{
    kd_evaluation evaluation;
    if (!rank->w->batches.has_test) {
        return KD_OK;
    }
    const kd_sequences sequences = batches_held_out(&rank->w->batches);
    const kd_status st = kd_trainer_evaluate(rank->trainer, &sequences, &rank->reduce, &evaluation);
    if (st || !is_leader(rank)) {
        return st;
    }
    return output_add_evaluation(&rank->output, step, &evaluation);
}

static bool is_due(uint64_t step, uint64_t every_steps)
{
    return every_steps > 0 && step % every_steps == 0;
}

/* One update, from reading to reporting. Its rates are of its own time: what stands between two steps,
 * an evaluation or a save, is neither's. */
static kd_status train_step(student_rank *rank, uint64_t step)
{
    const double started_s = kd_clock_monotonic_s();
    const kd_step_work work = work_of(rank, step);
    kd_step_result result;
    const kd_status st =
        kd_trainer_step(rank->trainer, &work, rank->channel, &rank->reduce, &result);
    if (st) {
        return st;
    }
    const double step_s = kd_clock_monotonic_s() - started_s;
    kd_log(KD_LOG_DEBUG, "step %llu: %.6f s, of them %.6f s waiting for signals",
           (unsigned long long)step + 1, step_s, result.stall_s);
    rank->w->done = step + 1;
    rank_link_set_step(rank->w->link, step + 1);
    return is_leader(rank) ? output_add_step(&rank->output, step + 1, &result, step_s) : KD_OK;
}

/* What is due after `done` updates. The last ones belong to finish(). */
static kd_status after_step(student_rank *rank, uint64_t done)
{
    const Kd__Job *job = rank->w->job;
    kd_status st = KD_OK;
    if (done == job->training->steps) {
        return KD_OK;
    }
    if (is_due(done, job->evaluation->every_steps)) {
        st = evaluate(rank, done);
    }
    if (!st && is_due(done, job->checkpoint->every_steps)) {
        st = save(rank, done);
    }
    return st;
}

/* A resumed attempt may find that only this is left. */
static kd_status finish(student_rank *rank)
{
    const uint64_t n_steps = rank->w->job->training->steps;
    kd_status st = save(rank, n_steps);
    if (!st) {
        st = evaluate(rank, n_steps);
    }
    if (!st && is_leader(rank)) {
        st = output_save_final(&rank->output, rank->trainer);
    }
    return st;
}

static kd_order_kind wish(const worker *w)
{
    if (rank_link_wants_stop(w->link) || *w->stop_signal) {
        return KD_ORDER_STOP;
    }
    return rank_link_take_save(w->link) ? KD_ORDER_SAVE : KD_ORDER_CONTINUE;
}

kd_status student_rank_run(student_rank *rank, worker_outcome *outcome_out)
{
    worker *w = rank->w;
    const double started_s = kd_clock_monotonic_s();
    w->done = w->resume.step;
    rank_link_set_step(w->link, w->resume.step);

    for (uint64_t step = w->resume.step; step < w->job->training->steps; step++) {
        kd_step_order order;
        kd_status st = kd_order_stream_next(rank->orders, step, wish(w), &order);
        if (!st && order.kind != KD_ORDER_CONTINUE) {
            st = save(rank, step);
        }
        if (!st && order.kind == KD_ORDER_STOP) {
            *outcome_out = WORKER_STOPPED;
            return KD_OK;
        }
        if (!st) {
            st = train_step(rank, step);
        }
        if (!st) {
            st = after_step(rank, step + 1);
        }
        if (st) {
            return st;
        }
    }
    if (is_leader(rank) && rank->channel != NULL) {
        teaching_log_channel(rank->channel, kd_clock_monotonic_s() - started_s);
    }
    const kd_status st = finish(rank);
    if (!st) {
        *outcome_out = WORKER_COMPLETED;
    }
    return st;
}

void student_rank_release(student_rank *rank)
{
    output_close(&rank->output);
    kd_channel_destroy(rank->channel);
    kd_order_stream_destroy(rank->orders);
    kd_trainer_destroy(rank->trainer);
    teacher_source_close(&rank->source);
    if (rank->lm_head.data != NULL) {
        rank->be->ops->free(rank->be, rank->lm_head.data);
    }
    kd_backend_destroy(rank->be);
    batch_reader_close(&rank->reader);
}
