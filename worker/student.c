/*
 * student.c - the boundary between two steps decides, in this order: live values, checkpoint or stop, which
 * steps' messages may come; then the step runs with nothing left to decide.
 */
#include "worker/student.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "comm/stream.h"
#include "format/model_folder.h"
#include "job/job.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/dtype.h"
#include "train/initial.h"
#include "worker/level.h"

static bool is_leader(const student_rank *rank)
{
    return kd_world_is_leader(rank->w->world);
}

/* Teachers on this rank run where it says; the level is the students' own. */
static kd_status open_device(worker *w,
                             const Kd__Resources *resources,
                             int n_threads,
                             kd_dtype compute,
                             kd_backend **be_out)
{
    const kd_device_place place = {
        .device = resources->device,
        .local_rank = kd_world_local_rank(w->world),
        .n_threads = n_threads,
        .level = w->kernels[0] != '\0' && !level_is_of_cuda(w) ? w->kernels : NULL};
    return devices_open(&w->devices, &place, compute, be_out);
}

/* The model in this process, or only its lm_head if that is all that is needed here. */
static kd_status open_source(student_rank *rank, int i)
{
    const kd_dtype dtype = rank->teaching.teachers[i].compute;
    const Kd__Job *job = rank->w->job;
    teacher_pupil *pupil = &rank->teachers[i];
    if (dtype != rank->be->compute ||
        job->teachers[i]->resources->device != job->student->resources->device) {
        const kd_status st = open_device(rank->w, job->teachers[i]->resources,
                                         (int)job->student->resources->threads, dtype, &pupil->be);
        if (st) {
            return st;
        }
    }
    return teacher_source_open(rank->w, pupil->be != NULL ? pupil->be : rank->be,
                               &rank->teaching.plan, i, NULL, NULL, &pupil->source);
}

static kd_status open_teacher(student_rank *rank, int i)
{
    const worker *w = rank->w;
    const kd_signal_plan *plan = &rank->teaching.plan;
    teacher_pupil *pupil = &rank->teachers[i];
    if (plan->messages[i].n_groups == 0) {
        return KD_OK;
    }
    const kd_status st = teaching_is_local(w->job, i) ? open_source(rank, i) : KD_OK;
    if (st || !teaching_needs_lm_head(w->job, &rank->teaching, i)) {
        return st;
    }
    return kd_model_folder_load_lm_head(w->job->teachers[i]->checkpoint, rank->be,
                                        rank->teaching.teachers[i].compute, &pupil->lm_head);
}

static kd_status open_teachers(student_rank *rank)
{
    const int n = rank->teaching.n_teachers;
    kd_status st = KD_OK;
    rank->teachers = calloc((size_t)n + 1, sizeof *rank->teachers);
    rank->channels = calloc((size_t)n + 1, sizeof(kd_channel *));
    if (rank->teachers == NULL || rank->channels == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d teachers", n);
    }
    for (int i = 0; i < n; i++) {
        rank->teachers[i].lm_head = kd_tensor_none();
    }
    for (int i = 0; !st && i < n; i++) {
        st = open_teacher(rank, i);
    }
    return st;
}

static kd_status open_trainer(student_rank *rank)
{
    const worker *w = rank->w;
    teaching *t = &rank->teaching;
    const kd_trainer_settings settings = {.objective = w->job->objective,
                                          .training = w->job->training,
                                          .max_batch = w->batches.n_batch,
                                          .n_tokens = w->batches.n_tokens};
    kd_parameters *params = NULL;
    for (int i = 0; i < t->n_teachers; i++) {
        const teacher_pupil *pupil = &rank->teachers[i];
        const bool beside = pupil->source.model != NULL && pupil->lm_head.data == NULL;
        t->teachers[i].lm_head = beside ? kd_teacher_lm_head(pupil->source.model) : pupil->lm_head;
    }
    const kd_status st = kd_initial_parameters(rank->be, w->job->student, &t->student, &params);
    return st ? st
              : kd_trainer_create(params, &settings, t->teachers, t->n_teachers, &rank->trainer);
}

/* The student's, and those of teachers here that run on another device or dtype. */
static kd_status tell_places(student_rank *rank)
{
    char role[PLACE_ROLE_BYTES] = "student";
    kd_status st;
    for (int i = 0; i < rank->teaching.n_teachers; i++) {
        const teacher_pupil *pupil = &rank->teachers[i];
        const size_t used = strlen(role);
        if (pupil->source.model != NULL && pupil->be == NULL) {
            (void)snprintf(role + used, sizeof role - used, " and teachers.%d", i);
        }
    }
    st = places_add(&rank->places, rank->be, role);
    for (int i = 0; !st && i < rank->teaching.n_teachers; i++) {
        if (rank->teachers[i].be != NULL) {
            (void)snprintf(role, sizeof role, "teachers.%d", i);
            st = places_add(&rank->places, rank->teachers[i].be, role);
        }
    }
    places_tell(&rank->places, rank->w->link);
    return st;
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
    if (!st) {
        kd_checkpoint_state_release(&state);
    }
    return st;
}

