#include "kd.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "distill/teacher.h"
#include "format/model_folder.h"
#include "train/checkpoint.h"
#include "train/step.h"

/* Where the teacher's logits of a step come from: each has an objective of its own. */
typedef enum source {
    SOURCE_NONE,    /* no teacher, or distillation is off */
    SOURCE_TEACHER, /* the model attached                 */
    SOURCE_LOGITS,  /* the caller's                       */
} source;

struct kd_student {
    kd_backend *be; /* owned, as are the next three */
    kd_trainer *trainer;
    kd_teacher *teacher;          /* NULL: none */
    kd_channel *channel;          /* of the objective at hand; NULL: without signals */
    kd_trainer_settings settings; /* as wished; the trainer's objective may lag behind */
    bool distils;
    source built;     /* what the trainer's objective was made for, */
    bool changed;     /* and whether a setting changed since        */
    uint64_t n_steps; /* updates made */

    /* The step under way, for produce(). */
    const int32_t *tokens;
    const float *logits;
    int64_t n_batch;
};

_Static_assert(KD_LOSS_COUNT <= KD_STUDENT_LOSSES_MAX, "kd_losses holds every loss");

kd_student_options kd_student_options_default(void)
{
    return (kd_student_options){
        .model = {.type = "mixtral",
                  .experts_per_token = 2,
                  .rope_theta = 10000.0,
                  .norm_eps = 1e-6},
        .n_threads = 1,
        .max_sequences = 8,
        .sequence_length = 256,
        .learning_rate = 3e-4,
        .weight_decay = 0.1,
        .clip_norm = 1.0,
    };
}

static kd_status check_options(const kd_student_options *o)
{
    if (o->n_threads < 1 || o->max_sequences < 1 || o->sequence_length < 1) {
        return kd_fail(KD_ERR_ARG,
                       "found n_threads %d, max_sequences %lld, sequence_length %lld: expected at "
                       "least 1 of each",
                       o->n_threads, (long long)o->max_sequences, (long long)o->sequence_length);
    }
    if (!(o->learning_rate > 0.0) || !(o->weight_decay >= 0.0) || !(o->clip_norm >= 0.0)) {
        return kd_fail(KD_ERR_ARG,
                       "found learning_rate %g, weight_decay %g, clip_norm %g: expected above 0, "
                       "at least 0, at least 0",
                       o->learning_rate, o->weight_decay, o->clip_norm);
    }
    return KD_OK;
}

static kd_status shape_of(const kd_student_options *options, kd_model_config *config_out)
{
    const kd_student_model *m = &options->model;
    if (options->folder != NULL) {
        return kd_model_folder_config(options->folder, config_out);
    }
    kd_model_config config = {
        .vocab_size = m->vocab_size,
        .hidden_size = m->hidden_size,
        .n_layers = m->num_layers,
        .n_heads = m->num_heads,
        .n_kv_heads = m->num_kv_heads > 0 ? m->num_kv_heads : m->num_heads,
        .head_dim = m->head_dim,
        .intermediate_size = m->intermediate_size,
        .n_experts = m->num_experts,
        .experts_per_token = m->num_experts > 0 ? m->experts_per_token : 0,
        .shared_expert_size = m->shared_expert_size,
        .tied_embeddings = m->tied_embeddings,
        .rope_theta = m->rope_theta,
        .norm_eps = (float)m->norm_eps,
        .max_positions = options->sequence_length,
    };
    if (config.head_dim == 0 && config.n_heads > 0) {
        config.head_dim = config.hidden_size / config.n_heads;
    }
    kd_status st = kd_model_type_find(m->type, "model.type", &config.type);
    if (st) {
        return st;
    }
    kd_model_config_apply_type(&config);
    st = kd_model_config_check(&config);
    if (!st) {
        *config_out = config;
    }
    return st;
}

