/*
 * attention_backward.cu - the gradients of attention, from what the forward pass has kept.
 *
 * With S = scale q k^T, P = softmax(S), out = P v:
 *   dv = P^T dout,  dP = dout v^T,  dS = P (dP - delta),  delta = rowsum(dout * out),
 *   dq = scale dS k,  dk = scale dS^T q.
 * P is formed again from the saved log-sum-exp (Dao et al. 2022). One kernel has blocks of query
 * rows and goes through the keys they see, for dq; the other has blocks of keys and goes through
 * the H / G heads that read them and the queries that see them (no tile that sees none), in that
 * order, for dk and dv. So S and dP are computed twice, nothing is added to memory, and each sum has
 * one order.
 *
 * Moves, for a block of 64 rows: its own rows once, and 4 * D elements for each row it meets,
 * mostly from the second-level cache. 14 * D operations for each pair of a query and a key it sees.
 */
#include "tensor/cuda/attention_cudnn.h"
#include "tensor/cuda/attention_mma.h"
#include "tensor/cuda/attention_plain.h"

constexpr int DELTA_THREADS = 256,
              MET_ROWS = 32; /* of a tile that a block on the tensor cores meets */

template <class T> struct backward_args {
    kd_attention_shape s;
    kd_attention_rows<const T> q, k, v;   /* (N, H D), (N, G D), (N, G D) */
    kd_attention_rows<const T> out, dout; /* (N, H D)                     */
    kd_attention_rows<T> dq, dk, dv;      /* as q, k, v                   */
    const float *lse;                     /* (B H, T)                     */
    float *delta;                         /* (B H, T)                     */
};

/* What a block of the grid has: a window, and a head of queries or of keys and values. */
struct backward_item {
    int64_t window;
    int head;
};

static __device__ __forceinline__ backward_item item_of(int n_heads)
{
    return {blockIdx.x / n_heads, static_cast<int>(blockIdx.x % n_heads)};
}

/* The same, with q, out, dout and dq of one head; the others of the head it reads. */
template <class T>
static __device__ __forceinline__ backward_args<T> of_head(const backward_args<T> &a, int h)
{
    const int column = h * a.s.head_dim;
    const int kv = h / (a.s.n_heads / a.s.n_kv_heads) * a.s.head_dim;
    return {a.s,
            a.q.from(0, column),
            a.k.from(0, kv),
            a.v.from(0, kv),
            a.out.from(0, column),
            a.dout.from(0, column),
            a.dq.from(0, column),
            a.dk.from(0, kv),
            a.dv.from(0, kv),
            a.lse,
            a.delta};
}

/* Of a query row and head. One that is not there has weights of 0. One that sees itself alone has
 * dS = 0 whatever rounding leaves of dP - delta: its scale is 0. */
struct row_constants {
    float lse, delta, scale;
};

template <class T>
static __device__ __forceinline__ row_constants
constants_of(const backward_args<T> &a, const kd_attention_block &block, int row, int h)
{
    if (row >= block.n_rows) {
        return {INFINITY, 0.0f, 0.0f};
    }
    const int64_t at = kd_attention_at(a.s, block.row, h) + row;
    return {a.lse[at], a.delta[at], block.place + row == 0 || a.s.reach == 1 ? 0.0f : a.s.scale};
}

/* delta (B H, T): a warp has a row and head. Reads out and dout once. */
template <class T>
static __global__ void __launch_bounds__(DELTA_THREADS) find_delta(const backward_args<T> a)
{
    const int64_t at = static_cast<int64_t>(blockIdx.x) * (DELTA_THREADS / 32) + threadIdx.x / 32;
    const int64_t row = at / a.s.n_heads;
    const int h = static_cast<int>(at % a.s.n_heads), lane = static_cast<int>(threadIdx.x % 32);
    if (row >= a.s.n_rows || a.s.places[row] < 0) {
        return;
    }
    const backward_args<T> head = of_head(a, h);
    const T *out = head.out.from(row).data, *dout = head.dout.from(row).data;
    float sum = 0.0f;
    for (int c = lane; c < a.s.head_dim; c += 32) {
        sum += kd_load(out + c) * kd_load(dout + c);
    }
    sum = kd_warp_sum(sum);
    if (lane == 0) {
        a.delta[kd_attention_at(a.s, row, h)] = sum;
    }
}

/* ---- plain, both dtypes ---- */

