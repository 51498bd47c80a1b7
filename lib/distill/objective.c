/*
 * objective.c - which losses there are between these models, and which signals they need: decided once,
 * because decoder, channel and memory follow from it. Values are looked up in the message anew at each
 * step (objective_step.c), so that a change is no more than another message.
 */
#include "distill/objective_state.h"

#include <stdlib.h>

#include "base/log.h"
#include "message/reflect.h"

/* ---- what there is between these models ---- */

static bool
exists(const kd_loss_kind *kind, const Kd__Objective *message, const kd_loss_context *context)
{
    return kd_loss_message(kind, message) != NULL &&
           (kind->exists == NULL || kind->exists(context));
}

static kd_status
make_plan(const Kd__Objective *message, const kd_loss_context *context, kd_signal_plan *plan_out)
{
    kd_signal_plan plan = {0};
    kd_status st = KD_OK;
    for (int i = 0; !st && i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        if (kind->plan != NULL && exists(kind, message, context)) {
            st = kind->plan(kd_loss_message(kind, message), context, i, &plan);
        }
    }
    if (!st) {
        st = kd_signal_plan_lay_out(&plan, context->n_teachers);
    }
    if (st) {
        kd_signal_plan_release(&plan);
        return st;
    }
    *plan_out = plan;
    return KD_OK;
}

kd_status kd_objective_plan(const Kd__Objective *objective,
                            const kd_model_config *student,
                            const kd_teacher_view *teachers,
                            int n_teachers,
                            int64_t max_rows,
                            kd_signal_plan *plan_out)
{
    const kd_loss_context context = {
        .student = student, .teachers = teachers, .n_teachers = n_teachers, .max_rows = max_rows};
    return make_plan(objective, &context, plan_out);
}

uint64_t kd_objective_readers(const Kd__Objective *objective, uint64_t step)
{
    uint64_t readers = 0;
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        const ProtobufCMessage *message = kd_loss_message(kind, objective);
        if (kind->plan != NULL && message != NULL && kd_loss_weight_at(message, step) > 0.0) {
            readers |= (uint64_t)1 << i;
        }
    }
    return readers;
}

/* ---- life ---- */

static void lay_out(kd_objective *o, kd_arena *arena)
{
    int n_sums = KD_VOCAB_SUMS;
    for (int i = 0; i < o->n_losses; i++) {
        o->losses[i].first_sum = n_sums;
        n_sums += o->losses[i].kind->n_sums;
    }
    o->d_hidden = kd_tensor_carve_2d(arena, KD_F32, o->context.max_rows, o->student.hidden_size);
    o->sums = kd_tensor_carve_1d(arena, KD_F64, n_sums);
    for (int i = 0; i < o->n_losses; i++) {
        kd_loss *loss = &o->losses[i];
        loss->sums = loss->kind->n_sums == 0
                         ? kd_tensor_none()
                         : kd_tensor_1d((double *)o->sums.data + loss->first_sum, KD_F64,
                                        loss->kind->n_sums);
    }
}

static kd_status allocate(kd_objective *o)
{
    kd_backend *be = o->context.be;
    kd_arena arena = {0};
    lay_out(o, &arena);
    const kd_status st = kd_backend_place(be, KD_MEMORY_DEVICE, arena.used, &o->slab,
                                          "losses of %lld rows", (long long)o->context.max_rows);
    if (st) {
        return st;
    }
    o->slab_bytes = arena.used;
    kd_arena_init(&arena, o->slab, o->slab_bytes);
    lay_out(o, &arena);
    return KD_OK;
}

static kd_status add_losses(kd_objective *o)
{
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        if (!exists(kind, o->message, &o->context)) {
            continue;
        }
        kd_loss *loss = &o->losses[o->n_losses++];
        *loss = (kd_loss){.kind = kind,
                          .context = &o->context,
                          .message = kd_loss_message(kind, o->message),
                          .number = i,
                          .state = calloc(1, kind->state_bytes + 1)};
        if (loss->state == NULL) {
            return kd_fail(KD_ERR_NOMEM, "no memory for loss %s", kind->name);
        }
    }
    return KD_OK;
}

