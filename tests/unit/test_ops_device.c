/*
 * Every operation that has tensors, at odd shapes and in both dtypes, on the back end under test and on the
 * CPU's; see side.h. Tensors are made within calls: in whatever order, it is the same on both sides.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"
#include "tests/support/side.h"

/* clang-format off */
static const side_shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 2, 0, 0},       /* one element                                   */
    {3, 17, 5, 3, 3, 3, 6, 0, 3},      /* no whole vectors                              */
    {5, 16, 8, 2, 1, 1, 8, 0, 1},      /* whole ones, but rows are not whole ones apart */
    {4, 24, 8, 2, 2, 1, 8, 1, 7},      /* rows are, but begin at none                   */
    {35, 40, 24, 9, 2, 2, 16, 0, 8},   /* rows of vectors, strided                      */
    {70, 72, 136, 40, 4, 1, 64, 0, 0}, /* several blocks of rows                        */
};

/* clang-format on */

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Which operations this process has called. */
#define NUMBER_ONE(op) OP_##op,

enum { KD_OPS_EACH(NUMBER_ONE) N_OPS };

static bool called[N_OPS];

#define CALL(d, op, ...) (called[OP_##op] = true, (d)->be->ops->op((d)->be, __VA_ARGS__))

/* ---- what lies in memory ---- */

static void run_zero(side *d)
{
    CALL(d, zero, side_out(d, KD_F32, d->s.n, d->s.c));
    CALL(d, zero, side_out(d, d->compute, d->s.n, d->s.c));
}

static void run_copy(side *d)
{
    const kd_tensor wide = side_in(d, KD_F32, d->s.n, d->s.c),
                    narrow = side_in(d, KD_BF16, d->s.n, d->s.c);
    CALL(d, copy, side_out(d, KD_BF16, d->s.n, d->s.c), wide);
    CALL(d, copy, side_out(d, KD_F32, d->s.n, d->s.c), narrow);
    CALL(d, copy, side_out(d, KD_F32, d->s.n, d->s.c), wide);
    CALL(d, copy, side_out(d, KD_BF16, d->s.n, d->s.c), narrow);
}

static void run_add(side *d)
{
    CALL(d, add, side_out(d, KD_F32, d->s.n, d->s.c), side_in(d, KD_F32, d->s.n, d->s.c));
    CALL(d, add, side_out(d, KD_F32, d->s.n, d->s.c), side_in(d, KD_BF16, d->s.n, d->s.c));
}

static void run_upload(side *d)
{
    const kd_tensor host = side_weight(d, d->compute, d->s.n, d->s.c);
    CALL(d, upload, side_out(d, d->compute, d->s.n, d->s.c), host.data);
}

static void run_download(side *d)
{
    const kd_tensor host = side_gradient(d, d->s.n, d->s.c);
    CALL(d, download, host.data, side_in(d, KD_F32, d->s.n, d->s.c));
}

/* ---- products ---- */

static void run_linear(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c);
    const kd_tensor w = side_weight(d, d->compute, d->s.o, d->s.c);
    CALL(d, linear, side_out(d, d->compute, d->s.n, d->s.o), x, w);
    CALL(d, linear, side_out(d, KD_F32, d->s.n, d->s.o), x, w);
}

static void run_linear_backward_x(side *d)
{
    const kd_tensor w = side_weight(d, d->compute, d->s.o, d->s.c);
    CALL(d, linear_backward_x, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.o), w);
    CALL(d, linear_backward_x, side_out(d, KD_F32, d->s.n, d->s.c),
         side_in(d, KD_F32, d->s.n, d->s.o), w);
}

static void run_linear_backward_w(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c);
    CALL(d, linear_backward_w, side_gradient(d, d->s.o, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.o), x, false);
    CALL(d, linear_backward_w, side_gradient(d, d->s.o, d->s.c), side_in(d, KD_F32, d->s.n, d->s.o),
         x, true);
}

static void run_bias(side *d)
{
    CALL(d, bias, side_out(d, d->compute, d->s.n, d->s.c), side_in_1d(d, d->s.c));
}

