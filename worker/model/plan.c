/* plan.c - who does what in a job, and what it costs; the memory is found by plan_memory.c and plan_student.c. */
#include "worker/model/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/log.h"
#include "data/order.h"
#include "job/job.h"
#include "shape/count.h"
#include "train/dtype.h"
#include "worker/auto.h"
#include "worker/batches.h"

/* ---- what the job leaves open ---- */

/* All ranks are on machines as this one. */
static kd_status decide(Kd__Job *job)
{
    role_count *counts = calloc(1 + job->n_teachers, sizeof *counts);
    if (counts == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %zu teachers", job->n_teachers);
    }
    const role_count here = role_count_here(0);
    for (size_t i = 0; i <= job->n_teachers; i++) {
        const Kd__Resources *resources =
            i == 0 ? job->student->resources : job->teachers[i - 1]->resources;
        const int64_t n = resources->ranks;
        counts[i] = (role_count){n, n * here.n_see, n * here.n_multiply};
    }
    auto_resolve(job, counts);
    free(counts);
    return teaching_resolve_transports(job);
}

static kd_status note_wishes(const Kd__Job *job, plan *p)
{
    p->n_roles = 1 + (int)job->n_teachers;
    p->roles = calloc((size_t)p->n_roles, sizeof *p->roles);
    p->streams = calloc((size_t)p->n_roles, sizeof *p->streams);
    if (p->roles == NULL || p->streams == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a plan of %d roles", p->n_roles);
    }
    p->roles[0].is_auto = job->training->dtype == KD__DTYPE__AUTO;
    for (size_t i = 0; i < job->n_teachers; i++) {
        p->roles[1 + i].is_auto = job->teachers[i]->dtype == KD__DTYPE__AUTO;
        p->streams[i].is_auto = job->teachers[i]->transport == KD__TEACHER__TRANSPORT__AUTO;
    }
    return KD_OK;
}

/* ---- roles ---- */

/* A teacher that gives hidden states applies no lm_head: the student's ranks do. */
static double teacher_vocabulary(const plan *p, int i)
{
    const bool hidden = kd_signal_plan_find(&p->teaching.plan, i, KD_SIGNAL_HIDDEN, 0) != NULL;
    return hidden ? kd_model_config_vocabulary_flops(&p->teaching.configs[i]) : 0.0;
}

static plan_flops student_flops(const plan *p)
{
    const kd_model_config *student = &p->teaching.student;
    const double forward = kd_model_config_forward_flops(student);
    plan_flops flops = {.forward = forward, .backward = KD_BACKWARD_OVER_FORWARD * forward};
    for (int i = 0; i < p->teaching.n_teachers; i++) {
        flops.teacher_logits += teacher_vocabulary(p, i);
    }
    flops.vocabulary =
        (1.0 + KD_BACKWARD_OVER_FORWARD) * kd_model_config_vocabulary_flops(student) +
        flops.teacher_logits;
    return flops;
}

static plan_flops teacher_flops(const plan *p, int i)
{
    const kd_model_config *config = &p->teaching.configs[i];
    if (p->teaching.plan.messages[i].n_groups == 0) {
        return (plan_flops){0};
    }
    const double all = kd_model_config_vocabulary_flops(config);
    const double vocabulary =
        kd_signal_plan_find(&p->teaching.plan, i, KD_SIGNAL_LOGITS, 0) != NULL ? all : 0.0;
    return (plan_flops){.forward = kd_model_config_forward_flops(config) - all + vocabulary,
                        .vocabulary = vocabulary};
}

static kd_device_kind kind_of(const Kd__Resources *resources)
{
    return resources->device == KD__RESOURCES__DEVICE__CUDA ? KD_DEVICE_CUDA : KD_DEVICE_CPU;
}

static void describe_student(plan *p)
{
    const Kd__Resources *resources = p->job->student->resources;
    plan_role *role = &p->roles[0];
    (void)snprintf(role->name, sizeof role->name, "student");
    role->n_ranks = resources->ranks;
    role->n_threads = resources->threads;
    role->dtype = kd_dtype_of_word(p->job->training->dtype);
    role->device = kind_of(resources);
    role->n_micro_batches = kd_job_micro_batches(p->job) / resources->ranks;
    role->flops = student_flops(p);
}

