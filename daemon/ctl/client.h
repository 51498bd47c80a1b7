/*
 * client.h - one connection to the daemon, used as if calls were synchronous.
 *
 * ctl_call() sends a request and runs the loop until its last reply. What goes wrong is printed on
 * standard error here, once, unless options->quiet, and comes back as the exit code it means.
 */
#ifndef KD_CTL_CLIENT_H
#define KD_CTL_CLIENT_H

#include "daemon/ctl/options.h"
#include "proto/control.pb-c.h"

typedef struct ctl_client ctl_client;

/* Connects and shakes hands; CTL_UNREACHABLE if nobody answers, CTL_CONFLICT if refused. */
ctl_exit ctl_client_open(const ctl_options *options, ctl_client **client_out);
void ctl_client_close(ctl_client *client); /* NULL is fine */

/* Each reply but an error; the message is freed after it returns, and what was printed is flushed. */
typedef void (*ctl_on_reply)(const Kd__Reply *reply, void *user);

/*
 * request->id is set here. A stream (watch, logs -f) may be silent for ever; other replies are due
 * within 30 seconds.
 */
ctl_exit ctl_call(ctl_client *client, Kd__Request *request, ctl_on_reply on_reply, void *user);

/* Open, one call, close. */
ctl_exit
ctl_ask(const ctl_options *options, Kd__Request *request, ctl_on_reply on_reply, void *user);

/* The number in options->argument; CTL_USAGE with a message if it is none. */
ctl_exit ctl_job_id(const char *text, uint64_t *id_out);

#endif
