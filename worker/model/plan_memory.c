/*
 * plan_memory.c - the rehearsal of a teacher's rank, and what both kinds have in common. A rank's objects are
 * made as the rank makes them, they work once, and each says what it holds; the back end, which counted, must
 * have given exactly that.
 */
#include "worker/model/plan_memory.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "tensor/kind.h"
#include "worker/batches.h"

kd_status plan_add(plan_role *role, const char *prefix, const plan_sized *parts, int n)
{
    plan_part *grown = realloc(role->parts, (size_t)(role->n_parts + n) * sizeof *grown);
    if (grown == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a plan");
    }
    role->parts = grown;
    for (int i = 0; i < n; i++) {
        plan_part *part = &grown[role->n_parts++];
        (void)snprintf(part->name, sizeof part->name, "%s%s", prefix, parts[i].name);
        part->bytes = parts[i].bytes;
    }
    return KD_OK;
}

kd_status plan_add_teacher(plan_role *role, const char *prefix, const kd_teacher *teacher)
{
    const kd_parameters_memory weights = kd_teacher_parameters_memory(teacher);
    const plan_sized parts[] = {
        {"parameters", weights.weight_bytes},
        {"staging", weights.stage_bytes},
        {"activations", kd_teacher_activation_bytes(teacher)},
    };
    return PLAN_ADD(role, prefix, parts);
}

kd_status
plan_rehearsal(const plan_role *role, kd_dtype compute, int n_threads, kd_backend **be_out)
{
    const kd_status st = kd_backend_create_rehearsal(compute, n_threads, be_out);
    if (!st) {
        kd_kind_apply(role->device, *be_out);
    }
    return st;
}

void plan_add_usage(plan_role *role, const kd_backend *be)
{
    role->usage = kd_memory_usage_sum(role->usage, be->ops->memory_usage(be));
}

int32_t *plan_zeros(const plan *p)
{
    int32_t *zeros = calloc((size_t)teaching_rows(p->job), sizeof *zeros);
    if (zeros == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for a micro-batch");
    }
    return zeros;
}

kd_batch plan_batch(const plan *p, const int32_t *zeros)
{
    return (kd_batch){.n_batch = p->job->training->micro_batch_size,
                      .n_tokens = p->job->data->sequence_length,
                      .tokens = zeros,
                      .labels = zeros};
}

kd_status plan_create_teacher(const plan *p, int teacher, kd_backend *be, kd_teacher **teacher_out)
{
    const kd_teacher_settings settings = {.max_batch = p->job->training->micro_batch_size,
                                          .n_tokens = p->job->data->sequence_length};
    kd_parameters *params;
    const kd_status st =
        kd_parameters_create(be, &p->teaching.configs[teacher], KD_PARAMS_INFER, &params);
    return st ? st : kd_teacher_create(params, &settings, teacher_out);
}

uint64_t plan_groups(const plan *p, int teacher)
{
    return kd_signal_plan_mask(&p->teaching.plan, teacher, UINT64_MAX);
}

kd_status
plan_teach(const plan *p, int teacher, kd_teacher *model, const int32_t *zeros, void *message)
{
    const kd_teacher_part part = {&p->teaching.plan, teacher, plan_groups(p, teacher)};
    const kd_batch batch = plan_batch(p, zeros);
    return kd_teacher_fill(model, &batch, &part, message);
}

size_t plan_messages_bytes(const plan *p, int teacher, const plan_role *role)
{
    const plan_stream *stream = &p->streams[teacher];
    const bool apart = stream->is_local ? p->roles[0].device != p->roles[1 + teacher].device
                                        : role->device != KD_DEVICE_CPU;
    return (apart ? 2 : 1) *
           kd_message_plan_slots_bytes(&p->teaching.plan.messages[teacher], stream->n_slots);
}

/* ---- a teacher's rank ---- */

static kd_status tell(const plan *p, const kd_backend *be, size_t slots_bytes, plan_role *role)
{
    const Kd__Job *job = p->job;
    const plan_sized slots[] = {{"messages", slots_bytes}};
    const kd_status st = PLAN_ADD(role, "", slots);
    if (st) {
        return st;
    }
    plan_add_usage(role, be);
    KD_CHECK(plan_role_bytes(role) == role->usage.held_bytes);
    const plan_sized own[] = {
        {"workspace", role->usage.scratch_bytes},
        {"products", role->usage.products_bytes},
    };
    role->knows_own = role->device == KD_DEVICE_CPU;
    const kd_status told = role->knows_own ? PLAN_ADD(role, "", own) : KD_OK;
    if (told) {
        return told;
    }
    const plan_sized others[] = {
        {"tokens", batch_reader_bytes(job->training->micro_batch_size, job->data->sequence_length)},
    };
    return PLAN_ADD(role, "", others);
}

static kd_status rehearse(const plan *p, int i, kd_backend *be, plan_role *role)
{
    const size_t slots_bytes = plan_messages_bytes(p, i, role);
    int32_t *zeros = plan_zeros(p);
    void *slots = be->ops->alloc(be, KD_MEMORY_HOST, slots_bytes);
    kd_teacher *model = NULL;
    kd_status st = zeros == NULL || slots == NULL ? KD_ERR_NOMEM : KD_OK;
    if (!st) {
        st = plan_create_teacher(p, i, be, &model);
    }
    if (!st) {
        st = plan_teach(p, i, model, zeros, slots);
    }
    if (!st) {
        st = plan_add_teacher(role, "", model);
    }
    if (!st) {
        st = tell(p, be, slots_bytes, role);
    }
    kd_teacher_destroy(model);
    be->ops->free(be, slots);
    free(zeros);
    return st;
}

kd_status plan_teacher_memory(plan *p, int teacher)
{
    plan_role *role = &p->roles[1 + teacher];
    kd_backend *be;
    if (role->n_ranks == 0 || p->teaching.plan.messages[teacher].n_groups == 0) {
        return KD_OK; /* it only follows orders then */
    }
    kd_status st = plan_rehearsal(role, role->dtype, (int)role->n_threads, &be);
    if (!st) {
        st = rehearse(p, teacher, be, role);
        kd_backend_destroy(be);
    }
    return st;
}
