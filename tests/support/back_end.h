/*
 * back_end.h - the back end under test: the CPU's, or that of the first CUDA device in a program that is built
 * with KD_TEST_CUDA.
 *
 * On a device at most 8 may live at once. A fault in any of these ends the program.
 */
#ifndef KD_TESTS_SUPPORT_BACK_END_H
#define KD_TESTS_SUPPORT_BACK_END_H

#include "tensor/ops.h"

/* One that must exist; n_threads says nothing on a device. */
kd_backend *kd_test_backend(kd_dtype compute, int n_threads);

/*
 * Which kernels those use that are made from here on: a word of KD_CUDA_KERNELS (tensor/cuda/kernels.h), or NULL,
 * what the environment said at first. The CPU has one kernel of each.
 */
void kd_test_use_kernels(const char *wish);

/* Waits for all that live: what was queued on them is done. Their faults stay. */
void kd_test_settle(void);

/* Memory, aligned to 64 bytes, that the host and any back end under test both use; it may outlive all of
 * them. Whoever touches it after an operation settles first. */
void *kd_test_take(size_t size_bytes);
void kd_test_give_back(void *memory);

/* The largest difference of two elements of order 1 whose sums differ in the order of their terms: 0 for the
 * CPU, which sums what lies elsewhere in a tensor in the same order. */
double kd_test_gap_of_order(kd_dtype dtype);

#endif
