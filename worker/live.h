/*
 * live.h - the values of a job that may change while it runs, and OUTPUT/changes.jsonl, which alone
 * decides what changes when.
 *
 * A change names a field that job.proto calls live, its new value, and the first step that it acts in.
 * The leader writes it to the file, and has it on the disk, before the order that carries it goes out.
 * An attempt that resumes reads the file first: what acted acts again, in the same steps.
 *
 * Changes act in the order they came. An attempt that resumed at step 50 of a run that had recorded one
 * for step 100 gives a new one that comes at step 60 the step 100 too, behind it: the steps that are made
 * again are as they were, and from there on the newest wish holds. So a new change is tried on the values
 * after all recorded ones, and one that was recorded never fails later but where the job itself is
 * another: that is told at the start.
 *
 *   every rank    live_open                     what the file holds, by the leader
 *   leader        live_collect(step)            before the order for a step goes out: its new changes
 *                 live_plan(step)               the values in that step
 *   every rank    live_take(order)              when a step's order is taken: its values become those of now
 */
#ifndef KD_WORKER_LIVE_H
#define KD_WORKER_LIVE_H

#include <stdbool.h>

#include "base/text.h"
#include "comm/step_order.h"
#include "comm/world.h"
#include "proto/job.pb-c.h"
#include "proto/worker.pb-c.h"
#include "worker/link.h"
#include "worker/live_file.h"

/* The values in one step. */
typedef struct live_values {
    Kd__Job *job;     /* completed; owned */
    size_t n_changes; /* made so far      */
} live_values;

typedef struct live {
    Kd__Change **changes; /* (n_changes), owned; as they came, so never descending in step */
    size_t n_changes, n_room;
    size_t file_bytes;
    bool leads;
    live_file_owner owner; /* the leader's: of the file */
    live_values now;       /* in the step at hand                                     */
    live_values ahead;     /* the leader's: in the step whose order goes out next      */
    live_values last;      /* the leader's: once all changes have acted                */
    Kd__RankOrder *held;   /* the leader's: a change that found no room in an order; owned */
} live;

/*
 * All ranks; blocks on the leader's disk. KD_ERR_PROTO names the file's bad line; KD_ERR_INVALID one that
 * the job, as it is now, does not take, or a file of another job (live_file.h). The leader logs what the
 * file holds.
 */
KD_MUST_USE kd_status live_open(kd_world *world,
                                const Kd__Job *job,
                                const live_file_owner *owner,
                                live *live_out);
/* The same of one rank that has the file's changes; `owner` is the leader's, NULL elsewhere. */
KD_MUST_USE kd_status live_begin(const Kd__Job *job,
                                 const char *lines,
                                 const live_file_owner *owner,
                                 live *live_out);
void live_close(live *l); /* fine on {0} */

/*
 * The leader's: takes what the link brought, writes what may change to the file and adds it to `lines`
 * for the order of `step`; it acts there, or behind the last change that was recorded for a later step.
 * What may not, or no longer fits into the file, is refused with a line in the log.
 */
KD_MUST_USE kd_status live_collect(live *l, rank_link *link, uint64_t step, kd_text *lines);

/* The leader's: makes `ahead` what it is in `step`; steps ascend. */
KD_MUST_USE kd_status live_plan(live *l, uint64_t step);

/* Every rank's: makes `now` what it is in the order's step. KD_ERR_PROTO if ranks disagree. */
KD_MUST_USE kd_status live_take(live *l, const kd_step_order *order);

/*
 * KD_ERR_INVALID names the path: a field that does not exist or is not live, a value of another type, out
 * of range, or against a rule. Pure.
 */
KD_MUST_USE kd_status live_check(const Kd__Job *job, const char *path, const char *value);

#endif
