/*
 * kd.h - distilld's engine as a C library: distil a mixture-of-experts model without any daemon.
 *
 *   #include <kd.h>
 *   #include <stdio.h>
 *
 *   // cc -o distil distil.c -lkd; reads token ids from standard input, a batch and its labels at a time
 *   int main(void)
 *   {
 *       static const char job[] =
 *           "data: {sequence_length: 64}\n"
 *           "student:\n"
 *           "  model: {hidden_size: 64, num_layers: 2, num_heads: 4,\n"
 *           "          intermediate_size: 96, num_experts: 4}\n"
 *           "teachers: [{checkpoint: big-model}]\n"
 *           "training: {steps: 1000, batch_size: 8, learning_rate: 1e-3}\n";
 *       static int32_t tokens[8][64], labels[8][64];
 *       kd_student *student;
 *       kd_losses losses;
 *       if (kd_student_create(job, &student) || kd_student_set(student, "objective.kd.temperature", "2")) {
 *           return 1; // and the reason is told
 *       }
 *       while (fread(tokens, sizeof tokens, 1, stdin) == 1 && fread(labels, sizeof labels, 1, stdin) == 1) {
 *           if (kd_student_step(student, tokens[0], labels[0], 8, &losses)) {
 *               return 1;
 *           }
 *           printf("%s %g\n", losses.values[0].name, losses.values[0].raw);
 *       }
 *       if (kd_student_save(student, "distilled")) {
 *           return 1;
 *       }
 *       kd_student_destroy(student);
 *       return 0;
 *   }
 *
 * A student is made from the text of a job file, and what there is to choose are that file's fields:
 * `distillctl explain` tells them all, with defaults and ranges. What a
 * daemon alone needs may be left out, and is not used: output, data.files, ranks, limits, times of saving.
 * All runs in this process, on student.resources.threads.
 *
 * Models are folders in the form of Hugging Face: config.json and model.safetensors, of a type that
 * student.model.type takes (another is answered with those that there are). Losses have names: "kd"
 * (the teacher's distribution), "hard" (the labels), "balance" and "z" (the router).
 *
 * Errors: every kd_status but KD_OK comes with a text that names what was wrong, what was found and
 * what was expected: kd_error_text(). Outputs are then untouched. The text is also a line on
 * standard error, unless kd_set_quiet() said otherwise. An argument that is NULL is KD_ERR_ARG, which names
 * it, where a call does not say what NULL means; without a student what gives no status does nothing, and
 * tells false or 0.
 * Memory: what is handed over stays the caller's, and is read during the call alone.
 * Threads: an object belongs to one thread at a time; two objects may be used at once.
 */
#ifndef KD_KD_H
#define KD_KD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KD_STUDENT_LOSSES_MAX 16

typedef struct kd_student_loss {
    const char *name; /* static */
    double weight;
    double raw;      /* a mean over what the loss counts: labelled rows, all rows, assignments */
    double weighted; /* raw * weight */
} kd_student_loss;

/* What one step gave: the losses that were computed. */
typedef struct kd_losses {
    kd_student_loss values[KD_STUDENT_LOSSES_MAX];
    int n_values;
    double total;         /* the weighted sum, which was minimised */
    double gradient_norm; /* before clipping */
    double learning_rate;
    uint64_t n_tokens; /* with a label; all of them in a step without labels */
} kd_losses;

/* How well the student predicts given text. */
typedef struct kd_scores {
    double loss; /* nats a token */
    double perplexity;
    double accuracy; /* share of tokens predicted right, greedily */
    uint64_t n_tokens;
} kd_scores;

typedef struct kd_student kd_student;

/*
 * Makes a student from a job file's text: student.model and a seed, or a model folder, and the teacher
 * that is named there. Relative paths are below the working directory. KD_ERR_INVALID (KD_ERR_PROTO for
 * what is no YAML) names the field: "training.steps: found 0, expected 1 to 1000000000000".
 */
KD_MUST_USE kd_status kd_student_create(const char *yaml, kd_student **student_out);
void kd_student_destroy(kd_student *student); /* NULL is fine */

/*
 * Sets a field by its path, as a job file would: ("objective.kd.temperature", "2"). It holds from the next
 * step on. A number is one value, or a schedule over the steps; "" brings the default back. Only what
 * `distillctl explain` calls live changes once there is a student: weights, temperatures, the learning
 * rate. KD_ERR_STATE names another field; KD_ERR_INVALID a path that leads nowhere, with the nearest that
 * does, or a value out of range.
 */
KD_MUST_USE kd_status kd_student_set(kd_student *student, const char *path, const char *value);

/*
 * Writes the value of a field with its NUL, as kd_student_set() reads it; what was never set is the default
 * that now holds, which may depend on whether there is a teacher. KD_ERR_ARG names the room that is needed.
 */
