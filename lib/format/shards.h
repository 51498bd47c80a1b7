/*
 * shards.h - the tensors of a model folder as one set: model.safetensors, or all the files that
 * model.safetensors.index.json names ("weight_map": tensor name -> file in the same folder).
 *
 * An index is believed only if every tensor it names is in the file it names, and those files hold
 * no others. Faults are reported with the file; statuses as in safetensors.h.
 *
 * Threads: any; an open set is not changed by its use. Blocks on the disk.
 */
#ifndef KD_FORMAT_SHARDS_H
#define KD_FORMAT_SHARDS_H

#include <stdbool.h>

#include "format/safetensors.h"

#define KD_SHARDS_INDEX_NAME "model.safetensors.index.json"

typedef struct kd_shards kd_shards;

/* KD_ERR_NOT_FOUND where the folder has neither file. */
KD_MUST_USE kd_status kd_shards_open(const char *folder, kd_shards **shards_out);
void kd_shards_close(kd_shards *set); /* NULL is fine */

/* NULL if no file has a tensor of that name; valid until close. */
const kd_safetensors_entry *kd_shards_find(const kd_shards *set, const char *name);

/* All tensors of all files, (n), in the order of their names; valid until close. */
const kd_safetensors_entry *const *kd_shards_entries(const kd_shards *set, size_t *n_out);

/* How many files there are, the name of each within the folder, and whether KD_SHARDS_INDEX_NAME told. */
size_t kd_shards_count(const kd_shards *set);
const char *kd_shards_name(const kd_shards *set, size_t index);
bool kd_shards_is_indexed(const kd_shards *set);

#endif
