/*
 * The rules between fields, as one table. A row is about each message of its type, wherever it
 * stands in the job; a field's own range, and whether it must be there, is in proto/job.proto.
 */
#include "job/rules.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "message/fields.h"
#include "message/reflect.h"
#include "shape/from_message.h"

/* The message that a rule is about, and the path of the field that it blames. */
typedef struct subject {
    kd_checker *c;
    const Kd__Job *job;
    bool is_run; /* as kd_job_check_rules() has it */
    const ProtobufCMessage *message;
    const char *path;
} subject;

static void name_steers_no_terminal(const subject *s)
{
    const char *name = s->job->name != NULL ? s->job->name : "";
    const size_t size = strlen(name);
    uint32_t code;
    size_t n, at = 0;
    while (at < size && (n = kd_utf8_decode(name + at, size - at, &code)) > 0) {
        if (kd_utf8_is_control(code)) {
            kd_checker_add(s->c, s->path, "found a control character at byte %zu, expected none",
                           at);
            return;
        }
        at += n;
    }
}

/* A folder of the job's own: its files have names that others use there. */
static void output_is_a_folder(const subject *s)
{
    const char *output = s->job->output != NULL ? s->job->output : "";
    if (output[0] == '/' && output[strspn(output, "/.")] == '\0') {
        kd_checker_add(s->c, s->path, "found \"%.80s\", expected a folder of the job's own",
                       output);
    }
}

static void after_names_jobs(const subject *s)
{
    for (size_t i = 0; i < s->job->n_after && !kd_checker_is_full(s->c); i++) {
        const char *id = s->job->after[i];
        if (*id == '\0' || id[strspn(id, "0123456789")] != '\0') {
            char path[KD_PATH_BYTES];
            (void)snprintf(path, sizeof path, "%s.%zu", s->path, i);
            kd_checker_add(s->c, path, "found \"%.80s\", expected the id of a job, a whole number",
                           id);
        }
    }
}

static void head_width_is_known(const subject *s)
{
    kd_model_message_check_width((const Kd__Model *)s->message, s->c, s->path);
}

