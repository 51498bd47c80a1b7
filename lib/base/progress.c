/* progress.c - relaxed: nobody draws a conclusion from the order of two ticks. */
#include "base/progress.h"

#include <stdatomic.h>

static atomic_uint_fast64_t n_ticks;

void kd_progress_tick(void)
{
    atomic_fetch_add_explicit(&n_ticks, 1, memory_order_relaxed);
}

uint64_t kd_progress_count(void)
{
    return atomic_load_explicit(&n_ticks, memory_order_relaxed);
}
