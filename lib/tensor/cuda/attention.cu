/*
 * attention.cu - out = softmax(scale q k^T) v, causal, without a T x T matrix (Dao et al. 2022):
 * keys and values come by tiles of 64 rows, each row keeps the largest score so far and the sum of
 * exponentials below it, and what was summed before is scaled down when a larger score comes. Tiles
 * that none of the rows sees are left out.
 *
 * Per item (a head, and a window of 64 rows): reads q once, and the keys and values of its head that
 * its rows see: 2 * place * D elements where a row sees all before it, mostly from the second-level
 * cache, for H / G heads read the same. Writes out once and 4 bytes of lse a row. 4 * D operations for
 * each pair of a query and a key it sees.
 */
#include "tensor/cuda/attention_cudnn.h"
#include "tensor/cuda/attention_mma.h"
#include "tensor/cuda/attention_plain.h"

template <class T> struct forward_args {
    kd_attention_shape s;
    kd_attention_rows<const T> q, k, v; /* (N, H D), (N, G D), (N, G D) */
    kd_attention_rows<T> out;           /* (N, H D)                     */
    float *lse;                         /* (B H, T), or none            */
};

/* What a block of the grid has; later windows, which see more keys, come first. */
struct forward_item {
    int64_t window;
    int h;
};

static __device__ __forceinline__ forward_item item_of(const kd_attention_shape &s)
{
    const int64_t item = gridDim.x - 1 - blockIdx.x;
    return {item / s.n_heads, static_cast<int>(item % s.n_heads)};
}

/* The same, of one head. */
template <class T>
static __device__ __forceinline__ forward_args<T> of_head(const forward_args<T> &a, int h)
{
    const int kv = h / (a.s.n_heads / a.s.n_kv_heads) * a.s.head_dim;
    return {a.s,
            a.q.from(0, h * a.s.head_dim),
            a.k.from(0, kv),
            a.v.from(0, kv),
            a.out.from(0, h * a.s.head_dim),
            a.lse};
}

/* ---- plain, both dtypes ---- */

/* Softmax of a thread's 4 rows so far. */
struct plain_softmax {
    float max[4], sum[4]; /* of all scores; of this thread's exponentials */
};

/* What exponentials are relative to; where nothing was seen yet, any number will do. */
static __device__ __forceinline__ float base_of(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

/* From scores to exponentials, relative to the largest score, to which the sums of before are
 * scaled down; row i is `diagonal` places behind column i. */
static __device__ __forceinline__ void plain_step(kd_plain_scores &scores,
                                                  plain_softmax &soft,
                                                  kd_plain_sums &sums,
                                                  int diagonal,
                                                  const kd_attention_shape &s)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float max = soft.max[i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (!kd_attention_sees(s, kd_plain_row(i) + diagonal, kd_plain_column(j))) {
                scores[i][j] = -INFINITY;
            }
            max = fmaxf(max, scores[i][j]);
        }
#pragma unroll
        for (int lane = 8; lane > 0; lane /= 2) {
            max = fmaxf(max, __shfl_xor_sync(~0u, max, lane));
        }
        const float base = base_of(max), shrink = expf((soft.max[i] - base) * s.scale);
        soft.max[i] = max;
        soft.sum[i] *= shrink;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            scores[i][j] = expf((scores[i][j] - base) * s.scale);
            soft.sum[i] += scores[i][j];
        }
#pragma unroll
        for (int c = 0; c < KD_PLAIN_SLICES * 2; c++) {
            sums[c / 2][i][c % 2] *= shrink;
        }
    }
}

