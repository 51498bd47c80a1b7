/*
 * checkpoint.h - training state on disk that survives any crash, and is resumed exactly.
 *
 *   FOLDER/step-<n>/          n: steps made, twelve digits
 *     model.safetensors       the weights of the exported group under their Hugging Face names,
 *                             in the compute dtype
 *     config.json
 *     train.safetensors       master weights and both moments, f32
 *     state.json              kd_checkpoint_state, and how many of the steps made an update
 *     manifest.json           size and XXH3 of each file, written last
 *
 * A checkpoint is written into FOLDER/.step-<n>.tmp, every file and the folder fsynced, then
 * renamed: a name step-<n> never stands for half a checkpoint. Only one process writes below
 * FOLDER. All functions block on the disk.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TRAIN_CHECKPOINT_H
#define KD_TRAIN_CHECKPOINT_H

#include "train/optimizer.h"

typedef struct kd_checkpoint_state {
    uint64_t step;     /* steps made; the next one's number, counted from 0 */
    uint64_t job_hash; /* of all that must be the same to resume */
    /* Texts of lines: borrowed when written, else owned; NULL: written without a job. */
    char *job;      /* what job_hash is of (job/hash.h) */
    char *resolved; /* PATH=VALUE of fields that the job left to be decided, as they were */
} kd_checkpoint_state;

/* Of one that was read; fine on {0}. */
void kd_checkpoint_state_release(kd_checkpoint_state *state);

/*
 * Writes FOLDER/step-<n>, in place of one of that name; makes FOLDER if needed. On a fault nothing
 * new is visible, and what was there still is.
 * KD_ERR_INVALID: a weight or a moment is not finite; its tensor is named, in a file whose folder names
 * the step.
 *   path_out (NULL: not wanted): malloc'ed path of the checkpoint
 */
KD_MUST_USE kd_status kd_checkpoint_save(const char *folder,
                                         const kd_optimizer *optimizer,
                                         const kd_checkpoint_state *state,
                                         char **path_out);

/* How large the tensors' files of one will be; its texts are a few KiB. */
KD_MUST_USE kd_status kd_checkpoint_bytes(const kd_optimizer *optimizer, uint64_t *bytes_out);

/*
 * The newest checkpoint whose manifest verifies; others are skipped with a warning that says why.
 * *path_out is malloc'ed, or NULL if there is none, which is KD_OK; state_out is then untouched, else
 * the caller releases it.
 * KD_ERR_INVALID: a sound one has a state of another version; beginning anew would remove it.
 */
KD_MUST_USE kd_status kd_checkpoint_find_latest(const char *folder,
                                                char **path_out,
                                                kd_checkpoint_state *state_out);

/*
 * Fills master weights, their copies, the moments of all trained groups and the number of updates from a
 * checkpoint that was found; frozen groups are the caller's to fill.
 * KD_ERR_INVALID: its job hash is not `job_hash` (both are named), or it holds another model.
 *   state_out: the caller releases it
 * After an error the values of weights and moments are undefined.
 */
KD_MUST_USE kd_status kd_checkpoint_load(const char *path,
                                         kd_optimizer *optimizer,
                                         uint64_t job_hash,
                                         kd_checkpoint_state *state_out);

/*
 * After the checkpoint of `step` was saved: removes all but the newest `keep` (at least 1) of those
 * up to it, those of later steps (they did not verify, or this run would have begun there), and
 * leftovers of writes that did not end.
 */
KD_MUST_USE kd_status kd_checkpoint_prune(const char *folder, uint64_t step, int keep);

/*
 * Writes a model folder (model.safetensors in the compute dtype, config.json, manifest.json) that
 * appears whole or not at all. One that was written so is replaced; KD_ERR_INVALID names what else the
 * folder holds (kd_manifest_covers()), and then it stays as it is; it also names a weight that is
 * not finite, as above.
 *   add_files (NULL: none): writes more files into the folder it is given, before that is sealed;
 *   it gets `user`
 */
KD_MUST_USE kd_status kd_model_export(const char *folder,
                                      const kd_parameters *params,
                                      kd_status (*add_files)(void *user, const char *folder),
                                      void *user);

#endif
