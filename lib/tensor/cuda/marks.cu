/*
 * marks.cu - when the queue was where, by events of the runtime that keep their time. They are made
 * beforehand, since a step has as many as its micro-batches need and none of them may be lost; whether one
 * was ever recorded is noted here, because the runtime calls those complete that were not.
 */
#include <cstdlib>

#include "base/log.h"
#include "tensor/cuda/cuda.h"

struct kd_marks {
    int n;
    cudaEvent_t *at; /* (n); null from where making them stopped */
    bool *is_marked; /* (n)                                      */
};

kd_marks *kd_cuda_marks_create(kd_backend *be, int n)
{
    KD_CHECK(n >= 0);
    const size_t n_some = static_cast<size_t>(n) + 1;
    kd_marks *marks = static_cast<kd_marks *>(calloc(1, sizeof *marks));
    if (marks != nullptr) {
        marks->n = n;
        marks->at = static_cast<cudaEvent_t *>(calloc(n_some, sizeof *marks->at));
        marks->is_marked = static_cast<bool *>(calloc(n_some, sizeof *marks->is_marked));
    }
    if (marks == nullptr || marks->at == nullptr || marks->is_marked == nullptr) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for %d marks", n);
        kd_cuda_marks_destroy(be, marks);
        return nullptr;
    }
    for (int i = 0; i < n; i++) {
        if (!kd_cuda_keep(be, cudaEventCreateWithFlags(&marks->at[i], cudaEventDefault),
                          "making an event with a time")) {
            kd_cuda_marks_destroy(be, marks);
            return nullptr;
        }
    }
    return marks;
}

void kd_cuda_marks_destroy(kd_backend *be, kd_marks *marks)
{
    (void)be;
    if (marks == nullptr) {
        return;
    }
    for (int i = 0; marks->at != nullptr && i < marks->n && marks->at[i] != nullptr; i++) {
        (void)cudaEventDestroy(marks->at[i]);
    }
    free(marks->is_marked);
    free(marks->at);
    free(marks);
}

void kd_cuda_mark(kd_backend *be, kd_marks *marks, int i)
{
    KD_CHECK(i >= 0 && i < marks->n);
    if (be->fault == KD_OK) {
        marks->is_marked[i] = kd_cuda_keep(
            be, cudaEventRecord(marks->at[i], kd_cuda_of(be)->stream), "marking a time");
    }
}

/* Whether the queue has come to that mark. */
static bool is_past(kd_backend *be, const kd_marks *marks, int i)
{
    if (!marks->is_marked[i]) {
        return false;
    }
    const cudaError_t error = cudaEventQuery(marks->at[i]);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError(); /* lest a library that looks for errors of its own finds it */
        return false;
    }
    return kd_cuda_keep(be, error, "a mark of time");
}

bool kd_cuda_marks_elapsed(kd_backend *be,
                           const kd_marks *marks,
                           int from,
                           int to,
                           double *seconds_out)
{
    float ms = 0.0f;

    KD_CHECK(from >= 0 && from < marks->n && to >= 0 && to < marks->n);
    if (be->fault != KD_OK || !is_past(be, marks, from) || !is_past(be, marks, to) ||
        !kd_cuda_keep(be, cudaEventElapsedTime(&ms, marks->at[from], marks->at[to]),
                      "the time between two marks")) {
        return false;
    }
    *seconds_out = static_cast<double>(ms) * 1e-3;
    return true;
}
