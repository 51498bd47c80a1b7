/*
 * student.h - what the files of the C API (kd.h) share; private to them.
 *
 *   values.c   the job file: read, completed, checked; fields by path
 *   teach.c    the teacher, and how its signals come to the trainer
 *   step.c     steps, losses, logits, evaluation
 *   checkpoint.c  training state, and the job that it is of
 */
#ifndef KD_KD_STUDENT_H
#define KD_KD_STUDENT_H

#include "distill/teacher.h"
#include "format/tokenizer_files.h"
#include "kd.h"
#include "proto/job.pb-c.h"
#include "train/content.h"
#include "train/step.h"

/* Where the teacher's logits of a step come from: each has signals of its own. */
typedef enum kd_logits_source {
    KD_LOGITS_NONE,    /* no teacher, or distillation is off */
    KD_LOGITS_TEACHER, /* the model attached                 */
    KD_LOGITS_GIVEN,   /* the caller's                       */
} kd_logits_source;

/*
 * KD_ERR_ARG if any of these is NULL; the first one is named as it stands in kd.h. At the head of each call
 * of kd.h, whose callers may hand over anything.
 */
#define KD_GIVEN(...)                                                                              \
    kd_given(#__VA_ARGS__, (const void *const[]){__VA_ARGS__},                                     \
             sizeof(const void *[]){__VA_ARGS__} / sizeof(void *))
KD_MUST_USE kd_status kd_given(const char *names, const void *const *arguments, size_t n);

struct kd_student {
    Kd__Job *job;   /* as the caller gave and set it, not completed; owned, as are the next five */
    kd_backend *be; /* of the student */
    kd_trainer *trainer;
    kd_backend *teacher_be; /* NULL: the student's                  */
    kd_teacher *teacher;    /* NULL: none                           */
    kd_channel *channel;    /* of the teacher at hand; NULL: without signals */
    int64_t batch_size;     /* sequences of a step at most        */
    int64_t micro_size;     /* sequences of a micro-batch at most */
    int64_t n_tokens;       /* of each sequence                   */
    bool distils;
    kd_logits_source built; /* what the trainer's signals were made for */
    uint64_t n_messages;    /* micro-batches of all passes so far: numbers the next one */
    uint64_t n_steps;       /* made, those without an update too */
    kd_tokenizer_files tokenizer_files; /* of student.checkpoint */
    kd_job_content start_content,
        teacher_content; /* of student.checkpoint and the teacher, if there */

    /* The step under way. */
    kd_batch batch;      /* all of it */
    uint64_t first_m;    /* the number of its first micro-batch */
    const float *logits; /* with KD_LOGITS_GIVEN: (N, V) */
};

/*
 * Reads a job file's text: paths are absolute after it, ranks are left out, and no dtype is auto. Of
 * what comes out the completed form is in range. KD_ERR_INVALID, KD_ERR_PROTO.
 */
KD_MUST_USE kd_status kd_values_read(const char *yaml, Kd__Job **job_out);

/* The job's word for a model's device, and what it comes to here; resources may be NULL. */
Kd__Resources__Device kd_values_wish(const Kd__Resources *resources);
Kd__Resources__Device kd_values_device(const Kd__Resources *resources);

/* The job with every default; taught: those that hold with a teacher. The caller destroys it. */
KD_MUST_USE kd_status kd_values_complete(const Kd__Job *job, bool taught, Kd__Job **whole_out);

/* A copy of the job whose teacher is this folder's model; NULL: that has no teacher. */
KD_MUST_USE kd_status kd_values_with_teacher(const Kd__Job *job,
                                             const char *folder,
                                             Kd__Job **job_out);

/* Loads the teacher that `job` names, if it names one, in the place of the one there is. */
KD_MUST_USE kd_status kd_teaching_load(kd_student *s, const Kd__Job *job);

/* What a step of this student's own is taught by. */
kd_logits_source kd_teaching_own(const kd_student *s);

/* Before a pass of n_batches: sets the values in force, and opens the channel for them. */
KD_MUST_USE kd_status kd_teaching_begin(kd_student *s, kd_logits_source from, int64_t n_batches);

/* After a fault amid a step: the next one that needs a channel makes another. */
void kd_teaching_drop(kd_student *s);

/* Micro-batch m of the step under way. */
kd_batch kd_step_batch(const kd_student *s, uint64_t m);

#endif
