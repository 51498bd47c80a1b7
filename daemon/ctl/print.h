/* print.h - numbers and times as people read them, and messages as JSON. */
#ifndef KD_CTL_PRINT_H
#define KD_CTL_PRINT_H

#include <stdbool.h>

#include "proto/control.pb-c.h"

/* One line of JSON with every field, on standard output; the line is left open. */
void ctl_print_json(const ProtobufCMessage *message);

/* Text that others wrote, which must not steer the terminal: control characters become '?'. */
void ctl_print_text(const char *text);

/*
 * Sends what was printed on its way. False: it cannot be written. Where nobody reads it any more the
 * program ends here, as if SIGPIPE were not ignored.
 */
bool ctl_flush(void);

/* "running" */
const char *ctl_state_word(Kd__JobState state);

/* Longest text of the functions below, with its NUL. Each returns `out`. */
#define CTL_WORD_MAX 32
const char *ctl_duration(double seconds, char out[CTL_WORD_MAX]);  /* "2m 10s", "-" if unknown  */
const char *ctl_rate(double per_second, char out[CTL_WORD_MAX]);   /* "12.3k", "-" if unknown   */
const char *ctl_time(double unix_seconds, char out[CTL_WORD_MAX]); /* local, "-" if not set     */

#endif
