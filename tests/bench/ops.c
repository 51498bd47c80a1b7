/*
 * ops - how fast each operation of the CPU back end is at the shapes of the reference job.
 *
 *     bench_ops [--json] [--threads N] [--f32] [--chunk ROWS] [NAME]
 *
 * Prints the best of several runs of each operation whose name contains NAME: products in
 * GFLOP/s, passes over memory in GB/s of operands read and written. Attention counts the products
 * of pairs at or below the diagonal only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "tensor/ops.h"

enum { N = 1024, C = 512, F = 1024, E = 8, K = 2, V = 4096, T = 256, H = 8, G = 4, D = 64 };

/* CHUNK rows of logits at a time in the products by themselves; vocab_loss chooses for itself. */
enum { CHUNK = 256, ROUTED = N * K, QKV = (H + 2 * G) * D, PARAMS = 1 << 22 };

typedef struct bench {
    kd_backend *be;
    kd_tensor x, y, delta, w, rstd, hidden, d_hidden;       /* (N, C) and vectors */
    kd_tensor qkv, dqkv, heads, d_heads, lse, table, w_qkv; /* attention          */
    kd_tensor rows, d_rows, gate_up, d_gate_up, h, d_h;     /* (R, ...)           */
    kd_tensor w_gate_up, w_down, dw_gate_up;                /* (E, ...)           */
    kd_tensor router_logits, d_router, d_weights, router_sums;
    kd_tensor logits, d_logits, teacher, labels, sums, head,
        d_head; /* (CHUNK, V), (N, V), (V, C) */
    int64_t chunk_rows;
    kd_tensor param, grad, m, v, copy, norm_sq;
    kd_route route;
    kd_attention attention;
} bench;

static kd_tensor carve_3d(kd_arena *a, kd_dtype dtype, int64_t n, int64_t rows, int64_t columns)
{
    const kd_tensor flat = kd_tensor_carve_2d(a, dtype, n * rows, columns);
    return kd_tensor_3d(flat.data, dtype, n, rows, columns);
}

static void layout_layers(kd_arena *a, bench *b)
{
    const kd_dtype compute = b->be->compute;
    const int64_t routed = kd_expert_rows(b->be, N, K, E);
    b->x = kd_tensor_carve_2d(a, KD_F32, N, C);
    b->y = kd_tensor_carve_2d(a, KD_F32, N, C);
    b->delta = kd_tensor_carve_2d(a, KD_F32, N, C);
    b->w = kd_tensor_carve_1d(a, KD_F32, C);
    b->rstd = kd_tensor_carve_1d(a, KD_F32, N);
    b->hidden = kd_tensor_carve_2d(a, compute, N, C);
    b->d_hidden = kd_tensor_carve_2d(a, compute, N, C);
    b->qkv = kd_tensor_carve_2d(a, compute, N, QKV);
    b->dqkv = kd_tensor_carve_2d(a, compute, N, QKV);
    b->heads = kd_tensor_carve_2d(a, compute, N, H * D);
    b->d_heads = kd_tensor_carve_2d(a, compute, N, H * D);
    b->lse = kd_tensor_carve_2d(a, KD_F32, N / T * H, T);
    b->table = kd_tensor_carve_2d(a, KD_F32, T, D);
    b->w_qkv = kd_tensor_carve_2d(a, compute, QKV, C);
    b->rows = kd_tensor_carve_2d(a, compute, routed, C);
    b->d_rows = kd_tensor_carve_2d(a, compute, routed, C);
    b->gate_up = kd_tensor_carve_2d(a, compute, routed, 2 * F);
    b->d_gate_up = kd_tensor_carve_2d(a, compute, routed, 2 * F);
    b->h = kd_tensor_carve_2d(a, compute, routed, F);
    b->d_h = kd_tensor_carve_2d(a, compute, routed, F);
    b->w_gate_up = carve_3d(a, compute, E, 2 * F, C);
    b->w_down = carve_3d(a, compute, E, C, F);
    b->dw_gate_up = carve_3d(a, KD_F32, E, 2 * F, C);
}

