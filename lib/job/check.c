#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "job/checker.h"
#include "job/job.h"
#include "message/reflect.h"

/* Ends of ranges that only keep sums within their types and memory within reason. */
enum {
    WIDTH_MAX = 1 << 20,
    LAYERS_MAX = 1024,
    HEADS_MAX = 1024,
    EXPERTS_MAX = 1024, /* KD_EXPERTS_MAX of tensor/ops.h */
    BATCH_MAX = 1 << 20,
    RANKS_MAX = 4096,
    THREADS_MAX = 1024,
    STREAM_DEPTH_MAX = 64,
    POINTS_MAX = 32, /* KD_SCHEDULE_POINTS_MAX of distill/schedule.h */
    NAME_BYTES_MAX = 200,
    COUNT_MAX = 1000,
    HANG_SECONDS_MAX = 7 * 24 * 3600,
    BYTE_VOCABULARY = 256,
};

static const uint64_t steps_max = UINT64_C(1000000000000);
static const double temperature_min = 0.001; /* as distill/objective.h has it */

static void check_identity(kd_checker *c, const Kd__Job *job)
{
    const char *name = job->name != NULL ? job->name : "";
    if (strlen(name) > NAME_BYTES_MAX) {
        kd_checker_add(c, "name", "found %zu bytes, expected at most %d", strlen(name),
                       NAME_BYTES_MAX);
    }
    for (size_t i = 0; name[i] != '\0'; i++) {
        if (iscntrl((unsigned char)name[i])) {
            kd_checker_add(c, "name", "found a control character at byte %zu, expected none", i);
            break;
        }
    }
    kd_checker_path(c, "output", job->output);
    for (size_t i = 0; i < job->n_after; i++) {
        const char *id = job->after[i];
        if (*id == '\0' || id[strspn(id, "0123456789")] != '\0') {
            char path[32];
            (void)snprintf(path, sizeof path, "after.%zu", i);
            kd_checker_add(c, path, "found \"%.80s\", expected the id of a job, a whole number",
                           id);
        }
    }
}

static void check_data(kd_checker *c, const Kd__Data *data)
{
    if (data->n_files == 0) {
        kd_checker_add(c, "data.files", "found no file, expected at least one: it is required");
    }
    for (size_t i = 0; i < data->n_files; i++) {
        char path[40];
        (void)snprintf(path, sizeof path, "data.files.%zu", i);
        kd_checker_path(c, path, data->files[i]);
    }
    if (*data->text_field == '\0') {
        kd_checker_add(c, "data.text_field", "found nothing, expected a field's name");
    }
    kd_checker_number(c, "data.sequence_length", true, data->sequence_length, 8, 131072);
    kd_checker_real(c, "data.held_out", data->held_out,
                    data->held_out >= 0.0 && data->held_out <= 0.5, "from 0 to 0.5");
}

static void check_heads(kd_checker *c, const Kd__Model *m)
{
    if (m->num_heads == 0 || m->num_kv_heads == 0) {
        return; /* told already */
    }
    if (m->hidden_size % m->num_heads != 0) {
        kd_checker_add(c, "student.model.hidden_size",
                       "found %u, expected a multiple of num_heads (%u)", m->hidden_size,
                       m->num_heads);
    }
    if (m->num_heads % m->num_kv_heads != 0) {
        kd_checker_add(c, "student.model.num_kv_heads",
                       "found %u, expected a divisor of num_heads (%u)", m->num_kv_heads,
                       m->num_heads);
    }
    if (m->head_dim == 0 || m->head_dim % 2 != 0) {
        kd_checker_add(c, "student.model.head_dim",
                       "found %u, expected an even number: rotary embedding turns pairs",
                       m->head_dim);
    }
}

static void check_experts(kd_checker *c, const Kd__Model *m)
{
    if (m->type == KD__MODEL__TYPE__LLAMA) {
        if (m->num_experts != 0) {
            kd_checker_add(c, "student.model.num_experts",
                           "found %u, expected 0: type llama has no experts", m->num_experts);
        }
    } else {
        kd_checker_number(c, "student.model.num_experts", m->has_num_experts, m->num_experts, 1,
                          EXPERTS_MAX);
    }
    if (m->num_experts > 0 &&
        (m->experts_per_token == 0 || m->experts_per_token > m->num_experts)) {
        kd_checker_add(c, "student.model.experts_per_token",
                       "found %u, expected 1 to num_experts (%u)", m->experts_per_token,
                       m->num_experts);
    }
    if (m->shared_expert_size != 0 && m->type != KD__MODEL__TYPE__QWEN2_MOE) {
        kd_checker_add(c, "student.model.shared_expert_size",
                       "found %u, expected 0: only type qwen2_moe has a shared expert",
                       m->shared_expert_size);
    }
    kd_checker_number(c, "student.model.shared_expert_size", true, m->shared_expert_size, 0,
                      WIDTH_MAX);
}

