/* bench_layer.cu - what a layer does with rows and with attention. */
#include "tests/gpu/bench.h"

#define RUN(op, ...) [&] { b->be->ops->op(b->be, __VA_ARGS__); }

static double size_of(int64_t rows, int64_t columns)
{
    return static_cast<double>(rows) * static_cast<double>(columns);
}

static void bench_norms(bench *b)
{
    const bench_sizes &s = b->s;
    const double elements = size_of(s.n, s.c);
    const kd_tensor x = bench_random(b, KD_F32, s.n, s.c, 1.0f),
                    sum = bench_zeros(b, KD_F32, s.n, s.c),
                    delta = bench_random(b, KD_BF16, s.n, s.c, 1.0f),
                    y = bench_zeros(b, KD_BF16, s.n, s.c),
                    dy = bench_random(b, KD_BF16, s.n, s.c, 1.0f),
                    w = bench_random_1d(b, KD_F32, s.c, 1.0f),
                    dw = bench_random_1d(b, KD_F32, s.c, 0.0f),
                    rstd = bench_random_1d(b, KD_F32, s.n, 1.0f);

    bench_run(b, "norm", 12 * elements, 0, RUN(norm, y, sum, x, delta, w, rstd, 1e-6f));
    bench_run(b, "norm_backward", 14 * elements, 0,
              RUN(norm_backward, sum, dw, dy, x, w, rstd, true));
    bench_run(b, "add", 10 * elements, 0, RUN(add, sum, delta));
    bench_run(b, "copy", 6 * elements, 0, RUN(copy, y, x));
    bench_run(b, "zero", 4 * elements, 0, RUN(zero, sum));
    bench_run(b, "bias", 4 * elements, 0, RUN(bias, y, w));
    bench_run(b, "bias_backward", 2 * elements, 0, RUN(bias_backward, dw, dy, true));
    const kd_tensor gate = bench_random(b, KD_F32, s.n, 1, 1.0f),
                    d_gate = bench_zeros(b, KD_F32, s.n, 1);
    bench_run(b, "gated_add", 10 * elements, 0, RUN(gated_add, sum, dy, gate));
    bench_run(b, "gated_add_backward", 8 * elements, 0,
              RUN(gated_add_backward, y, d_gate, x, dy, gate));
}

static void bench_embeddings(bench *b)
{
    const bench_sizes &s = b->s;
    const double elements = size_of(s.n, s.c);
    const kd_tensor table = bench_random(b, KD_BF16, s.vocab, s.c, 1.0f),
                    d_table = bench_zeros(b, KD_F32, s.vocab, s.c),
                    y = bench_random(b, KD_F32, s.n, s.c, 1.0f), ids = bench_ids(b, s.n, s.vocab);

    bench_run(b, "embed", 6 * elements, 0, RUN(embed, y, table, ids));
    bench_run(b, "embed_backward", 12 * elements, 0, RUN(embed_backward, d_table, y, ids, true));
}

static void bench_products(bench *b)
{
    const bench_sizes &s = b->s;
    const int64_t out = (s.heads + 2 * s.kv_heads) * s.head_dim;
    const double flops = 2 * size_of(s.n, s.c) * static_cast<double>(out);
    const kd_tensor x = bench_random(b, KD_BF16, s.n, s.c, 1.0f),
                    w = bench_random(b, KD_BF16, out, s.c, 0.02f),
                    dw = bench_zeros(b, KD_F32, out, s.c),
                    y = bench_random(b, KD_BF16, s.n, out, 1.0f),
                    router = bench_random(b, KD_BF16, s.experts, s.c, 0.02f),
                    logits = bench_zeros(b, KD_F32, s.n, s.experts);

    bench_run(b, "linear", 0, flops, RUN(linear, y, x, w));
    bench_run(b, "linear_backward_x", 0, flops, RUN(linear_backward_x, x, y, w));
    bench_run(b, "linear_backward_w", 0, flops, RUN(linear_backward_w, dw, y, x, true));
    bench_run(b, "linear_router", 2 * size_of(s.n, s.c) + 4 * size_of(s.n, s.experts), 0,
              RUN(linear, logits, x, router));
}