static void layout_rest(kd_arena *a, bench *b)
{
    b->router_logits = kd_tensor_carve_2d(a, KD_F32, N, E);
    b->d_router = kd_tensor_carve_2d(a, KD_F32, N, E);
    b->d_weights = kd_tensor_carve_2d(a, KD_F32, N, K);
    b->router_sums = kd_tensor_carve_1d(a, KD_F64, 2);
    b->route = (kd_route){.probs = kd_tensor_carve_2d(a, KD_F32, N, E),
                          .experts = kd_tensor_carve_2d(a, KD_I32, N, K),
                          .weights = kd_tensor_carve_2d(a, KD_F32, N, K),
                          .position = kd_tensor_carve_2d(a, KD_I32, N, K),
                          .token = kd_tensor_carve_1d(a, KD_I32, kd_expert_rows(b->be, N, K, E)),
                          .offset = kd_tensor_carve_1d(a, KD_I32, E + 1),
                          .renormalise = true};
    b->logits = kd_tensor_carve_2d(a, KD_F32, CHUNK, V);
    b->teacher = kd_tensor_carve_2d(a, KD_F32, N, V);
    b->d_logits = kd_tensor_carve_2d(a, b->be->compute, CHUNK, V);
    b->labels = kd_tensor_carve_1d(a, KD_I32, N);
    b->sums = kd_tensor_carve_1d(a, KD_F64, KD_VOCAB_SUMS);
    b->head = kd_tensor_carve_2d(a, b->be->compute, V, C);
    b->d_head = kd_tensor_carve_2d(a, KD_F32, V, C);
    b->param = kd_tensor_carve_1d(a, KD_F32, PARAMS);
    b->grad = kd_tensor_carve_1d(a, KD_F32, PARAMS);
    b->m = kd_tensor_carve_1d(a, KD_F32, PARAMS);
    b->v = kd_tensor_carve_1d(a, KD_F32, PARAMS);
    b->copy = kd_tensor_carve_1d(a, KD_BF16, PARAMS);
    b->norm_sq = kd_tensor_carve_1d(a, KD_F64, 1);
}

/* Repeats a short period of normal numbers: values matter little, and setting up should not wait. */
static void fill(bench *b, kd_tensor t)
{
    enum { PERIOD = 1 << 14 };

    static float values[PERIOD];
    for (int i = 0; i < PERIOD; i++) {
        values[i] = (float)kd_rng_normal(1, (uint64_t)i);
    }
    const int64_t n = kd_tensor_elements(t);
    for (int64_t at = 0; at < n; at += PERIOD) {
        const int64_t part = n - at < PERIOD ? n - at : PERIOD;
        void *data = (char *)t.data + (size_t)at * kd_dtype_bytes(t.dtype);
        b->be->ops->copy(b->be, kd_tensor_1d(data, t.dtype, part),
                         kd_tensor_1d(values, KD_F32, part));
    }
}

static void prepare(bench *b)
{
    const kd_tensor random[] = {
        b->x,     b->delta, b->w,       b->hidden,        b->d_hidden,  b->qkv,     b->d_heads,
        b->table, b->w_qkv, b->gate_up, b->d_h,           b->h,         b->d_rows,  b->teacher,
        b->head,  b->param, b->grad,    b->router_logits, b->d_weights, b->d_logits};
    int32_t *labels = b->labels.data;
    for (size_t i = 0; i < sizeof random / sizeof *random; i++) {
        fill(b, random[i]);
    }
    fill(b, b->w_gate_up);
    fill(b, b->w_down);
    for (int i = 0; i < N; i++) {
        labels[i] = i * 37 % V;
        ((float *)b->rstd.data)[i] = 1.0f;
    }
    b->attention = (kd_attention){.q = kd_tensor_slice_columns(b->qkv, 0, H * D),
                                  .k = kd_tensor_slice_columns(b->qkv, H * D, G * D),
                                  .v = kd_tensor_slice_columns(b->qkv, (H + G) * D, G * D),
                                  .out = b->heads,
                                  .lse = b->lse,
                                  .n_batch = N / T,
                                  .n_tokens = T,
                                  .n_heads = H,
                                  .n_kv_heads = G,
                                  .head_dim = D};
    b->be->ops->route(b->be, &b->route, b->router_logits);
}

#define OP(name) static void run_##name(bench *b)

OP(linear)
{
    b->be->ops->linear(b->be, b->dqkv, b->hidden, b->w_qkv);
}

OP(linear_backward_x)
{
    b->be->ops->linear_backward_x(b->be, b->d_hidden, b->qkv, b->w_qkv);
}

