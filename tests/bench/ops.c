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
#include <string.h>

#include "base/clock.h"
#include "base/option.h"
#include "tests/bench/ops_tensors.h"

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
    const kd_rotation by = {.table = b->table, .positions = kd_tensor_none(), .n_heads = H};
    b->be->ops->rotate(b->be, b->attention.q, &by, false);
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

typedef struct settings {
    kd_dtype compute;
    int n_threads;
    int64_t chunk_rows; /* of vocab_loss; 0: its own choice */
    const char *only;   /* part of the names to run */
    bool json, help;
} settings;

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

static kd_status take(int letter, settings *s)
{
    uint32_t number = 0;
    kd_status st = KD_OK;
    switch (letter) {
    case 'j':
        s->json = true;
        return KD_OK;
    case 'f':
        s->compute = KD_F32;
        return KD_OK;
    case 't':
        st = kd_option_number("--threads", optarg, 1, 1024, &number);
        s->n_threads = (int)number;
        return st;
    case 'c':
        st = kd_option_number("--chunk", optarg, 1, 1 << 20, &number);
        s->chunk_rows = (int64_t)number;
        return st;
    default: /* 'h' */
        s->help = true;
        return KD_OK;
    }
}

static kd_status parse(int argc, char **argv, settings *s)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'}, {"threads", required_argument, NULL, 't'},
        {"f32", no_argument, NULL, 'f'},  {"chunk", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'}, {0},
    };
    int letter;
    kd_status st;
    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":h", known, &letter)) && letter != KD_OPTION_END) {
        st = take(letter, s);
        if (st) {
            return st;
        }
    }
    s->only = optind < argc ? argv[optind] : "";
    return st;
}

static kd_status measure(const settings *s)
{
    bench b = {.chunk_rows = s->chunk_rows};
    kd_status st = kd_backend_create_cpu(s->compute, s->n_threads, &b.be);
    if (st) {
        return st;
    }
    st = bench_make(&b);
    if (!st) {
        (void)printf(s->json ? "{" : "");
        st = run_all(&b, s->json, s->only);
        (void)printf(s->json ? "}\n" : "");
        bench_release(&b);
    }
    kd_backend_destroy(b.be);
    return st;
}

int main(int argc, char **argv)
{
    settings s = {.compute = KD_BF16, .n_threads = 1};
    if (parse(argc, argv, &s)) {
        return 2;
    }
    if (s.help) {
        (void)puts("usage: bench_ops [--json] [--threads N] [--f32] [--chunk ROWS] [NAME]");
        return 0;
    }
    return measure(&s) == KD_OK ? 0 : 1;
}
