#include "tests/support/back_end.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef KD_TEST_CUDA

enum { BACK_ENDS_MAX = 8 };

/* A back end with a table of its own, which knows when it ends. */
typedef struct watched {
    kd_ops table; /* first: be->ops is a watched * */
    const kd_ops *ops;
    kd_backend *be; /* NULL: free */
} watched;

static watched back_ends[BACK_ENDS_MAX];

static void forget(kd_backend *be)
{
    watched *w = (watched *)(uintptr_t)be->ops;
    be->ops = w->ops;
    w->be = NULL;
    be->ops->destroy(be);
}

static void watch(kd_backend *be)
{
    int i = 0;
    while (i < BACK_ENDS_MAX && back_ends[i].be != NULL) {
        i++;
    }
    KD_CHECK(i < BACK_ENDS_MAX);
    back_ends[i] = (watched){.table = *be->ops, .ops = be->ops, .be = be};
    back_ends[i].table.destroy = forget;
    be->ops = &back_ends[i].table;
}

kd_backend *kd_test_backend(kd_dtype compute, int n_threads)
{
    kd_backend *be = NULL;
    KD_CHECK(n_threads > 0 && kd_backend_create_cuda(compute, 0, &be) == KD_OK);
    watch(be);
    return be;
}

void kd_test_use_kernels(const char *wish)
{
    static char at_first[16];
    const char *now = getenv("KD_CUDA_KERNELS");
    if (at_first[0] == '\0') {
        (void)snprintf(at_first, sizeof at_first, "%s", now != NULL ? now : "auto");
    }
    KD_CHECK(setenv("KD_CUDA_KERNELS", wish != NULL ? wish : at_first, 1) == 0);
}

void kd_test_settle(void)
{
    for (int i = 0; i < BACK_ENDS_MAX; i++) {
        if (back_ends[i].be != NULL) {
            kd_backend_drain(back_ends[i].be);
        }
    }
}

/* Lives as long as the program: tensors outlive the back ends that used them. */
static kd_backend *memory_owner(void)
{
    static kd_backend *be;
    KD_CHECK(be != NULL || kd_backend_create_cuda(KD_F32, 0, &be) == KD_OK);
    return be;
}

double kd_test_gap_of_order(kd_dtype dtype)
{
    return dtype == KD_F32 ? 1e-5 : 3e-2;
}

void *kd_test_take(size_t size_bytes)
{
    return memory_owner()->ops->alloc(memory_owner(), KD_MEMORY_HOST, size_bytes);
}

void kd_test_give_back(void *memory)
{
    memory_owner()->ops->free(memory_owner(), memory);
}

#else

kd_backend *kd_test_backend(kd_dtype compute, int n_threads)
{
    kd_backend *be = NULL;
    KD_CHECK(kd_backend_create_cpu(compute, n_threads, &be) == KD_OK);
    return be;
}

void kd_test_use_kernels(const char *wish)
{
    (void)wish;
}

double kd_test_gap_of_order(kd_dtype dtype)
{
    (void)dtype;
    return 0.0;
}

void kd_test_settle(void)
{
}

void *kd_test_take(size_t size_bytes)
{
    return aligned_alloc(64, (size_bytes + 63) / 64 * 64);
}

void kd_test_give_back(void *memory)
{
    free(memory);
}

#endif
