/*
 * settings.h - a completed and checked job, in the words of the libraries.
 *
 * Pure.
 */
#ifndef KD_WORKER_SETTINGS_H
#define KD_WORKER_SETTINGS_H

#include "data/pack.h"
#include "proto/job.pb-c.h"
#include "tensor/tensor.h"

/* Borrows the paths of the files from the job, and the shards' from the caller. */
kd_pack_settings
settings_pack(const Kd__Job *job, const char *out_train_path, const char *out_test_path);

/* Of products, once no dtype of the job is auto (dtype.h): the student's, and a teacher's. */
kd_dtype settings_dtype(const Kd__Job *job);
kd_dtype settings_teacher_dtype(const Kd__Job *job, int teacher);

/* Micro-batches of one step, over all student ranks: m of step s are [s * n, (s + 1) * n). */
uint64_t settings_micro_batches(const Kd__Job *job);

/*
 * Steps that an order is given ahead (comm/step_order.h), so that no teacher waits for one: depth
 * messages are under way to each student, and depth more on each replica.
 */
int settings_order_lead(const Kd__Job *job);

#endif
