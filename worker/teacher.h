/*
 * teacher.h - a job's teacher: as the filler of signal messages in any process, and as the loop
 * of a rank that does nothing else.
 */
#ifndef KD_WORKER_TEACHER_H
#define KD_WORKER_TEACHER_H

#include "comm/step_order.h"
#include "distill/objective.h"
#include "distill/teacher.h"
#include "worker/worker.h"

/* What both roles derive from the job alone. */
typedef struct teaching {
    bool has_teacher;
    kd_model_config student, teacher;
    kd_signal_plan plan; /* empty without a teacher, or if no loss needs one */
} teaching;

/* Reads the shapes; KD_ERR_INVALID if vocabularies fit neither each other nor the data. */
KD_MUST_USE kd_status teaching_plan(const worker *w, teaching *teaching_out);

/* The teacher as losses see it, without its lm_head; {0} without a teacher. Borrows from both. */
kd_teacher_view teaching_view(const worker *w, const teaching *t);

/* A model with buffers for one micro-batch. */
typedef struct teacher_source {
    batch_reader reader;
    const kd_signal_plan *plan;
    kd_teacher *model;
} teacher_source;

/* `plan` and `be` are borrowed. on_block: as in kd_teacher_settings. */
KD_MUST_USE kd_status teacher_source_open(const worker *w,
                                          kd_backend *be,
                                          const kd_signal_plan *plan,
                                          void (*on_block)(void *user),
                                          void *user,
                                          teacher_source *source_out);
void teacher_source_close(teacher_source *source); /* fine on {0} */

/* Runs the teacher over micro-batch m into `message`; a kd_channel_produce with the source as user. */
KD_MUST_USE kd_status teacher_source_fill(void *source, uint64_t m, void *message);

/* The counters of a channel at the end of a run, as one line of the log. */
void teaching_log_channel(const kd_channel *channel, double elapsed_s);

typedef struct teacher_rank {
    worker *w;
    teaching teaching;
    kd_backend *be;
    teacher_source source;
    kd_channel *channel; /* NULL if no loss needs signals: then it only follows orders */
    kd_order_stream *orders;
} teacher_rank;

/* This rank alone: loads the model. */
KD_MUST_USE kd_status teacher_rank_prepare(worker *w, teacher_rank *rank);
/* Collective over the world. */
KD_MUST_USE kd_status teacher_rank_connect(teacher_rank *rank);
KD_MUST_USE kd_status teacher_rank_run(teacher_rank *rank, worker_outcome *outcome_out);
/* After a whole run, collective; after a fault in prepare, of what there is. */
void teacher_rank_release(teacher_rank *rank);

#endif
