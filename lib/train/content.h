/*
 * content.h - what a job's model folder holds, as the line of its canonical text (job/hash.h).
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_TRAIN_CONTENT_H
#define KD_TRAIN_CONTENT_H

#include "job/hash.h"

/*
 * Of the folder that stands in the field `path`, which the content borrows, read as far as `verify` says
 * (format/identity.h). Of a folder without a seal the content tells how far. Faults are those of the identity.
 */
KD_MUST_USE kd_status kd_model_content(const char *path,
                                       const char *folder,
                                       Kd__Verify verify,
                                       kd_job_content *content_out);

#endif
