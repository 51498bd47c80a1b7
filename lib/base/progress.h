/*
 * progress.h - a count that grows while this process gets on with its work.
 *
 * Whatever may take long ticks once per piece: a forward pass, a piece of a file read, hashed or
 * written. Whoever asks whether the process hangs compares two counts; their values mean nothing else.
 *
 * And a word that it is to end. Work that may take long before there is anything to save asks for it with
 * each piece and ends; what saves does not ask.
 *
 * Threads: all may be called from any thread, and cost an atomic addition, store or load.
 */
#ifndef KD_BASE_PROGRESS_H
#define KD_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

void kd_progress_tick(void);
uint64_t kd_progress_count(void); /* since the process began */

/* From now on this process is to end; also in a signal handler. */
void kd_progress_stop(void);
bool kd_progress_is_stopped(void);

/* A tick of work that can end here: KD_ERR_STOPPED if the process is to end. */
KD_MUST_USE kd_status kd_progress_go_on(void);

#endif