static kd_status
make_parameters(kd_backend *be, const kd_student_options *options, kd_parameters **params_out)
{
    kd_model_config config;
    kd_parameters *params;
    kd_status st = shape_of(options, &config);
    if (st) {
        return st;
    }
    st = kd_parameters_create(be, &config, KD_PARAMS_TRAIN, &params);
    if (st) {
        return st;
    }
    st = options->folder != NULL ? kd_model_folder_load(options->folder, params)
                                 : kd_parameters_init(params, options->seed);
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    *params_out = params;
    return KD_OK;
}

static kd_trainer_settings settings_of(const kd_student_options *o)
{
    kd_trainer_settings settings = {
        .objective = kd_objective_defaults(),
        .optimizer = kd_optimizer_defaults(),
        .learning_rate = {.peak = o->learning_rate,
                          .warmup_steps = o->warmup_steps,
                          .steps = o->decay_steps,
                          .decay = o->decay_steps > 0 ? KD_DECAY_COSINE : KD_DECAY_CONSTANT,
                          .final_ratio = 0.1},
        .max_batch = o->max_sequences,
        .n_tokens = o->sequence_length,
    };
    settings.optimizer.weight_decay = o->weight_decay;
    settings.clip_norm = o->clip_norm;
    return settings;
}

kd_status kd_student_create(const kd_student_options *options, kd_student **student_out)
{
    const kd_teacher_view nobody = {0};
    kd_parameters *params;
    kd_status st = check_options(options);
    if (st) {
        return st;
    }
    kd_student *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a student");
    }
    *s = (kd_student){.settings = settings_of(options), .distils = true};
    st = kd_backend_create_cpu(options->bf16 ? KD_BF16 : KD_F32, options->n_threads, &s->be);
    if (st) {
        goto err_student;
    }
    st = make_parameters(s->be, options, &params);
    if (st) {
        goto err_student;
    }
    st = kd_trainer_create(params, &s->settings, &nobody, &s->trainer);
    if (st) {
        goto err_student;
    }
    *student_out = s;
    return KD_OK;

err_student:
    kd_student_destroy(s);
    return st;
}

void kd_student_destroy(kd_student *s)
{
    if (s != NULL) {
        kd_channel_destroy(s->channel);
        kd_trainer_destroy(s->trainer);
        kd_teacher_destroy(s->teacher);
        kd_backend_destroy(s->be);
        free(s);
    }
}

/* Writes the message of the step under way: the local channel calls it. */
static kd_status produce(void *user, uint64_t m, void *message)
{
    kd_student *s = user;
    const kd_signal_plan *plan = kd_trainer_signals(s->trainer);
    (void)m;

    if (s->logits == NULL) {
        return kd_teacher_fill(s->teacher, s->tokens, s->n_batch, plan, message);
    }
    const kd_signal *signal = kd_signal_plan_find(plan, KD_SIGNAL_LOGITS, 0);
    KD_CHECK(signal != NULL);
    const kd_tensor view = kd_signal_view(signal, message, s->n_batch * s->settings.n_tokens);
    s->be->ops->upload(s->be, view, s->logits);
    return kd_backend_wait(s->be);
}

/* Brings the trainer's objective and the channel in line with the settings and the source. */
static kd_status prepare(kd_student *s, source from)
{
    kd_objective_settings objective = s->settings.objective;
    kd_teacher_view teacher = {0};
    kd_channel *channel = NULL;

    if (from == s->built && !s->changed) {
        return KD_OK;
    }
    if (from == SOURCE_TEACHER) {
        teacher.config = kd_teacher_config(s->teacher);
        teacher.lm_head = kd_teacher_lm_head(s->teacher);
    } else if (from == SOURCE_LOGITS) {
        teacher.config = &kd_trainer_parameters(s->trainer)->config;
        objective.transport = KD_TRANSPORT_LOGITS;
    }
    kd_status st = kd_trainer_set_objective(s->trainer, &objective, &teacher);
    if (st) {
        return st;
    }
    s->built = SOURCE_NONE; /* until there is a channel for it */
    s->changed = true;
    const size_t bytes = kd_trainer_signals(s->trainer)->message_bytes;
    if (bytes > 0) {
        st = kd_channel_create_local(bytes, produce, s, &channel);
        if (st) {
            return st;
        }
    }
    kd_channel_destroy(s->channel);
    s->channel = channel;
    s->built = from;
    s->changed = false;
    return KD_OK;
}

