/*
 * job.c - completing a job: the defaults of job.proto first, by reflection; here stand only those that
 * depend on other fields. Readers then look at values, never at whether they are there.
 */
#include "job/job.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "message/fields.h"
#include "message/reflect.h"
#include "message/yaml.h"
#include "shape/from_message.h"

#define MICRO_BATCH_SIZE_MAX 8 /* unless the job says otherwise */

kd_status kd_job_parse(const char *text,
                       size_t size_bytes,
                       const char *name,
                       const char *const *sets,
                       size_t n_sets,
                       Kd__Job **job_out)
{
    ProtobufCMessage *message = NULL;
    kd_status st = kd_yaml_parse(text, size_bytes, name, &kd__job__descriptor, &message);
    if (st) {
        return st;
    }
    for (size_t i = 0; i < n_sets && !st; i++) {
        st = kd_yaml_set(message, sets[i]);
    }
    if (st) {
        kd_message_destroy(message);
        return st;
    }
    *job_out = (Kd__Job *)message;
    return KD_OK;
}

/* Absent, empty and absolute paths stay as they are. */
static kd_status resolve(char **path, const char *base_folder)
{
    if (*path == NULL || **path == '\0' || **path == '/') {
        return KD_OK;
    }
    char *absolute = kd_path_join(base_folder, *path);
    if (absolute == NULL) {
        return KD_ERR_NOMEM;
    }
    free(*path);
    *path = absolute;
    return KD_OK;
}

/* Every field that job.proto calls a path, wherever it stands. */
static kd_status resolve_below(ProtobufCMessage *message, const char *base_folder)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    kd_status st = KD_OK;
    for (unsigned f = 0; f < type->n_fields && !st; f++) {
        const ProtobufCFieldDescriptor *field = &type->fields[f];
        const bool is_message = field->type == PROTOBUF_C_TYPE_MESSAGE;
        const bool is_path = (kd_field_facts_of(type, field)->flags & KD_FIELD_PATH) != 0;
        const size_t n = is_message || is_path ? kd_message_count(message, field) : 0;
        for (size_t i = 0; i < n && !st; i++) {
            void *element = kd_message_at(message, field, i);
            st = is_message ? resolve_below(*(ProtobufCMessage **)element, base_folder)
                            : resolve(element, base_folder);
        }
    }
    return st;
}

kd_status kd_job_resolve_paths(Kd__Job *job, const char *base_folder)
{
    return resolve_below(&job->base, base_folder);
}

/*
 * A constant where the job gives no schedule. A constant has no kind, so it reads as the bare number it is;
 * points have theirs filled in.
 */
static kd_status complete_schedule(Kd__Schedule **schedule, double value)
{
    if (*schedule == NULL) {
        *schedule = (Kd__Schedule *)kd_message_create(&kd__schedule__descriptor);
        if (*schedule == NULL) {
            return kd_fail(KD_ERR_NOMEM, "job: no memory");
        }
        (*schedule)->has_value = 1;
        (*schedule)->value = value;
    }
    ProtobufCMessage *message = &(*schedule)->base;
    if ((*schedule)->n_points > 0) {
        return kd_message_fill(message);
    }
    kd_message_clear(message, kd_message_field(message->descriptor, "kind"));
    return KD_OK;
}

/* Every Schedule in there becomes what its field's facts say, unless the job has one. */
static kd_status complete_schedules(ProtobufCMessage *message, bool has_teacher)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    kd_status st = KD_OK;
    for (unsigned f = 0; f < type->n_fields && !st; f++) {
        const ProtobufCFieldDescriptor *field = &type->fields[f];
        if (field->type != PROTOBUF_C_TYPE_MESSAGE || field->label == PROTOBUF_C_LABEL_REPEATED) {
            continue;
        }
        ProtobufCMessage **sub = kd_message_at(message, field, 0);
        if (field->descriptor == &kd__schedule__descriptor) {
            const double value = kd_field_facts_of(type, field)->schedule[has_teacher];
            st = complete_schedule((Kd__Schedule **)sub, value);
        } else if (*sub != NULL) {
            st = complete_schedules(*sub, has_teacher);
        }
    }
    return st;
}

kd_status kd_job_complete_objective(Kd__Objective *objective, bool has_teacher)
{
    const kd_status st = kd_message_fill(&objective->base);
    return st ? st : complete_schedules(&objective->base, has_teacher);
}

kd_status kd_job_complete_untaught(Kd__Objective *objective)
{
    const ProtobufCMessageDescriptor *type = objective->base.descriptor;
    for (unsigned f = 0; f < type->n_fields; f++) {
        if ((kd_field_facts_of(type, &type->fields[f])->flags & KD_FIELD_TAUGHT) != 0) {
            kd_message_clear(&objective->base, &type->fields[f]);
        }
    }
    return kd_job_complete_objective(objective, false);
}

/* The largest divisor of a rank's share of the batch that is not above the usual size. */
static uint32_t default_micro_batch_size(uint32_t batch_size, uint32_t student_ranks)
{
    const uint32_t share = student_ranks > 0 ? batch_size / student_ranks : 0;
    uint32_t size = share < MICRO_BATCH_SIZE_MAX ? share : MICRO_BATCH_SIZE_MAX;
    while (size > 1 && share % size != 0) {
        size--;
    }
    return size > 0 ? size : 1;
}

static void complete_student(Kd__Job *job, bool had_model)
{
    Kd__Student *student = job->student;
    if (!student->has_seed) {
        student->has_seed = 1;
        student->seed = job->seed;
    }
    if (student->init == KD__STUDENT__INIT__CHECKPOINT && !had_model) {
        kd_message_destroy(&student->model->base); /* the checkpoint has the shape */
        student->model = NULL;
    } else {
        kd_model_message_complete(student->model);
    }
}

static void complete_ranks(Kd__Resources *resources, uint32_t ranks)
{
    if (!resources->has_ranks) {
        resources->has_ranks = 1;
        resources->ranks = ranks;
    }
}

static void complete_resources(Kd__Job *job)
{
    complete_ranks(job->student->resources, 1);
    for (size_t i = 0; i < job->n_teachers; i++) {
        complete_ranks(job->teachers[i]->resources, 0);
    }
}

kd_status kd_job_complete(Kd__Job *job)
{
    const bool had_model = job->student != NULL && job->student->model != NULL;
    kd_status st = kd_message_fill(&job->base);
    if (st) {
        return st;
    }
    complete_resources(job);
    Kd__Training *training = job->training;
    if (!training->has_micro_batch_size) { /* stays so: it is not the job's own */
        training->micro_batch_size =
            default_micro_batch_size(training->batch_size, job->student->resources->ranks);
    }
    complete_student(job, had_model);
    return kd_job_complete_objective(job->objective, job->n_teachers > 0);
}

uint32_t kd_job_ranks(const Kd__Job *job)
{
    uint32_t ranks = job->student->resources->ranks;
    for (size_t i = 0; i < job->n_teachers; i++) {
        ranks += job->teachers[i]->resources->ranks;
    }
    return ranks;
}

static uint64_t slots_of(const Kd__Resources *resources)
{
    return (uint64_t)resources->ranks * resources->threads;
}

uint64_t kd_job_slots(const Kd__Job *job)
{
    uint64_t slots = slots_of(job->student->resources);
    for (size_t i = 0; i < job->n_teachers; i++) {
        slots += slots_of(job->teachers[i]->resources);
    }
    return slots;
}

uint64_t kd_job_micro_batches(const Kd__Job *job)
{
    return job->training->batch_size / job->training->micro_batch_size;
}