kd_status student_rank_prepare(worker *w, student_rank *rank)
{
    *rank = (student_rank){.w = w, .tokens = {.user = &rank->reader, .next = batch_reader_next}};
    kd_status st = teaching_plan(w, &rank->teaching);
    if (!st) {
        const Kd__Resources *resources = w->job->student->resources;
        st = open_device(w, resources, (int)resources->threads,
                         kd_dtype_of_word(w->job->training->dtype), &rank->be);
    }
    if (!st) {
        st = open_teachers(rank);
    }
    if (!st) {
        st = open_trainer(rank);
    }
    if (!st) {
        st = tell_places(rank);
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

static kd_status connect_teacher(student_rank *rank, int i)
{
    const worker *w = rank->w;
    const kd_message_plan *message = &rank->teaching.plan.messages[i];
    teacher_source *source = &rank->teachers[i].source;
    const int n_steps = orders_lead(w->job) + 1; /* one under way, the others ordered */
    if (message->n_groups == 0) {
        return KD_OK;
    }
    if (source->model != NULL) {
        kd_backend *own = rank->teachers[i].be;
        const kd_local_settings local = {.plan = message,
                                         .n_steps = n_steps,
                                         .writer = own != NULL ? own : rank->be,
                                         .reader = rank->be,
                                         .produce = teacher_source_fill,
                                         .user = source};
        return kd_channel_create_local(&local, &rank->channels[i]);
    }
    const kd_stream_settings settings = {
        .teacher = i,
        .plan = message,
        .be = rank->be,
        .depth = (int)w->job->teachers[i]->stream_depth,
        .n_steps = n_steps,
    };
    return kd_stream_create(w->world, &settings, &rank->channels[i]);
}

kd_status student_rank_connect(student_rank *rank)
{
    rank->reduce = kd_world_reduce(rank->w->world);
    rank->open_end = rank->w->resume.step;
    kd_status st = orders_open(rank->w, &rank->teaching, &rank->orders);
    for (int i = 0; !st && i < rank->teaching.n_teachers; i++) {
        st = connect_teacher(rank, i);
    }
    return st;
}

/* Lets the messages of an ordered step come: receives are posted as soon as there is room. */
static kd_status open_step(student_rank *rank, const kd_step_order *order)
{
    const step_span span = span_of_step(rank->w, order->step);
    kd_status st = KD_OK;
    for (int i = 0; !st && i < rank->teaching.n_teachers; i++) {
        kd_channel *channel = rank->channels[i];
        if (channel != NULL) {
            st = channel->ops->open_step(channel, span.first_m, span.end_m, order->groups[i]);
        }
    }
    rank->open_end = order->step + 1;
    return st;
}

/* The step at hand, and those after it whose orders have come and that will be made. */
static kd_status open_steps(student_rank *rank, const kd_step_order *now)
{
    kd_step_order order = *now;
    kd_status st = KD_OK;
    while (!st && rank->open_end < rank->w->job->training->steps &&
           (rank->open_end == now->step ||
            kd_order_stream_peek(rank->orders.stream, rank->open_end, &order)) &&
           order.kind != KD_ORDER_STOP) {
        st = open_step(rank, &order);
    }
    return st;
}

/* Student r of S takes the micro-batches of the step with m mod S == r. */
static kd_step_work work_of(const student_rank *rank, uint64_t step)
{
    const worker *w = rank->w;
    const uint64_t n_micro = kd_job_micro_batches(w->job);
    const uint64_t n_students = (uint64_t)kd_world_students(w->world);
    return (kd_step_work){
        .step = step,
        .source = &rank->tokens,
        .first_m = step * n_micro + (uint64_t)kd_world_role_rank(w->world),
        .stride = n_students,
        .n_batches = (int64_t)(n_micro / n_students),
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
        kd_trainer_step(rank->trainer, &work, rank->channels, &rank->reduce, &result);
    if (st) {
        return st;
    }
    const double step_s = kd_clock_monotonic_s() - started_s;
    kd_log(KD_LOG_DEBUG, "step %llu: %.6f s, of them %.6f s waiting for signals",
           (unsigned long long)step + 1, step_s, result.stall_s);
    rank->w->done = step + 1;
    rank_link_set_step(rank->w->link, step + 1);
    places_set_times(&rank->places, &result.times);
    places_tell(&rank->places, rank->w->link);
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

static kd_order_kind kind_of_wish(const worker *w)
{
    if (kd_progress_is_stopped()) {
        return KD_ORDER_STOP;
    }
    return rank_link_take_save(w->link) ? KD_ORDER_SAVE : KD_ORDER_CONTINUE;
}

/* The leader's part of an order: what has come for the step that is next to be ordered. */
static kd_status next_of_leader(student_rank *rank, uint64_t step, kd_step_order *order_out)
{
    worker *w = rank->w;
    kd_text changes = {0};
    const uint64_t ahead = step + (uint64_t)orders_lead(w->job);
    kd_status st = live_collect(&w->live, w->link, ahead, &changes);
    if (!st) {
        const kd_order_wish wish = {.kind = kind_of_wish(w), .changes = changes.data};
        st = orders_next(&rank->orders, step, &wish, order_out);
    }
    kd_text_release(&changes);
    return st;
}

/* Takes the order of a step, after which weights, temperature and rate are those of the step. */
static kd_status take_order(student_rank *rank, uint64_t step, kd_step_order *order_out)
{
    const live_values *now = &rank->w->live.now;
    kd_status st = is_leader(rank) ? next_of_leader(rank, step, order_out)
                                   : orders_next(&rank->orders, step, NULL, order_out);
    if (!st && now->n_changes != rank->n_changes) {
        st = kd_trainer_set_objective(rank->trainer, now->job->objective);
        kd_trainer_set_learning_rate(rank->trainer, now->job->training->learning_rate);
        rank->n_changes = now->n_changes;
    }
    return st;
}

static kd_memory_usage memory_usage(const student_rank *rank)
{
    kd_memory_usage usage = rank->be->ops->memory_usage(rank->be);
    for (int i = 0; i < rank->teaching.n_teachers; i++) {
        const kd_backend *own = rank->teachers[i].be;
        if (own != NULL) {
            usage = kd_memory_usage_sum(usage, own->ops->memory_usage(own));
        }
    }
    return usage;
}

/* What a person can do where weights are numbers that no loss can be formed from. */
static void tell_of_checkpoint(const student_rank *rank, uint64_t step)
{
    const resume_point *resume = &rank->w->resume;
    if (kd_trainer_has_diverged(rank->trainer) && is_leader(rank) && resume->path[0] != '\0' &&
        step == resume->step) {
        kd_log(
            KD_LOG_WARN,
            "%s: the first step from this checkpoint failed; without that folder the run goes on "
            "from the one before",
            resume->path);
    }
}

kd_status student_rank_run(student_rank *rank, worker_outcome *outcome_out)
{
    worker *w = rank->w;
    const double started_s = kd_clock_monotonic_s();
    rank_link_set_step(w->link, w->resume.step);

    for (uint64_t step = w->resume.step; step < w->job->training->steps; step++) {
        kd_step_order order;
        kd_status st = take_order(rank, step, &order);
        if (!st && order.kind != KD_ORDER_CONTINUE) {
            st = save(rank, step);
        }
        if (!st && order.kind == KD_ORDER_STOP) {
            *outcome_out = WORKER_STOPPED;
            return KD_OK;
        }
        if (!st) {
            st = open_steps(rank, &order);
        }
        if (!st) {
            st = train_step(rank, step);
            tell_of_checkpoint(rank, step);
        }
        if (!st) {
            st = after_step(rank, step + 1);
        }
        if (st) {
            return st;
        }
    }
    for (int i = 0; is_leader(rank) && i < rank->teaching.n_teachers; i++) {
        if (rank->channels[i] != NULL) {
            teaching_log_channel(rank->channels[i], kd_clock_monotonic_s() - started_s);
        }
    }
    teaching_log_memory(memory_usage(rank));
    const kd_status st = finish(rank);
    if (!st) {
        *outcome_out = WORKER_COMPLETED;
    }
    return st;
}

static void release_teachers(student_rank *rank)
{
    for (int i = 0; rank->teachers != NULL && i < rank->teaching.n_teachers; i++) {
        teacher_pupil *pupil = &rank->teachers[i];
        teacher_source_close(&pupil->source);
        kd_backend_destroy(pupil->be);
        if (pupil->lm_head.data != NULL) {
            rank->be->ops->free(rank->be, pupil->lm_head.data);
        }
    }
    free(rank->teachers);
}

void student_rank_release(student_rank *rank)
{
    places_release(&rank->places);
    output_close(&rank->output);
    for (int i = 0; rank->channels != NULL && i < rank->teaching.n_teachers; i++) {
        kd_channel_destroy(rank->channels[i]);
    }
    free(rank->channels);
    orders_close(&rank->orders);
    kd_trainer_destroy(rank->trainer);
    release_teachers(rank);
    kd_backend_destroy(rank->be);
    teaching_release(&rank->teaching);
    batch_reader_close(&rank->reader);
}
