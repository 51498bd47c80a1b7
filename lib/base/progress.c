/* progress.c - relaxed: nobody draws a conclusion from the order of two ticks. */
#include "base/progress.h"

#include <stdatomic.h>

#include "base/log.h"

static atomic_uint_fast64_t n_ticks;
static atomic_bool is_stopped;

void kd_progress_tick(void)
{
    atomic_fetch_add_explicit(&n_ticks, 1, memory_order_relaxed);
}

uint64_t kd_progress_count(void)
{
    return atomic_load_explicit(&n_ticks, memory_order_relaxed);
}

void kd_progress_stop(void)
{
    atomic_store(&is_stopped, true);
}

bool kd_progress_is_stopped(void)
{
    return atomic_load(&is_stopped);
}

kd_status kd_progress_go_on(void)
{
    kd_progress_tick();
    return kd_progress_is_stopped()
               ? kd_fail(KD_ERR_STOPPED, "asked to end before the work was done")
               : KD_OK;
}