/* Whether a line about the field is there already. */
static bool is_told(const kd_checker *c, const char *path)
{
    const size_t n = strlen(path);
    const char *line = c->lines.data;
    while (line != NULL && (strncmp(line, path, n) != 0 || line[n] != ':')) {
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return line != NULL;
}

static void blame_shape(void *context, const char *field, const char *text)
{
    const subject *s = context;
    char path[KD_PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s.%s", s->path, field);
    if (!is_told(s->c, path)) {
        kd_checker_add(s->c, path, "%s", text);
    }
}

/* What the decoder cannot run, and what the type does not have: lib/shape knows both. */
static void shape_can_be_run(const subject *s)
{
    kd_model_config config;
    const Kd__Model *m = (const Kd__Model *)s->message;
    if (!m->has_hidden_size || !m->has_num_layers || !m->has_num_heads ||
        !m->has_intermediate_size) {
        return; /* told already, and others follow from these */
    }
    const int quiet = kd_fault_quiet(1);
    if (kd_model_config_from_message(m, s->job->data->sequence_length, &config) == KD_OK) {
        (void)kd_model_config_judge(&config, blame_shape, (void *)s);
    } else {
        const char *text = strchr(kd_fault_text(), ' ');
        blame_shape((void *)s, "type", text != NULL ? text + 1 : "");
    }
    (void)kd_fault_quiet(quiet);
}

static void init_fits_checkpoint(const subject *s)
{
    const Kd__Student *student = (const Kd__Student *)s->message;
    const bool wanted = student->init == KD__STUDENT__INIT__CHECKPOINT;
    if (wanted && (student->checkpoint == NULL || student->checkpoint[0] == '\0')) {
        kd_checker_add(s->c, s->path, "found nothing, expected a path: it is required");
    } else if (!wanted && student->checkpoint != NULL) {
        kd_checker_add(s->c, s->path,
                       "found a path, expected none with init: random; did you mean init: "
                       "checkpoint?");
    }
}

static void init_fits_model(const subject *s)
{
    const Kd__Student *student = s->job->student;
    if (student->init == KD__STUDENT__INIT__CHECKPOINT && student->model != NULL) {
        kd_checker_add(s->c, s->path,
                       "found a shape, expected none: with init: checkpoint the checkpoint has it");
    }
}

static void student_has_ranks(const subject *s)
{
    kd_range range = kd_field_facts_named("kd.Resources", "ranks")->range;
    range.least = 1.0;
    if (s->job->student->resources->ranks == 0) {
        kd_checker_number(s->c, s->path, 0.0, &range, true);
    }
}

static void value_or_points(const subject *s)
{
    const Kd__Schedule *schedule = (const Kd__Schedule *)s->message;
    const bool has_value = schedule->has_value;
    if (has_value == (schedule->n_points > 0)) {
        kd_checker_add(s->c, s->path, "found %s a value %s points, expected one of them",
                       has_value ? "both" : "neither", has_value ? "and" : "nor");
    }
}

static void points_ascend(const subject *s)
{
    const Kd__Schedule *schedule = (const Kd__Schedule *)s->message;
    for (size_t i = 1; i < schedule->n_points; i++) {
        const Kd__Schedule__Point *before = schedule->points[i - 1], *point = schedule->points[i];
        if (point->has_step && before->has_step && point->step <= before->step) {
            char path[KD_PATH_BYTES];
            (void)snprintf(path, sizeof path, "%s.%zu.step", s->path, i);
            kd_checker_add(s->c, path, "found %llu, expected more than the step before (%llu)",
                           (unsigned long long)point->step, (unsigned long long)before->step);
        }
    }
}

static bool is_zero(const Kd__Schedule *s)
{
    bool zero = !s->has_value || s->value == 0.0;
    for (size_t i = 0; i < s->n_points; i++) {
        zero = zero && s->points[i]->value == 0.0;
    }
    return zero;
}

/* Whether a loss of the objective is there and has a weight at some step. */
static bool weighs(const Kd__Objective *objective, const ProtobufCFieldDescriptor *loss)
{
    ProtobufCMessage *const *message = kd_message_at(&objective->base, loss, 0);
    if (*message == NULL) {
        return false;
    }
    const ProtobufCFieldDescriptor *weight = kd_message_field(loss->descriptor, "weight");
    return !is_zero(*(Kd__Schedule *const *)kd_message_at(*message, weight, 0));
}

static unsigned flags_of(const ProtobufCFieldDescriptor *loss)
{
    return kd_field_facts_of(&kd__objective__descriptor, loss)->flags;
}

static void taught_losses_have_a_teacher(const subject *s)
{
    const ProtobufCMessageDescriptor *type = &kd__objective__descriptor;
    for (unsigned f = 0; f < type->n_fields && s->job->n_teachers == 0; f++) {
        const ProtobufCFieldDescriptor *loss = &type->fields[f];
        if ((flags_of(loss) & KD_FIELD_TAUGHT) != 0 && weighs(s->job->objective, loss)) {
            char path[KD_PATH_BYTES];
            (void)snprintf(path, sizeof path, "%s.%s.weight", s->path, loss->name);
            kd_checker_add(s->c, path,
                           "found a weight, expected none or 0: the job has no teachers");
        }
    }
}

static void some_loss_trains(const subject *s)
{
    const ProtobufCMessageDescriptor *type = &kd__objective__descriptor;
    bool trains = false;
    for (unsigned f = 0; f < type->n_fields; f++) {
        const ProtobufCFieldDescriptor *loss = &type->fields[f];
        trains = trains ||
                 ((flags_of(loss) & KD_FIELD_AUXILIARY) == 0 && weighs(s->job->objective, loss));
    }
    if (!trains) {
        kd_checker_add(s->c, s->path, "found only weights of 0, expected a loss to train on");
    }
}

static void batch_divides_over_ranks(const subject *s)
{
    const Kd__Training *t = s->job->training;
    const uint64_t at_once = (uint64_t)s->job->student->resources->ranks * t->micro_batch_size;
    if (at_once != 0 && t->batch_size % at_once != 0) {
        kd_checker_add(s->c, s->path,
                       "found %u, expected a multiple of student ranks * micro_batch_size (%llu)",
                       t->batch_size, (unsigned long long)at_once);
    }
}

static void warmup_ends(const subject *s)
{
    const Kd__Training *t = s->job->training;
    if (t->steps != 0 && t->warmup_steps > t->steps) {
        kd_checker_add(s->c, s->path, "found %llu, expected 0 to %llu",
                       (unsigned long long)t->warmup_steps, (unsigned long long)t->steps);
    }
}

/* `field` is what the rule blames, below the message; NULL: the message itself. */
typedef struct rule {
    const ProtobufCMessageDescriptor *type;
    const char *field;
    void (*check)(const subject *s);
    bool of_run; /* of a job that runs as it stands, and of no other */
} rule;

static const rule rules[] = {
    {&kd__job__descriptor, "name", name_steers_no_terminal, false},
    {&kd__job__descriptor, "output", output_is_a_folder, true},
    {&kd__job__descriptor, "after", after_names_jobs, false},
    {&kd__model__descriptor, "head_dim", head_width_is_known, false},
    {&kd__model__descriptor, NULL, shape_can_be_run, false},
    {&kd__student__descriptor, "checkpoint", init_fits_checkpoint, false},
    {&kd__student__descriptor, "model", init_fits_model, false},
    {&kd__student__descriptor, "resources.ranks", student_has_ranks, false},
    {&kd__schedule__descriptor, NULL, value_or_points, false},
    {&kd__schedule__descriptor, "points", points_ascend, false},
    {&kd__objective__descriptor, NULL, taught_losses_have_a_teacher, true},
    {&kd__objective__descriptor, NULL, some_loss_trains, true},
    {&kd__training__descriptor, "batch_size", batch_divides_over_ranks, true},
    {&kd__training__descriptor, "warmup_steps", warmup_ends, false},
};

/* `at`: the message, and its path. */
static void apply(const subject *at)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules && !kd_checker_is_full(at->c); i++) {
        if (rules[i].type != at->message->descriptor || (rules[i].of_run && !at->is_run)) {
            continue;
        }
        char blamed[KD_PATH_BYTES];
        const char *field = rules[i].field;
        const char *dot = field != NULL && at->path[0] != '\0' ? "." : "";
        (void)snprintf(blamed, sizeof blamed, "%s%s%s", at->path, dot, field != NULL ? field : "");
        subject s = *at;
        s.path = blamed;
        rules[i].check(&s);
    }
}

