#include "kd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "distill/teacher.h"
#include "format/model_folder.h"
#include "job/job.h"
#include "message/check.h"
#include "message/fields.h"
#include "message/reflect.h"
#include "message/yaml.h"
#include "train/checkpoint.h"
#include "train/step.h"

/* Where the teacher's logits of a step come from: each has signals of its own. */
typedef enum source {
    SOURCE_NONE,    /* no teacher, or distillation is off */
    SOURCE_TEACHER, /* the model attached                 */
    SOURCE_LOGITS,  /* the caller's                       */
} source;

struct kd_student {
    kd_backend *be; /* owned, as are the next three */
    kd_trainer *trainer;
    kd_teacher *teacher;      /* NULL: none */
    kd_channel *channel;      /* of the teacher at hand; NULL: without signals   */
    Kd__Objective *objective; /* what the caller said of it; owned               */
    int64_t max_batch, n_tokens;
    bool distils;
    source built;      /* what the trainer's signals were made for */
    uint64_t n_passes; /* steps and losses alone: numbers the messages */
    uint64_t n_steps;  /* updates made */

    /* The step under way, for produce(). */
    kd_batch batch;
    const float *logits;
};

_Static_assert(KD_LOSSES_MAX <= KD_STUDENT_LOSSES_MAX, "kd_losses holds every loss");

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

/* The numbers that a job has too are in the same ranges. */
static kd_status check_training(const kd_student_options *o)
{
    const struct {
        const char *field;
        double value;
    } numbers[] = {{"learning_rate", o->learning_rate},
                   {"weight_decay", o->weight_decay},
                   {"clip_norm", o->clip_norm}};

    kd_checker mistakes = {0};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const kd_field_facts *facts = kd_field_facts_named("kd.Training", numbers[i].field);
        kd_checker_number(&mistakes, numbers[i].field, numbers[i].value, &facts->range, false);
    }
    return kd_checker_end(&mistakes, NULL);
}