template <class T>
static __device__ void
plain_block(const forward_args<T> &a, kd_plain_tiles &tiles, const kd_attention_block &block, int h)
{
    const int first = static_cast<int>(blockIdx.y) * KD_PLAIN_COLUMNS;
    const kd_attention_rows<const T> q = a.q.from(block.row);
    plain_softmax soft;
    kd_plain_sums sums = {};
    kd_plain_scores scores;
    for (int i = 0; i < 4; i++) {
        soft.max[i] = -INFINITY;
        soft.sum[i] = 0.0f;
    }
    for (int tile = kd_attention_first_key(a.s, block.place, KD_ATTENTION_ROWS);
         tile <= block.place; tile += KD_ATTENTION_ROWS) {
        const int64_t row = block.row - block.place + tile;
        const int n_keys = min(KD_ATTENTION_ROWS, block.place + block.n_rows - tile);
        kd_plain_multiply(scores, tiles, q, block.n_rows, a.k.from(row), n_keys, a.s.head_dim);
        plain_step(scores, soft, sums, block.place - tile, a.s);
        kd_plain_add(sums, tiles, scores, a.v.from(row), n_keys, first, a.s.head_dim);
    }
    const int64_t at = kd_attention_at(a.s, block.row, h);
    float inverse[4];
    for (int i = 0; i < 4; i++) {
        float sum = soft.sum[i];
        for (int lane = 8; lane > 0; lane /= 2) {
            sum += __shfl_xor_sync(~0u, sum, lane);
        }
        inverse[i] = 1.0f / sum;
        if (a.lse != nullptr && first == 0 && kd_plain_column(0) == 0 &&
            kd_plain_row(i) < block.n_rows) {
            a.lse[at + kd_plain_row(i)] = soft.max[i] * a.s.scale + logf(sum);
        }
    }
    kd_plain_store(a.out.from(block.row), sums, inverse, block.n_rows, first, a.s.head_dim);
}

/* Grid: (windows * H, D / 128). Scores and sums in f32. */
template <class T>
static __global__ void __launch_bounds__(KD_PLAIN_THREADS) forward_plain(const forward_args<T> all)
{
    KD_SHARED(kd_plain_tiles, tiles, );
    const forward_item item = item_of(all.s);
    const forward_args<T> a = of_head(all, item.h);
    kd_attention_each_block(a.s, item.window, [&](const kd_attention_block &block) {
        plain_block(a, tiles, block, item.h);
    });
    kd_attention_clear_padding(a.s, item.window, a.out);
}

/* ---- on the tensor cores, bf16 ---- */

/* As plain_step; [0] is of rows lane / 4, [1] of those 8 below. */
struct mma_softmax {
    float max[2], sum[2];
};

template <int W>
static __device__ __forceinline__ void mma_step(float (&scores)[KD_ATTENTION_ROWS / 8][4],
                                                mma_softmax &soft,
                                                float (&sums)[W / 8][4],
                                                int diagonal,
                                                const kd_attention_shape &s)
{
    const float to_exp2 = s.scale * KD_LOG2_E;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float max = soft.max[half];
#pragma unroll
        for (int i = 0; i < KD_ATTENTION_ROWS / 4; i++) {
            float &score = scores[i / 2][half * 2 + i % 2];
            if (!kd_attention_sees(s, kd_mma_row(half * 2) + diagonal,
                                   i / 2 * 8 + kd_mma_column(i % 2))) {
                score = -INFINITY;
            }
            max = fmaxf(max, score);
        }
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        const float base = base_of(max), shrink = exp2f((soft.max[half] - base) * to_exp2);
        soft.max[half] = max;
        soft.sum[half] *= shrink;
#pragma unroll
        for (int i = 0; i < KD_ATTENTION_ROWS / 4; i++) {
            float &score = scores[i / 2][half * 2 + i % 2];
            score = exp2f((score - base) * to_exp2);
            soft.sum[half] += score;
        }
#pragma unroll
        for (int i = 0; i < W / 4; i++) {
            sums[i / 2][half * 2 + i % 2] *= shrink;
        }
    }
}

