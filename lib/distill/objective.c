#include "distill/objective.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

/* A loss over layers as the decoder calls it. */
typedef struct listening {
    kd_objective *objective;
    kd_loss_id id;
} listening;

struct kd_objective {
    kd_backend *be;
    kd_objective_settings settings;
    kd_signal_plan plan;
    kd_model_config student;
    int64_t teacher_vocab; /* 0: no teacher */
    int64_t n_vocab;
    int64_t max_rows;
    kd_tensor teacher_lm_head; /* borrowed */

    /* Of the step begun last. */
    double weights[KD_LOSS_COUNT];
    kd_step_counts counts;
    double temperature;
    bool computed[KD_LOSS_COUNT];

    listening listening[KD_LOSS_COUNT];

    void *slab;
    kd_tensor d_hidden; /* (max_rows, C) f32   */
    kd_tensor sums;     /* (KD_SUM_COUNT) f64  */
};

kd_objective_settings kd_objective_defaults(void)
{
    return (kd_objective_settings){
        .weights = {[KD_LOSS_KD] = kd_schedule_constant(0.7),
                    [KD_LOSS_HARD] = kd_schedule_constant(0.3),
                    [KD_LOSS_BALANCE] = kd_schedule_constant(0.01),
                    [KD_LOSS_Z] = kd_schedule_constant(0.001)},
        .temperature = kd_schedule_constant(4.0),
        .scale_by_t2 = true,
        .transport = KD_TRANSPORT_AUTO,
    };
}

kd_status kd_objective_check(const kd_objective_settings *settings)
{
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        char what[64];
        (void)snprintf(what, sizeof what, "weight of loss %s", kind->name);
        const kd_status st = kd_schedule_check(&settings->weights[i], what, 0.0);
        if (st) {
            return st;
        }
    }
    if (settings->chunk_rows < 0) {
        return kd_fail(KD_ERR_INVALID, "rows of a chunk: found %lld, expected at least 0",
                       (long long)settings->chunk_rows);
    }
    return kd_schedule_check(&settings->temperature, "temperature", 1e-3);
}

kd_status kd_objective_plan(const kd_objective_settings *settings,
                            const kd_model_config *student,
                            const kd_model_config *teacher,
                            kd_dtype compute,
                            int64_t max_rows,
                            kd_signal_plan *plan_out)
{
    kd_signal_plan plan = {0};
    kd_status st = kd_objective_check(settings);
    if (st) {
        return st;
    }
    const kd_plan_context context = {.student = student,
                                     .teacher = teacher,
                                     .transport = settings->transport,
                                     .compute = compute,
                                     .max_rows = max_rows};
    for (int i = 0; teacher != NULL && i < KD_LOSS_COUNT; i++) {
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        if (kind->plan == NULL || kd_schedule_is_zero(&settings->weights[i])) {
            continue;
        }
        st = kind->plan(&context, &plan);
        if (st) {
            return st;
        }
    }
    *plan_out = plan;
    return KD_OK;
}

static void lay_out(kd_objective *o, kd_arena *arena)
{
    o->d_hidden = kd_tensor_carve_2d(arena, KD_F32, o->max_rows, o->student.hidden_size);
    o->sums = kd_tensor_carve_1d(arena, KD_F64, KD_SUM_COUNT);
}

