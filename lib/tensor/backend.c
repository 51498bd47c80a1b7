/*
 * backend.c - what is the same for every back end: its end, memory by what it is for, waiting for it, and the
 * first fault, which may be seen on any thread and is told to whoever asks.
 */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "tensor/ops.h"

void kd_backend_keep_fault(kd_backend *be, kd_status st)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    KD_CHECK(pthread_mutex_lock(&lock) == 0);
    if (be->fault == KD_OK && st != KD_OK) {
        be->fault = st;
        (void)snprintf(be->fault_text, sizeof be->fault_text, "%s", kd_fault_text());
    }
    KD_CHECK(pthread_mutex_unlock(&lock) == 0);
}

kd_status kd_backend_decline(const kd_backend *be, const char *why)
{
    const int quiet = kd_fault_quiet(1);
    const kd_status st = kd_fail(KD_ERR_NOT_FOUND, "%s: %s", be->device.name, why);
    (void)kd_fault_quiet(quiet);
    return st;
}

kd_status kd_backend_tell_fault(const kd_backend *be)
{
    if (be->fault != KD_OK) {
        kd_fault_recall(be->fault_text);
    }
    return be->fault;
}

kd_status kd_backend_place(kd_backend *be,
                           kd_memory kind,
                           size_t size_bytes,
                           void **memory_out,
                           const char *what,
                           ...)
{
    char name[128];
    va_list args;
    const int quiet = kd_fault_quiet(1); /* told below, with the name */
    void *memory = be->ops->alloc(be, kind, size_bytes);
    (void)kd_fault_quiet(quiet);
    if (memory == NULL) {
        va_start(args, what);
        (void)vsnprintf(name, sizeof name, what, args);
        va_end(args);
        const kd_status fault = kd_backend_tell_fault(be);
        return kd_fail(fault ? fault : KD_ERR_NOMEM, "%s: %s", name, kd_fault_text());
    }
    *memory_out = memory;
    return KD_OK;
}

void kd_backend_destroy(kd_backend *be)
{
    if (be != NULL) {
        be->ops->destroy(be);
    }
}

kd_status kd_backend_wait(kd_backend *be)
{
    return be->ops->wait(be);
}

void kd_event_sync(kd_event event)
{
    while (!kd_event_is_past(event)) {
        (void)sched_yield();
    }
}

void kd_backend_drain(kd_backend *be)
{
    char last[KD_FAULT_TEXT_BYTES];
    (void)snprintf(last, sizeof last, "%s", kd_fault_text());
    if (kd_backend_wait(be)) { /* told to whoever asks for it */
        kd_fault_recall(last);
    }
}
