/*
 * status.h - the one result type every fallible kd function returns.
 *
 * Contract: KD_OK is zero, so `if (st)` reads "if it failed". A function that
 * returns anything else has left its outputs untouched and holds nothing.
 * The first function to see a fault reports it with kd_fail() (log.h).
 */
#ifndef KD_BASE_STATUS_H
#define KD_BASE_STATUS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kd_status {
    KD_OK = 0,
    KD_ERR_ARG,       /* the caller broke a documented precondition                  */
    KD_ERR_NOMEM,     /* an allocator or a fixed budget is exhausted                 */
    KD_ERR_PROTO,     /* bytes from a peer or a file do not parse                    */
    KD_ERR_INVALID,   /* they parse, and ask for something that cannot be            */
    KD_ERR_STATE,     /* valid message, wrong time                                   */
    KD_ERR_NOT_FOUND, /* no such file, job or name                                   */
    KD_ERR_IO,        /* the kernel, MPI or a library said no; details are in the log */
    KD_ERR_STOPPED,   /* asked to end before it was done (progress.h)                 */
    KD_STATUS_COUNT,
} kd_status;

const char *kd_status_name(kd_status st);

/* Whether this host is at fault, its disk or its memory, and not what it was given: that may pass later. */
bool kd_status_is_of_host(kd_status st);

#define KD_MUST_USE __attribute__((warn_unused_result))
#define KD_NORETURN __attribute__((noreturn)) /* _Noreturn is not C++, and nvcc is */

/* Programmer errors only. Stays on in release builds. */
#define KD_CHECK(cond) ((cond) ? (void)0 : kd_check_failed(#cond, __FILE__, __LINE__))

KD_NORETURN void kd_check_failed(const char *cond, const char *file, int line);

#ifdef __cplusplus
}
#endif

#endif