static kd_status check_options(const kd_student_options *o)
{
    if (o->n_threads < 1 || o->max_sequences < 1 || o->sequence_length < 1) {
        return kd_fail(KD_ERR_ARG,
                       "found n_threads %d, max_sequences %lld, sequence_length %lld: expected at "
                       "least 1 of each",
                       o->n_threads, (long long)o->max_sequences, (long long)o->sequence_length);
    }
    return check_training(o);
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

/* What the options say of training; all else has its default. */
static Kd__Training training_of(const kd_student_options *o)
{
    Kd__Training t = KD__TRAINING__INIT;
    t.has_learning_rate = t.has_warmup_steps = t.has_steps = t.has_decay = 1;
    t.has_weight_decay = t.has_clip_norm = 1;
    t.learning_rate = o->learning_rate;
    t.warmup_steps = o->warmup_steps;
    t.steps = o->decay_steps;
    t.decay = o->decay_steps > 0 ? KD__TRAINING__DECAY__COSINE : KD__TRAINING__DECAY__CONSTANT;
    t.weight_decay = o->weight_decay;
    t.clip_norm = o->clip_norm;
    return t;
}

/*
 * The objective in force with logits of `from`: what the caller said, completed. Without a teacher
 * there is no kd, and hard weighs what it does in a job without one.
 */
static kd_status objective_for(const kd_student *s, source from, Kd__Objective **message_out)
{
    const bool taught = from != SOURCE_NONE;
    Kd__Objective *message = (Kd__Objective *)kd_message_copy(&s->objective->base);
    if (message == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    if (!taught) {
        kd_message_clear(&message->base, kd_message_field(message->base.descriptor, "kd"));
    }
    const kd_status st = kd_job_complete_objective(message, taught);
    if (st) {
        kd_message_destroy(&message->base);
        return st;
    }
    *message_out = message;
    return KD_OK;
}

static kd_status make_trainer(kd_student *s, const kd_student_options *options)
{
    const Kd__Training training = training_of(options);
    Kd__Objective *objective = NULL;
    kd_parameters *params;
    kd_status st = make_parameters(s->be, options, &params);
    if (st) {
        return st;
    }
    st = objective_for(s, SOURCE_NONE, &objective);
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    const kd_trainer_settings settings = {.objective = objective,
                                          .training = &training,
                                          .max_batch = s->max_batch,
                                          .n_tokens = s->n_tokens};
    st = kd_trainer_create(params, &settings, NULL, 0, &s->trainer);
    kd_message_destroy(&objective->base);
    return st;
}

static kd_dtype dtype_of(kd_compute wish)
{
    if (wish == KD_COMPUTE_AUTO) {
        return kd_dtype_auto(1, kd_cpu_multiplies_bf16() ? 1 : 0);
    }
    return wish == KD_COMPUTE_BF16 ? KD_BF16 : KD_F32;
}

kd_status kd_student_create(const kd_student_options *options, kd_student **student_out)
{
    kd_status st = check_options(options);
    if (st) {
        return st;
    }
    kd_student *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a student");
    }
    *s = (kd_student){
        .objective = (Kd__Objective *)kd_message_create(&kd__objective__descriptor),
        .max_batch = options->max_sequences,
        .n_tokens = options->sequence_length,
        .distils = true,
    };
    st = s->objective == NULL
             ? kd_fail(KD_ERR_NOMEM, "no memory for a student")
             : kd_backend_create_cpu(dtype_of(options->dtype), options->n_threads, &s->be);
    if (!st) {
        st = make_trainer(s, options);
    }
    if (st) {
        kd_student_destroy(s);
        return st;
    }
    *student_out = s;
    return KD_OK;
}

void kd_student_destroy(kd_student *s)
{
    if (s != NULL) {
        kd_channel_destroy(s->channel);
        kd_trainer_destroy(s->trainer);
        kd_teacher_destroy(s->teacher);
        kd_backend_destroy(s->be);
        kd_message_destroy((ProtobufCMessage *)s->objective);
        free(s);
    }
}

/* Writes the message of the step under way: the local channel calls it. */
static kd_status produce(void *user, uint64_t m, uint64_t groups, void *message)
{
    kd_student *s = user;
    const kd_teacher_part part = {kd_trainer_signals(s->trainer), 0, groups};
    (void)m;

    if (s->logits == NULL) {
        return kd_teacher_fill(s->teacher, &s->batch, &part, message);
    }
    const kd_signal *signal = kd_signal_plan_find(part.plan, 0, KD_SIGNAL_LOGITS, 0);
    KD_CHECK(signal != NULL);
    const kd_tensor view = kd_signal_view(signal, message, s->batch.n_batch * s->n_tokens);
    s->be->ops->upload(s->be, view, s->logits);
    return kd_backend_wait(s->be);
}

/* Brings the trainer's teachers and the channel in line with where logits come from. */
static kd_status build(kd_student *s, source from)
{
    kd_teacher_view teacher = {0};
    kd_channel *channel = NULL;

    if (from == SOURCE_TEACHER) {
        teacher.config = kd_teacher_config(s->teacher);
        teacher.compute = s->be->compute;
        teacher.lm_head = kd_teacher_lm_head(s->teacher);
    } else if (from == SOURCE_LOGITS) {
        teacher.config = &kd_trainer_parameters(s->trainer)->config;
        teacher.transport = KD__TEACHER__TRANSPORT__LOGITS;
    }
    kd_status st = kd_trainer_set_teachers(s->trainer, &teacher, from == SOURCE_NONE ? 0 : 1);
    if (st) {
        return st;
    }
    s->built = SOURCE_NONE; /* until there is a channel for it */
    const kd_signal_plan *plan = kd_trainer_signals(s->trainer);
    if (plan->n_signals > 0) {
        st = kd_channel_create_local(&plan->messages[0], 1, produce, s, &channel);
        if (st) {
            return st;
        }
    }
    kd_channel_destroy(s->channel);
    s->channel = channel;
    s->built = from;
    return KD_OK;
}

/* The channel moves in the next step what these losses read. */
static kd_status open_step(kd_student *s, uint64_t readers)
{
    const kd_signal_plan *plan = kd_trainer_signals(s->trainer);
    if (s->channel == NULL) {
        return KD_OK;
    }
    return s->channel->ops->open_step(s->channel, s->n_passes, s->n_passes + 1,
                                      kd_signal_plan_mask(plan, 0, readers));
}

/* After a fault amid a step: the next one that needs a channel makes another. */
static void drop_channel(kd_student *s)
{
    kd_channel_destroy(s->channel);
    s->channel = NULL;
    s->built = SOURCE_NONE;
}

/* Values are only set; what there is is built anew where the logits come from elsewhere. */
static kd_status prepare(kd_student *s, source from)
{
    Kd__Objective *objective = NULL;
    kd_status st = objective_for(s, from, &objective);
    if (st) {
        return st;
    }
    st = kd_trainer_set_objective(s->trainer, objective);
    if (!st && from != SOURCE_NONE && from != s->built) {
        st = build(s, from);
    }
    if (!st) {
        st = open_step(s, kd_objective_readers(objective, s->n_steps));
    }
    kd_message_destroy(&objective->base);
    return st;
}

kd_status kd_student_attach_teacher(kd_student *s, const char *folder)
{
    const kd_teacher_settings settings = {.max_batch = s->max_batch, .n_tokens = s->n_tokens};
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
        st = build(s, SOURCE_NONE); /* lets go of the lm_head of the one before */
    }
    if (st) {
        kd_teacher_destroy(teacher);
        return st;
    }
    kd_teacher_destroy(s->teacher);
    s->teacher = teacher;
    return KD_OK;
}