/* Of one score: P in place of it, and scale dS in place of dP. */
static __device__ __forceinline__ void
plain_gradient(float &score, float &d_score, row_constants row, bool seen, float scale)
{
    score = seen ? expf(score * scale - row.lse) : 0.0f;
    d_score = score * (d_score - row.delta) * row.scale;
}

template <class T>
static __device__ void plain_queries(const backward_args<T> &a,
                                     kd_plain_tiles &tiles,
                                     const kd_attention_block &block,
                                     int h)
{
    const int first = static_cast<int>(blockIdx.y) * KD_PLAIN_COLUMNS;
    kd_plain_sums dq = {};
    kd_plain_scores p, ds;
    row_constants row[4];
    for (int i = 0; i < 4; i++) {
        row[i] = constants_of(a, block, kd_plain_row(i), h);
    }
    for (int tile = kd_attention_first_key(a.s, block.place, KD_ATTENTION_ROWS);
         tile <= block.place; tile += KD_ATTENTION_ROWS) {
        const int64_t key = block.row - block.place + tile;
        const int n_keys = min(KD_ATTENTION_ROWS, block.place + block.n_rows - tile);
        kd_plain_multiply(p, tiles, a.q.from(block.row), block.n_rows, a.k.from(key), n_keys,
                          a.s.head_dim);
        kd_plain_multiply(ds, tiles, a.dout.from(block.row), block.n_rows, a.v.from(key), n_keys,
                          a.s.head_dim);
        for (int i = 0; i < 16; i++) {
            const bool seen = kd_attention_sees(a.s, block.place + kd_plain_row(i / 4),
                                                tile + kd_plain_column(i % 4));
            plain_gradient(p[i / 4][i % 4], ds[i / 4][i % 4], row[i / 4], seen, a.s.scale);
        }
        kd_plain_add(dq, tiles, ds, a.k.from(key), n_keys, first, a.s.head_dim);
    }
    kd_plain_store(a.dq.from(block.row), dq, {1.0f, 1.0f, 1.0f, 1.0f}, block.n_rows, first,
                   a.s.head_dim);
}

/* Grid: (windows * H, D / 128). */
template <class T>
static __global__ void __launch_bounds__(KD_PLAIN_THREADS, 1)
    queries_plain(const backward_args<T> all)
{
    KD_SHARED(kd_plain_tiles, tiles, );
    const backward_item item = item_of(all.s.n_heads);
    const backward_args<T> a = of_head(all, item.head);
    kd_attention_each_block(a.s, item.window, [&](const kd_attention_block &block) {
        plain_queries(a, tiles, block, item.head);
    });
    kd_attention_clear_padding(a.s, item.window, a.dq);
}

/* Keys and a tile of queries of head h: the scores are (keys, queries). */
template <class T>
static __device__ __forceinline__ void plain_meet(kd_plain_sums &dk,
                                                  kd_plain_sums &dv,
                                                  const backward_args<T> &a,
                                                  kd_plain_tiles &tiles,
                                                  const kd_attention_block &keys,
                                                  const kd_attention_block &queries,
                                                  int h)
{
    const int first = static_cast<int>(blockIdx.y) * KD_PLAIN_COLUMNS;
    const kd_attention_rows<const T> q = a.q.from(queries.row), dout = a.dout.from(queries.row);
    kd_plain_scores p, ds;
    kd_plain_multiply(p, tiles, a.k.from(keys.row), keys.n_rows, q, queries.n_rows, a.s.head_dim);
    kd_plain_multiply(ds, tiles, a.v.from(keys.row), keys.n_rows, dout, queries.n_rows,
                      a.s.head_dim);
    for (int j = 0; j < 4; j++) {
        const int query = kd_plain_column(j);
        const row_constants row = constants_of(a, queries, query, h);
        for (int i = 0; i < 4; i++) {
            const bool seen =
                kd_attention_sees(a.s, queries.place + query, keys.place + kd_plain_row(i));
            plain_gradient(p[i][j], ds[i][j], row, seen, a.s.scale);
        }
    }
    kd_plain_add(dv, tiles, p, dout, queries.n_rows, first, a.s.head_dim);
    kd_plain_add(dk, tiles, ds, q, queries.n_rows, first, a.s.head_dim);
}

/*
 * Calls f(arguments of a head, tile of queries, head) for the heads that read head g, and for each
 * the queries of the span from the block on that see a key of it: `most` at a time, and none at the end.
 */
