/*
 * router_loss.cu - the losses over a router's logits alone, and their gradients.
 *
 * By the logit of expert e, with p the softmax of the row and s_e = E f_e the slope of balance:
 *   balance:  p_e (s_e - sum_i s_i p_i)        z:  2 lse p_e
 *
 * Sums are f64: within a block of rows in their order, then over blocks in one fixed order.
 */
#include "tensor/cuda/row.h"

enum {
    ROWS = 64, /* of a block */
    SETTLE_THREADS = KD_EXPERTS_MAX,
    SLICES_MAX = 32,
};

struct loss_args {
    const float *logits, *probs; /* (N, E) */
    float *d_logits;             /* (N, E) */
    const int32_t *experts;      /* (N, K) */
    const int32_t *segments;     /* (N), or null */
    int64_t logits_stride, probs_stride, d_logits_stride, n_rows;
    int n_blocks, n_experts, k;
    float balance_scale, z_scale;
    double *balance_sum, *z_sum; /* (1), or null */
    float *lse;                  /* (N), or null where nobody asks for z */
    float *slope;                /* (E): gradient of balance by a probability */
    /* Of a block's real rows: */
    double *mass;   /* (blocks, E): sum of probabilities    */
    double *z;      /* (blocks): sum of squared lse         */
    int32_t *count; /* (blocks, E): assignments             */
    int32_t *real;  /* (blocks): rows                       */
};

KD_FN bool is_real(const loss_args &a, int64_t row)
{
    return row < a.n_rows && (a.segments == nullptr || a.segments[row] >= 0);
}

/* Of a row, by a warp. */
KD_FN float log_sum_exp(const float *logits, int n)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    float largest = -INFINITY, sum = 0.0f;

    for (int e = lane; e < n; e += 32) {
        largest = fmaxf(largest, logits[e]);
    }
    largest = kd_warp_max(largest);
    for (int e = lane; e < n; e += 32) {
        sum += expf(logits[e] - largest);
    }
    return largest + logf(kd_warp_sum(sum));
}

/* Log-sum-exp of the block's real rows, a warp a row, and the sum of their squares. */
KD_FN void tally_z(const loss_args &a, int64_t first)
{
    KD_SHARED(float, lse, [ROWS]);
    const int lane = static_cast<int>(threadIdx.x % 32);
    double sum = 0.0;

    for (int t = static_cast<int>(threadIdx.x / 32); t < ROWS; t += KD_ROW_WARPS) {
        const int64_t row = first + t;
        float value = 0.0f;
        if (is_real(a, row)) {
            value = log_sum_exp(a.logits + row * a.logits_stride, a.n_experts);
        }
        if (lane == 0) {
            lse[t] = value;
            if (row < a.n_rows) {
                a.lse[row] = value;
            }
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int t = lane; t < ROWS; t += 32) {
            sum += static_cast<double>(lse[t]) * static_cast<double>(lse[t]);
        }
        sum = kd_warp_sum(sum);
        if (lane == 0) {
            a.z[blockIdx.x] = sum;
        }
    }
}

/* Of the block's real rows: assignments of each expert, in no order, for they are whole numbers. */
KD_FN void tally_assignments(const loss_args &a, int64_t first)
{
    KD_SHARED(int, count, [KD_EXPERTS_MAX]);
    const int thread = static_cast<int>(threadIdx.x);

    for (int e = thread; e < a.n_experts; e += KD_ROW_THREADS) {
        count[e] = 0;
    }
    __syncthreads();
    for (int i = thread; i < ROWS * a.k; i += KD_ROW_THREADS) {
        if (is_real(a, first + i / a.k)) {
            (void)atomicAdd(&count[a.experts[first * a.k + i]], 1);
        }
    }
    __syncthreads();
    for (int e = thread; e < a.n_experts; e += KD_ROW_THREADS) {
        a.count[int64_t{blockIdx.x} * a.n_experts + e] = count[e];
    }
}

/*
 * What a block of rows adds to the sums. Bytes: probs (N, E) once, logits (N, E) for z, ids (N, K);
 * 12 for each block of rows and expert.
 */
static __global__ void __launch_bounds__(KD_ROW_THREADS) tally(loss_args a)
{
    const int64_t first = int64_t{blockIdx.x} * ROWS;
    const int thread = static_cast<int>(threadIdx.x);

    tally_assignments(a, first);
    if (a.lse != nullptr) {
        tally_z(a, first);
    }
    for (int e = thread; e < a.n_experts; e += KD_ROW_THREADS) {
        double sum = 0.0;
        for (int t = 0; t < ROWS; t++) {
            if (is_real(a, first + t)) {
                sum += static_cast<double>(a.probs[(first + t) * a.probs_stride + e]);
            }
        }
        a.mass[int64_t{blockIdx.x} * a.n_experts + e] = sum;
    }
    if (thread < 32) {
        int n = 0;
        for (int t = thread; t < ROWS; t += 32) {
            n += is_real(a, first + t);
        }
        n = kd_warp_sum(n);
        if (thread == 0) {
            a.real[blockIdx.x] = n;
        }
    }
}

/* Sum over blocks, by a block of SETTLE_THREADS. */
template <class T> KD_FN T sum_of_blocks(const T *of_block, int n_blocks)
{
    T sum = 0;

    for (int b = static_cast<int>(threadIdx.x); b < n_blocks; b += SETTLE_THREADS) {
        sum += of_block[b];
    }
    return kd_block_sum(sum);
}