OP(linear_backward_w)
{
    kd_tensor dw = kd_tensor_2d(b->d_head.data, KD_F32, QKV, C);
    b->be->ops->linear_backward_w(b->be, dw, b->qkv, b->hidden, true);
}

OP(router_linear)
{
    const kd_tensor w = kd_tensor_slice_rows(b->w_qkv, 0, E);
    b->be->ops->linear(b->be, b->d_router, b->hidden, w);
}

OP(lm_head)
{
    b->be->ops->linear(b->be, b->logits, kd_tensor_slice_rows(b->hidden, 0, CHUNK), b->head);
}

OP(lm_head_dx)
{
    b->be->ops->linear_backward_x(b->be, kd_tensor_slice_rows(b->y, 0, CHUNK), b->d_logits,
                                  b->head);
}

OP(lm_head_dw)
{
    b->be->ops->linear_backward_w(b->be, b->d_head, b->d_logits,
                                  kd_tensor_slice_rows(b->hidden, 0, CHUNK), true);
}

OP(experts)
{
    b->be->ops->experts(b->be, b->d_gate_up, b->rows, b->w_gate_up, &b->route);
}

OP(experts_down)
{
    b->be->ops->experts(b->be, b->d_rows, b->h, b->w_down, &b->route);
}

OP(experts_backward_x)
{
    b->be->ops->experts_backward_x(b->be, b->d_rows, b->gate_up, b->w_gate_up, &b->route);
}

OP(experts_backward_w)
{
    b->be->ops->experts_backward_w(b->be, b->dw_gate_up, b->gate_up, b->rows, &b->route, true);
}

OP(attention)
{
    b->be->ops->attention(b->be, &b->attention);
}

OP(attention_backward)
{
    b->be->ops->attention_backward(b->be, &b->attention, kd_tensor_slice_columns(b->dqkv, 0, H * D),
                                   kd_tensor_slice_columns(b->dqkv, H * D, G * D),
                                   kd_tensor_slice_columns(b->dqkv, (H + G) * D, G * D),
                                   b->d_heads);
}

OP(norm)
{
    b->be->ops->norm(b->be, b->hidden, b->y, b->x, b->delta, b->w, b->rstd, 1e-5f);
}

OP(norm_backward)
{
    b->be->ops->norm_backward(b->be, b->y, b->w, b->d_hidden, b->x, b->w, b->rstd, true);
}

OP(rotate)
{
    b->be->ops->rotate(b->be, b->attention.q, H, b->table, kd_tensor_none(), false);
}

OP(swiglu)
{
    b->be->ops->swiglu(b->be, b->h, b->gate_up);
}

OP(swiglu_backward)
{
    b->be->ops->swiglu_backward(b->be, b->d_gate_up, b->d_h, b->gate_up);
}

OP(route)
{
    b->be->ops->route(b->be, &b->route, b->router_logits);
}

OP(route_backward)
{
    b->be->ops->route_backward(b->be, b->d_router, b->d_weights, b->router_logits, &b->route);
}

OP(router_loss)
{
    b->be->ops->router_loss(
        b->be,
        &(kd_router_loss){.logits = b->router_logits,
                          .d_logits = b->d_router,
                          .route = &b->route,
                          .balance_scale = 1e-2f,
                          .z_scale = 1e-3f,
                          .balance_sum = kd_tensor_1d(b->router_sums.data, KD_F64, 1),
                          .z_sum = kd_tensor_1d((double *)b->router_sums.data + 1, KD_F64, 1)});
}

OP(dispatch)
{
    b->be->ops->dispatch(b->be, b->rows, b->hidden, &b->route);
}

OP(dispatch_backward)
{
    b->be->ops->dispatch_backward(b->be, b->d_hidden, b->d_rows, &b->route);
}

OP(combine)
{
    b->be->ops->combine(b->be, b->y, b->rows, &b->route);
}

OP(combine_backward)
{
    b->be->ops->combine_backward(b->be, b->d_rows, b->d_weights, b->delta, b->rows, &b->route);
}

OP(embed)
{
    b->be->ops->embed(b->be, b->y, b->head, b->labels);
}

OP(embed_backward)
{
    b->be->ops->embed_backward(b->be, b->d_head, b->delta, b->labels, true);
}

OP(copy_to_compute)
{
    b->be->ops->copy(b->be, b->hidden, b->x);
}

OP(add)
{
    b->be->ops->add(b->be, b->y, b->hidden);
}