KD_MUST_USE kd_status kd_student_get(const kd_student *student,
                                     const char *path,
                                     char *out,
                                     size_t size);

/*
 * Loads a teacher from a model folder, as teachers.0.checkpoint; it replaces the one before, of which all
 * else stays. The vocabularies must be the same but for padding. NULL detaches; "" is KD_ERR_ARG.
 */
KD_MUST_USE kd_status kd_student_attach_teacher(kd_student *student, const char *folder);

/* Off: the teacher rests, and "kd" is not computed until it is turned on again. On at start. */
void kd_student_set_distillation(kd_student *student, bool on);

/* Whether the next kd_student_step() has a teacher: one is attached, and distillation is on. */
bool kd_student_distils(const kd_student *student);

/*
 * One update. tokens and labels: (n_sequences, T) token ids, 1 to training.batch_size sequences of
 * data.sequence_length; training.micro_batch_size of them are held at once. A label is what follows its
 * token, and -100 counts nowhere. labels NULL: there are none; "hard" is then not computed, and "kd" runs
 * over all rows. With a teacher attached and distillation on, "kd" is computed against it. Where no loss
 * has both a weight and rows to learn from the weights stay as they are, and a line says so.
 * KD_ERR_ARG: another number of sequences. KD_ERR_INVALID: a token or label that the model does not know, or
 * a loss that was not finite. The weights are then those before the step.
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
 * without one), for 1 to training.batch_size sequences. logits_out: (n_sequences * T, vocab_size) f32, of
 * the model's own vocabulary. Inputs are tokens; hidden states cannot be put in their place.
 */
KD_MUST_USE kd_status kd_student_logits(kd_student *student,
                                        const int32_t *tokens,
                                        int64_t n_sequences,
                                        float *logits_out);
KD_MUST_USE kd_status kd_student_teacher_logits(kd_student *student,
                                                const int32_t *tokens,
                                                int64_t n_sequences,
                                                float *logits_out);

/* The tokens that a model knows, which are the columns of its logits; 0 where there is no such model. */
int64_t kd_student_vocab_size(const kd_student *student);
int64_t kd_student_teacher_vocab_size(const kd_student *student);

/*
 * The same step against target logits of the caller's, (n_sequences * T, vocab_size) f32 of the student's
 * vocabulary, instead of a teacher's. A logit may be -inf: no probability; a row that counts and
 * has no other is KD_ERR_INVALID, and the weights are those before.
 */
KD_MUST_USE kd_status kd_student_step_on_logits(kd_student *student,
                                                const int32_t *tokens,
                                                const int32_t *labels,
                                                const float *target_logits,
                                                int64_t n_sequences,
                                                kd_losses *losses_out);

/*
 * tokens and labels: (n_sequences, T), any number of sequences. Changes nothing. KD_ERR_ARG if labels is
 * NULL: without them there is nothing to score.
 */
KD_MUST_USE kd_status kd_student_evaluate(kd_student *student,
                                          const int32_t *tokens,
                                          const int32_t *labels,
                                          int64_t n_sequences,
                                          kd_scores *scores_out);

/*
 * Writes the student as a model folder, whole or not at all; student.checkpoint loads it. Only the
 * weights: a student that is loaded starts its optimizer anew. Of a student that was started from a folder
 * the tokenizer and split of that one (distilld.json, tokenizer.json, ...) are written with it. A folder that this wrote before is
 * replaced; KD_ERR_INVALID: there is one that holds anything else, which stays as it is.
 */
KD_MUST_USE kd_status kd_student_save(kd_student *student, const char *folder);

/*
 * Writes a training state below `folder` (step-<n>/), and goes on from the newest valid one there:
 * the same steps afterwards end in the same bytes, if what `distillctl explain` calls live is set as it
 * was then; that, and whether distillation is on, is the caller's to set again.
 * KD_ERR_NOT_FOUND if there is none. KD_ERR_INVALID if another job made it, and names the first field that
 * differs; only fields that are live, free or a path may. The contents of student.checkpoint and of the
 * teacher count, so the same teacher is attached before. A dtype that was left open is what it became.
 * Nothing has changed then, but after a fault in reading the files the student's weights are undefined.
 */
KD_MUST_USE kd_status kd_student_checkpoint(kd_student *student, const char *folder);
KD_MUST_USE kd_status kd_student_resume(kd_student *student, const char *folder);

uint64_t kd_student_steps(const kd_student *student); /* made, those without an update too */

/* The text of this thread's last error, "" if there was none; valid until its next one. */
const char *kd_error_text(void);

/* Whether errors of this thread are kept from standard error. Off at start. */
void kd_set_quiet(bool quiet);

const char *kd_version(void); /* "0.1.0" */

#ifdef __cplusplus
}
#endif

#endif
