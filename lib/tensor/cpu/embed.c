/*
 * embed.c - in the backward pass each thread owns a part of the table and reads all ids: several tokens
 * may be one row, and a sum with two writers would depend on who came first.
 */
#include "tensor/cpu/cpu.h"

typedef struct embed_args {
    kd_tensor y;     /* rows, or their gradient */
    kd_tensor table; /* or its gradient         */
    const int32_t *ids;
    int64_t n_rows, n_vocab, columns;
} embed_args;

static embed_args embed_args_of(kd_tensor y, kd_tensor table, kd_tensor ids)
{
    const embed_args a = {
        y, table, ids.data, kd_tensor_rows(y), kd_tensor_rows(table), kd_tensor_columns(y)};
    for (int64_t n = 0; n < a.n_rows; n++) {
        KD_CHECK(a.ids[n] >= 0 && a.ids[n] < a.n_vocab);
    }
    return a;
}

static void embed_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const embed_args *a = args;
    (void)lane;
    for (int64_t n = begin; n < end; n++) {
        KD_KERNEL(convert_row)
        (kd_row(a->y, n), KD_F32, kd_row(a->table, a->ids[n]), a->table.dtype, a->columns);
    }
}

void KD_KERNEL(embed)(kd_backend *be, kd_tensor y, kd_tensor table, kd_tensor ids)
{
    kd_check_embed(y, table, ids);
    const embed_args a = embed_args_of(y, table, ids);
    if (!be->fault) {
        (void)kd_parallel_rows(be, a.n_rows, kd_grain(a.columns), embed_rows, &a);
    }
}

/* Takes the ids of its own part of the table, so no row has two writers and sums keep their order. */
static void embed_backward_part(const void *args, int lane, int64_t begin, int64_t end)
{
    const embed_args *a = args;
    (void)lane;
    for (int64_t n = 0; n < a->n_rows; n++) {
        if (a->ids[n] < begin || a->ids[n] >= end) {
            continue;
        }
        float *sum = kd_row(a->table, a->ids[n]);
        const float *dy = kd_row(a->y, n);
#pragma omp simd
        for (int64_t i = 0; i < a->columns; i++) {
            sum[i] += dy[i];
        }
    }
}

void KD_KERNEL(
    embed_backward)(kd_backend *be, kd_tensor dtable, kd_tensor dy, kd_tensor ids, bool accumulate)
{
    kd_check_embed_backward(dtable, dy, ids);
    const embed_args a = embed_args_of(dy, dtable, ids);
    if (!accumulate) {
        KD_KERNEL(zero)(be, dtable);
    }
    if (!be->fault) {
        (void)kd_parallel_rows(be, a.n_vocab, 64, embed_backward_part, &a);
    }
}