/* What the teacher gives, if there is one. */
typedef enum given { NOTHING, LOGITS, HIDDEN } given;

static void vocab_loss(bench *b, float temperature, given what, bool backward)
{
    const kd_vocab_teacher teacher = {
        .hidden = what == HIDDEN ? b->hidden : kd_tensor_none(),
        .lm_head = b->head,
        .logits = b->teacher,
        .weight = 1.0,
    };
    const kd_vocab_loss loss = {.hidden = b->hidden,
                                .lm_head = b->head,
                                .labels = b->labels,
                                .sums = b->sums,
                                .d_hidden = backward ? b->y : kd_tensor_none(),
                                .d_lm_head = backward ? b->d_head : kd_tensor_none(),
                                .accumulate = true,
                                .teachers = &teacher,
                                .n_teachers = what != NOTHING,
                                .n_vocab = V,
                                .temperature = temperature,
                                .kd_scale = 0.7f,
                                .hard_scale = 0.3f,
                                .chunk_rows = b->chunk_rows};
    b->be->ops->vocab_loss(b->be, &loss);
}

OP(vocab_loss_t4)
{
    vocab_loss(b, 4.0f, LOGITS, true);
}

OP(vocab_loss_t1)
{
    vocab_loss(b, 1.0f, LOGITS, true);
}

OP(vocab_loss_hidden)
{
    vocab_loss(b, 4.0f, HIDDEN, true);
}

OP(vocab_loss_hard)
{
    vocab_loss(b, 1.0f, NOTHING, true);
}

OP(vocab_loss_only)
{
    vocab_loss(b, 1.0f, NOTHING, false);
}

OP(sum_squares)
{
    b->be->ops->sum_squares(b->be, b->norm_sq, b->grad);
}

OP(adamw)
{
    const kd_adamw args = {.param = b->param,
                           .grad = b->grad,
                           .m = b->m,
                           .v = b->v,
                           .copy = b->copy,
                           .norm_sq = b->norm_sq,
                           .clip_norm = 1.0,
                           .learning_rate = 1e-4,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .epsilon = 1e-8,
                           .weight_decay = 0.1,
                           .step = 1};
    b->be->ops->adamw(b->be, &args);
}

/* Work of one run: operations of products, or bytes read and written with bf16 operands. */
typedef struct case_of {
    const char *name;
    void (*run)(bench *b);
    double flops, bytes;
} case_of;

#define FLOPS(m, n, k)       (2.0 * (m) * (n) * (k))
#define ELEMENTS(rows, cols) ((double)(rows) * (cols))
#define PAIRS                (ELEMENTS(N / T, H) * T * (T + 1) / 2)

static const case_of cases[] = {
    {"linear_qkv", run_linear, FLOPS(N, C, QKV), 0},
    {"linear_backward_x_qkv", run_linear_backward_x, FLOPS(N, C, QKV), 0},
    {"linear_backward_w_qkv", run_linear_backward_w, FLOPS(N, C, QKV), 0},
    {"linear_router", run_router_linear, FLOPS(N, C, E), 0},
    {"lm_head", run_lm_head, FLOPS(CHUNK, C, V), 0},
    {"lm_head_dx", run_lm_head_dx, FLOPS(CHUNK, C, V), 0},
    {"lm_head_dw", run_lm_head_dw, FLOPS(CHUNK, C, V), 0},
    {"experts_gate_up", run_experts, FLOPS(N *K, C, 2 * F), 0},
    {"experts_down", run_experts_down, FLOPS(N *K, C, F), 0},
    {"experts_backward_x", run_experts_backward_x, FLOPS(N *K, C, 2 * F), 0},
    {"experts_backward_w", run_experts_backward_w, FLOPS(N *K, C, 2 * F), 0},
    {"attention", run_attention, 2 * FLOPS(PAIRS, D, 1), 0},
    {"attention_backward", run_attention_backward, 5 * FLOPS(PAIRS, D, 1), 0},
    {"norm", run_norm, 0, 18 * ELEMENTS(N, C)},
    {"norm_backward", run_norm_backward, 0, 14 * ELEMENTS(N, C)},
    {"rotate", run_rotate, 0, 4 * ELEMENTS(N, H *D)},
    {"swiglu", run_swiglu, 0, 6 * ELEMENTS(ROUTED, F)},
    {"swiglu_backward", run_swiglu_backward, 0, 10 * ELEMENTS(ROUTED, F)},
    {"route", run_route, 0, 8 * ELEMENTS(N, E)},
    {"route_backward", run_route_backward, 0, 8 * ELEMENTS(N, E)},
    {"router_loss", run_router_loss, 0, 16 * ELEMENTS(N, E)},
    {"dispatch", run_dispatch, 0, 4 * ELEMENTS(ROUTED, C)},
    {"dispatch_backward", run_dispatch_backward, 0, 2 * (K + 1) * ELEMENTS(N, C)},
    {"combine", run_combine, 0, (4 + 2 * K) * ELEMENTS(N, C)},
    {"combine_backward", run_combine_backward, 0, 8 * ELEMENTS(N *K, C)},
    {"embed", run_embed, 0, 6 * ELEMENTS(N, C)},
    {"embed_backward", run_embed_backward, 0, 12 * ELEMENTS(N, C)},
    {"copy_to_compute", run_copy_to_compute, 0, 6 * ELEMENTS(N, C)},
    {"add", run_add, 0, 10 * ELEMENTS(N, C)},
    {"vocab_loss_t4", run_vocab_loss_t4, 3 * FLOPS(N, C, V), 0},
    {"vocab_loss_t1", run_vocab_loss_t1, 3 * FLOPS(N, C, V), 0},
    {"vocab_loss_hidden", run_vocab_loss_hidden, 4 * FLOPS(N, C, V), 0},
    {"vocab_loss_hard", run_vocab_loss_hard, 3 * FLOPS(N, C, V), 0},
    {"vocab_loss_only", run_vocab_loss_only, FLOPS(N, C, V), 0},
    {"sum_squares", run_sum_squares, 0, 4.0 * PARAMS},
    {"adamw", run_adamw, 0, 30.0 * PARAMS},
};

