/*
 * plan_student.c - the rehearsal of a student's rank: every loss of the job has weight in it, since a schedule
 * or a live change may give it some at any step.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "distill/channel.h"
#include "format/model_folder.h"
#include "message/path.h"
#include "message/reflect.h"
#include "train/checkpoint.h"
#include "train/step.h"
#include "worker/batches.h"
#include "worker/model/plan_memory.h"

struct rehearsal;

/* A teacher, as the student's rank knows it. */
typedef struct pupil {
    const struct rehearsal *r;
    int teacher;
    kd_backend *own;   /* where the model is here, in another dtype or on another device   */
    kd_teacher *model; /* where it is here                                                 */
    kd_tensor lm_head; /* where hidden states come from other ranks or devices             */
    void *slots;       /* for messages, but for the one that a local channel has           */
} pupil;

typedef struct rehearsal {
    const plan *p;
    kd_backend *be;        /* the rank's                                             */
    kd_backend *elsewhere; /* of what stands for other ranks, which must not count   */
    Kd__Objective *objective;
    kd_teacher_view *views; /* (n_teachers) with lm_heads */
    pupil *pupils;          /* (n_teachers) */
    kd_channel **channels;  /* (n_teachers) */
    kd_trainer *trainer;
    int32_t *zeros; /* (rows of a micro-batch) */
} rehearsal;

static bool gives(const rehearsal *r, int teacher)
{
    return r->p->teaching.plan.messages[teacher].n_groups > 0;
}

/* ---- the rank ---- */

static kd_status weigh_all(const Kd__Objective *objective, Kd__Objective **objective_out)
{
    Kd__Objective *copy = (Kd__Objective *)kd_message_copy(&objective->base);
    kd_status st = copy == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for an objective") : KD_OK;
    for (int i = 0; !st && i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        char path[PLAN_NAME_BYTES];
        (void)snprintf(path, sizeof path, "%s.weight", kind->name);
        if (kd_loss_message(kind, copy) != NULL) {
            st = kd_path_set(&copy->base, path, "1", NULL);
        }
    }
    if (st) {
        kd_message_destroy((ProtobufCMessage *)copy);
        return st;
    }
    *objective_out = copy;
    return KD_OK;
}

static kd_status open_model(rehearsal *r, int i)
{
    pupil *mine = &r->pupils[i];
    const kd_dtype dtype = r->views[i].compute;
    kd_status st = KD_OK;
    const plan_role *roles = r->p->roles;
    if (dtype != r->be->compute || roles[1 + i].device != roles[0].device) {
        st = plan_rehearsal(&roles[1 + i], dtype, r->be->n_threads, &mine->own);
    }
    if (!st) {
        st = plan_create_teacher(r->p, i, mine->own != NULL ? mine->own : r->be, &mine->model);
    }
    if (!st) {
        r->views[i].lm_head = kd_teacher_lm_head(mine->model);
    }
    return st;
}

static kd_status open_slots(rehearsal *r, int i)
{
    pupil *mine = &r->pupils[i];
    const plan *p = r->p;
    const size_t all = plan_messages_bytes(p, i, &p->roles[0]);
    const size_t channels =
        p->streams[i].is_local ? kd_message_plan_slots_bytes(&p->teaching.plan.messages[i], 1) : 0;
    if (all == channels) {
        return KD_OK;
    }
    mine->slots = r->be->ops->alloc(r->be, KD_MEMORY_HOST, all - channels);
    return mine->slots == NULL ? KD_ERR_NOMEM : KD_OK;
}

static kd_status open_lm_head(rehearsal *r, int i)
{
    pupil *mine = &r->pupils[i];
    const plan *p = r->p;
    if (!teaching_needs_lm_head(p->job, &p->teaching, i)) {
        return KD_OK;
    }
    const kd_status st = kd_model_folder_alloc_lm_head(&p->teaching.configs[i], r->be,
                                                       r->views[i].compute, &mine->lm_head);
    r->views[i].lm_head = mine->lm_head;
    return st;
}

