/*
 * level.h - the instruction levels for which our own kernels are compiled.
 *
 * On x86-64 these are v2 (SSE4.2), v3 (AVX2, FMA) and v4 (AVX-512) of its ABI; elsewhere one, base.
 * The same level with the same number of threads gives the same bits; two levels differ in rounding.
 *
 * Threads: any.
 */
#ifndef KD_TENSOR_CPU_LEVEL_H
#define KD_TENSOR_CPU_LEVEL_H

#include "tensor/cpu/matmul.h"
#include "tensor/ops.h"

typedef struct kd_cpu_level {
    const char *name;
    const kd_ops *ops;
    kd_convert_fn *convert_row;
} kd_cpu_level;

/*
 * The level of that name; NULL: the highest that this processor has, at most that of the variable
 * KD_CPU_LEVEL of the environment. KD_ERR_ARG if the variable names none, or the name is of none that is
 * left; KD_ERR_IO if the processor has none.
 */
KD_MUST_USE kd_status kd_cpu_level_choose(const char *name, const kd_cpu_level **level_out);

#endif