static kd_status copy_teachers(kd_objective *o, const kd_teacher_view *teachers, int n)
{
    o->configs = calloc((size_t)n + 1, sizeof *o->configs);
    o->teachers = calloc((size_t)n + 1, sizeof *o->teachers);
    o->no_messages = calloc((size_t)n + 1, sizeof *o->no_messages);
    o->context.seen = calloc((size_t)n + 1, sizeof *o->context.seen);
    o->context.seen_signals = calloc((size_t)n + 1, sizeof *o->context.seen_signals);
    o->chunk_logits = calloc((size_t)n + 1, sizeof *o->chunk_logits);
    if (o->configs == NULL || o->teachers == NULL || o->no_messages == NULL ||
        o->context.seen == NULL || o->context.seen_signals == NULL || o->chunk_logits == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    o->context.n_vocab = o->student.vocab_size;
    for (int i = 0; i < n; i++) {
        int64_t common;
        const kd_status st = kd_vocab_common(&o->student, teachers[i].config, &common);
        if (st) {
            return st;
        }
        o->context.n_vocab = common < o->context.n_vocab ? common : o->context.n_vocab;
        o->configs[i] = *teachers[i].config;
        o->teachers[i] = teachers[i];
        o->teachers[i].config = &o->configs[i];
    }
    return KD_OK;
}

/* Whose lm_head is needed must have brought one. */
static kd_status check_lm_head(const kd_objective *o, int i)
{
    const kd_teacher_view *teacher = &o->teachers[i];
    const kd_tensor *head = &teacher->lm_head;
    const kd_model_config *config = teacher->config;
    if (kd_signal_plan_find(&o->plan, i, KD_SIGNAL_HIDDEN, 0) == NULL ||
        (head->data != NULL && head->dtype == teacher->compute &&
         kd_tensor_rows(*head) == config->vocab_size &&
         kd_tensor_columns(*head) == config->hidden_size)) {
        return KD_OK;
    }
    return kd_fail(
        KD_ERR_ARG,
        "teachers.%d: hidden states need the teacher's lm_head: expected (%lld, %lld) %s", i,
        (long long)config->vocab_size, (long long)config->hidden_size,
        kd_dtype_name(teacher->compute));
}

/* Fills in what is owned, piece by piece; the caller destroys the objective if it fails. */
static kd_status build(kd_objective *o, const kd_teacher_view *teachers, int n_teachers)
{
    kd_status st = copy_teachers(o, teachers, n_teachers);
    if (st) {
        return st;
    }
    o->context.teachers = o->teachers;
    st = make_plan(o->message, &o->context, &o->plan);
    for (int i = 0; !st && i < n_teachers; i++) {
        st = check_lm_head(o, i);
    }
    if (!st) {
        st = add_losses(o);
    }
    return st ? st : allocate(o);
}

kd_status kd_objective_create(kd_backend *be,
                              const Kd__Objective *message,
                              const kd_model_config *student,
                              const kd_teacher_view *teachers,
                              int n_teachers,
                              int64_t max_rows,
                              kd_objective **objective_out)
{
    KD_CHECK(max_rows > 0 && n_teachers >= 0);
    kd_objective *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    *o = (kd_objective){
        .message = (Kd__Objective *)kd_message_copy(&message->base),
        .student = *student,
        .context = {.be = be,
                    .student = &o->student,
                    .plan = &o->plan,
                    .n_teachers = n_teachers,
                    .max_rows = max_rows},
    };
    const kd_status st = o->message == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for an objective")
                                            : build(o, teachers, n_teachers);
    if (st) {
        kd_objective_destroy(o);
        return st;
    }
    *objective_out = o;
    return KD_OK;
}

void kd_objective_destroy(kd_objective *o)
{
    if (o == NULL) {
        return;
    }
    for (int i = 0; i < o->n_losses; i++) {
        free(o->losses[i].state);
    }
    o->context.be->ops->free(o->context.be, o->slab);
    kd_signal_plan_release(&o->plan);
    free(o->chunk_logits);
    free(o->context.seen_signals);
    free(o->context.seen);
    free(o->no_messages);
    free(o->teachers);
    free(o->configs);
    kd_message_destroy((ProtobufCMessage *)o->message);
    free(o);
}

static const kd_loss *find_loss(const kd_objective *o, const kd_loss_kind *kind)
{
    for (int i = 0; i < o->n_losses; i++) {
        if (o->losses[i].kind == kind) {
            return &o->losses[i];
        }
    }
    return NULL;
}

/* What was left out since is no reason: losses are those of the creation for good. */
static kd_status check_losses(const kd_objective *o, const Kd__Objective *message)
{
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        if (exists(kind, message, &o->context) && find_loss(o, kind) == NULL) {
            return kd_fail(KD_ERR_STATE,
                           "loss %s cannot be added while training runs: expected "
                           "it in the objective from the start",
                           kind->name);
        }
    }
    return KD_OK;
}

/* The messages of the teachers are laid out already: nothing else can come in them. */
static kd_status check_signals(const kd_objective *o, const Kd__Objective *message)
{
    kd_signal_plan plan;
    kd_status st = make_plan(message, &o->context, &plan);
    if (st) {
        return st;
    }
    for (int i = 0; !st && i < plan.n_signals; i++) {
        if (!kd_signal_plan_holds(&o->plan, &plan.signals[i])) {
            st = kd_fail(KD_ERR_STATE,
                         "objective: found a value that asks teachers.%d for another signal while "
                         "training runs, expected those from the start",
                         plan.signals[i].teacher);
        }
    }
    kd_signal_plan_release(&plan);
    return st;
}

kd_status kd_objective_set(kd_objective *o, const Kd__Objective *message)
{
    kd_status st = check_losses(o, message);
    if (!st) {
        st = check_signals(o, message);
    }
    if (st) {
        return st;
    }
    Kd__Objective *copy = (Kd__Objective *)kd_message_copy(&message->base);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    for (int i = 0; i < o->n_losses; i++) {
        o->losses[i].message = kd_loss_message(o->losses[i].kind, copy);
    }
    kd_message_destroy(&o->message->base);
    o->message = copy;
    return KD_OK;
}

/* ---- reading ---- */

size_t kd_objective_bytes(const kd_objective *objective)
{
    return objective->slab_bytes;
}

const kd_signal_plan *kd_objective_signals(const kd_objective *objective)
{
    return &objective->plan;
}

kd_tensor kd_objective_sums(const kd_objective *objective)
{
    return objective->sums;
}

int kd_objective_n_losses(const kd_objective *objective)
{
    return objective->n_losses;
}