static void check_model(kd_checker *c, const Kd__Model *m)
{
    /* Every byte is a token. */
    kd_checker_number(c, "student.model.vocab_size", true, m->vocab_size, BYTE_VOCABULARY,
                      WIDTH_MAX);
    const bool has_width = kd_checker_number(c, "student.model.hidden_size", m->has_hidden_size,
                                             m->hidden_size, 1, WIDTH_MAX);
    kd_checker_number(c, "student.model.num_layers", m->has_num_layers, m->num_layers, 1,
                      LAYERS_MAX);
    const bool has_heads = kd_checker_number(c, "student.model.num_heads", m->has_num_heads,
                                             m->num_heads, 1, HEADS_MAX);
    kd_checker_number(c, "student.model.intermediate_size", m->has_intermediate_size,
                      m->intermediate_size, 1, WIDTH_MAX);
    if (has_heads) {
        kd_checker_number(c, "student.model.num_kv_heads", true, m->num_kv_heads, 1, HEADS_MAX);
    }
    if (has_width && has_heads) {
        check_heads(c, m);
    }
    check_experts(c, m);
    kd_checker_real(c, "student.model.rope_theta", m->rope_theta, m->rope_theta > 0.0, "above 0");
    kd_checker_real(c, "student.model.norm_eps", m->norm_eps, m->norm_eps > 0.0, "above 0");
}

static void check_student(kd_checker *c, const Kd__Student *student)
{
    if (student->init == KD__STUDENT__INIT__CHECKPOINT) {
        kd_checker_path(c, "student.checkpoint", student->checkpoint);
        if (student->model != NULL) {
            kd_checker_add(c, "student.model",
                           "found a shape, expected none: with init: checkpoint the checkpoint "
                           "has it");
        }
        return;
    }
    if (student->checkpoint != NULL) {
        kd_checker_add(c, "student.checkpoint",
                       "found a path, expected none with init: random; did you mean init: "
                       "checkpoint?");
    }
    check_model(c, student->model);
}

static void check_teachers(kd_checker *c, const Kd__Job *job)
{
    if (job->n_teachers > 1) {
        kd_checker_add(c, "teachers", "found %zu, expected at most 1", job->n_teachers);
    }
    for (size_t i = 0; i < job->n_teachers; i++) {
        char path[48];
        (void)snprintf(path, sizeof path, "teachers.%zu.checkpoint", i);
        kd_checker_path(c, path, job->teachers[i]->checkpoint);
        if (*job->teachers[i]->name == '\0') {
            (void)snprintf(path, sizeof path, "teachers.%zu.name", i);
            kd_checker_add(c, path, "found nothing, expected a name");
        }
    }
}

static void check_least(kd_checker *c, const char *path, double value, double least)
{
    char expected[40];
    (void)snprintf(expected, sizeof expected, "of at least %g", least);
    kd_checker_real(c, path, value, value >= least, expected);
}

static void check_points(kd_checker *c, const char *name, const Kd__Schedule *s, double least)
{
    for (size_t i = 0; i < s->n_points; i++) {
        const Kd__Schedule__Point *point = s->points[i];
        char path[96];
        if (!point->has_step || !point->has_value) {
            (void)snprintf(path, sizeof path, "%s.points.%zu", name, i);
            kd_checker_add(c, path, "expected a step and a value");
            continue;
        }
        const Kd__Schedule__Point *before = i > 0 ? s->points[i - 1] : NULL;
        if (before != NULL && before->has_step && point->step <= before->step) {
            (void)snprintf(path, sizeof path, "%s.points.%zu.step", name, i);
            kd_checker_add(c, path, "found %llu, expected more than the step before (%llu)",
                           (unsigned long long)point->step, (unsigned long long)before->step);
        }
        (void)snprintf(path, sizeof path, "%s.points.%zu.value", name, i);
        check_least(c, path, point->value, least);
    }
}

static void check_schedule(kd_checker *c, const char *name, const Kd__Schedule *s, double least)
{
    if (s->n_points > POINTS_MAX) {
        kd_checker_add(c, name, "found %zu points, expected at most %d", s->n_points, POINTS_MAX);
        return;
    }
    if (s->has_value == (s->n_points > 0)) {
        kd_checker_add(c, name, "found %s a value %s points, expected one of them",
                       s->has_value ? "both" : "neither", s->has_value ? "and" : "nor");
    }
    if (s->has_value) {
        check_least(c, name, s->value, least);
    }
    check_points(c, name, s, least);
}

static bool is_zero(const Kd__Schedule *s)
{
    return s->has_value && s->value == 0.0;
}

static void check_objective(kd_checker *c, const Kd__Job *job)
{
    const Kd__Objective *o = job->objective;
    check_schedule(c, "objective.kd.weight", o->kd->weight, 0.0);
    check_schedule(c, "objective.kd.temperature", o->kd->temperature, temperature_min);
    check_schedule(c, "objective.hard.weight", o->hard->weight, 0.0);
    check_least(c, "objective.balance.weight", o->balance->weight, 0.0);
    check_least(c, "objective.balance.z_weight", o->balance->z_weight, 0.0);
    if (job->n_teachers == 0 && !is_zero(o->kd->weight)) {
        kd_checker_add(c, "objective.kd.weight",
                       "found a weight, expected none or 0: the job has no teachers");
    }
    if (is_zero(o->kd->weight) && is_zero(o->hard->weight)) {
        kd_checker_add(c, "objective", "found only weights of 0, expected a loss to train on");
    }
}

