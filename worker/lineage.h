/* lineage.h - where a job's tokens come from, and whether its models can be asked about them. */
#ifndef KD_WORKER_LINEAGE_H
#define KD_WORKER_LINEAGE_H

#include "format/lineage.h"
#include "proto/job.pb-c.h"
#include "worker/batches.h"

/*
 * Every model that the job names understands its tokens: KD_ERR_INVALID names the field and both
 * tokenizers. One that was trained with another split is told in the log. Blocks on the disk.
 */
KD_MUST_USE kd_status lineage_check(const Kd__Job *job, const batches *b);

/* add_files() of kd_model_export(), whose user is a lineage_files: tokenizer.json and distilld.json. */
typedef struct lineage_files {
    const Kd__Job *job;
    const batches *batches;
} lineage_files;

KD_MUST_USE kd_status lineage_add_files(void *files, const char *folder);

#endif