static kd_status open_teachers(rehearsal *r)
{
    kd_status st = KD_OK;
    for (int i = 0; !st && i < r->p->teaching.n_teachers; i++) {
        r->pupils[i] = (pupil){.r = r, .teacher = i, .lm_head = kd_tensor_none()};
        r->views[i] = r->p->teaching.teachers[i];
        if (gives(r, i)) {
            st = teaching_is_local(r->p->job, i) ? open_model(r, i) : KD_OK;
            st = st ? st : open_slots(r, i);
            st = st ? st : open_lm_head(r, i);
        }
    }
    return st;
}

static kd_status open_trainer(rehearsal *r)
{
    const plan *p = r->p;
    const kd_trainer_settings settings = {.objective = r->objective,
                                          .training = p->job->training,
                                          .max_batch = p->job->training->micro_batch_size,
                                          .n_tokens = p->job->data->sequence_length};
    kd_parameters *params;
    const kd_status st =
        kd_parameters_create(r->be, &p->teaching.student, KD_PARAMS_TRAIN, &params);
    return st ? st
              : kd_trainer_create(params, &settings, r->views, p->teaching.n_teachers, &r->trainer);
}

static kd_status produce(void *user, uint64_t m, uint64_t groups, void *message)
{
    const pupil *mine = user;
    (void)m;
    (void)groups;
    return mine->model == NULL
               ? KD_OK
               : plan_teach(mine->r->p, mine->teacher, mine->model, mine->r->zeros, message);
}

/* Of a teacher on other ranks a local channel takes the place; its message is not the rank's. */
static kd_status connect(rehearsal *r, int i)
{
    pupil *mine = &r->pupils[i];
    kd_backend *writer = mine->own != NULL ? mine->own : r->be;
    const bool here = mine->model != NULL;
    const kd_local_settings settings = {.plan = &r->p->teaching.plan.messages[i],
                                        .n_steps = 1,
                                        .writer = here ? writer : r->elsewhere,
                                        .reader = here ? r->be : r->elsewhere,
                                        .produce = produce,
                                        .user = mine};
    return gives(r, i) ? kd_channel_create_local(&settings, &r->channels[i]) : KD_OK;
}

static kd_status prepare(rehearsal *r)
{
    const plan *p = r->p;
    const size_t n = (size_t)p->teaching.n_teachers + 1;
    r->views = calloc(n, sizeof *r->views);
    r->pupils = calloc(n, sizeof *r->pupils);
    r->channels = calloc(n, sizeof(kd_channel *));
    r->zeros = plan_zeros(p);
    if (r->views == NULL || r->pupils == NULL || r->channels == NULL || r->zeros == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a plan");
    }
    const plan_role *role = &p->roles[0];
    kd_status st = plan_rehearsal(role, role->dtype, (int)role->n_threads, &r->be);
    if (!st) {
        st = kd_backend_create_rehearsal(role->dtype, 1, &r->elsewhere);
    }
    if (!st) {
        st = weigh_all(p->job->objective, &r->objective);
    }
    if (!st) {
        st = open_teachers(r);
    }
    if (!st) {
        st = open_trainer(r);
    }
    for (int i = 0; !st && i < p->teaching.n_teachers; i++) {
        st = connect(r, i);
    }
    return st;
}

static void release(rehearsal *r)
{
    for (int i = 0; r->channels != NULL && i < r->p->teaching.n_teachers; i++) {
        kd_channel_destroy(r->channels[i]);
    }
    kd_trainer_destroy(r->trainer);
    for (int i = 0; r->pupils != NULL && r->be != NULL && i < r->p->teaching.n_teachers; i++) {
        pupil *mine = &r->pupils[i];
        kd_teacher_destroy(mine->model);
        r->be->ops->free(r->be, mine->lm_head.data);
        r->be->ops->free(r->be, mine->slots);
        kd_backend_destroy(mine->own);
    }
    kd_message_destroy((ProtobufCMessage *)r->objective);
    kd_backend_destroy(r->elsewhere);
    kd_backend_destroy(r->be);
    free(r->zeros);
    free(r->channels);
    free(r->pupils);
    free(r->views);
}

/* ---- a step ---- */

static kd_status next_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    const rehearsal *r = user;
    (void)m;
    *batch_out = plan_batch(r->p, r->zeros);
    return KD_OK;
}