static void run_bias_backward(side *d)
{
    const kd_tensor dy = side_in(d, d->compute, d->s.n, d->s.c);
    CALL(d, bias_backward, side_out_1d(d, KD_F32, d->s.c), dy, false);
    CALL(d, bias_backward, side_out_1d(d, KD_F32, d->s.c), dy, true);
}

/* ---- embedding, norms, rotation ---- */

static void run_embed(side *d)
{
    const kd_tensor which = side_ids(d, d->s.n, d->s.o);
    CALL(d, embed, side_out(d, KD_F32, d->s.n, d->s.c), side_weight(d, d->compute, d->s.o, d->s.c),
         which);
    CALL(d, embed, side_out(d, KD_F32, d->s.n, d->s.c), side_weight(d, KD_F32, d->s.o, d->s.c),
         which);
}

static void run_embed_backward(side *d)
{
    const kd_tensor which = side_ids(d, d->s.n, d->s.o), dy = side_in(d, KD_F32, d->s.n, d->s.c);
    CALL(d, embed_backward, side_gradient(d, d->s.o, d->s.c), dy, which, false);
    CALL(d, embed_backward, side_gradient(d, d->s.o, d->s.c), dy, which, true);
}

static void run_norm(side *d)
{
    const kd_tensor x = side_in(d, KD_F32, d->s.n, d->s.c), w = side_in_1d(d, d->s.c);
    CALL(d, norm, side_out(d, d->compute, d->s.n, d->s.c), kd_tensor_none(), x, kd_tensor_none(), w,
         side_out_1d(d, KD_F32, d->s.n), 1e-5f);
    CALL(d, norm, side_out(d, d->compute, d->s.n, d->s.c), side_out(d, KD_F32, d->s.n, d->s.c), x,
         side_in(d, KD_F32, d->s.n, d->s.c), w, kd_tensor_none(), 1e-5f);
    const kd_tensor sum = side_out(d, KD_F32, d->s.n, d->s.c);
    CALL(d, norm, side_out(d, d->compute, d->s.n, d->s.c), sum, sum,
         side_in(d, d->compute, d->s.n, d->s.c), w, side_out_1d(d, KD_F32, d->s.n), 1e-5f);
}

static void run_norm_backward(side *d)
{
    const kd_tensor x = side_in(d, KD_F32, d->s.n, d->s.c), w = side_in_1d(d, d->s.c);
    const kd_tensor rstd = side_in_1d(d, d->s.n);
    CALL(d, norm_backward, side_out(d, KD_F32, d->s.n, d->s.c), side_out_1d(d, KD_F32, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), x, w, rstd, false);
    CALL(d, norm_backward, side_out(d, KD_F32, d->s.n, d->s.c), side_out_1d(d, KD_F32, d->s.c),
         side_in(d, KD_F32, d->s.n, d->s.c), x, w, rstd, true);
    CALL(d, norm_backward, side_out(d, KD_F32, d->s.n, d->s.c), kd_tensor_none(),
         side_in(d, KD_F32, d->s.n, d->s.c), x, w, rstd, false);
}

static void run_head_norm(side *d)
{
    const int64_t width = d->s.heads * d->s.dim;
    const kd_tensor x = side_in(d, d->compute, d->s.n, width);
    CALL(d, head_norm, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, d->s.dim),
         side_gradient(d, d->s.n, d->s.heads), d->s.heads, 1e-5f);
    CALL(d, head_norm, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, width),
         side_gradient(d, d->s.n, 1), 1, 1e-5f);
}

static void run_head_norm_backward(side *d)
{
    const int64_t heads = d->s.heads, width = heads * d->s.dim;
    const kd_tensor x = side_in(d, d->compute, d->s.n, width),
                    dy = side_in(d, d->compute, d->s.n, width);
    const kd_tensor w = side_in_1d(d, d->s.dim), rstd = side_weight(d, KD_F32, d->s.n, heads);
    CALL(d, head_norm_backward, side_out(d, d->compute, d->s.n, width),
         side_out_1d(d, KD_F32, d->s.dim), dy, x, w, rstd, heads, false);
    CALL(d, head_norm_backward, side_out(d, d->compute, d->s.n, width),
         side_out_1d(d, KD_F32, d->s.dim), dy, x, w, rstd, heads, true);
    CALL(d, head_norm_backward, side_out(d, d->compute, d->s.n, width), kd_tensor_none(), dy, x, w,
         rstd, heads, false);
}

