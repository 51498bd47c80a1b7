/*
 * plan.h - what a run of a job will need, found by rehearsing it: the engine's own code builds the models
 * of each role and makes a step of them on a back end that touches no memory (tensor/ops.h), so no size
 * is worked out twice. Of a role on a GPU it is all that the engine holds there, but not the scratch memory of its
 * operations.
 *
 * What is told is the first start of the job on a machine as this one. Not counted are code, libraries, MPI's
 * own buffers and what is there only while models are loaded.
 */
#ifndef KD_WORKER_MODEL_PLAN_H
#define KD_WORKER_MODEL_PLAN_H

#include "base/text.h"
#include "data/pack.h"
#include "worker/teaching.h"

#define PLAN_NAME_BYTES 48

/* One part of a rank's memory. */
typedef struct plan_part {
    char name[PLAN_NAME_BYTES]; /* "master_weights", "teachers.0.lm_head" */
    uint64_t bytes;
} plan_part;

/* Floating-point operations of matrix products for one token. */
typedef struct plan_flops {
    double forward, backward;
    double teacher_logits; /* formed by the student's ranks from teachers' hidden states */
    double vocabulary;     /* the lm_heads' part of all the above */
} plan_flops;

typedef struct plan_role {
    char name[PLAN_NAME_BYTES]; /* "student", "teachers.0" */
    uint64_t n_ranks;           /* 0: a teacher that the student's ranks run */
    uint64_t n_threads;         /* of each */
    kd_dtype dtype;
    kd_device_kind device;
    bool is_auto;             /* the dtype was left to the machine */
    uint64_t n_micro_batches; /* of a step, on the rank that has most */
    plan_part *parts;         /* (n_parts) of one rank; owned */
    int n_parts;
    kd_memory_usage usage; /* of the back ends of one rank: what it counts itself when it runs */
    bool knows_own;        /* else usage has only what is held: what a GPU's operations take for
                              themselves is not rehearsed, and the parts are without it      */
    plan_flops flops;
} plan_role;

/* What goes from a teacher to each student rank. */
typedef struct plan_stream {
    bool is_auto;                      /* the transport was chosen */
    size_t logits_bytes, hidden_bytes; /* of a token: the fewer is what auto takes */
    bool is_local;                     /* no messages between processes */
    int n_slots;                       /* messages at a time, on each rank at both ends */
} plan_stream;

typedef struct plan_data {
    bool is_packed; /* by an earlier start, of the same text */
    kd_pack_result tokens;
    uint64_t n_epoch; /* sequences of an epoch */
    uint64_t text_bytes;
} plan_data;

typedef struct plan {
    const Kd__Job *job; /* borrowed; with nothing left to be decided */
    teaching teaching;
    plan_role *roles; /* (n_roles) the student, then each teacher; owned */
    int n_roles;
    plan_stream *streams; /* (n_roles - 1), of each teacher; owned */
    plan_data data;
    uint64_t checkpoint_bytes, model_bytes; /* on the disk */
} plan;

/* Of a completed and checked job, which gets the words that hold here in place of `auto`. */
KD_MUST_USE kd_status plan_make(Kd__Job *job, plan *plan_out);
void plan_release(plan *p); /* fine on {0} */

/* Fill in what the memory of each role is made of, and what files the student writes. plan_memory.c. */
KD_MUST_USE kd_status plan_student_memory(plan *p);
KD_MUST_USE kd_status plan_teacher_memory(plan *p, int teacher);

uint64_t plan_role_bytes(const plan_role *role); /* of one rank */
uint64_t plan_host_bytes(const plan *p);         /* of all ranks: they start on one host */
double plan_role_step_flops(const plan *p, const plan_role *role); /* of all its ranks */
uint64_t plan_step_tokens(const plan *p);
double plan_epochs(const plan *p); /* of a job whose data is packed */

/* For people, and for programs. plan_print.c */
void plan_print_table(const plan *p, kd_text *text);
void plan_print_json(const plan *p, kd_text *text);

#endif
