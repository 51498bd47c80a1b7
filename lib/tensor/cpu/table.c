/* The table of operations of one instruction level, and what stands in it without a loop of its own. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/level.h"

/* The host's memory is the device's. */
void *KD_KERNEL(alloc)(kd_backend *be, kd_memory kind, size_t size_bytes)
{
    kd_cpu *cpu = (kd_cpu *)be;
    KD_CHECK(kind < KD_MEMORY_COUNT);
    void *memory = kd_cpu_pages(size_bytes, !cpu->rehearses);
    cpu->held_bytes += kd_cpu_pages_bytes(memory);
    return memory;
}

void KD_KERNEL(free)(kd_backend *be, void *memory)
{
    ((kd_cpu *)be)->held_bytes -= kd_cpu_pages_bytes(memory);
    kd_cpu_pages_free(memory);
}

static const char *const own_memory = "memory is this process's alone";

kd_status KD_KERNEL(memory_export)(kd_backend *be, void *memory, kd_memory_handle *handle_out)
{
    (void)memory;
    (void)handle_out;
    return kd_backend_decline(be, own_memory);
}

kd_status
KD_KERNEL(memory_import)(kd_backend *be, const kd_memory_handle *handle, void **memory_out)
{
    (void)handle;
    (void)memory_out;
    return kd_backend_decline(be, own_memory);
}

kd_memory_usage KD_KERNEL(memory_usage)(const kd_backend *be)
{
    return kd_cpu_memory_usage((const kd_cpu *)be);
}

kd_status KD_KERNEL(wait)(kd_backend *be)
{
    return kd_backend_tell_fault(be); /* operations are done when they return */
}

/* Nothing is queued. */
void KD_KERNEL(region_begin)(kd_backend *be, int region)
{
    (void)be;
    KD_CHECK(region >= 0);
}

void KD_KERNEL(region_end)(kd_backend *be)
{
    (void)be;
}

/* Operations are done when they return, and so are events; only faults are left to pass on. */
kd_event KD_KERNEL(event_record)(kd_backend *be)
{
    return (kd_event){.be = be, .number = ++((kd_cpu *)be)->n_events};
}

bool KD_KERNEL(event_query)(kd_backend *be, kd_event event)
{
    (void)be;
    (void)event;
    return true;
}

void KD_KERNEL(event_wait)(kd_backend *be, kd_event event)
{
    if (event.be != NULL) {
        kd_event_sync(event); /* of a device: what is queued here runs at once */
        kd_backend_keep_fault(be, kd_backend_tell_fault(event.be));
    }
}

kd_event
KD_KERNEL(transfer)(kd_backend *be, void *dst, const void *src, size_t size_bytes, kd_event after)
{
    KD_KERNEL(event_wait)(be, after);
    if (!kd_cpu_is_idle(be)) {
        memcpy(dst, src, size_bytes);
    }
    kd_event event = KD_KERNEL(event_record)(be);
    event.queue = KD_QUEUE_TRANSFERS;
    return event;
}

/* An operation is done when it returns: the host's clock is the queue's. */
struct kd_marks {
    int n;
    uint64_t at_ns[]; /* (n); 0: never marked */
};

kd_marks *KD_KERNEL(marks_create)(kd_backend *be, int n)
{
    (void)be;
    KD_CHECK(n >= 0);
    kd_marks *marks = calloc(1, sizeof *marks + (size_t)n * sizeof *marks->at_ns);
    if (marks == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for %d marks", n);
        return NULL;
    }
    marks->n = n;
    return marks;
}

void KD_KERNEL(marks_destroy)(kd_backend *be, kd_marks *marks)
{
    (void)be;
    free(marks);
}

void KD_KERNEL(mark)(kd_backend *be, kd_marks *marks, int i)
{
    KD_CHECK(i >= 0 && i < marks->n);
    if (be->fault == KD_OK) {
        marks->at_ns[i] = kd_clock_monotonic_ns();
    }
}

bool KD_KERNEL(
    marks_elapsed)(kd_backend *be, const kd_marks *marks, int from, int to, double *seconds_out)
{
    KD_CHECK(from >= 0 && from < marks->n && to >= 0 && to < marks->n);
    if (be->fault != KD_OK || marks->at_ns[from] == 0 || marks->at_ns[to] == 0) {
        return false;
    }
    *seconds_out = ((double)marks->at_ns[to] - (double)marks->at_ns[from]) * 1e-9;
    return true;
}

void KD_KERNEL(destroy)(kd_backend *be)
{
    kd_cpu_destroy(be);
}

#define TEXT_OF(level) #level
#define NAME_OF(level) TEXT_OF(level)
#define KD_CPU_OP(op)  .op = KD_KERNEL(op),

static const kd_ops ops = {.name = "cpu " NAME_OF(KD_LEVEL), KD_OPS_EACH(KD_CPU_OP)};

const kd_cpu_level KD_KERNEL(level) = {NAME_OF(KD_LEVEL), &ops, KD_KERNEL(convert_row)};
