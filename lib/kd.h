/*
 * kd.h - distilld's engine as a C library: distil a mixture-of-experts model without any daemon.
 *
 *   kd_student_options options = kd_student_options_default();
 *   options.folder = "small-model"; // or a shape: options.model.hidden_size = 128; ...
 *   kd_student *student;
 *   if (kd_student_create(&options, &student)) {
 *       fprintf(stderr, "%s\n", kd_error_text());
 *       return 1;
 *   }
 *   kd_student_attach_teacher(student, "big-model");
 *   kd_student_set_temperature(student, 1.0);
 *   kd_student_set_weight(student, "kd", 0.7);
 *   while (more(tokens, labels)) {
 *       kd_losses losses;
 *       if (kd_student_step(student, tokens, labels, n_sequences, &losses)) break;
 *       printf("%s %g\n", losses.values[0].name, losses.values[0].raw);
 *   }
 *   kd_student_save(student, "distilled");
 *   kd_student_destroy(student);
 *
 * Models are folders in the form of Hugging Face: config.json and model.safetensors, of type llama,
 * mixtral, qwen2_moe, qwen3_moe or olmoe. Losses have names: "kd" (the teacher's distribution),
 * "hard" (the labels), "balance" and "z" (the router).
 *
 * Errors: every kd_status but KD_OK comes with a text that names what was wrong, what was found and
 * what was expected: kd_error_text(). Outputs are then untouched. The text is also a line on
 * standard error, unless kd_set_quiet() said otherwise.
 * Threads: an object belongs to one thread at a time; two objects may be used at once.
 */
#ifndef KD_KD_H
#define KD_KD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A model's shape, in the words of config.json. */
typedef struct kd_student_model {
    const char *type; /* "mixtral", ... */
    int64_t vocab_size;
    int64_t hidden_size;
    int64_t num_layers;
    int64_t num_heads;
    int64_t num_kv_heads; /* 0: num_heads */
    int64_t head_dim;     /* 0: hidden_size / num_heads */
    int64_t intermediate_size;
    int64_t num_experts; /* 0 for llama */
    int64_t experts_per_token;
    int64_t shared_expert_size; /* 0: none */
    bool tied_embeddings;
    double rope_theta;
    double norm_eps;
} kd_student_model;

/* What matrix products read. bf16 works on every processor, and is faster on some. */
typedef enum kd_compute {
    KD_COMPUTE_AUTO, /* bf16 where this processor multiplies it, else f32 */
    KD_COMPUTE_BF16,
    KD_COMPUTE_F32,
} kd_compute;

typedef struct kd_student_options {
    const char *folder;     /* start from this model; NULL: from `model` and `seed` */
    kd_student_model model; /* of which only the sizes have no default */
    uint64_t seed;
    kd_compute dtype; /* of products; weights that are trained, sums and losses stay f32 */
    int n_threads;
    int64_t max_sequences;   /* B of a step at most */
    int64_t sequence_length; /* T of every sequence */
    double learning_rate;
    uint64_t warmup_steps;
    uint64_t decay_steps; /* 0: constant after warm-up; else cosine to a tenth at this step */
    double weight_decay;
    double clip_norm; /* 0: no clipping */
} kd_student_options;

/* dtype auto, one thread, learning rate 3e-4, decay 0.1, clip 1, 8 sequences of 256, type mixtral. */
kd_student_options kd_student_options_default(void);

#define KD_STUDENT_LOSSES_MAX 16

typedef struct kd_student_loss {
    const char *name; /* static */
    double weight;
    double raw;      /* mean over valid tokens */
    double weighted; /* raw * weight */
} kd_student_loss;

/* What one step gave: the losses that were computed. */
typedef struct kd_losses {
    kd_student_loss values[KD_STUDENT_LOSSES_MAX];
    int n_values;
    double total;         /* the weighted sum, which was minimised */
    double gradient_norm; /* before clipping */
    double learning_rate;
    uint64_t n_tokens; /* valid ones */
} kd_losses;

/* How well the student predicts given text. */
typedef struct kd_scores {
    double loss; /* nats a token */
    double perplexity;
    double accuracy; /* share of tokens predicted right, greedily */
    uint64_t n_tokens;
} kd_scores;

typedef struct kd_student kd_student;

/* Strings of the options are not kept. */
KD_MUST_USE kd_status kd_student_create(const kd_student_options *options,
                                        kd_student **student_out);
void kd_student_destroy(kd_student *student); /* NULL is fine */

/*
 * Loads a teacher from a model folder; it replaces the one before. The vocabularies must be the
 * same but for padding. NULL detaches.
 */
KD_MUST_USE kd_status kd_student_attach_teacher(kd_student *student, const char *folder);