/* What a step of this student's own is taught by. */
static source own_source(const kd_student *s)
{
    return s->distils && s->teacher != NULL ? SOURCE_TEACHER : SOURCE_NONE;
}

void kd_student_set_distillation(kd_student *s, bool on)
{
    s->distils = on;
}

/* What job.proto says of the objective's fields holds here too. */
static kd_status check_objective(const kd_student *s)
{
    Kd__Objective *whole = NULL;
    kd_checker mistakes = {0};
    const kd_status st = objective_for(s, SOURCE_LOGITS, &whole);
    if (st) {
        return st;
    }
    kd_checker_message(&mistakes, &whole->base);
    kd_message_destroy(&whole->base);
    return kd_checker_end(&mistakes, NULL);
}

bool kd_student_distils(const kd_student *s)
{
    return own_source(s) == SOURCE_TEACHER;
}

/* Sets a number below the objective by its path. */
static kd_status change(kd_student *s, const char *path, double value)
{
    Kd__Objective *const before = s->objective;
    char set[128];
    (void)snprintf(set, sizeof set, "%s=%.17g", path, value);
    s->objective = (Kd__Objective *)kd_message_copy(&before->base);
    kd_status st = s->objective == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for an objective")
                                        : kd_yaml_set(&s->objective->base, set);
    if (!st) {
        st = check_objective(s);
    }
    if (st) {
        kd_message_destroy((ProtobufCMessage *)s->objective);
        s->objective = before;
        return st;
    }
    kd_message_destroy(&before->base);
    return KD_OK;
}

kd_status kd_student_set_temperature(kd_student *s, double temperature)
{
    return change(s, "kd.temperature", temperature);
}

static kd_status check_loss(const char *loss)
{
    const ProtobufCMessageDescriptor *type = &kd__objective__descriptor;
    if (kd_message_field(type, loss) != NULL) {
        return KD_OK;
    }
    const char *nearest = kd_message_nearest_field(type, loss);
    return nearest != NULL ? kd_fail(KD_ERR_NOT_FOUND, "there is no loss '%s'; did you mean '%s'?",
                                     loss, nearest)
                           : kd_fail(KD_ERR_NOT_FOUND, "there is no loss '%s'", loss);
}

kd_status kd_student_set_weight(kd_student *s, const char *loss, double weight)
{
    char path[64];
    const kd_status st = check_loss(loss);
    if (st) {
        return st;
    }
    (void)snprintf(path, sizeof path, "%s.weight", loss);
    return change(s, path, weight);
}

kd_status kd_student_get_weight(const kd_student *s, const char *loss, double *weight_out)
{
    Kd__Objective *objective = NULL;
    kd_status st = check_loss(loss);
    if (!st) {
        st = objective_for(s, own_source(s), &objective);
    }
    if (st) {
        return st;
    }
    for (int i = 0; i < kd_loss_n_kinds(); i++) {
        const kd_loss_kind *kind = kd_loss_kind_at(i);
        if (strcmp(kind->name, loss) == 0) {
            *weight_out = kd_loss_weight_at(kd_loss_message(kind, objective), s->n_steps);
        }
    }
    kd_message_destroy(&objective->base);
    return KD_OK;
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

/* The batch of the step under way, which is the only one. */
static kd_status give_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    const kd_student *s = user;
    (void)m;
    *batch_out = s->batch;
    return KD_OK;
}

