/* One slab, carved as a model's is; what is read gets values before anything is timed. */
#include "tests/bench/ops_tensors.h"

#include "base/rng.h"

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

kd_status bench_make(bench *b)
{
    kd_arena arena = {0};
    layout_layers(&arena, b);
    layout_rest(&arena, b);
    b->slab = b->be->ops->alloc(b->be, KD_MEMORY_DEVICE, arena.used);
    if (b->slab == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_arena_init(&arena, b->slab, arena.used);
    layout_layers(&arena, b);
    layout_rest(&arena, b);
    prepare(b);
    return KD_OK;
}

void bench_release(bench *b)
{
    b->be->ops->free(b->be, b->slab);
}