static void run_rotate(side *d)
{
    const int64_t n = d->s.n, width = d->s.heads * d->s.dim;
    const kd_tensor table = side_weight(d, KD_F32, (n + 1) / 2, d->s.dim);
    CALL(d, rotate, side_out(d, d->compute, n, width), d->s.heads, table, kd_tensor_none(), false);
    CALL(d, rotate, side_out(d, d->compute, n, width), d->s.heads, table,
         side_ids(d, n, (n + 1) / 2), true);
}

/* ---- attention and SwiGLU ---- */

/* Two heads share keys; runs of rows, of which the last of a sequence is padding, if asked for. */
static kd_attention attention_of(side *d, bool is_packed, bool shows_lse)
{
    const int64_t n = d->s.n, kv = d->s.heads, wide = 2 * kv * d->s.dim, b = n % 2 == 0 ? 2 : 1;
    kd_attention a = {.q = side_in(d, d->compute, n, wide),
                      .k = side_in(d, d->compute, n, wide / 2),
                      .v = side_in(d, d->compute, n, wide / 2),
                      .out = side_out(d, d->compute, n, wide),
                      .segments = kd_tensor_none(),
                      .n_batch = b,
                      .n_tokens = n / b,
                      .n_heads = 2 * kv,
                      .n_kv_heads = kv,
                      .head_dim = d->s.dim};
    a.lse =
        shows_lse ? side_gradient(d, b * 2 * kv, n / b) : side_weight(d, KD_F32, b * 2 * kv, n / b);
    if (is_packed) {
        a.segments = side_as_1d(side_ints(d, 1, n, false));
        for (int64_t i = 0; i < n; i++) {
            const int64_t t = i % a.n_tokens;
            kd_test_ints(a.segments)[i] = t >= a.n_tokens - 1 ? -1 : (int32_t)(t / 5);
        }
    }
    return a;
}

static void run_attention(side *d)
{
    const kd_attention whole = attention_of(d, false, true), packed = attention_of(d, true, false);
    CALL(d, attention, &whole);
    CALL(d, attention, &packed);
}

/* From one forward pass, the CPU's, for an error of its output is a larger one of these gradients. */
static void backward(side *d, bool is_packed)
{
    const kd_attention a = attention_of(d, is_packed, false);
    const int64_t n = d->s.n, narrow = d->s.heads * d->s.dim;
    side host = side_on_cpu(d->compute, d->s);
    host.be->ops->attention(host.be, &a);
    side_finish(&host);
    CALL(d, attention_backward, &a, side_out(d, d->compute, n, 2 * narrow),
         side_out(d, d->compute, n, narrow), side_out(d, d->compute, n, narrow),
         side_in(d, d->compute, n, 2 * narrow));
}

/* Of a segment with few rows a gradient by q or k is little but the rounding of its probabilities. */
static void run_attention_backward(side *d)
{
    backward(d, false);
    if (d->s.n >= 30) {
        backward(d, true);
    }
}

static void run_swiglu(side *d)
{
    CALL(d, swiglu, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, 2 * d->s.c));
}

static void run_swiglu_backward(side *d)
{
    CALL(d, swiglu_backward, side_out(d, d->compute, d->s.n, 2 * d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), side_in(d, d->compute, d->s.n, 2 * d->s.c));
}

/* ---- experts ---- */

static int64_t routed_rows(const side *d)
{
    return kd_expert_rows(d->be, d->s.n, d->s.k, d->s.experts);
}

