/* attention_graph.cu - the graphs of attention. */
#include "tensor/cuda/attention_graph.h"

/* Of the scores that engines work on, on a side. */
constexpr int64_t TILE = 64;

/* A graph while it is filled, with what all of its parts name. */
struct filling {
    kd_cudnn_graph *g;
    const kd_attention_graph_shape &s;
    kd_cudnn_view scores, rows; /* (B, H, T, T), (B, H, T, 1) */
    kd_cudnn_tensor scale, never;
};

/* n heads of a matrix of rows: (B, n, T, D). */
static kd_cudnn_view heads(const kd_attention_graph_shape &s, int which, int64_t n)
{
    const int64_t stride = s.strides[which];
    return {{s.n_batch, n, s.n_tokens, s.head_dim}, {s.n_tokens * stride, s.head_dim, stride, 1}};
}

/* The same memory with rows for columns. */
static kd_cudnn_view turned(const kd_cudnn_view &v)
{
    return {{v.dims[0], v.dims[1], v.dims[3], v.dims[2]},
            {v.strides[0], v.strides[1], v.strides[3], v.strides[2]}};
}

static kd_cudnn_view dense(int64_t b, int64_t h, int64_t rows, int64_t columns)
{
    return {{b, h, rows, columns}, {h * rows * columns, rows * columns, columns, 1}};
}

static kd_cudnn_tensor argument(filling &f, int which, const kd_cudnn_view &view)
{
    return kd_cudnn_argument(f.g, which, KD_CUDNN_BF16, view);
}

static kd_cudnn_tensor scores(filling &f, int dtype = KD_CUDNN_F32)
{
    return kd_cudnn_virtual(f.g, dtype, f.scores);
}

static kd_cudnn_tensor rows(filling &f)
{
    return kd_cudnn_virtual(f.g, KD_CUDNN_F32, f.rows);
}

static kd_cudnn_tensor on_scores(filling &f, int mode, kd_cudnn_tensor x, kd_cudnn_tensor b)
{
    return kd_cudnn_pointwise(f.g, mode, x, b, nullptr, scores(f));
}

static kd_cudnn_tensor on_rows(filling &f, int mode, kd_cudnn_tensor x, kd_cudnn_tensor b)
{
    return kd_cudnn_pointwise(f.g, mode, x, b, nullptr, rows(f));
}

/* -inf where low[i][j] > high[i][j]; one of them may be of rows alone. */
static kd_cudnn_tensor
keep_where(filling &f, kd_cudnn_tensor high, kd_cudnn_tensor low, kd_cudnn_tensor s)
{
    const kd_cudnn_tensor seen = kd_cudnn_pointwise(f.g, KD_CUDNN_GREATER_OR_EQUAL, high, low,
                                                    nullptr, scores(f, KD_CUDNN_BOOL));
    return kd_cudnn_pointwise(f.g, KD_CUDNN_SELECT, s, f.never, seen, scores(f));
}

/* Engines refuse one selection by the conjunction of both conditions, and take two selections. */
static kd_cudnn_tensor mask(filling &f, kd_cudnn_tensor s)
{
    const kd_cudnn_tensor column = kd_cudnn_index(f.g, 3, s, scores(f, KD_CUDNN_I32));
    const kd_cudnn_tensor row = kd_cudnn_index(f.g, 2, s, scores(f, KD_CUDNN_I32));
    const kd_cudnn_tensor causal = keep_where(f, row, column, s);
    if (!f.s.is_bounded) {
        return causal;
    }
    const kd_cudnn_tensor first = kd_cudnn_argument(f.g, KD_ATTENTION_FIRST, KD_CUDNN_I32,
                                                    dense(f.s.n_batch, 1, f.s.n_tokens, 1));
    return keep_where(f, column, first, causal);
}

static void fill_forward(filling &f)
{
    const kd_attention_graph_shape &s = f.s;
    const kd_cudnn_tensor q = argument(f, KD_ATTENTION_Q, heads(s, KD_ATTENTION_Q, s.n_heads));
    const kd_cudnn_tensor k =
        argument(f, KD_ATTENTION_K, turned(heads(s, KD_ATTENTION_K, s.n_kv_heads)));
    const kd_cudnn_tensor v = argument(f, KD_ATTENTION_V, heads(s, KD_ATTENTION_V, s.n_kv_heads));
    const kd_cudnn_tensor out =
        argument(f, KD_ATTENTION_OUT, heads(s, KD_ATTENTION_OUT, s.n_heads));
    const kd_cudnn_tensor lse = kd_cudnn_argument(f.g, KD_ATTENTION_LSE, KD_CUDNN_F32, f.rows);
    const kd_cudnn_tensor product = kd_cudnn_matmul(f.g, q, k, scores(f));
    const kd_cudnn_tensor z = mask(f, on_scores(f, KD_CUDNN_MUL, product, f.scale));
    const kd_cudnn_tensor max = kd_cudnn_reduce(f.g, KD_CUDNN_MAX, z, rows(f));
    const kd_cudnn_tensor e =
        on_scores(f, KD_CUDNN_EXP, on_scores(f, KD_CUDNN_SUB, z, max), nullptr);
    const kd_cudnn_tensor sum = kd_cudnn_reduce(f.g, KD_CUDNN_SUM, e, rows(f));
    const kd_cudnn_tensor log = on_rows(f, KD_CUDNN_LOG, sum, nullptr);
    kd_cudnn_pointwise(f.g, KD_CUDNN_ADD, max, log, nullptr, lse);
    const kd_cudnn_tensor p =
        kd_cudnn_pointwise(f.g, KD_CUDNN_DIV, e, sum, nullptr, scores(f, KD_CUDNN_BF16));
    kd_cudnn_matmul(f.g, p, v, out);
}

