/*
 * progress.h - a count that grows while this process gets on with its work.
 *
 * Whatever may take long ticks once per piece: a forward pass, a piece of a file read, hashed or
 * written. Whoever asks whether the process hangs compares two counts; their values mean nothing else.
 *
 * Threads: both may be called from any thread, and cost an atomic addition or load.
 */
#ifndef KD_BASE_PROGRESS_H
#define KD_BASE_PROGRESS_H

#include <stdint.h>

void kd_progress_tick(void);
uint64_t kd_progress_count(void); /* since the process began */

#endif
