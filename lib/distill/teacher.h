/*
 * teacher.h - a model that only gives signals.
 *
 * Holds the teacher's weights for inference and a decoder that shares its buffers between layers.
 * Threads: that of the back end. Nothing allocates after creation.
 */
#ifndef KD_DISTILL_TEACHER_H
#define KD_DISTILL_TEACHER_H

#include "distill/signal.h"
#include "model/decoder.h"

typedef struct kd_teacher kd_teacher;

typedef struct kd_teacher_settings {
    int64_t max_batch;            /* sequences of a micro-batch at most */
    int64_t n_tokens;             /* of each sequence */
    void (*on_block)(void *user); /* between blocks of the model, or NULL */
    void *user;
} kd_teacher_settings;

/* Loads a model folder; its faults are those of kd_model_folder_load(). */
KD_MUST_USE kd_status kd_teacher_load(kd_backend *be,
                                      const char *folder,
                                      const kd_teacher_settings *settings,
                                      kd_teacher **teacher_out);

/* From weights that are there already; owns them from then on, and destroys them when it fails. */
KD_MUST_USE kd_status kd_teacher_create(kd_parameters *params,
                                        const kd_teacher_settings *settings,
                                        kd_teacher **teacher_out);
void kd_teacher_destroy(kd_teacher *teacher);

/* What its weights take, and its activations. */
kd_parameters_memory kd_teacher_parameters_memory(const kd_teacher *teacher);
size_t kd_teacher_activation_bytes(const kd_teacher *teacher);

const kd_model_config *kd_teacher_config(const kd_teacher *teacher);
kd_tensor kd_teacher_lm_head(const kd_teacher *teacher); /* (V', C') compute */

/* Which of a plan's signals a teacher gives. */
typedef struct kd_teacher_part {
    const kd_signal_plan *plan;
    int teacher;     /* its number in the plan             */
    uint64_t groups; /* of its message, bit g for group g  */
} kd_teacher_part;

/*
 * The forward pass over a batch of at most max_batch sequences of n_tokens, then its part of the plan's
 * signals into the message, all of it queued and not waited for; without groups neither. KD_ERR_INVALID
 * for a token that is not below V'.
 */
KD_MUST_USE kd_status kd_teacher_fill(kd_teacher *teacher,
                                      const kd_batch *batch,
                                      const kd_teacher_part *part,
                                      void *message);

/* Its logits for such a batch: (N, V') f32, host. Allocates a chunk of rows for the call. */
KD_MUST_USE kd_status kd_teacher_logits(kd_teacher *teacher,
                                        const kd_batch *batch,
                                        float *logits_out);

#endif