/* The best of the runs that fit into a short time: others use the machine as well. */
static double best_seconds(bench *b, void (*run)(bench *b))
{
    double best = 1e9;
    const double until = kd_clock_monotonic_s() + 0.15;
    run(b); /* makes primitives, touches memory */
    for (int i = 0; i < 3 || kd_clock_monotonic_s() < until; i++) {
        const double start = kd_clock_monotonic_s();
        run(b);
        const double seconds = kd_clock_monotonic_s() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static void report(const case_of *c, double seconds, bool json, bool first)
{
    const bool product = c->flops > 0;
    const double rate = (product ? c->flops : c->bytes) / seconds / 1e9;
    if (json) {
        (void)printf("%s\"%s\": {\"us\": %.2f, \"%s\": %.1f}", first ? "" : ", ", c->name,
                     seconds * 1e6, product ? "gflops" : "gb_per_s", rate);
    } else {
        (void)printf("%-20s %10.1f us %8.1f %s\n", c->name, seconds * 1e6, rate,
                     product ? "GFLOP/s" : "GB/s");
        (void)fflush(stdout);
    }
}

static kd_status run_all(bench *b, bool json, const char *only)
{
    bool first = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strstr(cases[i].name, only) != NULL) {
            report(&cases[i], best_seconds(b, cases[i].run), json, first);
            first = false;
        }
    }
    return kd_backend_wait(b->be);
}

int main(int argc, char **argv)
{
    bench b = {0};
    kd_arena arena = {0};
    kd_dtype compute = KD_BF16;
    const char *only = "";
    int n_threads = 1;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--f32") == 0) {
            compute = KD_F32;
        } else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
            n_threads = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--chunk") == 0 && i + 1 < argc) {
            b.chunk_rows = atoi(argv[++i]);
        } else {
            only = argv[i];
        }
    }
    if (kd_backend_create_cpu(compute, n_threads, &b.be) != KD_OK) {
        return 1;
    }
    layout_layers(&arena, &b);
    layout_rest(&arena, &b);
    void *slab = b.be->ops->alloc(b.be, KD_MEMORY_DEVICE, arena.used);
    if (slab == NULL) {
        kd_backend_destroy(b.be);
        return 1;
    }
    kd_arena_init(&arena, slab, arena.used);
    layout_layers(&arena, &b);
    layout_rest(&arena, &b);
    prepare(&b);
    (void)printf(json ? "{" : "");
    const kd_status st = run_all(&b, json, only);
    (void)printf(json ? "}\n" : "");
    b.be->ops->free(b.be, slab);
    kd_backend_destroy(b.be);
    return st == KD_OK ? 0 : 1;
}
