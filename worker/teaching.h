/*
 * teaching.h - who teaches what: what every rank, and whoever plans a job without ranks, derives from the
 * job alone.
 */
#ifndef KD_WORKER_TEACHING_H
#define KD_WORKER_TEACHING_H

#include "distill/objective.h"
#include "proto/job.pb-c.h"

typedef struct teaching {
    kd_model_config student;
    kd_model_config *configs;  /* (n_teachers); owned */
    kd_teacher_view *teachers; /* (n_teachers) as losses see them, without lm_heads; owned */
    int n_teachers;
    kd_signal_plan plan; /* without signals if no loss needs a teacher; owned */
} teaching;

/* No transport is AUTO from then on; dtypes are none before. Reads config.json of those teachers. */
KD_MUST_USE kd_status teaching_resolve_transports(Kd__Job *job);

/*
 * Of a job with nothing left to be decided; reads the shapes of all its models. KD_ERR_INVALID if their
 * vocabularies do not fit each other.
 */
KD_MUST_USE kd_status teaching_of_job(const Kd__Job *job, teaching *teaching_out);
void teaching_release(teaching *t); /* fine on {0} */

/* Tokens of a micro-batch. */
int64_t teaching_rows(const Kd__Job *job);

/* Whether the student's ranks run that teacher themselves. */
bool teaching_is_local(const Kd__Job *job, int teacher);

/* Whether a student rank holds the lm_head of a teacher that other ranks run, or it itself on another device. */
bool teaching_needs_lm_head(const Kd__Job *job, const teaching *t, int teacher);

#endif