/* delta (B, H, T, 1). The factor of 1 is where engines expect that of a dropout. */
static kd_cudnn_tensor fill_delta(filling &f, kd_cudnn_tensor dout, kd_cudnn_tensor out)
{
    const kd_attention_graph_shape &s = f.s;
    const kd_cudnn_tensor products = kd_cudnn_pointwise(
        f.g, KD_CUDNN_MUL, dout, out, nullptr,
        kd_cudnn_virtual(f.g, KD_CUDNN_F32, dense(s.n_batch, s.n_heads, s.n_tokens, s.head_dim)));
    const kd_cudnn_tensor sum = kd_cudnn_reduce(f.g, KD_CUDNN_SUM, products, rows(f));
    return kd_cudnn_pointwise(f.g, KD_CUDNN_MUL, sum, kd_cudnn_value(f.g, KD_ATTENTION_ONE),
                              nullptr,
                              kd_cudnn_argument(f.g, KD_ATTENTION_DELTA, KD_CUDNN_F32, f.rows));
}

/* x^T y, of scores and rows of each head, summed over the heads that share keys. */
static void fill_keys(filling &f, int which, kd_cudnn_tensor x, kd_cudnn_tensor y)
{
    const kd_attention_graph_shape &s = f.s;
    const kd_cudnn_tensor result = argument(f, which, heads(s, which, s.n_kv_heads));
    const kd_cudnn_tensor xt =
        kd_cudnn_reshape(f.g, x, kd_cudnn_virtual(f.g, KD_CUDNN_BF16, turned(f.scores)));
    if (s.n_heads == s.n_kv_heads) {
        kd_cudnn_matmul(f.g, xt, y, result);
        return;
    }
    const kd_cudnn_tensor of_heads =
        kd_cudnn_virtual(f.g, KD_CUDNN_BF16, dense(s.n_batch, s.n_heads, s.n_tokens, s.head_dim));
    kd_cudnn_reduce(f.g, KD_CUDNN_SUM, kd_cudnn_matmul(f.g, xt, y, of_heads), result);
}

static void fill_backward(filling &f)
{
    const kd_attention_graph_shape &s = f.s;
    const kd_cudnn_view keys = heads(s, KD_ATTENTION_K, s.n_kv_heads);
    const kd_cudnn_tensor q = argument(f, KD_ATTENTION_Q, heads(s, KD_ATTENTION_Q, s.n_heads));
    const kd_cudnn_tensor kt = argument(f, KD_ATTENTION_K, turned(keys));
    const kd_cudnn_tensor vt =
        argument(f, KD_ATTENTION_V, turned(heads(s, KD_ATTENTION_V, s.n_kv_heads)));
    const kd_cudnn_tensor out =
        argument(f, KD_ATTENTION_OUT, heads(s, KD_ATTENTION_OUT, s.n_heads));
    const kd_cudnn_tensor dout =
        argument(f, KD_ATTENTION_DOUT, heads(s, KD_ATTENTION_DOUT, s.n_heads));
    const kd_cudnn_tensor lse = kd_cudnn_argument(f.g, KD_ATTENTION_LSE, KD_CUDNN_F32, f.rows);
    const kd_cudnn_tensor delta = fill_delta(f, dout, out);
    const kd_cudnn_tensor z =
        on_scores(f, KD_CUDNN_MUL, kd_cudnn_matmul(f.g, q, kt, scores(f)), f.scale);
    const kd_cudnn_tensor p =
        on_scores(f, KD_CUDNN_EXP, mask(f, on_scores(f, KD_CUDNN_SUB, z, lse)), nullptr);
    fill_keys(f, KD_ATTENTION_DV, p, dout);
    const kd_cudnn_tensor dp = kd_cudnn_matmul(f.g, dout, vt, scores(f));
    const kd_cudnn_tensor dz = on_scores(f, KD_CUDNN_MUL, on_scores(f, KD_CUDNN_SUB, dp, delta), p);
    const kd_cudnn_tensor ds = on_scores(f, KD_CUDNN_MUL, dz, f.scale);
    fill_keys(f, KD_ATTENTION_DK, ds, q);
    const kd_cudnn_tensor k = kd_cudnn_reshape(f.g, kt, kd_cudnn_virtual(f.g, KD_CUDNN_BF16, keys));
    kd_cudnn_matmul(f.g, ds, k, argument(f, KD_ATTENTION_DQ, heads(s, KD_ATTENTION_DQ, s.n_heads)));
}

int64_t kd_attention_graph_kept_bytes(const kd_attention_graph_shape &s)
{
    const int64_t side = (s.n_tokens + TILE - 1) / TILE * TILE;
    return s.is_backward ? s.n_batch * s.n_heads * side * side * 2 : 0;
}

kd_cudnn_graph kd_attention_graph(const kd_cudnn *lib, const kd_attention_graph_shape &s)
{
    kd_cudnn_graph graph = kd_cudnn_graph_begin(lib);
    filling f = {&graph,
                 s,
                 dense(s.n_batch, s.n_heads, s.n_tokens, s.n_tokens),
                 dense(s.n_batch, s.n_heads, s.n_tokens, 1),
                 kd_cudnn_value(&graph, KD_ATTENTION_SCALE),
                 kd_cudnn_value(&graph, KD_ATTENTION_NEVER)};

    if (s.is_backward) {
        fill_backward(f);
    } else {
        fill_forward(f);
    }
    return graph;
}
