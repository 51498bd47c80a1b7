/*
 * step_time.h - how long each part of a step takes, as the queue of one back end sees it: marks at the
 * borders of the parts, read once the queue is past the last of them. The host waits for none.
 *
 * What runs beside the queue, on another device or in another process, costs here only what the queue is
 * held up by it. So the parts of a step add up to the time from its first mark to its last.
 *
 *   begin -> close(part) ... -> read
 *
 * A step whose marks are not all past when the next one begins is not measured further, nor is that next
 * one: what is reported is always one whole step.
 *
 * Threads: that of the back end. Allocates when a step has more marks than any before.
 */
#ifndef KD_TRAIN_STEP_TIME_H
#define KD_TRAIN_STEP_TIME_H

#include "tensor/ops.h"

/* The parts, in the order in which a step comes to them, each by its name for people. */
#define KD_STEP_PARTS_EACH(X)                                                                      \
    X(COUNT, "count")     /* reading the step's batches, and agreeing with the other ranks */      \
    X(FORWARD, "forward") /* the student's forward pass, with what it uploads              */      \
    X(TEACHER, "teacher") /* the forward pass of teachers in this process                  */      \
    X(SIGNALS, "signals") /* held up for signals of teachers elsewhere; there, for room    */      \
    X(LOSS, "loss")       /* losses over the vocabulary and their gradient                 */      \
    X(BACKWARD,                                                                                    \
      "backward")       /* the student's backward pass, with the gradients of layers' losses */    \
    X(REDUCE, "reduce") /* sums over the student ranks                                   */        \
    X(UPDATE, "update") /* norms, clip and AdamW                                         */

#define KD_STEP_PART_ENUM(part, name) KD_STEP_##part,

typedef enum kd_step_part { KD_STEP_PARTS_EACH(KD_STEP_PART_ENUM) KD_STEP_PARTS } kd_step_part;

#undef KD_STEP_PART_ENUM

const char *kd_step_part_name(kd_step_part part);

/* Of one step; NaN: that part did not take place, or is not known. */
typedef struct kd_step_times {
    double seconds[KD_STEP_PARTS];
} kd_step_times;

kd_step_times kd_step_times_none(void);

typedef struct kd_step_clock {
    kd_backend *be; /* borrowed */
    kd_marks *marks;
    kd_step_part *closes; /* (n_max) what ends with mark i; 0 begins the first part */
    int n, n_max;
    bool is_idle;    /* this step is not measured        */
    bool is_pending; /* one was measured and is not read */
} kd_step_clock;

kd_step_clock kd_step_clock_of(kd_backend *be);
void kd_step_clock_release(kd_step_clock *clock); /* fine on {0} */

/* A step with at most n_parts calls of close. Without memory for them it goes unmeasured. */
void kd_step_clock_begin(kd_step_clock *clock, int64_t n_parts);

/* What was queued since the last call, or since begin, was of this part; of one there may be many. */
void kd_step_clock_close(kd_step_clock *clock, kd_step_part part);

/* Of the step measured last, once: false, and times_out untouched, while the queue is not past it. */
bool kd_step_clock_read(kd_step_clock *clock, kd_step_times *times_out);

#endif