/* A route by random logits; it is compared if `is_output`. */
static kd_route routed(side *d, bool is_output, kd_tensor logits, bool renormalise)
{
    const int64_t n = d->s.n, e = d->s.experts, k = d->s.k;
    const kd_route route = {
        .probs = is_output ? side_out(d, KD_F32, n, e) : side_in(d, KD_F32, n, e),
        .experts = side_ints(d, n, k, is_output),
        .weights = is_output ? side_gradient(d, n, k) : side_weight(d, KD_F32, n, k),
        .position = side_ints(d, n, k, is_output),
        .token = side_as_1d(side_ints(d, 1, routed_rows(d), is_output)),
        .offset = side_as_1d(side_ints(d, 1, e + 1, is_output)),
        .renormalise = renormalise,
    };
    CALL(d, route, &route, logits);
    return route;
}

static kd_route some_route(side *d)
{
    return routed(d, false, side_in(d, KD_F32, d->s.n, d->s.experts), true);
}

static void run_route(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    (void)routed(d, true, logits, false);
    (void)routed(d, true, logits, true);
}

static void run_route_backward(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    for (int renormalise = 0; renormalise <= 1; renormalise++) {
        const kd_route route = routed(d, false, logits, renormalise);
        CALL(d, route_backward, side_out(d, KD_F32, d->s.n, d->s.experts),
             side_weight(d, KD_F32, d->s.n, d->s.k), logits, &route);
    }
}

static void run_router_loss(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    const kd_route route = routed(d, false, logits, true);
    const kd_tensor segments = side_as_1d(side_ints(d, 1, d->s.n, false));
    for (int64_t i = 0; i < d->s.n; i++) {
        kd_test_ints(segments)[i] = i % 3 == 1 ? -1 : 0;
    }
    kd_router_loss loss = {.logits = logits,
                           .d_logits = side_out(d, KD_F32, d->s.n, d->s.experts),
                           .segments = segments,
                           .route = &route,
                           .balance_scale = 0.7f,
                           .z_scale = 0.3f,
                           .balance_sum = side_out_1d(d, KD_F64, 1),
                           .z_sum = side_out_1d(d, KD_F64, 1)};
    CALL(d, router_loss, &loss);
    loss.segments = kd_tensor_none();
    loss.z_sum = kd_tensor_none();
    loss.z_scale = 0.0f;
    CALL(d, router_loss, &loss);
}

static void run_dispatch(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, dispatch, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), &route);
}

static void run_dispatch_backward(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, dispatch_backward, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.c), &route);
}

static void run_combine(side *d)
{
    const kd_route route = some_route(d);
    const kd_tensor x = side_in(d, d->compute, routed_rows(d), d->s.c);
    CALL(d, combine, side_out(d, d->compute, d->s.n, d->s.c), x, &route);
    CALL(d, combine, side_out(d, KD_F32, d->s.n, d->s.c), x, &route);
}

static void run_combine_backward(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, combine_backward, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_gradient(d, d->s.n, d->s.k), side_in(d, KD_F32, d->s.n, d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.c), &route);
}

static void run_gated_add(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c),
                    gate = side_in(d, KD_F32, d->s.n, 1);
    CALL(d, gated_add, side_out(d, d->compute, d->s.n, d->s.c), x, gate);
    CALL(d, gated_add, side_out(d, KD_F32, d->s.n, d->s.c), x, gate);
}

static void run_gated_add_backward(side *d)
{
    CALL(d, gated_add_backward, side_out(d, d->compute, d->s.n, d->s.c),
         side_out(d, KD_F32, d->s.n, 1), side_in(d, KD_F32, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), side_in(d, KD_F32, d->s.n, 1));
}

/* All experts' weights, or their gradient. */
static kd_tensor of_experts(const side *d, kd_tensor t)
{
    return kd_tensor_3d(t.data, t.dtype, d->s.experts, d->s.o, d->s.c);
}

static void run_experts(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, experts, side_out(d, d->compute, routed_rows(d), d->s.o),
         side_in(d, d->compute, routed_rows(d), d->s.c),
         of_experts(d, side_weight(d, d->compute, d->s.experts * d->s.o, d->s.c)), &route);
}

static void run_experts_backward_x(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, experts_backward_x, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.o),
         of_experts(d, side_weight(d, d->compute, d->s.experts * d->s.o, d->s.c)), &route);
}