template <class T, class F>
static __device__ __forceinline__ void
each_reader(const backward_args<T> &all, const kd_attention_block &keys, int g, int most, F f)
{
    const int group = all.s.n_heads / all.s.n_kv_heads;
    for (int h = g * group; h < (g + 1) * group; h++) {
        const backward_args<T> a = of_head(all, h);
        kd_attention_block queries = keys;
        do {
            queries = kd_attention_block_at(a.s, queries.row, queries.place, most);
            if (queries.n_rows > 0) {
                f(a, queries, h);
            }
            queries.row += most;
            queries.place += most;
        } while (queries.n_rows == most &&
                 queries.place - (keys.place + keys.n_rows - 1) < a.s.reach);
    }
}

/* Grid: (windows * G, D / 128). */
template <class T>
static __global__ void __launch_bounds__(KD_PLAIN_THREADS) keys_plain(const backward_args<T> all)
{
    KD_SHARED(kd_plain_tiles, tiles, );
    const int first = static_cast<int>(blockIdx.y) * KD_PLAIN_COLUMNS;
    const backward_item item = item_of(all.s.n_kv_heads);
    const int g = item.head;
    const backward_args<T> of_g = of_head(all, g * (all.s.n_heads / all.s.n_kv_heads));
    kd_attention_each_block(all.s, item.window, [&](const kd_attention_block &keys) {
        kd_plain_sums dk = {}, dv = {};
        each_reader(all, keys, g, KD_ATTENTION_ROWS,
                    [&](const backward_args<T> &a, const kd_attention_block &queries, int h) {
                        plain_meet(dk, dv, a, tiles, keys, queries, h);
                    });
        kd_plain_store(of_g.dk.from(keys.row), dk, {1.0f, 1.0f, 1.0f, 1.0f}, keys.n_rows, first,
                       all.s.head_dim);
        kd_plain_store(of_g.dv.from(keys.row), dv, {1.0f, 1.0f, 1.0f, 1.0f}, keys.n_rows, first,
                       all.s.head_dim);
    });
    kd_attention_clear_padding(all.s, item.window, of_g.dk);
    kd_attention_clear_padding(all.s, item.window, of_g.dv);
}

/* ---- on the tensor cores, bf16 ---- */

typedef backward_args<__nv_bfloat16> mma_args;
typedef float mma_scores[MET_ROWS / 8][4];

/* As plain_gradient, by powers of two. Both results are rounded to bf16 next, where they are
 * operands: the scale is in them so that they are rounded as on the CPU. */
static __device__ __forceinline__ void
mma_gradient(float &score, float &d_score, row_constants row, bool seen, float scale)
{
    score = seen ? exp2f(score * (scale * KD_LOG2_E) - row.lse * KD_LOG2_E) : 0.0f;
    d_score = score * (d_score - row.delta) * row.scale;
}

template <int W>
static __device__ void
mma_queries(const mma_args &a, __nv_bfloat16 *memory, const kd_attention_block &block, int h)
{
    __nv_bfloat16 *q = memory, *dout = q + KD_MMA_TILE<KD_ATTENTION_ROWS, W>;
    __nv_bfloat16 *k = dout + KD_MMA_TILE<KD_ATTENTION_ROWS, W>, *v = k + KD_MMA_TILE<MET_ROWS, W>;
    const int n = block.place + block.n_rows; /* keys */
    float dq[W / 8][4];
    mma_scores p, ds;
    row_constants row[2];
    for (int i = 0; i < 2; i++) {
        row[i] = constants_of(a, block, kd_mma_row(i * 2), h);
    }
    kd_mma_clear<W>(dq);
    __syncthreads(); /* nobody reads the tiles of the block before */
    kd_mma_load<KD_ATTENTION_ROWS, W>(q, a.q.from(block.row), block.n_rows, a.s);
    kd_mma_load<KD_ATTENTION_ROWS, W>(dout, a.dout.from(block.row), block.n_rows, a.s);
    for (int tile = kd_attention_first_key(a.s, block.place, MET_ROWS); tile < n;
         tile += MET_ROWS) {
        const int64_t key = block.row - block.place + tile;
        kd_mma_load<MET_ROWS, W>(k, a.k.from(key), min(MET_ROWS, n - tile), a.s);
        kd_mma_load<MET_ROWS, W>(v, a.v.from(key), min(MET_ROWS, n - tile), a.s);
        kd_cp_async_commit();
        kd_cp_async_wait<0>();
        __syncthreads(); /* tiles are there */
        kd_mma_multiply<MET_ROWS, W>(p, q, k);
        kd_mma_multiply<MET_ROWS, W>(ds, dout, v);
#pragma unroll
        for (int i = 0; i < MET_ROWS / 2; i++) {
            const int column = tile + i / 4 * 8 + kd_mma_column(i % 4);
            mma_gradient(p[i / 4][i % 4], ds[i / 4][i % 4], row[i % 4 / 2],
                         kd_attention_sees(a.s, block.place + kd_mma_row(i % 4), column),
                         a.s.scale);
        }
        kd_mma_add<MET_ROWS, W>(dq, ds, k);
        __syncthreads(); /* and read */
    }
    kd_mma_store<W>(a.dq.from(block.row), q, dq, {1.0f, 1.0f}, block.n_rows, a.s);
}