static kd_status allocate(kd_objective *o)
{
    kd_arena arena = {0};
    lay_out(o, &arena);
    o->slab = o->be->ops->alloc(o->be, arena.used);
    if (o->slab == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_arena_init(&arena, o->slab, arena.used);
    lay_out(o, &arena);
    return KD_OK;
}

/* What the teacher's shape decides: columns in common, signals, and whose lm_head is needed. */
static kd_status meet_teacher(kd_objective *o, const kd_model_config *teacher)
{
    o->n_vocab = o->student.vocab_size;
    if (teacher != NULL) {
        o->teacher_vocab = teacher->vocab_size;
        const kd_status st = kd_vocab_common(&o->student, teacher, &o->n_vocab);
        if (st) {
            return st;
        }
    }
    const kd_status st = kd_objective_plan(&o->settings, &o->student, teacher, o->be->compute,
                                           o->max_rows, &o->plan);
    if (st) {
        return st;
    }
    const kd_tensor *head = &o->teacher_lm_head;
    if (teacher != NULL && kd_signal_plan_find(&o->plan, KD_SIGNAL_HIDDEN, 0) != NULL &&
        (head->data == NULL || head->dtype != o->be->compute ||
         kd_tensor_rows(*head) != teacher->vocab_size ||
         kd_tensor_columns(*head) != teacher->hidden_size)) {
        return kd_fail(KD_ERR_ARG,
                       "hidden states need the teacher's lm_head: expected (%lld, %lld) %s",
                       (long long)teacher->vocab_size, (long long)teacher->hidden_size,
                       kd_dtype_name(o->be->compute));
    }
    return KD_OK;
}

kd_status kd_objective_create(kd_backend *be,
                              const kd_objective_settings *settings,
                              const kd_model_config *student,
                              const kd_teacher_view *teacher,
                              int64_t max_rows,
                              kd_objective **objective_out)
{
    KD_CHECK(max_rows > 0);
    kd_objective *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    *o = (kd_objective){.be = be,
                        .settings = *settings,
                        .student = *student,
                        .max_rows = max_rows,
                        .teacher_lm_head = teacher->lm_head};
    kd_status st = meet_teacher(o, teacher->config);
    if (st) {
        goto err_free;
    }
    st = allocate(o);
    if (st) {
        goto err_free;
    }
    *objective_out = o;
    return KD_OK;

err_free:
    free(o);
    return st;
}

void kd_objective_destroy(kd_objective *objective)
{
    if (objective != NULL) {
        objective->be->ops->free(objective->be, objective->slab);
        free(objective);
    }
}

const kd_signal_plan *kd_objective_signals(const kd_objective *objective)
{
    return &objective->plan;
}

kd_tensor kd_objective_sums(const kd_objective *objective)
{
    return objective->sums;
}

/* Over how many layers a loss is a mean: 1 if it is not one over layers. */
static int64_t layers_of(const kd_objective *o, kd_loss_id id)
{
    const kd_loss_kind *kind = kd_loss_get(id);
    return kind->layers != NULL ? kind->layers(&o->student) : 1;
}

/* Whether a loss exists at all for these models and weights. */
static bool is_present(const kd_objective *o, kd_loss_id id)
{
    const kd_loss_kind *kind = kd_loss_get(id);
    if (kind->needs_signals && o->teacher_vocab == 0) {
        return false;
    }
    if (layers_of(o, id) == 0) {
        return false;
    }
    return !kd_schedule_is_zero(&o->settings.weights[id]);
}

void kd_objective_count(const kd_objective *o,
                        const int32_t *labels,
                        int64_t n_rows,
                        int64_t counts[KD_LOSS_COUNT])
{
    (void)o;
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        counts[i] += kd_loss_get((kd_loss_id)i)->count(labels, n_rows);
    }
}

double kd_objective_scale(const kd_objective *o, kd_loss_id id)
{
    return is_present(o, id) && o->counts.rows[id] > 0 ? o->weights[id] / (double)o->counts.rows[id]
                                                       : 0.0;
}

bool kd_objective_teaches(const kd_objective *o)
{
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        if (o->computed[i] && kd_objective_scale(o, (kd_loss_id)i) > 0.0) {
            return true;
        }
    }
    return false;
}

void kd_objective_begin(kd_objective *o, uint64_t step, const kd_step_counts *counts)
{
    o->counts = *counts;
    o->temperature = kd_schedule_at(&o->settings.temperature, step);
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        const bool present = is_present(o, (kd_loss_id)i);
        o->weights[i] = kd_schedule_at(&o->settings.weights[i], step);
        /* One that needs signals is computed once a message has come. */
        o->computed[i] = present && o->weights[i] > 0.0 && !kind->needs_signals;
    }
    o->computed[KD_LOSS_HARD] = counts->labelled; /* at any weight: it costs nothing */
    o->be->ops->zero(o->be, o->sums);
}