void bench_rows(bench *b)
{
    bench_norms(b);
    bench_free(b);
    bench_embeddings(b);
    bench_free(b);
    bench_products(b);
}

/* ---- attention ---- */

static void bench_heads(bench *b, const kd_attention *a)
{
    const bench_sizes &s = b->s;
    const double elements = size_of(s.n, s.heads * s.head_dim);
    const kd_tensor y = bench_zeros(b, KD_BF16, s.n, s.heads * s.head_dim),
                    w = bench_random_1d(b, KD_F32, s.head_dim, 1.0f),
                    dw = bench_random_1d(b, KD_F32, s.head_dim, 0.0f),
                    rstd = bench_random(b, KD_F32, s.n, s.heads, 1.0f),
                    table = bench_random(b, KD_F32, s.t, s.head_dim, 1.0f);
    const kd_rotation by = {table, kd_tensor_none(), s.heads};

    bench_run(b, "head_norm", 4 * elements, 0, RUN(head_norm, y, a->q, w, rstd, s.heads, 1e-6f));
    bench_run(b, "head_norm_backward", 6 * elements, 0,
              RUN(head_norm_backward, y, dw, a->out, a->q, w, rstd, s.heads, true));
    bench_run(b, "rotate", 4 * elements, 0, RUN(rotate, y, &by, false));
    bench_run(b, "head_norm_rotate", 4 * elements, 0,
              RUN(head_norm_rotate, y, a->q, w, rstd, 1e-6f, &by));
    bench_run(b, "head_norm_rotate_backward", 6 * elements, 0,
              RUN(head_norm_rotate_backward, y, dw, a->out, a->q, w, rstd, true, &by));
}

void bench_attention(bench *b)
{
    const bench_sizes &s = b->s;
    const int64_t q_columns = s.heads * s.head_dim, kv_columns = s.kv_heads * s.head_dim;
    const kd_tensor qkv = bench_random(b, KD_BF16, s.n, q_columns + 2 * kv_columns, 1.0f),
                    dqkv = bench_zeros(b, KD_BF16, s.n, q_columns + 2 * kv_columns),
                    dout = bench_random(b, KD_BF16, s.n, q_columns, 1.0f);
    kd_attention a = {};
    a.q = kd_tensor_slice_columns(qkv, 0, q_columns);
    a.k = kd_tensor_slice_columns(qkv, q_columns, kv_columns);
    a.v = kd_tensor_slice_columns(qkv, q_columns + kv_columns, kv_columns);
    a.out = bench_random(b, KD_BF16, s.n, q_columns, 1.0f);
    a.lse = bench_zeros(b, KD_F32, s.n / s.t * s.heads, s.t);
    a.n_batch = s.n / s.t;
    a.n_tokens = s.t;
    a.n_heads = s.heads;
    a.n_kv_heads = s.kv_heads;
    a.head_dim = s.head_dim;

    bench_heads(b, &a);
    /* Two products of pairs at or below the diagonal; five in the backward. */
    const double flops = 2 * size_of(s.n, q_columns) * static_cast<double>(s.t + 1);
    b->be->ops->attention(b->be, &a); /* the backward needs what it leaves */
    bench_run(b, "attention", 0, flops, RUN(attention, &a));
    bench_run(b, "attention_backward", 0, 2.5 * flops,
              RUN(attention_backward, &a, kd_tensor_slice_columns(dqkv, 0, q_columns),
                  kd_tensor_slice_columns(dqkv, q_columns, kv_columns),
                  kd_tensor_slice_columns(dqkv, q_columns + kv_columns, kv_columns), dout));
}
