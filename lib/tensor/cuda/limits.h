/*
 * limits.h - what launches have to know of a device, on both sides of kd_launch(): the runtime's and the
 * emulator's.
 */
#ifndef KD_TENSOR_CUDA_LIMITS_H
#define KD_TENSOR_CUDA_LIMITS_H

#include <stddef.h>

/* Dynamic shared memory that a launch has without asking for it, in bytes. A block gets 48 KiB so, of which what
 * the kernel declares itself is part. */
static constexpr size_t KD_SHARED_UNASKED = size_t(32) << 10;

#endif
