/*
 * adamw.cu - memory is what an update costs: master, moments and the compute copy are read and written in
 * one pass. The device itself clips and looks at the guards, so that the host need not wait for norms.
 */
#include <cfloat>
#include <cmath>

#include "tensor/cuda/pieces.h"

/* Sums of squares are formed per block of this many elements. */
enum { SQUARES_THREADS = 256, SQUARES_BLOCK = 1 << 14, TOTAL_THREADS = 1024 };

/* partial[block] = the sum of squares of the block's part of x (n), in f64. Moves x once. */
static __global__ void __launch_bounds__(SQUARES_THREADS)
    sum_square_blocks(double *partial, const float *x, int64_t n, bool aligned)
{
    const int64_t first = (int64_t)blockIdx.x * SQUARES_BLOCK;
    const int64_t end = min(n, first + SQUARES_BLOCK);
    double sum = 0.0;
    float v[4];

    for (int64_t i = first + threadIdx.x * 4; i < end; i += SQUARES_THREADS * 4) {
        kd_read(v, x + i, kd_piece_of<4>(end - i, aligned));
#pragma unroll
        for (int k = 0; k < 4; k++) {
            sum += (double)v[k] * (double)v[k];
        }
    }
    sum = kd_block_sum(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

/* sum (1) += the sum of partial (n), by one block. */
static __global__ void __launch_bounds__(TOTAL_THREADS)
    add_total(double *sum, const double *partial, int64_t n)
{
    double total = 0.0;

    for (int64_t i = threadIdx.x; i < n; i += TOTAL_THREADS) {
        total += partial[i];
    }
    total = kd_block_sum(total);
    if (threadIdx.x == 0) {
        *sum += total;
    }
}

void kd_cuda_sum_squares(kd_backend *be, kd_tensor sum, kd_tensor x)
{
    const int64_t n = kd_tensor_elements(x);
    const unsigned n_blocks = kd_cuda_blocks(n, SQUARES_BLOCK);
    const size_t mark = kd_cuda_scratch_mark(be);

    kd_check_sum_squares(sum, x);
    if (n == 0) {
        return;
    }
    double *partial = static_cast<double *>(kd_cuda_scratch(be, n_blocks * sizeof *partial));
    kd_cuda_launch(be, "sum_squares", sum_square_blocks, dim3(n_blocks), dim3(SQUARES_THREADS), 0,
                   partial, kd_cuda_data<float>(x), n, kd_is_aligned(x.data));
    kd_cuda_launch(be, "sum_squares", add_total, dim3(1), dim3(TOTAL_THREADS), 0,
                   kd_cuda_data<double>(sum), partial, static_cast<int64_t>(n_blocks));
    kd_cuda_scratch_rewind(be, mark);
}

/* Guards of one update: a check, so that they are arguments of a kernel. */
enum { GUARDS_MAX = 8, DECIDE_THREADS = 32 };

struct guards {
    const double *values[GUARDS_MAX];
    int64_t n[GUARDS_MAX];
    int count;
};

struct decision {
    bool updates;
    float grad_factor; /* from the gradient to the clipped one */
};

/* One warp: whether all guards are finite, and what clipping to clip_norm (0: none) takes. */
static __global__ void __launch_bounds__(DECIDE_THREADS)
    decide(decision *decision_out, guards g, const double *norm_sq, double clip_norm)
{
    bool finite = true;

    for (int k = 0; k < g.count; k++) {
        for (int64_t i = threadIdx.x; i < g.n[k]; i += DECIDE_THREADS) {
            finite = finite && fabs(g.values[k][i]) <= DBL_MAX;
        }
    }
    finite = __all_sync(~0u, finite);
    if (threadIdx.x == 0) {
        const double norm = clip_norm > 0.0 ? sqrt(*norm_sq) : 0.0;
        decision_out->updates = finite;
        decision_out->grad_factor = norm > clip_norm ? (float)(clip_norm / norm) : 1.0f;
    }
}

struct adamw_args {
    float *param, *m, *v;
    const float *grad;
    __nv_bfloat16 *copy; /* or none */
    const decision *decided;
    float beta1, beta2, epsilon;
    /* 1 - beta, of the betas themselves: rounded to f32, 1 - 0.999 is off by 5e-5. */
    float rest1, rest2;
    float step_size; /* learning rate over the first moment's bias correction */
    float v_unbias;  /* 1 / sqrt of the second moment's bias correction       */
    float decay;     /* learning rate * weight decay                         */
};

/*
 * m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, with g the clipped gradient;
 * param -= learning rate * (weight decay * param + m^ / (sqrt(v^) + epsilon)), m^ and v^ bias-corrected.
 * Moves grad once, param, m and v twice, copy once.
 */
static __global__ void __launch_bounds__(KD_PIECES_THREADS) adamw_pieces(kd_pieces s, adamw_args a)
{
    constexpr int V = KD_PIECE<float>;
    const kd_place at = kd_place_of<V>(s);
    float p[V], g[V], m[V], v[V];

    if (at.piece.n <= 0 || !a.decided->updates) {
        return;
    }
    const float grad_factor = a.decided->grad_factor;
    kd_read(p, a.param + at.column, at.piece);
    kd_read(g, a.grad + at.column, at.piece);
    kd_read(m, a.m + at.column, at.piece);
    kd_read(v, a.v + at.column, at.piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float clipped = g[i] * grad_factor;
        m[i] = a.beta1 * m[i] + a.rest1 * clipped;
        v[i] = a.beta2 * v[i] + a.rest2 * clipped * clipped;
        p[i] -= a.decay * p[i] + a.step_size * m[i] / (sqrtf(v[i]) * a.v_unbias + a.epsilon);
    }
    kd_write(a.param + at.column, p, at.piece);
    kd_write(a.m + at.column, m, at.piece);
    kd_write(a.v + at.column, v, at.piece);
    if (a.copy != nullptr) {
        kd_write(a.copy + at.column, p, at.piece);
    }
}

static guards guards_of(const kd_adamw *args)
{
    guards g = {};

    KD_CHECK(args->n_guards <= GUARDS_MAX);
    for (g.count = 0; g.count < args->n_guards; g.count++) {
        const kd_tensor guard = args->guards[g.count];
        g.values[g.count] = kd_cuda_data<double>(guard);
        g.n[g.count] = kd_tensor_elements(guard);
    }
    return g;
}

/* The constants of this step, in double until the last. */
static adamw_args args_of(const kd_adamw *args, const decision *decided)
{
    const double steps = static_cast<double>(args->step);
    adamw_args a = {};

    a.param = kd_cuda_data<float>(args->param);
    a.m = kd_cuda_data<float>(args->m);
    a.v = kd_cuda_data<float>(args->v);
    a.grad = kd_cuda_data<float>(args->grad);
    a.copy = kd_cuda_data<__nv_bfloat16>(args->copy);
    a.decided = decided;
    a.beta1 = static_cast<float>(args->beta1);
    a.beta2 = static_cast<float>(args->beta2);
    a.epsilon = static_cast<float>(args->epsilon);
    a.rest1 = static_cast<float>(1.0 - args->beta1);
    a.rest2 = static_cast<float>(1.0 - args->beta2);
    a.step_size = static_cast<float>(args->learning_rate / (1.0 - pow(args->beta1, steps)));
    a.v_unbias = static_cast<float>(1.0 / sqrt(1.0 - pow(args->beta2, steps)));
    a.decay = static_cast<float>(args->learning_rate * args->weight_decay);
    return a;
}

void kd_cuda_adamw(kd_backend *be, const kd_adamw *args)
{
    constexpr int V = KD_PIECE<float>;
    const int64_t n = kd_tensor_elements(args->param);
    const size_t mark = kd_cuda_scratch_mark(be);

    kd_check_adamw(args);
    decision *decided = static_cast<decision *>(kd_cuda_scratch(be, sizeof *decided));
    kd_cuda_launch(be, "adamw", decide, dim3(1), dim3(DECIDE_THREADS), 0, decided, guards_of(args),
                   kd_cuda_data<double>(args->norm_sq), args->clip_norm);
    const kd_tensor slabs[] = {args->param, args->grad, args->m, args->v, args->copy};
    bool aligned = true;
    for (const kd_tensor &slab : slabs) {
        aligned = aligned && kd_cuda_fits(kd_tensor_1d(slab.data, slab.dtype, n), V);
    }
    kd_cuda_launch_pieces(be, "adamw", adamw_pieces, 1, n, V, aligned, args_of(args, decided));
    kd_cuda_scratch_rewind(be, mark);
}
