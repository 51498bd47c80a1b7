/*
 * job.h - what a job file means: from text to a Kd__Job whose every field is there and in range.
 *
 *     kd_job_read -> kd_job_complete -> kd_job_check -> kd_job_check_files
 *
 * A client does the first, since the file and its folder are the client's; the daemon does the
 * others, and again on what a client sent. Mistakes are KD_ERR_INVALID with a text that starts with
 * the file's place or the field's path:
 *
 *     training.batch_size: found 10, expected a multiple of student ranks * micro_batch_size (4)
 *
 * kd_job_read_checked() does them all. No tensor code. Only kd_job_read() and kd_job_check_files() touch the
 * disk.
 */
#ifndef KD_JOB_JOB_H
#define KD_JOB_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"
#include "proto/job.pb-c.h"

/*
 * Reads the job file at `path` and applies `sets` ("training.steps=200") in order. Relative paths that
 * stand in the file are below its folder, those in `sets` below the current one; all are absolute then.
 * KD_ERR_NOT_FOUND without such a file. The caller frees *job_out with kd__job__free_unpacked(job, NULL).
 */
KD_MUST_USE kd_status kd_job_read(const char *path,
                                  const char *const *sets,
                                  size_t n_sets,
                                  Kd__Job **job_out);

/*
 * Reads a job file's text and applies `sets` ("training.steps=200") in order. `name` is the file's
 * in messages. The caller frees *job_out with kd__job__free_unpacked(job, NULL).
 */
KD_MUST_USE kd_status kd_job_parse(const char *text,
                                   size_t size_bytes,
                                   const char *name,
                                   const char *const *sets,
                                   size_t n_sets,
                                   Kd__Job **job_out);

/*
 * Reads, completes and checks a job file, its models and folders too. On a fault `mistakes` (empty before)
 * has a line for each mistake, unless memory lacks for it, and there is no job.
 */
KD_MUST_USE kd_status kd_job_read_checked(const char *path,
                                          const char *const *sets,
                                          size_t n_sets,
                                          Kd__Job **job_out,
                                          kd_text *mistakes);

/* Makes every field that job.proto calls a path absolute: relative ones are below base_folder. */
KD_MUST_USE kd_status kd_job_resolve_paths(Kd__Job *job, const char *base_folder);

/*
 * Refuses lists that are longer than they may be (KD_ERR_INVALID), of a job as it came: completing and
 * checking one take time and memory by the element. For whoever takes jobs from others.
 */
KD_MUST_USE kd_status kd_job_check_lengths(const Kd__Job *job);

/*
 * Fills in every default of job.proto, those that depend on other fields too, so that readers need
 * no NULL checks; twice is the same as once. What stays absent: `name`, which is the daemon's to
 * give; student.model with init: checkpoint, and student.checkpoint otherwise; required fields that
 * are missing, until kd_job_check() has refused them. Without teachers kd.weight becomes 0;
 * a constant Schedule has no kind, since it needs none. A
 * micro_batch_size that the job does not give has its value, but stays marked as absent: it depends
 * on the ranks, so it is no property of the job (hash.h).
 */
KD_MUST_USE kd_status kd_job_complete(Kd__Job *job);

/* The same for an objective alone: what its losses weigh depends on whether there is a teacher. */
KD_MUST_USE kd_status kd_job_complete_objective(Kd__Objective *objective, bool has_teacher);

/* The same without a teacher, and without what the losses say that read one (the fact `teacher`). */
KD_MUST_USE kd_status kd_job_complete_untaught(Kd__Objective *objective);

/*
 * Checks all ranges and the rules between fields of a completed job, and that it can be read again as
 * the file that its ranks get (yaml.h). KD_ERR_INVALID: the fault text is the first mistake, and `mistakes` (NULL: not wanted) gets a line for each.
 */
KD_MUST_USE kd_status kd_job_check(const Kd__Job *job, kd_text *mistakes);

/*
 * The same for a program that gives the tokens itself and keeps the model: output and data.files are
 * not looked at, a teacher for kd, or a weight for some loss, may come later, and a batch's last
 * micro-batch may have fewer sequences than the others.
 */
KD_MUST_USE kd_status kd_job_check_model(const Kd__Job *job, kd_text *mistakes);

/*
 * Checks that data files and checkpoint folders are there and readable, that the models which
 * config.json tells of fit the job and each other, and that output can be made: its nearest existing
 * ancestor is a writable folder. For a checked job; blocks on the disk.
 */
KD_MUST_USE kd_status kd_job_check_files(const Kd__Job *job);

/* Of a completed job: the ranks of all roles together, and the slots (threads) they take. */
uint32_t kd_job_ranks(const Kd__Job *job);
uint64_t kd_job_slots(const Kd__Job *job);

/* Of a completed job: micro-batches of one step over all student ranks; m of step s are [s n, (s + 1) n). */
uint64_t kd_job_micro_batches(const Kd__Job *job);

#endif