static void run_experts_backward_w(side *d)
{
    const kd_route route = some_route(d);
    const kd_tensor dy = side_in(d, d->compute, routed_rows(d), d->s.o);
    const kd_tensor x = side_in(d, d->compute, routed_rows(d), d->s.c);
    for (int accumulate = 0; accumulate <= 1; accumulate++) {
        const kd_tensor dw = side_gradient(d, d->s.experts * d->s.o, d->s.c);
        CALL(d, experts_backward_w, of_experts(d, dw), dy, x, &route, accumulate);
    }
}

/* ---- the loss and the optimizer ---- */

static void run_vocab_loss(side *d)
{
    const int64_t n = d->s.n, v = d->s.o, c = d->s.c;
    const kd_tensor labels = side_ids(d, n, v);
    for (int64_t i = 3; i < n; i += 4) {
        kd_test_ints(labels)[i] = KD_LABEL_IGNORED;
    }
    const kd_vocab_teacher teachers[] = {
        {.hidden = side_in(d, d->compute, n, c + 2),
         .lm_head = side_weight(d, d->compute, v, c + 2),
         .logits = kd_tensor_none(),
         .weight = 0.5},
        {.hidden = kd_tensor_none(), .logits = side_in(d, KD_F32, n, v), .weight = 1.5},
    };
    kd_vocab_loss loss = {.hidden = side_in(d, d->compute, n, c),
                          .lm_head = side_weight(d, d->compute, v, c),
                          .labels = labels,
                          .rows = kd_tensor_none(),
                          .sums = side_out_1d(d, KD_F64, KD_VOCAB_SUMS),
                          .d_hidden = side_out(d, KD_F32, n, c),
                          .d_lm_head = side_gradient(d, v, c),
                          .teachers = teachers,
                          .n_teachers = 2,
                          .n_vocab = v > 1 ? v - 1 : 1,
                          .temperature = 2.0f,
                          .kd_scale = 1.5f,
                          .hard_scale = 0.5f,
                          .chunk_rows = 16};
    CALL(d, vocab_loss, &loss);
    loss.n_teachers = 0;
    loss.d_hidden = side_out(d, KD_F32, n, c);
    loss.accumulate = true;
    CALL(d, vocab_loss, &loss);
}

static void run_sum_squares(side *d)
{
    CALL(d, sum_squares, side_out_1d(d, KD_F64, 1), side_in_1d(d, d->s.n * d->s.c));
}

static void run_adamw(side *d)
{
    const int64_t n = d->s.n * d->s.c;
    const kd_tensor guards = side_as_1d(side_weight(d, KD_F64, 1, 2));
    const kd_adamw args = {.param = side_out_1d(d, KD_F32, n),
                           .grad = side_in_1d(d, n),
                           .m = side_out_1d(d, KD_F32, n),
                           .v = side_out_1d(d, KD_F32, n),
                           .copy = side_out_1d(d, KD_BF16, n),
                           .norm_sq = side_as_1d(side_weight(d, KD_F64, 1, 1)),
                           .guards = &guards,
                           .n_guards = 1,
                           .clip_norm = 0.5,
                           .learning_rate = 1e-2,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .epsilon = 1e-8,
                           .weight_decay = 0.1,
                           .step = 3};
    for (int64_t i = 0; i < n; i++) {
        kd_test_set(args.v, 0, i, fabs(kd_test_get(args.v, 0, i)));
    }
    CALL(d, zero, args.norm_sq);
    CALL(d, sum_squares, args.norm_sq, args.grad);
    CALL(d, adamw, &args);
}

/* clang-format off */
#define CASES_EACH(X)                                                                              \
    X(zero) X(copy) X(add) X(upload) X(download)                                                   \
    X(linear) X(linear_backward_x) X(linear_backward_w) X(bias) X(bias_backward)                   \
    X(embed) X(embed_backward) X(norm) X(norm_backward) X(head_norm) X(head_norm_backward)         \
    X(rotate) X(attention) X(attention_backward) X(swiglu) X(swiglu_backward)                      \
    X(route) X(route_backward) X(router_loss)                                                      \
    X(dispatch) X(dispatch_backward) X(combine) X(combine_backward)                                \
    X(gated_add) X(gated_add_backward)                                                             \
    X(experts) X(experts_backward_x) X(experts_backward_w)                                         \
    X(vocab_loss) X(sum_squares) X(adamw)