static void describe_teacher(plan *p, int i)
{
    const Kd__Teacher *teacher = p->job->teachers[i];
    const Kd__Resources *mine = teacher->resources, *students = p->job->student->resources;
    const bool is_local = teaching_is_local(p->job, i);
    const uint64_t n_ranks = is_local ? students->ranks : mine->ranks;
    plan_role *role = &p->roles[1 + i];
    plan_stream *stream = &p->streams[i];

    (void)snprintf(role->name, sizeof role->name, "teachers.%d", i);
    role->n_ranks = mine->ranks;
    role->n_threads = is_local ? students->threads : mine->threads;
    role->dtype = kd_dtype_of_word(teacher->dtype);
    role->device = kind_of(mine);
    role->n_micro_batches = (kd_job_micro_batches(p->job) + n_ranks - 1) / n_ranks;
    role->flops = teacher_flops(p, i);
    stream->is_local = is_local;
    stream->n_slots = is_local ? 1 : (int)teacher->stream_depth;
    stream->logits_bytes = kd_transport_token_bytes(KD__TEACHER__TRANSPORT__LOGITS,
                                                    &p->teaching.configs[i], role->dtype);
    stream->hidden_bytes = kd_transport_token_bytes(KD__TEACHER__TRANSPORT__HIDDEN,
                                                    &p->teaching.configs[i], role->dtype);
}

/* ---- data ---- */

static kd_status describe_data(plan *p)
{
    const Kd__Data *data = p->job->data;
    plan_data *d = &p->data;
    for (size_t i = 0; i < data->n_files; i++) {
        struct stat info;
        d->text_bytes += stat(data->files[i], &info) == 0 ? (uint64_t)info.st_size : 0;
    }
    const kd_status st = batches_find_packed(p->job, &d->is_packed, &d->tokens);
    if (!st && d->is_packed) {
        d->n_epoch = kd_order_windows(d->tokens.n_train_tokens, data->sequence_length);
    }
    return st;
}

/* ---- the whole ---- */

void plan_release(plan *p)
{
    for (int i = 0; p->roles != NULL && i < p->n_roles; i++) {
        free(p->roles[i].parts);
    }
    free(p->roles);
    free(p->streams);
    teaching_release(&p->teaching);
    *p = (plan){0};
}

static kd_status make(Kd__Job *job, plan *p)
{
    kd_status st = note_wishes(job, p);
    if (!st) {
        st = decide(job);
    }
    if (!st) {
        st = teaching_of_job(job, &p->teaching);
    }
    if (st) {
        return st;
    }
    describe_student(p);
    for (int i = 0; i < p->teaching.n_teachers; i++) {
        describe_teacher(p, i);
    }
    st = plan_student_memory(p);
    for (int i = 0; !st && i < p->teaching.n_teachers; i++) {
        st = plan_teacher_memory(p, i);
    }
    return st ? st : describe_data(p);
}

kd_status plan_make(Kd__Job *job, plan *plan_out)
{
    plan p = {.job = job};
    const kd_status st = make(job, &p);
    if (st) {
        plan_release(&p);
        return st;
    }
    *plan_out = p;
    return KD_OK;
}

/* ---- sums ---- */

uint64_t plan_role_bytes(const plan_role *role)
{
    uint64_t sum = 0;
    for (int i = 0; i < role->n_parts; i++) {
        sum += role->parts[i].bytes;
    }
    return sum;
}

uint64_t plan_host_bytes(const plan *p)
{
    uint64_t sum = 0;
    for (int i = 0; i < p->n_roles; i++) {
        sum += p->roles[i].n_ranks * plan_role_bytes(&p->roles[i]);
    }
    return sum;
}

uint64_t plan_step_tokens(const plan *p)
{
    return (uint64_t)p->job->training->batch_size * p->job->data->sequence_length;
}

double plan_role_step_flops(const plan *p, const plan_role *role)
{
    const plan_flops *f = &role->flops;
    return (f->forward + f->backward + f->teacher_logits) * (double)plan_step_tokens(p);
}

double plan_epochs(const plan *p)
{
    const double sequences = (double)p->job->training->steps * (double)p->job->training->batch_size;
    return p->data.n_epoch > 0 ? sequences / (double)p->data.n_epoch : 0.0;
}
