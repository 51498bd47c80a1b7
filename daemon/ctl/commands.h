/* commands.h - what each command of distillctl does; options.h says what it was asked. */
#ifndef KD_CTL_COMMANDS_H
#define KD_CTL_COMMANDS_H

#include <stdint.h>

#include "base/status.h"
#include "daemon/ctl/options.h"

ctl_exit ctl_submit(const ctl_options *options);   /* submit.c */
ctl_exit ctl_validate(const ctl_options *options); /* validate.c */
ctl_exit ctl_list(const ctl_options *options);     /* query.c  */
ctl_exit ctl_show(const ctl_options *options);     /* query.c  */
ctl_exit ctl_events(const ctl_options *options);   /* query.c  */
ctl_exit ctl_metrics(const ctl_options *options);  /* query.c  */
ctl_exit ctl_logs(const ctl_options *options);     /* query.c  */
ctl_exit ctl_cancel(const ctl_options *options);   /* query.c  */
ctl_exit ctl_explain(const ctl_options *options);  /* explain.c */
ctl_exit ctl_watch(const ctl_options *options);    /* watch.c  */

/* For a fault of a job file: a disk that fails and a lack of memory are not the job's. */
ctl_exit ctl_exit_of_job(kd_status st);

/* Shows one job's progress to its end; standard output is what `watch` prints. */
ctl_exit ctl_watch_job(const ctl_options *options, uint64_t job_id);

#endif