/* Two micro-batches meet all that a step has: one writes gradients, the other adds to them. */
static kd_status step(rehearsal *r)
{
    const uint64_t n_batches = r->p->roles[0].n_micro_batches < 2 ? 1 : 2;
    const kd_source source = {.user = r, .next = next_batch};
    const kd_step_work work = {.source = &source, .stride = 1, .n_batches = (int64_t)n_batches};
    const kd_reduce alone = kd_reduce_single();
    kd_step_result result;
    kd_status st = KD_OK;
    for (int i = 0; !st && i < r->p->teaching.n_teachers; i++) {
        kd_channel *channel = r->channels[i];
        if (channel != NULL) {
            st = channel->ops->open_step(channel, 0, n_batches, plan_groups(r->p, i));
        }
    }
    return st ? st : kd_trainer_step(r->trainer, &work, r->channels, &alone, &result);
}

/* ---- the loss over the vocabulary, alone ---- */

static kd_status
run_vocabulary(const rehearsal *r, kd_objective *o, const kd_decoder *decoder, kd_tensor labels)
{
    const kd_batch batch = plan_batch(r->p, r->zeros);
    const int n_teachers = r->p->teaching.n_teachers;
    int64_t counts[KD_LOSSES_MAX] = {0};
    void **messages = calloc((size_t)n_teachers + 1, sizeof *messages);
    kd_status st = messages == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for a plan") : KD_OK;
    for (int i = 0; !st && i < n_teachers; i++) {
        const size_t bytes = r->p->teaching.plan.messages[i].message_bytes;
        if (gives(r, i)) {
            messages[i] = r->elsewhere->ops->alloc(r->elsewhere, KD_MEMORY_HOST, bytes);
            st = messages[i] == NULL ? KD_ERR_NOMEM : KD_OK;
        }
    }
    if (!st) {
        kd_objective_count(o, &batch, counts);
        kd_objective_begin(o, 0, counts, true);
        (void)kd_objective_run(o, decoder, batch.n_batch * batch.n_tokens, labels, messages);
    }
    for (int i = 0; messages != NULL && i < n_teachers; i++) {
        r->elsewhere->ops->free(r->elsewhere, messages[i]);
    }
    free(messages);
    return st;
}

/* The scratch memory that a chunk of logits is worked on in. */
static kd_status vocabulary_bytes(const rehearsal *r, size_t *bytes_out)
{
    const plan *p = r->p;
    const kd_decoder_settings settings = {.max_batch = p->job->training->micro_batch_size,
                                          .n_tokens = p->job->data->sequence_length,
                                          .train = true};
    const int64_t n_rows = teaching_rows(p->job);
    kd_backend *be;
    kd_parameters *params = NULL;
    kd_decoder *decoder = NULL;
    kd_objective *objective = NULL;
    kd_status st = kd_backend_create_rehearsal(r->be->compute, r->be->n_threads, &be);
    if (st) {
        return st;
    }
    void *labels = be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)n_rows * sizeof(int32_t));
    st = labels == NULL ? KD_ERR_NOMEM
                        : kd_parameters_create(be, &p->teaching.student, KD_PARAMS_TRAIN, &params);
    if (!st) {
        st = kd_decoder_create(params, &settings, &decoder);
    }
    if (!st) {
        st = kd_objective_create(be, r->objective, &p->teaching.student, r->views,
                                 p->teaching.n_teachers, n_rows, &objective);
    }
    if (!st) {
        st = run_vocabulary(r, objective, decoder, kd_tensor_1d(labels, KD_I32, n_rows));
    }
    *bytes_out = be->ops->memory_usage(be).scratch_bytes;
    kd_objective_destroy(objective);
    kd_decoder_destroy(decoder);
    kd_parameters_destroy(params);
    be->ops->free(be, labels);
    kd_backend_destroy(be);
    return st;
}

/* ---- telling ---- */

static kd_status tell_teacher(const rehearsal *r, int i, plan_role *role)
{
    const plan *p = r->p;
    const pupil *mine = &r->pupils[i];
    char prefix[PLAN_NAME_BYTES / 2];
    (void)snprintf(prefix, sizeof prefix, "teachers.%d.", i);
    kd_status st = KD_OK;
    if (mine->model != NULL) {
        st = plan_add_teacher(role, prefix, mine->model);
    }
    const plan_sized lm_head[] = {{"lm_head", kd_tensor_bytes(mine->lm_head)}};
    if (!st && mine->lm_head.data != NULL) {
        st = PLAN_ADD(role, prefix, lm_head);
    }
    const plan_sized messages[] = {
        {"messages", plan_messages_bytes(p, i, &p->roles[0])},
    };
    if (mine->own != NULL) {
        plan_add_usage(role, mine->own);
    }
    return st ? st : PLAN_ADD(role, prefix, messages);
}

