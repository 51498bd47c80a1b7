/* rules.h - the rules between the fields of a job. Private to lib/job. */
#ifndef KD_JOB_RULES_H
#define KD_JOB_RULES_H

#include <stdbool.h>

#include "message/check.h"
#include "proto/job.pb-c.h"

/*
 * Adds what a completed job breaks, whose fields may be out of range, but not unsound (check.h).
 * What a field's own facts say is told already; a rule holds where it cannot be judged because of
 * that. Rules see the whole job; only messages that are also in `view` are looked at. is_run: the
 * job runs as it stands; otherwise teachers and weights may come later (kd_job_check_model).
 */
void kd_job_check_rules(kd_checker *c, const Kd__Job *job, const Kd__Job *view, bool is_run);

#endif