/* Grid: windows * H. Shared memory: two tiles of 64 rows and two of 32. */
template <int W>
static __global__ void __launch_bounds__(KD_MMA_THREADS) queries_mma(const mma_args all)
{
    KD_DYN_SHARED(__nv_bfloat16, memory, 16);
    const backward_item item = item_of(all.s.n_heads);
    const mma_args a = of_head(all, item.head);
    kd_attention_each_block(a.s, item.window, [&](const kd_attention_block &block) {
        mma_queries<W>(a, memory, block, item.head);
    });
    kd_attention_clear_padding(a.s, item.window, a.dq);
}

/* Keys and values of a block, which are there, and a tile of queries of head h. */
template <int W> struct mma_keys {
    __nv_bfloat16 *k, *v, *q, *dout;
    row_constants *rows; /* [MET_ROWS] of the queries */
    float dk[W / 8][4], dv[W / 8][4];
};

template <int W>
static __device__ __forceinline__ void mma_meet(mma_keys<W> &m,
                                                const mma_args &a,
                                                const kd_attention_block &keys,
                                                const kd_attention_block &queries,
                                                int h)
{
    mma_scores p, ds;
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads(); /* the queries of before are read */
    kd_mma_load<MET_ROWS, W>(m.q, a.q.from(queries.row), queries.n_rows, a.s);
    kd_mma_load<MET_ROWS, W>(m.dout, a.dout.from(queries.row), queries.n_rows, a.s);
    kd_cp_async_commit();
    if (thread < MET_ROWS) {
        m.rows[thread] = constants_of(a, queries, thread, h);
    }
    kd_cp_async_wait<0>();
    __syncthreads(); /* tiles are there */
    kd_mma_multiply<MET_ROWS, W>(p, m.k, m.q);
    kd_mma_multiply<MET_ROWS, W>(ds, m.v, m.dout);
#pragma unroll
    for (int i = 0; i < MET_ROWS / 2; i++) {
        const int query = i / 4 * 8 + kd_mma_column(i % 4);
        mma_gradient(p[i / 4][i % 4], ds[i / 4][i % 4], m.rows[query],
                     kd_attention_sees(a.s, queries.place + query, keys.place + kd_mma_row(i % 4)),
                     a.s.scale);
    }
    kd_mma_add<MET_ROWS, W>(m.dv, p, m.dout);
    kd_mma_add<MET_ROWS, W>(m.dk, ds, m.q);
}

/* Grid: windows * G. Shared memory as above, the block's rows being those of k and v. */
template <int W>
static __global__ void __launch_bounds__(KD_MMA_THREADS) keys_mma(const mma_args all)
{
    KD_DYN_SHARED(__nv_bfloat16, memory, 16);
    KD_SHARED(row_constants, rows, [MET_ROWS]);
    const backward_item item = item_of(all.s.n_kv_heads);
    const int g = item.head;
    const mma_args of_g = of_head(all, g * (all.s.n_heads / all.s.n_kv_heads));
    mma_keys<W> m;
    m.k = memory;
    m.v = m.k + KD_MMA_TILE<KD_ATTENTION_ROWS, W>;
    m.q = m.v + KD_MMA_TILE<KD_ATTENTION_ROWS, W>;
    m.dout = m.q + KD_MMA_TILE<MET_ROWS, W>;
    m.rows = rows;
    kd_attention_each_block(all.s, item.window, [&](const kd_attention_block &keys) {
        kd_mma_clear<W>(m.dk);
        kd_mma_clear<W>(m.dv);
        __syncthreads(); /* nobody reads the tiles of the block before */
        kd_mma_load<KD_ATTENTION_ROWS, W>(m.k, of_g.k.from(keys.row), keys.n_rows, all.s);
        kd_mma_load<KD_ATTENTION_ROWS, W>(m.v, of_g.v.from(keys.row), keys.n_rows, all.s);
        each_reader(all, keys, g, MET_ROWS,
                    [&](const mma_args &a, const kd_attention_block &queries, int h) {
                        mma_meet<W>(m, a, keys, queries, h);
                    });
        kd_mma_store<W>(of_g.dk.from(keys.row), m.k, m.dk, {1.0f, 1.0f}, keys.n_rows, all.s);
        kd_mma_store<W>(of_g.dv.from(keys.row), m.v, m.dv, {1.0f, 1.0f}, keys.n_rows, all.s);
    });
    kd_attention_clear_padding(all.s, item.window, of_g.dk);
    kd_attention_clear_padding(all.s, item.window, of_g.dv);
}

