/*
 * teacher.h - a job's teachers: as the fillers of signal messages in any process, and as the loop
 * of a rank that does nothing else.
 */
#ifndef KD_WORKER_TEACHER_H
#define KD_WORKER_TEACHER_H

#include "comm/step_order.h"
#include "distill/channel.h"
#include "distill/teacher.h"
#include "worker/places.h"
#include "worker/teaching.h"
#include "worker/worker.h"

/* What the job says, held against the data: KD_ERR_INVALID if vocabularies fit neither each other nor that. */
KD_MUST_USE kd_status teaching_plan(const worker *w, teaching *teaching_out);

/* The micro-batches of a step, of all ranks: first_m <= m < end_m. */
typedef struct step_span {
    uint64_t first_m, end_m;
} step_span;

step_span span_of_step(const worker *w, uint64_t step);

/*
 * Steps that an order is given ahead (comm/step_order.h), so that no teacher waits for one: depth
 * messages are under way to each student, and depth more on each replica. Of a completed job.
 */
int orders_lead(const Kd__Job *job);

/* The stream of orders that both roles follow, and what the leader makes them of. */
typedef struct order_source {
    worker *w;
    const teaching *teaching;
    kd_order_stream *stream;
    kd_status fault; /* the leader's, of the step planned last */
} order_source;

/* All ranks; the source stays where it is from then on. */
KD_MUST_USE kd_status orders_open(worker *w, const teaching *t, order_source *orders_out);
void orders_close(order_source *orders); /* collective; fine on {0} */

/* Before each step: the wish is the leader's, NULL on others; the live values are the step's then. */
KD_MUST_USE kd_status orders_next(order_source *orders,
                                  uint64_t step,
                                  const kd_order_wish *wish,
                                  kd_step_order *order_out);

/* A model with buffers for one micro-batch. */
typedef struct teacher_source {
    batch_reader reader;
    const kd_signal_plan *plan;
    int teacher; /* its number in the job */
    kd_teacher *model;
} teacher_source;

/* `plan` and `be` are borrowed. on_block: as in kd_teacher_settings. */
KD_MUST_USE kd_status teacher_source_open(const worker *w,
                                          kd_backend *be,
                                          const kd_signal_plan *plan,
                                          int teacher,
                                          void (*on_block)(void *user),
                                          void *user,
                                          teacher_source *source_out);
void teacher_source_close(teacher_source *source); /* fine on {0} */

/* Queues the teacher over micro-batch m into `message`; a kd_channel_produce with the source as user. */
KD_MUST_USE kd_status teacher_source_fill(void *source, uint64_t m, uint64_t groups, void *message);

/* At the end of a run, a line of the log: the counters of a channel; what the back ends of a rank hold. */
void teaching_log_channel(const kd_channel *channel, double elapsed_s);
void teaching_log_memory(kd_memory_usage usage);

typedef struct teacher_rank {
    worker *w;
    int teacher; /* whose replica this is */
    teaching teaching;
    kd_backend *be;
    kd_step_clock clock; /* of its queue */
    teacher_source source;
    places places;
    kd_channel *channel; /* NULL if no loss needs its signals: then it only follows orders */
    order_source orders;
} teacher_rank;

/* This rank alone: loads the model. */
KD_MUST_USE kd_status teacher_rank_prepare(worker *w, teacher_rank *rank);
/* Collective over the world. */
KD_MUST_USE kd_status teacher_rank_connect(teacher_rank *rank);
KD_MUST_USE kd_status teacher_rank_run(teacher_rank *rank, worker_outcome *outcome_out);
/* After a whole run, collective; after a fault in prepare, of what there is. */
void teacher_rank_release(teacher_rank *rank);

#endif
