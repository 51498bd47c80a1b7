/*
 * student.h - a student rank: the loop over steps, and what happens at their boundaries.
 *
 *   order of the step -> (save | stop) -> micro-batches -> trainer -> metrics -> (evaluate, save)
 *
 * Student r of S takes the micro-batches m with m mod S == r. The leader alone writes
 * (output.h); weights are the same on all students, so it needs nothing of the others.
 */
#ifndef KD_WORKER_STUDENT_H
#define KD_WORKER_STUDENT_H

#include "worker/output.h"
#include "worker/teacher.h"
#include "worker/worker.h"

/* What a student holds of one teacher. */
typedef struct teacher_pupil {
    kd_backend *be;        /* owned, where the model is here, of another dtype or device */
    teacher_source source; /* the model in this process, where the teacher has no ranks  */
    kd_tensor lm_head;     /* owned, where hidden states come from other ranks or devices */
} teacher_pupil;

typedef struct student_rank {
    worker *w;
    teaching teaching;
    kd_backend *be;
    teacher_pupil *teachers; /* (n_teachers of `teaching`); owned */
    kd_channel **channels;   /* (n_teachers), NULL if no loss needs its signals; owned */
    kd_trainer *trainer;
    order_source orders;
    uint64_t open_end; /* steps before it are open on the channels */
    size_t n_changes;  /* of the live values that the trainer has  */
    places places;
    kd_reduce reduce;
    batch_reader reader;
    kd_source tokens; /* of the reader, so a rank is not moved */
    output output;    /* the leader's; {0} on others           */
} student_rank;

/* This rank alone: models, the checkpoint, the output folder. */
KD_MUST_USE kd_status student_rank_prepare(worker *w, student_rank *rank);
/* Collective over the world. */
KD_MUST_USE kd_status student_rank_connect(student_rank *rank);
/* All steps, then evaluation and the final model; or until the order to stop. */
KD_MUST_USE kd_status student_rank_run(student_rank *rank, worker_outcome *outcome_out);
/* After a whole run, collective; after a fault in prepare, of what there is. */
void student_rank_release(student_rank *rank);

#endif
