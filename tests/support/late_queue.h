/*
 * late_queue.h - a back end that looks as if its queue ran late, for tests of who waits for it and when.
 *
 * While it is taken, a back end works as before, but its waits are counted and its events and marks of time
 * complete late: when the host waits, when event_query was answered with no n_late times, or when
 * late_queue_catch_up() is called. A test may put functions of its own into the table.
 */
#ifndef KD_TESTS_LATE_QUEUE_H
#define KD_TESTS_LATE_QUEUE_H

#include "tensor/ops.h"

typedef struct late_queue {
    kd_ops table; /* in the place of the back end's */
    kd_backend *be;
    const kd_ops *ops;          /* the back end's own                             */
    int n_waits;                /* of the host, without downloads                 */
    int n_stops;                /* waits and downloads                            */
    int n_updates;              /* calls of adamw                                 */
    int n_stops_before_update;  /* before the last of them                        */
    uint64_t n_recorded;        /* events, numbered from 1                        */
    uint64_t n_past;            /* those that are complete                        */
    int n_marked, n_marks_past; /* the same of marks                             */
    int n_late;                 /* answers of no that are left; set by the test   */
    kd_event waits_for;         /* of the last event_wait                         */
} late_queue;

/* Takes the back end, which must not be destroyed before it is given back. */
void late_queue_take(late_queue *queue, kd_backend *be);
void late_queue_give_back(late_queue *queue);

/* All events and marks are complete. */
void late_queue_catch_up(late_queue *queue);

#endif
