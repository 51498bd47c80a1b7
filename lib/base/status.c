/* status.c - the words of the statuses, and the end of a program that caught itself in a mistake. */
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const status_names[] = {
    [KD_OK] = "ok",
    [KD_ERR_ARG] = "bad argument",
    [KD_ERR_NOMEM] = "out of memory",
    [KD_ERR_PROTO] = "malformed",
    [KD_ERR_INVALID] = "invalid",
    [KD_ERR_STATE] = "wrong state",
    [KD_ERR_NOT_FOUND] = "not found",
    [KD_ERR_IO] = "input or output failed",
    [KD_ERR_STOPPED] = "stopped",
};
_Static_assert(sizeof status_names / sizeof *status_names == KD_STATUS_COUNT, "name every status");

const char *kd_status_name(kd_status st)
{
    KD_CHECK(st < KD_STATUS_COUNT);
    return status_names[st];
}

bool kd_status_is_of_host(kd_status st)
{
    return st == KD_ERR_IO || st == KD_ERR_NOMEM;
}

KD_NORETURN void kd_check_failed(const char *cond, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: check failed: %s\n", file, line, cond);
    abort();
}