/* Off: the teacher rests, and "kd" is not computed until it is turned on again. On at start. */
void kd_student_set_distillation(kd_student *student, bool on);

/* Whether the next kd_student_step() has a teacher: one is attached, and distillation is on. */
bool kd_student_distils(const kd_student *student);

/* T >= 0.001 of "kd", whose raw value is T * T times the divergence. 4 at start. */
KD_MUST_USE kd_status kd_student_set_temperature(kd_student *student, double temperature);

/*
 * Weight >= 0 of a loss by its name; 0 turns it off. Until it is set kd has 0.7, balance 0.01, z 0.001
 * and hard 0.3, or 1 while nothing distils: without a teacher, or with distillation off. What is read
 * is the weight at the next kd_student_step(). KD_ERR_NOT_FOUND names the nearest right name.
 */
KD_MUST_USE kd_status kd_student_set_weight(kd_student *student, const char *loss, double weight);
KD_MUST_USE kd_status kd_student_get_weight(const kd_student *student,
                                            const char *loss,
                                            double *weight_out);

/*
 * One update. tokens and labels: (n_sequences, T) token ids; a label is what follows its token, and
 * -100 counts nowhere. labels NULL: there are none; "hard" is then not computed, and "kd" runs over
 * all rows. With a teacher attached and distillation on, "kd" is computed against it. Where no loss
 * has both a weight and rows to learn from the weights stay as they are, and a line says so.
 * KD_ERR_INVALID: a loss was not finite; the weights are those before the step.
 */
KD_MUST_USE kd_status kd_student_step(kd_student *student,
                                      const int32_t *tokens,
                                      const int32_t *labels,
                                      int64_t n_sequences,
                                      kd_losses *losses_out);

/*
 * What kd_student_step() would report of this batch, without the update: the student stays as it is.
 * Forward and backward pass are run, and the gradient is dropped.
 */
KD_MUST_USE kd_status kd_student_losses(kd_student *student,
                                        const int32_t *tokens,
                                        const int32_t *labels,
                                        int64_t n_sequences,
                                        kd_losses *losses_out);

/*
 * The forward pass alone: the logits of the student, or of the teacher that is attached (KD_ERR_STATE
 * without one), for 1 to max_sequences sequences. logits_out: (n_sequences * T, vocab_size) f32, of
 * the model's own vocab_size. Inputs are tokens; hidden states cannot be put in their place.
 */
KD_MUST_USE kd_status kd_student_logits(kd_student *student,
                                        const int32_t *tokens,
                                        int64_t n_sequences,
                                        float *logits_out);
KD_MUST_USE kd_status kd_student_teacher_logits(kd_student *student,
                                                const int32_t *tokens,
                                                int64_t n_sequences,
                                                float *logits_out);

/*
 * The same step against target logits of the caller's, (n_sequences * T, vocab_size) f32, instead of a
 * teacher's. KD_ERR_ARG if target_logits is NULL.
 */
KD_MUST_USE kd_status kd_student_step_on_logits(kd_student *student,
                                                const int32_t *tokens,
                                                const int32_t *labels,
                                                const float *target_logits,
                                                int64_t n_sequences,
                                                kd_losses *losses_out);

/* tokens and labels: (n_sequences, T), any number of sequences. Changes nothing. */
KD_MUST_USE kd_status kd_student_evaluate(kd_student *student,
                                          const int32_t *tokens,
                                          const int32_t *labels,
                                          int64_t n_sequences,
                                          kd_scores *scores_out);

/*
 * Writes the student as a model folder, whole or not at all; kd_student_options.folder loads it.
 * Only the weights: a student that is loaded starts its optimizer anew.
 */
KD_MUST_USE kd_status kd_student_save(kd_student *student, const char *folder);

/*
 * Writes a training state below `folder` (step-<n>/), and goes on from the newest valid one there:
 * the same steps afterwards end in the same bytes. KD_ERR_NOT_FOUND if there is none,
 * KD_ERR_INVALID if it is of another model; after a fault in reading it the student's weights are
 * undefined.
 */
KD_MUST_USE kd_status kd_student_checkpoint(kd_student *student, const char *folder);
KD_MUST_USE kd_status kd_student_resume(kd_student *student, const char *folder);

uint64_t kd_student_steps(const kd_student *student); /* updates made */

/* The text of this thread's last error, "" if there was none; valid until its next one. */
const char *kd_error_text(void);

/* Whether errors of this thread are kept from standard error. Off at start. */
void kd_set_quiet(bool quiet);

const char *kd_version(void); /* "0.1.0" */

#ifdef __cplusplus
}
#endif

#endif
