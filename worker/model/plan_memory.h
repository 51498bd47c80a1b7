/* plan_memory.h - what the rehearsals of a teacher's and of a student's rank share. */
#ifndef KD_WORKER_MODEL_PLAN_MEMORY_H
#define KD_WORKER_MODEL_PLAN_MEMORY_H

#include "distill/teacher.h"
#include "worker/model/plan.h"

typedef struct plan_sized {
    const char *name;
    size_t bytes;
} plan_sized;

/* Adds a part for each; the prefix stands in front of the names. KD_ERR_NOMEM. */
KD_MUST_USE kd_status plan_add(plan_role *role, const char *prefix, const plan_sized *parts, int n);
#define PLAN_ADD(role, prefix, parts)                                                              \
    plan_add(role, prefix, parts, (int)(sizeof(parts) / sizeof *(parts)))

/* What a teacher's model holds. */
KD_MUST_USE kd_status plan_add_teacher(plan_role *role,
                                       const char *prefix,
                                       const kd_teacher *teacher);

/* A back end that rehearses one of the role's kind. */
KD_MUST_USE kd_status plan_rehearsal(const plan_role *role,
                                     kd_dtype compute,
                                     int n_threads,
                                     kd_backend **be_out);

void plan_add_usage(plan_role *role, const kd_backend *be);

/*
 * What a teacher's messages take on a rank of that role. Those of a GPU that other ranks are to have, and those
 * between two kinds of device, lie in two memories; where ranks of a host find that they share device memory, or
 * MPI takes it, less is held.
 */
size_t plan_messages_bytes(const plan *p, int teacher, const plan_role *role);

/* A micro-batch of the job; zeros (rows): its tokens and labels. */
int32_t *plan_zeros(const plan *p); /* the caller frees; NULL: no memory, and it is told */
kd_batch plan_batch(const plan *p, const int32_t *zeros);

KD_MUST_USE kd_status plan_create_teacher(const plan *p,
                                          int teacher,
                                          kd_backend *be,
                                          kd_teacher **teacher_out);

/* The teacher over a micro-batch, with all it may ever give. */
KD_MUST_USE kd_status
plan_teach(const plan *p, int teacher, kd_teacher *model, const int32_t *zeros, void *message);
uint64_t plan_groups(const plan *p, int teacher);

#endif
