/*
 * log.h - lines for the people who run the thing, and the text of the last fault.
 *
 * A line is `2026-11-23T18:00:00.123Z level who: text` on standard error, written
 * by one write(2), so lines of several threads and ranks do not mix.
 *
 * Threads: everything here may be called from any thread. The fault text is
 * kept per thread; kd_fault_text() reads that of the calling thread.
 */
#ifndef KD_BASE_LOG_H
#define KD_BASE_LOG_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kd_log_level { KD_LOG_DEBUG, KD_LOG_INFO, KD_LOG_WARN, KD_LOG_ERROR } kd_log_level;

/* Names the program in every line, e.g. "distilld" or "rank 3"; copied, cut at 63 bytes. */
void kd_log_set_who(const char *who);

/* Lines below `level` are dropped. KD_LOG_INFO at start. */
void kd_log_set_level(kd_log_level level);
kd_log_level kd_log_get_level(void);

/* "debug", "info", "warn" or "error", as the lines have it. */
const char *kd_log_level_name(kd_log_level level);

void kd_log(kd_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Keeps the text as this thread's last fault, logs it as an error, returns st.
 * Used where a fault is first seen:  return kd_fail(KD_ERR_IO, "cannot open %s: %s", ...);
 * Callers above pass the status on and say nothing.
 */
kd_status kd_fail(kd_status st, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* which does not see that the status comes back */
#define kd_fail(st, ...) ((void)kd_fail((st), __VA_ARGS__), (st))
#endif

/* The last fault of this thread, or "" if there was none; valid until its next one. */
#define KD_FAULT_TEXT_BYTES 2048 /* with its end; what is longer is cut */
const char *kd_fault_text(void);

/* Makes a text, kept from another thread, this thread's last fault; it was logged there. */
void kd_fault_recall(const char *text);

/*
 * Silences the log line of kd_fail() on this thread while set: for programs that print the
 * fault text themselves, and for tests that expect one. Returns what it was before.
 */
int kd_fault_quiet(int quiet);

#ifdef __cplusplus
}
#endif

#endif