/* clang-format on */

#define TEST_ONE(name)                                                                             \
    Test(ops_device, name##_agrees)                                                                \
    {                                                                                              \
        side_compare(run_##name, KD_F32, shapes, N_SHAPES);                                        \
        side_compare(run_##name, KD_BF16, shapes, N_SHAPES);                                       \
    }

CASES_EACH(TEST_ONE)

/* Many logits are equal, and some so low that their probabilities are the least there are. */
static void run_route_with_ties(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    for (int64_t i = 0; i < d->s.n * d->s.experts; i++) {
        const int64_t row = i / d->s.experts, e = i % d->s.experts;
        const double step = round(8.0 * kd_test_get(logits, row, e)) / 8.0;
        kd_test_set(logits, row, e,
                    i % 5 == 3    ? -90.0 - step
                    : i % 11 == 7 ? (double)-INFINITY
                                  : step);
    }
    (void)routed(d, true, logits, true);
}

Test(ops_device, ties_agree_for_any_number_of_experts_and_choices)
{
    static const side_shape routes[] = {
        {.n = 0, .experts = 8, .k = 2},    {.n = 70, .experts = 32, .k = 32, .padding = 1},
        {.n = 65, .experts = 33, .k = 1},  {.n = 129, .experts = 64, .k = 6},
        {.n = 9, .experts = 65, .k = 65},  {.n = 90, .experts = 128, .k = 8},
        {.n = 66, .experts = 200, .k = 9}, {.n = 5, .experts = 512, .k = 33},
        {.n = 2, .experts = 1023, .k = 7}, {.n = 3, .experts = 1024, .k = 1024},
    };
    side_compare(run_route_with_ties, KD_F32, routes, sizeof routes / sizeof *routes);
}

/* Rows too long for what a processor keeps at hand, more of them than one part of the work takes, and none. */
Test(ops_device, sums_over_long_or_many_rows_agree)
{
    static const side_shape sizes[] = {
        {.n = 3, .c = 13001, .heads = 1, .dim = 13001, .padding = 1},
        {.n = 2, .c = 12800, .heads = 2, .dim = 6400},
        {.n = 4103, .c = 36, .heads = 3, .dim = 12},
        {.n = 0, .c = 40, .heads = 2, .dim = 20},
    };
    side_fn *const runs[] = {run_bias_backward, run_norm, run_norm_backward, run_head_norm,
                             run_head_norm_backward};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        side_compare(runs[i], KD_F32, sizes, sizeof sizes / sizeof *sizes);
        side_compare(runs[i], KD_BF16, sizes, sizeof sizes / sizeof *sizes);
    }
}

/* An id has many rows, or few of many ids have one. */
Test(ops_device, embeddings_of_small_and_large_tables_agree)
{
    static const side_shape tables[] = {
        {.n = 2100, .c = 5, .o = 3, .padding = 1},
        {.n = 2100, .c = 8, .o = 257},
        {.n = 1025, .c = 3, .o = 256},
        {.n = 37, .c = 4, .o = 70000},
        {.n = 0, .c = 4, .o = 9},
    };
    side_compare(run_embed, KD_BF16, tables, sizeof tables / sizeof *tables);
    side_compare(run_embed_backward, KD_F32, tables, sizeof tables / sizeof *tables);
}

/* What has no tensors. */
static bool is_administration(int op)
{
    return op <= OP_event_wait;
}

Test(ops_device, every_operation_with_tensors_is_compared)
{
#define RUN_ONE(name)   run_##name,
#define NAME_OF_ONE(op) #op,
    static side_fn *const runs[] = {CASES_EACH(RUN_ONE)};
    static const char *const names[] = {KD_OPS_EACH(NAME_OF_ONE)};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        side host = side_on_cpu(KD_F32, shapes[0]);
        runs[i](&host);
        side_finish(&host);
    }
    for (int op = 0; op < N_OPS; op++) {
        cr_expect(called[op] || is_administration(op), "%s is never called", names[op]);
    }
}