static void walk(const subject *at)
{
    const ProtobufCMessageDescriptor *type = at->message->descriptor;
    apply(at);
    for (unsigned f = 0; f < type->n_fields; f++) {
        const ProtobufCFieldDescriptor *field = &type->fields[f];
        const bool is_list = field->label == PROTOBUF_C_LABEL_REPEATED;
        const size_t n =
            field->type == PROTOBUF_C_TYPE_MESSAGE ? kd_message_count(at->message, field) : 0;
        for (size_t i = 0; i < n && !kd_checker_is_full(at->c); i++) {
            char path[KD_PATH_BYTES], index[24] = "";
            if (is_list) {
                (void)snprintf(index, sizeof index, ".%zu", i);
            }
            const int size = snprintf(path, sizeof path, "%s%s%s%s", at->path,
                                      at->path[0] != '\0' ? "." : "", field->name, index);
            KD_CHECK(size > 0 && (size_t)size < sizeof path);
            subject below = *at;
            below.message = *(ProtobufCMessage *const *)kd_message_at(at->message, field, i);
            below.path = path;
            walk(&below);
        }
    }
}

void kd_job_check_rules(kd_checker *c, const Kd__Job *job, const Kd__Job *view, bool is_run)
{
    walk(&(subject){.c = c, .job = job, .is_run = is_run, .message = &view->base, .path = ""});
}