/* The terms of all losses over the vocabulary. */
static void add_terms(kd_objective *o, const kd_loss_input *input, kd_vocab_loss *loss)
{
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        const bool blind = kind->needs_signals && input->message == NULL;
        const bool unlabelled = kind->needs_labels && !o->counts.labelled;
        if (blind || unlabelled || o->weights[i] == 0.0 || !is_present(o, (kd_loss_id)i)) {
            continue;
        }
        const double scale = kd_objective_scale(o, (kd_loss_id)i);
        o->computed[i] = true;
        if (kind->vocab != NULL && scale > 0.0) {
            kind->vocab(input, scale, loss);
        }
    }
}

kd_tensor
kd_objective_run(kd_objective *o, const kd_decoder *decoder, kd_tensor labels, void *message)
{
    const int64_t n_rows = kd_tensor_rows(kd_decoder_hidden(decoder));
    KD_CHECK(n_rows > 0 && n_rows <= o->max_rows);
    KD_CHECK((labels.data != NULL) == o->counts.labelled);

    const kd_weight lm_head = kd_decoder_lm_head_weight(decoder);
    kd_vocab_teacher teacher;
    const kd_loss_input input = {
        .plan = &o->plan,
        .message = o->plan.n_signals > 0 ? message : NULL,
        .n_rows = n_rows,
        .temperature = o->temperature,
        .scale_by_t2 = o->settings.scale_by_t2,
        .teacher_lm_head = o->teacher_lm_head,
        .teacher = &teacher,
    };
    kd_vocab_loss loss = {
        .hidden = kd_decoder_hidden(decoder),
        .lm_head = lm_head.value,
        .labels = labels,
        .sums = kd_tensor_1d(o->sums.data, KD_F64, KD_VOCAB_SUMS),
        .d_hidden = kd_tensor_slice_rows(o->d_hidden, 0, n_rows),
        .d_lm_head = lm_head.grad,
        .accumulate = kd_weight_adds(lm_head),
        .n_vocab = o->n_vocab,
        .temperature = 1.0f,
        .chunk_rows = o->settings.chunk_rows,
    };
    add_terms(o, &input, &loss);
    o->be->ops->vocab_loss(o->be, &loss);
    return loss.d_hidden;
}

static void act(void *user, const kd_tap *tap)
{
    const listening *l = user;
    kd_objective *o = l->objective;
    const kd_loss_kind *kind = kd_loss_get(l->id);
    const double scale = kd_objective_scale(o, l->id);

    if (tap->gradient.data == NULL || scale == 0.0 || !o->computed[l->id]) {
        return;
    }
    const kd_layer_loss loss = {
        .be = o->be,
        .scale = scale / (double)layers_of(o, l->id),
        .sum = kd_tensor_1d((double *)o->sums.data + kind->sum, KD_F64, 1),
    };
    kind->at(&loss, tap);
}

kd_status kd_objective_listen(kd_objective *o, kd_decoder *decoder)
{
    kd_listener listeners[KD_LOSS_COUNT];
    int n = 0;

    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        if (kind->at == NULL || !is_present(o, (kd_loss_id)i)) {
            continue;
        }
        o->listening[i] = (listening){.objective = o, .id = (kd_loss_id)i};
        listeners[n++] = (kd_listener){.points = kind->points, .user = &o->listening[i], .at = act};
    }
    return kd_decoder_listen(decoder, listeners, n);
}

int kd_objective_report(const kd_objective *o,
                        const double *sums,
                        kd_loss_value *values_out,
                        double *total_out)
{
    const double t = o->temperature;
    double total = 0.0;
    int n = 0;

    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        if (!is_present(o, (kd_loss_id)i) && i != KD_LOSS_HARD) {
            continue;
        }
        const kd_loss_kind *kind = kd_loss_get((kd_loss_id)i);
        const bool counts = o->computed[i] && o->counts.rows[i] > 0;
        const double factor = kind->by_t2 && o->settings.scale_by_t2 ? t * t : 1.0;
        const double terms = (double)o->counts.rows[i] * (double)layers_of(o, (kd_loss_id)i);
        const double raw = counts ? sums[kind->sum] * factor / terms : 0.0;
        values_out[n++] = (kd_loss_value){.name = kind->name,
                                          .weight = o->weights[i],
                                          .raw = raw,
                                          .weighted = raw * o->weights[i],
                                          .computed = o->computed[i]};
        total += raw * o->weights[i];
    }
    *total_out = total;
    return n;
}
