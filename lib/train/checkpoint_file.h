/*
 * checkpoint_file.h - the two files of a checkpoint that only training reads; private to
 * checkpoint.c.
 *
 *   state.json         {"version": 2, "step": n, "updates": n, "job_hash": "<hex>", "job": [<lines>],
 *                      "resolved": [<lines>]}; the last two where there is a job. `updates` are
 *                      the optimizer's; where they are not there every step made one
 *   train.safetensors  for each parameter of a trained group "master.<name>", "m.<name>" and
 *                      "v.<name>", f32; frozen groups are as the job started from
 *
 * Tensors are named, so the file does not depend on the order of groups and their tables.
 */
#ifndef KD_TRAIN_CHECKPOINT_FILE_H
#define KD_TRAIN_CHECKPOINT_FILE_H

#include "train/checkpoint.h"

#define KD_CHECKPOINT_STATE_NAME   "state.json"
#define KD_CHECKPOINT_TENSORS_NAME "train.safetensors"

/* Behind the name of a folder that stepped aside for another, see below. */
#define KD_FOLDER_ASIDE ".old"

KD_MUST_USE kd_status kd_checkpoint_state_write(const char *path,
                                                const kd_checkpoint_state *state,
                                                uint64_t n_updates);
/* KD_ERR_PROTO names the file and what is wrong in it; KD_ERR_INVALID: another version. */
KD_MUST_USE kd_status kd_checkpoint_state_read(const char *path,
                                               kd_checkpoint_state *state_out,
                                               uint64_t *n_updates_out);

KD_MUST_USE kd_status kd_checkpoint_tensors_write(const char *path, const kd_optimizer *optimizer);
/* How large that file will be. */
KD_MUST_USE kd_status kd_checkpoint_tensors_bytes(const kd_optimizer *optimizer,
                                                  uint64_t *bytes_out);
/* KD_ERR_INVALID: a tensor is missing or has another size. */
KD_MUST_USE kd_status kd_checkpoint_tensors_read(const char *path, kd_optimizer *optimizer);

/*
 * Gives the finished folder `temporary` the name `path`, in the same parent; a folder of that name is
 * replaced, whatever is in it. Where the file system cannot swap the two in one move it is TEMPORARY.old
 * for a moment, and comes back if the new one cannot take its place; one that a crash left under that name
 * goes.
 */
KD_MUST_USE kd_status kd_folder_publish(const char *temporary, const char *path);

/* After a fault: removes what was half written; what cannot be removed is named in a warning. */
void kd_folder_discard(const char *folder);

#endif
