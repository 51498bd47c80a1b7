/*
 * hash.h - what of a job a checkpoint depends on, as a text and as a number.
 *
 * The canonical text of a completed job is "v1", then a line PATH=VALUE for each field that is not
 * at its default, in strcmp's order:
 *
 *     v1
 *     data.files=content 00c0ffee00c0ffee
 *     student.model.hidden_size=64
 *     teachers=1 element
 *     training.steps=100
 *
 * So a field that a later version adds changes nothing while it is at its default, nor does a new
 * number or place of a field. Fields that proto/job.proto calls live, free or path are left out:
 * what may change while the job runs, who computes it, what is written, and where files lie. What
 * is in the files is known to callers alone, who pass its hashes.
 *
 * A field that others leave without a meaning, data.text_field of plain text say, is left out, too.
 * micro_batch_size is in where it is given; its default depends on the ranks.
 *
 * Pure. Threads: any.
 */
#ifndef KD_JOB_HASH_H
#define KD_JOB_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"
#include "proto/job.pb-c.h"

/* What stands where a field of the job says: "data.files", "teachers.0.checkpoint". */
typedef struct kd_job_content {
    const char *path; /* the field's */
    uint64_t hash;    /* of what a reader takes from there */
    bool is_whole; /* of every byte of it, where others are of its ends: no other hash is like it */
} kd_job_content;

/* Adds the canonical text of a completed job; `contents` may be NULL. KD_ERR_NOMEM. */
KD_MUST_USE kd_status kd_job_canonical(const Kd__Job *job,
                                       const kd_job_content *contents,
                                       size_t n_contents,
                                       kd_text *canonical);

/* XXH3 of a canonical text; never 0. */
uint64_t kd_job_canonical_hash(const char *canonical);

/*
 * Compares the canonical text of a job with that of the one that made a checkpoint. True: they differ,
 * and `difference` got the first field that does, contents last, since fields decide what is read:
 *
 *     training.steps: found 200, the checkpoint was made with 100
 *     training.dtype: found f32, the checkpoint was made with its default
 */
bool kd_job_canonical_differs(const char *found, const char *made_with, kd_text *difference);

#endif
