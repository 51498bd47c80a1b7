/*
 * identity.h - a number for what a model folder holds, so that a job resumes only with the models it
 * began with.
 *
 * The number is XXH3-64 over contents, never over paths or times:
 *
 *   sealed (manifest.json)   the name, size and hash of each file that the manifest lists; that the
 *                            files still are what it says is verified where the model is loaded
 *   otherwise                config.json, and of each tensor in the order of names: name, dtype,
 *                            shape, and the first and last KD_IDENTITY_EDGE_BYTES of its data, or
 *                            with KD_IDENTITY_FULL all of it
 *
 * so that a teacher of terabytes is known within seconds. Blocks on the disk.
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_FORMAT_IDENTITY_H
#define KD_FORMAT_IDENTITY_H

#include <stdint.h>

#include "base/status.h"

#define KD_IDENTITY_EDGE_BYTES 4096

typedef enum kd_identity_depth {
    KD_IDENTITY_EDGES, /* what stands above */
    KD_IDENTITY_FULL,  /* every byte of every tensor; a sealed folder is verified too */
} kd_identity_depth;

/* Faults are those of the manifest, of config.json and of safetensors files; KD_ERR_STOPPED (progress.h). */
KD_MUST_USE kd_status kd_model_folder_identity(const char *folder,
                                               kd_identity_depth depth,
                                               uint64_t *identity_out);

#endif