kd_status kd_student_attach_teacher(kd_student *s, const char *folder)
{
    const kd_teacher_settings settings = {.max_batch = s->settings.max_batch,
                                          .n_tokens = s->settings.n_tokens};
    const kd_model_config *config = &kd_trainer_parameters(s->trainer)->config;
    kd_teacher *teacher = NULL;
    int64_t n_vocab;
    kd_status st = KD_OK;

    if (folder != NULL) {
        st = kd_teacher_load(s->be, folder, &settings, &teacher);
        if (st) {
            return st;
        }
        st = kd_vocab_common(config, kd_teacher_config(teacher), &n_vocab);
    }
    if (!st) {
        st = prepare(s, SOURCE_NONE); /* lets go of the lm_head of the one before */
    }
    if (st) {
        kd_teacher_destroy(teacher);
        return st;
    }
    kd_teacher_destroy(s->teacher);
    s->teacher = teacher;
    return KD_OK;
}

void kd_student_set_distillation(kd_student *s, bool on)
{
    s->distils = on;
}

/* Takes new settings if they are in range; the next step builds them in. */
static kd_status change(kd_student *s, const kd_objective_settings *objective)
{
    const kd_status st = kd_objective_check(objective);
    if (!st) {
        s->settings.objective = *objective;
        s->changed = true;
    }
    return st;
}

kd_status kd_student_set_temperature(kd_student *s, double temperature)
{
    kd_objective_settings objective = s->settings.objective;
    objective.temperature = kd_schedule_constant(temperature);
    return change(s, &objective);
}

kd_status kd_student_set_weight(kd_student *s, const char *loss, double weight)
{
    kd_objective_settings objective = s->settings.objective;
    kd_loss_id id;
    const kd_status st = kd_loss_find(loss, &id);
    if (st) {
        return st;
    }
    objective.weights[id] = kd_schedule_constant(weight);
    return change(s, &objective);
}

kd_status kd_student_get_weight(const kd_student *s, const char *loss, double *weight_out)
{
    kd_loss_id id;
    const kd_status st = kd_loss_find(loss, &id);
    if (!st) {
        *weight_out = kd_schedule_at(&s->settings.objective.weights[id], s->n_steps);
    }
    return st;
}

static void report(const kd_step_result *result, kd_losses *losses_out)
{
    kd_losses losses = {.total = result->loss,
                        .gradient_norm = result->gradient_norm,
                        .learning_rate = result->learning_rate,
                        .n_tokens = result->n_tokens};
    for (int i = 0; i < result->n_losses; i++) {
        const kd_loss_value *value = &result->losses[i];
        if (value->computed) {
            losses.values[losses.n_values++] = (kd_student_loss){.name = value->name,
                                                                 .weight = value->weight,
                                                                 .raw = value->raw,
                                                                 .weighted = value->weighted};
        }
    }
    *losses_out = losses;
}

/* One update with the logits of `from`; tokens and s->logits are set. */
static kd_status step(kd_student *s,
                      source from,
                      const int32_t *tokens,
                      const int32_t *labels,
                      int64_t n_sequences,
                      kd_losses *losses_out)
{
    const kd_micro_batch batch = {
        .m = s->n_steps, .tokens = tokens, .labels = labels, .n_batch = n_sequences};
    const kd_step_work work = {.step = s->n_steps, .batches = &batch, .n_batches = 1};
    const kd_reduce alone = kd_reduce_single();
    kd_step_result result;

    if (n_sequences < 1 || n_sequences > s->settings.max_batch) {
        return kd_fail(KD_ERR_ARG, "found %lld sequences, expected 1 to %lld",
                       (long long)n_sequences, (long long)s->settings.max_batch);
    }
    kd_status st = prepare(s, from);
    if (st) {
        return st;
    }
    s->tokens = tokens;
    s->n_batch = n_sequences;
    st = kd_trainer_step(s->trainer, &work, s->channel, &alone, &result);
    if (st) {
        return st;
    }
    s->n_steps++;
    report(&result, losses_out);
    return KD_OK;
}

