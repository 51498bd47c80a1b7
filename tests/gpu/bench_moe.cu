/* bench_moe.cu - routing and the experts' products; the loss over the vocabulary; the optimizer. */
#include "tensor/cuda/vocab_rows.h"
#include "tests/gpu/bench.h"

#define RUN(op, ...) [&] { b->be->ops->op(b->be, __VA_ARGS__); }

static double size_of(int64_t rows, int64_t columns)
{
    return static_cast<double>(rows) * static_cast<double>(columns);
}

/* ---- experts ---- */

static kd_route make_route(bench *b)
{
    const bench_sizes &s = b->s;
    const int64_t rows = kd_expert_rows(b->be, s.n, s.k, s.experts);
    kd_route route = {};
    route.probs = bench_zeros(b, KD_F32, s.n, s.experts);
    route.experts = bench_zeros(b, KD_I32, s.n, s.k);
    route.weights = bench_zeros(b, KD_F32, s.n, s.k);
    route.position = bench_zeros(b, KD_I32, s.n, s.k);
    route.token = kd_tensor_1d(bench_zeros(b, KD_I32, 1, rows).data, KD_I32, rows);
    route.offset =
        kd_tensor_1d(bench_zeros(b, KD_I32, 1, s.experts + 1).data, KD_I32, s.experts + 1);
    route.renormalise = true;
    return route;
}

static void bench_routing(bench *b, const kd_route *route)
{
    const bench_sizes &s = b->s;
    const double all = size_of(s.n, s.experts), taken = size_of(s.n, s.k);
    const kd_tensor logits = bench_random(b, KD_F32, s.n, s.experts, 1.0f),
                    d_logits = bench_zeros(b, KD_F32, s.n, s.experts),
                    d_weights = bench_random(b, KD_F32, s.n, s.k, 1.0f),
                    sums = bench_zeros(b, KD_F64, 1, 2);
    kd_router_loss loss = {};
    loss.logits = logits;
    loss.d_logits = d_logits;
    loss.route = route;
    loss.balance_scale = loss.z_scale = 1e-3f;
    loss.balance_sum = kd_tensor_1d(sums.data, KD_F64, 1);
    loss.z_sum = kd_tensor_1d(kd_cuda_data<double>(sums) + 1, KD_F64, 1);

    b->be->ops->route(b->be, route, logits); /* the other operations need it */
    bench_run(b, "route", 8 * all + 16 * taken, 0, RUN(route, route, logits));
    bench_run(b, "route_backward", 8 * all + 12 * taken, 0,
              RUN(route_backward, d_logits, d_weights, logits, route));
    bench_run(b, "router_loss", 16 * all, 0, RUN(router_loss, &loss));
}

static void bench_moving(bench *b, const kd_route *route)
{
    const bench_sizes &s = b->s;
    const int64_t rows = kd_expert_rows(b->be, s.n, s.k, s.experts);
    const double one = size_of(s.n, s.c), routed = size_of(s.n * s.k, s.c);
    const kd_tensor y = bench_random(b, KD_BF16, s.n, s.c, 1.0f),
                    wide = bench_random(b, KD_F32, s.n, s.c, 1.0f),
                    x = bench_random(b, KD_BF16, rows, s.c, 1.0f),
                    dx = bench_zeros(b, KD_BF16, rows, s.c),
                    d_weights = bench_zeros(b, KD_F32, s.n, s.k);

    bench_run(b, "dispatch", 2 * one + 2 * routed, 0, RUN(dispatch, x, y, route));
    bench_run(b, "dispatch_backward", 2 * one + 2 * routed, 0, RUN(dispatch_backward, y, x, route));
    bench_run(b, "combine", 4 * one + 2 * routed, 0, RUN(combine, wide, x, route));
    bench_run(b, "combine_backward", 4 * one + 4 * routed, 0,
              RUN(combine_backward, dx, d_weights, wide, x, route));
}

/* (experts, rows, columns) of packed matrices. */
static kd_tensor matrices(bench *b, kd_dtype dtype, int64_t rows, int64_t columns)
{
    const kd_tensor flat = bench_random(b, dtype, b->s.experts * rows, columns, 0.02f);
    return kd_tensor_3d(flat.data, dtype, b->s.experts, rows, columns);
}

static void bench_grouped(bench *b, const kd_route *route)
{
    const bench_sizes &s = b->s;
    const int64_t rows = kd_expert_rows(b->be, s.n, s.k, s.experts);
    const double wide = size_of(s.n * s.k, s.f),
                 flops = 2 * wide * static_cast<double>(s.c); /* of one matrix */
    const kd_tensor x = bench_random(b, KD_BF16, rows, s.c, 1.0f),
                    gate_up = bench_random(b, KD_BF16, rows, 2 * s.f, 1.0f),
                    d_gate_up = bench_zeros(b, KD_BF16, rows, 2 * s.f),
                    h = bench_random(b, KD_BF16, rows, s.f, 1.0f),
                    up = matrices(b, KD_BF16, 2 * s.f, s.c), down = matrices(b, KD_BF16, s.c, s.f),
                    d_up = matrices(b, KD_F32, 2 * s.f, s.c);

    bench_run(b, "experts_up", 0, 2 * flops, RUN(experts, gate_up, x, up, route));
    bench_run(b, "experts_down", 0, flops, RUN(experts, x, h, down, route));
    bench_run(b, "experts_backward_x", 0, 2 * flops,
              RUN(experts_backward_x, x, gate_up, up, route));
    bench_run(b, "experts_backward_w", 0, 2 * flops,
              RUN(experts_backward_w, d_up, gate_up, x, route, true));
    bench_run(b, "swiglu", 6 * wide, 0, RUN(swiglu, h, gate_up));
    bench_run(b, "swiglu_backward", 10 * wide, 0, RUN(swiglu_backward, d_gate_up, h, gate_up));
}

