/*
 * trap.h - what a kernel checks that the host cannot see, as KD_CHECK does of the host: it ends the kernel, and
 * the device is lost to this process. So that the fault names what was wrong, the kernel notes it first, in host
 * memory that is read when the error comes.
 */
#ifndef KD_TENSOR_CUDA_TRAP_H
#define KD_TENSOR_CUDA_TRAP_H

#include "tensor/cuda/device.h"

enum kd_cuda_trap : int {
    KD_TRAP_NONE,
    KD_TRAP_EMBED,
    KD_TRAP_EMBED_BACKWARD,
    KD_TRAP_ROTATE,
    KD_TRAP_COUNT,
};

/* note: of the back end, see kd_cuda. */
KD_FN void kd_device_check(bool holds, int *note, kd_cuda_trap trap)
{
    if (!holds) {
        *note = trap; /* if several fail, one of them is told */
        __threadfence_system();
        __trap();
    }
}

#endif