kd_status kd_student_step(kd_student *s,
                          const int32_t *tokens,
                          const int32_t *labels,
                          int64_t n_sequences,
                          kd_losses *losses_out)
{
    const source from = s->distils && s->teacher != NULL ? SOURCE_TEACHER : SOURCE_NONE;
    s->logits = NULL;
    return step(s, from, tokens, labels, n_sequences, losses_out);
}

kd_status kd_student_step_on_logits(kd_student *s,
                                    const int32_t *tokens,
                                    const int32_t *labels,
                                    const float *target_logits,
                                    int64_t n_sequences,
                                    kd_losses *losses_out)
{
    if (target_logits == NULL) {
        return kd_fail(KD_ERR_ARG, "found no target logits, expected (%lld, %lld) of them",
                       (long long)(n_sequences * s->settings.n_tokens),
                       (long long)kd_trainer_parameters(s->trainer)->config.vocab_size);
    }
    s->logits = target_logits;
    return step(s, s->distils ? SOURCE_LOGITS : SOURCE_NONE, tokens, labels, n_sequences,
                losses_out);
}

/* Sequences in arrays of the caller's. */
typedef struct arrays {
    const int32_t *tokens, *labels; /* (n_sequences, T) */
    int64_t n_tokens;               /* T */
} arrays;

static kd_status
read_arrays(void *user, int64_t first, int64_t n, int32_t *tokens_out, int32_t *labels_out)
{
    const arrays *a = user;
    const size_t bytes = (size_t)(n * a->n_tokens) * sizeof *tokens_out;
    memcpy(tokens_out, a->tokens + first * a->n_tokens, bytes);
    memcpy(labels_out, a->labels + first * a->n_tokens, bytes);
    return KD_OK;
}

kd_status kd_student_evaluate(kd_student *s,
                              const int32_t *tokens,
                              const int32_t *labels,
                              int64_t n_sequences,
                              kd_scores *scores_out)
{
    arrays from = {.tokens = tokens, .labels = labels, .n_tokens = s->settings.n_tokens};
    const kd_sequences sequences = {.user = &from, .n_sequences = n_sequences, .read = read_arrays};
    const kd_reduce alone = kd_reduce_single();
    kd_evaluation evaluation;
    const kd_status st = kd_trainer_evaluate(s->trainer, &sequences, &alone, &evaluation);
    if (st) {
        return st;
    }
    *scores_out = (kd_scores){.loss = evaluation.loss,
                              .perplexity = evaluation.perplexity,
                              .accuracy = evaluation.accuracy,
                              .n_tokens = evaluation.n_tokens};
    return KD_OK;
}

kd_status kd_student_save(kd_student *s, const char *folder)
{
    return kd_model_export(folder, kd_trainer_parameters(s->trainer), NULL);
}

kd_status kd_student_checkpoint(kd_student *s, const char *folder)
{
    const kd_checkpoint_state state = {.step = s->n_steps};
    return kd_checkpoint_save(folder, kd_trainer_optimizer(s->trainer), &state, NULL);
}

kd_status kd_student_resume(kd_student *s, const char *folder)
{
    kd_checkpoint_state state;
    char *path;
    kd_status st = kd_checkpoint_find_latest(folder, &path, &state);
    if (st) {
        return st;
    }
    if (path == NULL) {
        return kd_fail(KD_ERR_NOT_FOUND, "%s holds no checkpoint to go on from", folder);
    }
    st = kd_checkpoint_load(path, kd_trainer_optimizer(s->trainer), 0, &state);
    free(path);
    if (!st) {
        s->n_steps = state.step;
    }
    return st;
}

uint64_t kd_student_steps(const kd_student *s)
{
    return s->n_steps;
}

const char *kd_error_text(void)
{
    return kd_fault_text();
}

void kd_set_quiet(bool quiet)
{
    (void)kd_fault_quiet(quiet);
}

const char *kd_version(void)
{
    return KD_VERSION;
}
