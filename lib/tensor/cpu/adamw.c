/*
 * adamw.c - memory is what an update costs: master, moments and the compute copy are read and written in
 * one pass. Norms are summed by blocks of a fixed size in f64, so that the number of threads does not
 * change them.
 */
#include <math.h>

#include "tensor/cpu/cpu.h"

/* Sums of squares are formed per block of this many elements, whatever the threads. */
#define SQUARES_BLOCK ((int64_t)1 << 15)

typedef struct squares_args {
    const float *x;
    int64_t n;
    double *partial; /* one per block */
} squares_args;

static void squares_blocks(const void *args, int lane, int64_t begin, int64_t end)
{
    const squares_args *a = args;
    (void)lane;
    for (int64_t block = begin; block < end; block++) {
        const int64_t first = block * SQUARES_BLOCK;
        const int64_t last = first + SQUARES_BLOCK < a->n ? first + SQUARES_BLOCK : a->n;
        const float *x = a->x;
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < last; i++) {
            sum += (double)x[i] * (double)x[i];
        }
        a->partial[block] = sum;
    }
}

void KD_KERNEL(sum_squares)(kd_backend *be, kd_tensor sum, kd_tensor x)
{
    const int64_t n = kd_tensor_elements(x);
    const int64_t n_blocks = (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
    kd_check_sum_squares(sum, x);
    if (be->fault || n == 0) {
        return;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    double *partial = kd_cpu_scratch(be, (size_t)n_blocks * sizeof *partial);
    if (partial == NULL) {
        return;
    }
    const squares_args a = {x.data, n, partial};
    (void)kd_parallel_rows(be, n_blocks, 1, squares_blocks, &a);
    double total = 0.0;
    for (int64_t block = 0; block < n_blocks && !kd_cpu_is_idle(be); block++) {
        total += partial[block];
    }
    *(double *)sum.data += total;
    kd_cpu_scratch_rewind(be, mark);
}

typedef struct adamw_args {
    float *param, *m, *v;
    const float *grad;
    uint16_t *copy; /* NULL: none */
    float grad_factor, beta1, beta2, epsilon;
    float rest1,
        rest2; /* 1 - beta, of the betas themselves: rounded to f32, 1 - 0.999 is off by 5e-5 */
    float step_size; /* learning rate over the first moment's bias correction */
    float v_unbias;  /* 1 / sqrt of the second moment's bias correction       */
    float decay;     /* learning rate * weight decay                         */
} adamw_args;

KD_INLINE float update(const adamw_args *a, int64_t i)
{
    const float g = a->grad[i] * a->grad_factor;
    const float m = a->beta1 * a->m[i] + a->rest1 * g;
    const float v = a->beta2 * a->v[i] + a->rest2 * g * g;
    const float p = a->param[i];
    const float next =
        p - (a->decay * p + a->step_size * m / (sqrtf(v) * a->v_unbias + a->epsilon));
    a->m[i] = m;
    a->v[i] = v;
    a->param[i] = next;
    return next;
}

static void adamw_range(const void *args, int lane, int64_t begin, int64_t end)
{
    const adamw_args a = *(const adamw_args *)args;
    (void)lane;
    if (a.copy == NULL) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            (void)update(&a, i);
        }
        return;
    }
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        a.copy[i] = kd_bf16_from_f32(update(&a, i));
    }
}

/* From the gradient to the clipped one. */
static double grad_factor(const kd_adamw *args)
{
    if (args->clip_norm <= 0.0) {
        return 1.0;
    }
    const double norm = sqrt(*(const double *)args->norm_sq.data);
    return norm > args->clip_norm ? args->clip_norm / norm : 1.0;
}

static bool all_finite(const kd_tensor *guards, int n)
{
    for (int g = 0; g < n; g++) {
        const double *values = guards[g].data;
        for (int64_t i = 0; i < kd_tensor_elements(guards[g]); i++) {
            if (!isfinite(values[i])) {
                return false;
            }
        }
    }
    return true;
}

void KD_KERNEL(adamw)(kd_backend *be, const kd_adamw *args)
{
    const int64_t n = kd_tensor_elements(args->param);
    kd_check_adamw(args);
    if (be->fault || !all_finite(args->guards, args->n_guards)) {
        return;
    }
    const double steps = (double)args->step;
    const adamw_args a = {
        .param = args->param.data,
        .m = args->m.data,
        .v = args->v.data,
        .grad = args->grad.data,
        .copy = args->copy.data,
        .grad_factor = (float)grad_factor(args),
        .beta1 = (float)args->beta1,
        .beta2 = (float)args->beta2,
        .rest1 = (float)(1.0 - args->beta1),
        .rest2 = (float)(1.0 - args->beta2),
        .epsilon = (float)args->epsilon,
        .step_size = (float)(args->learning_rate / (1.0 - pow(args->beta1, steps))),
        .v_unbias = (float)(1.0 / sqrt(1.0 - pow(args->beta2, steps))),
        .decay = (float)(args->learning_rate * args->weight_decay),
    };
    (void)kd_parallel_rows(be, n, kd_grain(1), adamw_range, &a);
}