/* ---- the function of the table ---- */

template <class T, int W> static void launch(kd_backend *be, const backward_args<T> &args)
{
    const kd_attention_shape &s = args.s;
    const int64_t n_windows = kd_cuda_blocks(s.n_rows, KD_ATTENTION_ROWS);
    const unsigned of_queries = kd_cuda_blocks(n_windows * s.n_heads, 1);
    const unsigned of_keys = kd_cuda_blocks(n_windows * s.n_kv_heads, 1);
    kd_cuda_launch(be, "attention's delta", find_delta<T>,
                   kd_cuda_blocks(s.n_rows * s.n_heads, DELTA_THREADS / 32), DELTA_THREADS, 0,
                   args);
    if constexpr (W == 0) {
        const unsigned passes = kd_plain_passes(s.head_dim);
        kd_cuda_launch(be, "attention's dq", queries_plain<T>, dim3(of_queries, passes),
                       KD_PLAIN_THREADS, 0, args);
        kd_cuda_launch(be, "attention's dk and dv", keys_plain<T>, dim3(of_keys, passes),
                       KD_PLAIN_THREADS, 0, args);
    } else {
        const size_t smem_bytes =
            2 * (KD_MMA_TILE<KD_ATTENTION_ROWS, W> + KD_MMA_TILE<MET_ROWS, W>)*sizeof(T);
        kd_cuda_launch(be, "attention's dq", queries_mma<W>, of_queries, KD_MMA_THREADS, smem_bytes,
                       args);
        kd_cuda_launch(be, "attention's dk and dv", keys_mma<W>, of_keys, KD_MMA_THREADS,
                       smem_bytes, args);
    }
}

void kd_cuda_attention_backward(kd_backend *be,
                                const kd_attention *a,
                                kd_tensor dq,
                                kd_tensor dk,
                                kd_tensor dv,
                                kd_tensor dout)
{
    kd_check_attention_backward(be, a, dq, dk, dv, dout);
    if (be->fault != KD_OK || kd_cuda_attention_backward_by_cudnn(be, a, dq, dk, dv, dout)) {
        return;
    }
    const size_t mark = kd_cuda_scratch_mark(be);
    const kd_tensor tensors[] = {a->q, a->k, a->v, dout, dq, dk, dv};
    kd_attention_shape shape = kd_cuda_attention_shape(be, a);
    const kd_tensor delta = kd_cuda_scratch_2d(be, KD_F32, a->n_batch * a->n_heads, a->n_tokens);
    shape.vectors = kd_cuda_attention_vectors(a->head_dim, tensors, 7);
    if (be->fault == KD_OK) {
        kd_cuda_attention_with(be->compute, a->head_dim, [&](auto element, auto width) {
            using T = decltype(element);
            launch<T, decltype(width)::value>(
                be,
                {shape, kd_attention_rows_of<const T>(a->q), kd_attention_rows_of<const T>(a->k),
                 kd_attention_rows_of<const T>(a->v), kd_attention_rows_of<const T>(a->out),
                 kd_attention_rows_of<const T>(dout), kd_attention_rows_of<T>(dq),
                 kd_attention_rows_of<T>(dk), kd_attention_rows_of<T>(dv),
                 kd_cuda_data<const float>(a->lse), kd_cuda_data<float>(delta)});
        });
    }
    kd_cuda_scratch_rewind(be, mark);
}
