/* print.h - numbers and times as people read them, and messages as JSON. */
#ifndef KD_CTL_PRINT_H
#define KD_CTL_PRINT_H

#include <stddef.h>

#include "proto/control.pb-c.h"

/* One line of JSON with every field, on standard output; flushed. */
void ctl_print_json(const ProtobufCMessage *message);

/* "running" */
const char *ctl_state_word(Kd__JobState state);

/* Longest text of the functions below, with its NUL. Each returns `out`. */
#define CTL_WORD_MAX 32
const char *ctl_duration(double seconds, char out[CTL_WORD_MAX]);  /* "2m 10s", "-" if unknown  */
const char *ctl_rate(double per_second, char out[CTL_WORD_MAX]);   /* "12.3k", "-" if unknown   */
const char *ctl_time(double unix_seconds, char out[CTL_WORD_MAX]); /* local, "-" if not set     */

#endif