static kd_status check_count(const kd_student *s, int64_t n_sequences)
{
    if (n_sequences < 1 || n_sequences > s->max_batch) {
        return kd_fail(KD_ERR_ARG, "found %lld sequences, expected 1 to %lld",
                       (long long)n_sequences, (long long)s->max_batch);
    }
    return KD_OK;
}

/* Everything of a step with the logits of `from`; s->logits are set. */
typedef kd_status (*step_function)(kd_trainer *,
                                   const kd_step_work *,
                                   kd_channel *const *,
                                   const kd_reduce *,
                                   kd_step_result *);

/* kd_trainer_step() or kd_trainer_losses() with the logits of `from`; s->logits are set. */
static kd_status
pass(kd_student *s, source from, const kd_batch *batch, step_function step, kd_losses *losses_out)
{
    const kd_source batches = {.user = s, .next = give_batch};
    const kd_reduce alone = kd_reduce_single();
    const kd_step_work work = {.step = s->n_steps,
                               .source = &batches,
                               .first_m = s->n_passes,
                               .stride = 1,
                               .n_batches = 1};
    kd_step_result result;

    kd_status st = check_count(s, batch->n_batch);
    if (!st) {
        st = prepare(s, from);
    }
    if (st) {
        return st;
    }
    s->batch = *batch;
    s->n_passes++;
    st = step(s->trainer, &work, &s->channel, &alone, &result);
    if (st) {
        drop_channel(s);
    } else {
        report(&result, losses_out);
    }
    return st;
}

static kd_batch
batch_of(const kd_student *s, const int32_t *tokens, const int32_t *labels, int64_t n_sequences)
{
    return (kd_batch){.n_batch = n_sequences,
                      .n_tokens = s->n_tokens,
                      .tokens = tokens,
                      .labels = labels,
                      .first = s->n_steps * (uint64_t)s->max_batch};
}

static kd_status update(kd_student *s, source from, const kd_batch *batch, kd_losses *losses_out)
{
    const kd_status st = pass(s, from, batch, kd_trainer_step, losses_out);
    if (!st) {
        s->n_steps++;
    }
    return st;
}

kd_status kd_student_step(kd_student *s,
                          const int32_t *tokens,
                          const int32_t *labels,
                          int64_t n_sequences,
                          kd_losses *losses_out)
{
    const kd_batch batch = batch_of(s, tokens, labels, n_sequences);
    s->logits = NULL;
    return update(s, own_source(s), &batch, losses_out);
}

kd_status kd_student_losses(kd_student *s,
                            const int32_t *tokens,
                            const int32_t *labels,
                            int64_t n_sequences,
                            kd_losses *losses_out)
{
    const kd_batch batch = batch_of(s, tokens, labels, n_sequences);
    s->logits = NULL;
    return pass(s, own_source(s), &batch, kd_trainer_losses, losses_out);
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
                       (long long)n_sequences * s->n_tokens,
                       (long long)kd_trainer_parameters(s->trainer)->config.vocab_size);
    }
    const kd_batch batch = batch_of(s, tokens, labels, n_sequences);
    s->logits = target_logits;
    return update(s, s->distils ? SOURCE_LOGITS : SOURCE_NONE, &batch, losses_out);
}

kd_status
kd_student_logits(kd_student *s, const int32_t *tokens, int64_t n_sequences, float *logits_out)
{
    const kd_batch batch = batch_of(s, tokens, NULL, n_sequences);
    const kd_status st = check_count(s, n_sequences);
    return st ? st : kd_trainer_logits(s->trainer, &batch, logits_out);
}

kd_status kd_student_teacher_logits(kd_student *s,
                                    const int32_t *tokens,
                                    int64_t n_sequences,
                                    float *logits_out)
{
    const kd_batch batch = batch_of(s, tokens, NULL, n_sequences);
    const kd_status st = check_count(s, n_sequences);
    if (st) {
        return st;
    }
    if (s->teacher == NULL) {
        return kd_fail(KD_ERR_STATE, "found no teacher, expected one that is attached");
    }
    return kd_teacher_logits(s->teacher, &batch, logits_out);
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
    arrays from = {.tokens = tokens, .labels = labels, .n_tokens = s->n_tokens};
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
    return kd_model_export(folder, kd_trainer_parameters(s->trainer), NULL, NULL);
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