/* Sum over blocks for the expert e of threads below E; a thread adds up a slice of the blocks. */
template <class T> KD_FN T sum_of_expert(const T *of_block, int n_blocks, int n_experts)
{
    KD_SHARED(T, part, [SETTLE_THREADS]);
    const int thread = static_cast<int>(threadIdx.x);
    const int e = thread % n_experts, slice = thread / n_experts;
    const int n_slices = min(SETTLE_THREADS / n_experts, int{SLICES_MAX});
    T sum = 0;

    for (int b = slice; slice < n_slices && b < n_blocks; b += n_slices) {
        sum += of_block[int64_t{b} * n_experts + e];
    }
    part[thread] = sum;
    __syncthreads();
    sum = 0;
    for (int s = 0; s < n_slices; s++) {
        sum += part[s * n_experts + e];
    }
    return sum;
}

/*
 * One block: from the blocks' sums the losses and the slopes of balance. With c_e the assignments
 * of expert e, P_e its sum of probabilities and n the real rows, E f_e = c_e E / (n K):
 *   balance_sum += E / (n K) sum_e c_e P_e,  slope_e = balance_scale c_e E / (n K)
 * Bytes: those that tally() wrote.
 */
static __global__ void __launch_bounds__(SETTLE_THREADS) settle(loss_args a)
{
    const int thread = static_cast<int>(threadIdx.x);
    const int n_real = sum_of_blocks(a.real, a.n_blocks);
    const double z = a.lse != nullptr ? sum_of_blocks(a.z, a.n_blocks) : 0.0;
    const double count = static_cast<double>(sum_of_expert(a.count, a.n_blocks, a.n_experts));
    const double mass = sum_of_expert(a.mass, a.n_blocks, a.n_experts);
    const double balance = kd_block_sum(thread < a.n_experts ? count * mass : 0.0);

    if (n_real == 0) {
        return; /* nobody looks at the slopes */
    }
    const double share =
        static_cast<double>(a.n_experts) / (static_cast<double>(n_real) * static_cast<double>(a.k));
    if (thread < a.n_experts) {
        a.slope[thread] = a.balance_scale * static_cast<float>(share * count);
    }
    if (thread == 0 && a.balance_sum != nullptr) {
        *a.balance_sum += share * balance;
    }
    if (thread == 0 && a.z_sum != nullptr) {
        *a.z_sum += z;
    }
}

/* A warp a row: d_e += p_e (slope_e - sum_i slope_i p_i + 2 z_scale lse). Bytes: probs once,
 * d_logits twice. */
static __global__ void __launch_bounds__(KD_ROW_THREADS) add_gradient(loss_args a)
{
    const int64_t row = kd_row_number();
    const int lane = static_cast<int>(threadIdx.x % 32);

    if (!is_real(a, row)) {
        return;
    }
    const float *probs = a.probs + row * a.probs_stride;
    const float z_slope = a.z_scale != 0.0f ? 2.0f * a.z_scale * a.lse[row] : 0.0f;
    float *d = a.d_logits + row * a.d_logits_stride, dot = 0.0f;
    for (int e = lane; e < a.n_experts; e += 32) {
        dot += a.slope[e] * probs[e];
    }
    dot = kd_warp_sum(dot);
    for (int e = lane; e < a.n_experts; e += 32) {
        d[e] += probs[e] * (a.slope[e] - dot + z_slope);
    }
}

static loss_args args_of(const kd_router_loss *l)
{
    loss_args a = {};
    a.logits = kd_cuda_data<float>(l->logits);
    a.logits_stride = l->logits.row_stride;
    a.probs = kd_cuda_data<float>(l->route->probs);
    a.probs_stride = l->route->probs.row_stride;
    a.d_logits = kd_cuda_data<float>(l->d_logits);
    a.d_logits_stride = l->d_logits.row_stride;
    a.experts = kd_cuda_data<int32_t>(l->route->experts);
    a.segments = kd_cuda_data<int32_t>(l->segments);
    a.n_rows = kd_tensor_rows(l->logits);
    a.n_blocks = static_cast<int>(kd_cuda_blocks(a.n_rows, ROWS));
    a.n_experts = static_cast<int>(kd_tensor_columns(l->logits));
    a.k = static_cast<int>(kd_tensor_columns(l->route->experts));
    a.balance_scale = l->balance_scale;
    a.z_scale = l->z_scale;
    a.balance_sum = kd_cuda_data<double>(l->balance_sum);
    a.z_sum = kd_cuda_data<double>(l->z_sum);
    return a;
}

template <class T> static T *take(kd_backend *be, int64_t n)
{
    return static_cast<T *>(kd_cuda_scratch(be, static_cast<size_t>(n) * sizeof(T)));
}

void kd_cuda_router_loss(kd_backend *be, const kd_router_loss *l)
{
    const size_t mark = kd_cuda_scratch_mark(be);

    kd_check_router_loss(l);
    if (kd_tensor_elements(l->logits) == 0) {
        return;
    }
    loss_args a = args_of(l);
    const int64_t n_sums = int64_t{a.n_blocks} * a.n_experts;
    a.slope = take<float>(be, a.n_experts);
    a.mass = take<double>(be, n_sums);
    a.z = take<double>(be, a.n_blocks);
    a.count = take<int32_t>(be, n_sums);
    a.real = take<int32_t>(be, a.n_blocks);
    if (a.z_sum != nullptr || a.z_scale != 0.0f) {
        a.lse = take<float>(be, a.n_rows);
    }
    const unsigned n_blocks = static_cast<unsigned>(a.n_blocks);
    kd_cuda_launch(be, "router_loss", tally, n_blocks, KD_ROW_THREADS, 0, a);
    kd_cuda_launch(be, "router_loss", settle, 1, SETTLE_THREADS, 0, a);
    if (a.d_logits != nullptr && (a.balance_scale != 0.0f || a.z_scale != 0.0f)) {
        kd_row_launch(be, "router_loss", add_gradient, a.n_rows, a);
    }
    kd_cuda_scratch_rewind(be, mark);
}
