/* The table of operations of one instruction level, and what stands in it without a loop of its own. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/level.h"

void *KD_KERNEL(alloc)(kd_backend *be, size_t size_bytes)
{
    (void)be;
    return kd_cpu_pages(size_bytes);
}

void KD_KERNEL(free)(kd_backend *be, void *memory)
{
    (void)be;
    kd_cpu_pages_free(memory);
}

kd_status KD_KERNEL(wait)(kd_backend *be)
{
    return be->fault; /* operations are done when they return */
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