static void check_batch(kd_checker *c, const Kd__Job *job)
{
    const Kd__Training *t = job->training;
    kd_checker_number(c, "training.batch_size", true, t->batch_size, 1, BATCH_MAX);
    kd_checker_number(c, "training.micro_batch_size", true, t->micro_batch_size, 1, BATCH_MAX);
    const uint64_t at_once = (uint64_t)job->student->resources->ranks * t->micro_batch_size;
    if (at_once != 0 && t->batch_size % at_once != 0) {
        kd_checker_add(c, "training.batch_size",
                       "found %u, expected a multiple of student ranks * micro_batch_size (%llu)",
                       t->batch_size, (unsigned long long)at_once);
    }
}

static void check_training(kd_checker *c, const Kd__Training *t)
{
    if (kd_checker_number(c, "training.steps", t->has_steps, t->steps, 1, steps_max)) {
        kd_checker_number(c, "training.warmup_steps", true, t->warmup_steps, 0, t->steps);
    }
    kd_checker_real(c, "training.learning_rate", t->learning_rate, t->learning_rate > 0.0,
                    "above 0");
    kd_checker_real(c, "training.final_learning_rate_ratio", t->final_learning_rate_ratio,
                    t->final_learning_rate_ratio >= 0.0 && t->final_learning_rate_ratio <= 1.0,
                    "from 0 to 1");
    kd_checker_real(c, "training.weight_decay", t->weight_decay, t->weight_decay >= 0.0,
                    "of at least 0");
    kd_checker_real(c, "training.beta1", t->beta1, t->beta1 > 0.0 && t->beta1 < 1.0,
                    "between 0 and 1");
    kd_checker_real(c, "training.beta2", t->beta2, t->beta2 > 0.0 && t->beta2 < 1.0,
                    "between 0 and 1");
    kd_checker_real(c, "training.epsilon", t->epsilon, t->epsilon > 0.0, "above 0");
    kd_checker_real(c, "training.clip_norm", t->clip_norm, t->clip_norm >= 0.0, "of at least 0");
}

static void
check_resources(kd_checker *c, const char *owner, const Kd__Resources *r, uint32_t ranks_min)
{
    char path[64];
    (void)snprintf(path, sizeof path, "%s.resources.ranks", owner);
    kd_checker_number(c, path, true, r->ranks, ranks_min, RANKS_MAX);
    (void)snprintf(path, sizeof path, "%s.resources.threads", owner);
    kd_checker_number(c, path, true, r->threads, 1, THREADS_MAX);
}

static void check_roles(kd_checker *c, const Kd__Job *job)
{
    check_resources(c, "student", job->student->resources, 1);
    for (size_t i = 0; i < job->n_teachers; i++) {
        char owner[32], path[48];
        (void)snprintf(owner, sizeof owner, "teachers.%zu", i);
        check_resources(c, owner, job->teachers[i]->resources, 0);
        (void)snprintf(path, sizeof path, "%s.stream_depth", owner);
        kd_checker_number(c, path, true, job->teachers[i]->stream_depth, 1, STREAM_DEPTH_MAX);
    }
}

static void check_limits(kd_checker *c, const Kd__Job *job)
{
    const Kd__Limits *l = job->limits;
    kd_checker_number(c, "limits.max_restarts", true, l->max_restarts, 0, COUNT_MAX);
    kd_checker_number(c, "limits.hang_timeout_seconds", true, l->hang_timeout_seconds, 1,
                      HANG_SECONDS_MAX);
    kd_checker_number(c, "checkpoint.keep", true, job->checkpoint->keep, 1, COUNT_MAX);
}

static void check_all(kd_checker *c, const Kd__Job *job)
{
    if (kd_message_has_unknown(&job->base)) {
        kd_checker_add(c, "job", "found fields that this version of the program does not know");
    }
    kd_checker_values(c, &job->base);
    if (c->n_mistakes > 0) {
        return; /* the rules below rely on it */
    }
    check_identity(c, job);
    check_data(c, job->data);
    check_student(c, job->student);
    check_teachers(c, job);
    check_objective(c, job);
    check_batch(c, job);
    check_training(c, job->training);
    check_roles(c, job);
    check_limits(c, job);
}

kd_status kd_job_check(const Kd__Job *job, kd_text *mistakes)
{
    kd_checker checker = {0};
    check_all(&checker, job);
    if (checker.n_mistakes == 0) {
        return KD_OK;
    }
    const char *lines = checker.lines.data != NULL ? checker.lines.data : "job: no memory\n";
    kd_status st = kd_fail(KD_ERR_INVALID, "%.*s", (int)strcspn(lines, "\n"), lines);
    if (mistakes != NULL) {
        kd_text_add(mistakes, lines);
    }
    kd_text_release(&checker.lines);
    return st;
}
