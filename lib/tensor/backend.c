/*
 * backend.c - what is the same for every back end: its end, waiting for it, and the first fault, which may
 * be seen on any thread and is told to whoever asks.
 */
#include <pthread.h>
#include <sched.h>
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

kd_status kd_backend_tell_fault(const kd_backend *be)
{
    if (be->fault != KD_OK) {
        kd_fault_recall(be->fault_text);
    }
    return be->fault;
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