void bench_experts(bench *b)
{
    const kd_route route = make_route(b);
    bench_routing(b, &route);
    bench_moving(b, &route);
    bench_grouped(b, &route);
}

/* ---- parameters ---- */

void bench_parameters(bench *b)
{
    const int64_t n = b->s.params;
    kd_adamw a = {};
    a.param = bench_random_1d(b, KD_F32, n, 0.02f);
    a.grad = bench_random_1d(b, KD_F32, n, 1e-3f);
    a.m = bench_random_1d(b, KD_F32, n, 0.0f);
    a.v = bench_random_1d(b, KD_F32, n, 0.0f);
    a.copy = bench_random_1d(b, KD_BF16, n, 0.0f);
    a.norm_sq = kd_tensor_1d(bench_zeros(b, KD_F64, 1, 1).data, KD_F64, 1);
    a.clip_norm = 1.0;
    a.learning_rate = 1e-6;
    a.beta1 = 0.9;
    a.beta2 = 0.95;
    a.epsilon = 1e-8;
    a.weight_decay = 0.1;
    a.step = 10;
    bench_run(b, "sum_squares", 4 * size_of(n, 1), 0, RUN(sum_squares, a.norm_sq, a.grad));
    bench_run(b, "adamw", 30 * size_of(n, 1), 0, RUN(adamw, &a));
}

/* ---- the loss ---- */

/* What stands between the products of a chunk, by whichever kernel is chosen: both logits read, a gradient written. */
static void bench_loss_rows(bench *b)
{
    const bench_sizes &s = b->s;
    const int64_t n = std::min<int64_t>(s.loss_rows, 2048);
    kd_vocab_rows rows = {};
    rows.student = bench_random(b, KD_F32, n, s.vocab, 1.0f);
    rows.teacher = bench_random(b, KD_F32, n, s.vocab, 1.0f);
    rows.slopes = bench_zeros(b, KD_BF16, n, s.vocab);
    rows.rows = kd_cuda_data<int32_t>(bench_ids(b, n, n));
    rows.labels = kd_cuda_data<int32_t>(bench_ids(b, n, s.vocab));
    rows.row_sums = kd_cuda_data<double>(bench_zeros(b, KD_F64, KD_VOCAB_SUMS, n));
    rows.sums_stride = n;
    rows.n_vocab = s.vocab;
    rows.divergence = KD__SOFT_TARGET__DIVERGENCE__FORWARD_KL;
    rows.temperature = rows.teacher_temperature = 2.0f;
    rows.kd_scale = rows.hard_scale = 1e-4f;
    bench_run(b, "vocab_loss_rows", 10 * size_of(n, s.vocab), 0,
              [&] { kd_cuda_vocab_rows(b->be, &rows); });
}

void bench_loss(bench *b)
{
    const bench_sizes &s = b->s;
    bench_loss_rows(b);
    bench_free(b);
    kd_vocab_teacher teacher = {};
    teacher.hidden = bench_random(b, KD_BF16, s.loss_rows, s.teacher_c, 1.0f);
    teacher.lm_head = bench_random(b, KD_BF16, s.vocab, s.teacher_c, 0.02f);
    teacher.weight = 1.0;
    kd_vocab_loss loss = {};
    loss.hidden = bench_random(b, KD_BF16, s.loss_rows, s.c, 1.0f);
    loss.lm_head = bench_random(b, KD_BF16, s.vocab, s.c, 0.02f);
    loss.labels = bench_ids(b, s.loss_rows, s.vocab);
    loss.sums = kd_tensor_1d(bench_zeros(b, KD_F64, 1, KD_VOCAB_SUMS).data, KD_F64, KD_VOCAB_SUMS);
    loss.d_hidden = bench_zeros(b, KD_F32, s.loss_rows, s.c);
    loss.d_lm_head = bench_zeros(b, KD_F32, s.vocab, s.c);
    loss.teachers = &teacher;
    loss.n_teachers = 1;
    loss.n_vocab = s.vocab;
    loss.divergence = KD__SOFT_TARGET__DIVERGENCE__FORWARD_KL;
    loss.temperature = 2.0f;
    loss.kd_scale = loss.hard_scale = 1e-4f;
    /* Logits, and the gradients of rows and of the head, are a product each. */
    const double flops =
        2 * size_of(s.loss_rows, s.vocab) * static_cast<double>(3 * s.c + s.teacher_c);
    bench_run(b, "vocab_loss", 0, flops, RUN(vocab_loss, &loss));
}