/* Writes lse, and gives the factors of the sums. */
static __device__ __forceinline__ void mma_finish(float (&inverse)[2],
                                                  const forward_args<__nv_bfloat16> &a,
                                                  const mma_softmax &soft,
                                                  const kd_attention_block &block,
                                                  int h)
{
    const int64_t at = kd_attention_at(a.s, block.row, h);
    for (int half = 0; half < 2; half++) {
        const int row = kd_mma_row(half * 2);
        float sum = soft.sum[half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        inverse[half] = 1.0f / sum;
        if (a.lse != nullptr && kd_mma_lane() % 4 == 0 && row < block.n_rows) {
            a.lse[at + row] = soft.max[half] * a.s.scale + logf(sum);
        }
    }
}

/* Keys come while values are multiplied, and the other way round: two groups are on their way. */
template <int W>
static __device__ void mma_block(const forward_args<__nv_bfloat16> &a,
                                 __nv_bfloat16 *memory,
                                 const kd_attention_block &block,
                                 int h)
{
    constexpr int ROWS = KD_ATTENTION_ROWS;

    __nv_bfloat16 *q = memory, *k = q + KD_MMA_TILE<ROWS, W>, *v = k + KD_MMA_TILE<ROWS, W>;
    const int64_t begin = block.row - block.place;
    const int first = kd_attention_first_key(a.s, block.place, ROWS);
    const int n = block.place + block.n_rows; /* the last key's place, and 1 */
    mma_softmax soft = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    float sums[W / 8][4], scores[ROWS / 8][4], inverse[2];
    kd_mma_clear<W>(sums);
    __syncthreads(); /* nobody reads the tiles of the block before */
    kd_mma_load<ROWS, W>(q, a.q.from(block.row), block.n_rows, a.s);
    kd_mma_load<ROWS, W>(k, a.k.from(begin + first), min(ROWS, n - first), a.s);
    kd_cp_async_commit();
    kd_mma_load<ROWS, W>(v, a.v.from(begin + first), min(ROWS, n - first), a.s);
    kd_cp_async_commit();
    for (int tile = first; tile < n; tile += ROWS) {
        const int next = tile + ROWS, n_next = min(ROWS, n - next);
        kd_cp_async_wait<1>();
        __syncthreads(); /* keys are there */
        kd_mma_multiply<ROWS, W>(scores, q, k);
        __syncthreads(); /* and read */
        if (next < n) {
            kd_mma_load<ROWS, W>(k, a.k.from(begin + next), n_next, a.s);
        }
        kd_cp_async_commit();
        mma_step<W>(scores, soft, sums, block.place - tile, a.s);
        kd_cp_async_wait<1>();
        __syncthreads(); /* values are there */
        kd_mma_add<ROWS, W>(sums, scores, v);
        __syncthreads(); /* and read */
        if (next < n) {
            kd_mma_load<ROWS, W>(v, a.v.from(begin + next), n_next, a.s);
        }
        kd_cp_async_commit();
    }
    mma_finish(inverse, a, soft, block, h);
    kd_mma_store<W>(a.out.from(block.row), q, sums, inverse, block.n_rows, a.s);
}

/* Grid: windows * H. Shared memory: three tiles of 64 rows. So many blocks at once as registers allow
 * without spills. */
template <int W>
static __global__ void __launch_bounds__(KD_MMA_THREADS, W > 64 ? 3 : 4)
    forward_mma(const forward_args<__nv_bfloat16> all)
{
    KD_DYN_SHARED(__nv_bfloat16, memory, 16);
    const forward_item item = item_of(all.s);
    const forward_args<__nv_bfloat16> a = of_head(all, item.h);
    kd_attention_each_block(a.s, item.window, [&](const kd_attention_block &block) {
        mma_block<W>(a, memory, block, item.h);
    });
    kd_attention_clear_padding(a.s, item.window, a.out);
}

/* ---- the function of the table ---- */

template <class T, int W>
static void launch(kd_backend *be, const kd_attention *a, const kd_attention_shape &shape)
{
    const int64_t n_windows = kd_cuda_blocks(shape.n_rows, KD_ATTENTION_ROWS);
    const unsigned items = kd_cuda_blocks(n_windows * a->n_heads, 1);
    const forward_args<T> args = {shape,
                                  kd_attention_rows_of<const T>(a->q),
                                  kd_attention_rows_of<const T>(a->k),
                                  kd_attention_rows_of<const T>(a->v),
                                  kd_attention_rows_of<T>(a->out),
                                  kd_cuda_data<float>(a->lse)};
    if constexpr (W == 0) {
        kd_cuda_launch(be, "attention", forward_plain<T>, dim3(items, kd_plain_passes(a->head_dim)),
                       KD_PLAIN_THREADS, 0, args);
    } else {
        kd_cuda_launch(be, "attention", forward_mma<W>, items, KD_MMA_THREADS,
                       3 * KD_MMA_TILE<KD_ATTENTION_ROWS, W> * sizeof(T), args);
    }
}

void kd_cuda_attention(kd_backend *be, const kd_attention *a)
{
    kd_check_attention(be, a);
    if (be->fault != KD_OK || kd_cuda_attention_by_cudnn(be, a)) {
        return;
    }
    const size_t mark = kd_cuda_scratch_mark(be);
    const kd_tensor tensors[] = {a->q, a->k, a->v, a->out};
    kd_attention_shape shape = kd_cuda_attention_shape(be, a);
    shape.vectors = kd_cuda_attention_vectors(a->head_dim, tensors, 4);
    if (be->fault == KD_OK) {
        kd_cuda_attention_with(be->compute, a->head_dim, [&](auto element, auto width) {
            launch<decltype(element), decltype(width)::value>(be, a, shape);
        });
    }
    kd_cuda_scratch_rewind(be, mark);
}