/* What the back ends gave. */
static kd_status tell_held(const rehearsal *r, plan_role *role)
{
    const kd_trainer_memory memory = kd_trainer_memory_of(r->trainer);
    const plan_sized parts[] = {
        {"parameters", memory.parameters.weight_bytes},
        {"master_weights", memory.parameters.master_bytes},
        {"gradient", memory.parameters.gradient_bytes},
        {"moments", memory.moment_bytes},
        {"activations", memory.activation_bytes},
        {"objective", memory.objective_bytes},
        {"labels", memory.label_bytes},
    };
    kd_status st = PLAN_ADD(role, "", parts);
    plan_add_usage(role, r->be);
    for (int i = 0; !st && i < r->p->teaching.n_teachers; i++) {
        if (gives(r, i)) {
            st = tell_teacher(r, i, role);
        }
    }
    if (!st) {
        KD_CHECK(plan_role_bytes(role) == role->usage.held_bytes);
    }
    return st;
}

/* What they took for themselves, if all of them are as their rehearsal. */
static kd_status tell_own(const rehearsal *r, plan_role *role)
{
    size_t vocabulary = 0;
    role->knows_own = role->device == KD_DEVICE_CPU;
    for (int i = 0; i < r->p->teaching.n_teachers; i++) {
        role->knows_own = role->knows_own &&
                          (r->pupils[i].own == NULL || r->p->roles[1 + i].device == KD_DEVICE_CPU);
    }
    const kd_status st = role->knows_own ? vocabulary_bytes(r, &vocabulary) : KD_OK;
    if (st || !role->knows_own) {
        return st;
    }
    KD_CHECK(vocabulary <= role->usage.scratch_bytes);
    const plan_sized parts[] = {
        {"vocabulary_chunk", vocabulary},
        {"workspace", role->usage.scratch_bytes - vocabulary},
        {"products", role->usage.products_bytes},
    };
    return PLAN_ADD(role, "", parts);
}

/* What the host holds beside them. */
static kd_status tell_others(const rehearsal *r, plan_role *role)
{
    const Kd__Job *job = r->p->job;
    const uint32_t n_batch = job->training->micro_batch_size, n_tokens = job->data->sequence_length;
    const kd_evaluate_settings settings = {.max_batch = n_batch, .n_tokens = n_tokens};
    const kd_evaluate_memory evaluation = kd_evaluate_memory_of(&settings);
    size_t n_readers = 1;
    for (int i = 0; i < r->p->teaching.n_teachers; i++) {
        n_readers += r->pupils[i].model != NULL;
    }
    const plan_sized parts[] = {
        {"tokens", n_readers * batch_reader_bytes(n_batch, n_tokens) +
                       kd_trainer_memory_of(r->trainer).host_bytes},
        {"evaluation",
         job->data->held_out > 0.0 ? evaluation.held_bytes + evaluation.host_bytes : 0},
    };
    return PLAN_ADD(role, "", parts);
}

static kd_status tell_files(const rehearsal *r, plan *p)
{
    const kd_parameters *params = kd_trainer_parameters(r->trainer);
    const kd_status st =
        kd_checkpoint_bytes(kd_trainer_optimizer(r->trainer), &p->checkpoint_bytes);
    return st ? st : kd_model_folder_weights_bytes(params, params->be->compute, &p->model_bytes);
}

kd_status plan_student_memory(plan *p)
{
    rehearsal r = {.p = p};
    plan_role *role = &p->roles[0];
    kd_status st = prepare(&r);
    if (!st) {
        st = step(&r);
    }
    if (!st) {
        st = tell_held(&r, role);
    }
    if (!st) {
        st = tell_own(&r, role);
    }
    if (!st) {
        st = tell_others(&r, role);
    }
    if (!st) {
        st = tell_files(&r, p);
    }
    release(&r);
    return st;
}
