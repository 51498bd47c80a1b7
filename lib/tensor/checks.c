/*
 * checks.c - what an operation demands is said once: back ends that each said it in their own words would come
 * to demand different things.
 */
#include "tensor/checks.h"

static bool is_real(kd_dtype dtype)
{
    return dtype == KD_F32 || dtype == KD_BF16;
}

static void check_shape(kd_tensor t, int64_t rows, int64_t columns)
{
    KD_CHECK(kd_tensor_rows(t) == rows && kd_tensor_columns(t) == columns);
}

static void check_same(kd_tensor a, kd_tensor b)
{
    KD_CHECK(a.dtype == b.dtype);
    check_shape(a, kd_tensor_rows(b), kd_tensor_columns(b));
}

/* ---- rows and columns ---- */

void kd_check_copy(kd_tensor dst, kd_tensor src)
{
    KD_CHECK(dst.dtype == src.dtype || (is_real(dst.dtype) && is_real(src.dtype)));
    check_shape(dst, kd_tensor_rows(src), kd_tensor_columns(src));
}

void kd_check_add(kd_tensor dst, kd_tensor src)
{
    KD_CHECK(dst.dtype == KD_F32 && is_real(src.dtype));
    check_shape(dst, kd_tensor_rows(src), kd_tensor_columns(src));
}

void kd_check_bias(kd_tensor y, kd_tensor b)
{
    KD_CHECK(b.dtype == KD_F32 && kd_tensor_elements(b) == kd_tensor_columns(y));
}

void kd_check_bias_backward(kd_tensor db, kd_tensor dy)
{
    kd_check_bias(dy, db);
}

void kd_check_embed(kd_tensor y, kd_tensor table, kd_tensor ids)
{
    KD_CHECK(y.dtype == KD_F32 && kd_tensor_columns(table) == kd_tensor_columns(y));
    KD_CHECK(ids.dtype == KD_I32 && kd_tensor_elements(ids) == kd_tensor_rows(y));
}

void kd_check_embed_backward(kd_tensor dtable, kd_tensor dy, kd_tensor ids)
{
    kd_check_embed(dy, dtable, ids);
    KD_CHECK(dtable.dtype == KD_F32);
}

/* ---- norms, rotary embedding, attention, SwiGLU ---- */

void kd_check_norm(const kd_backend *be,
                   kd_tensor y,
                   kd_tensor sum,
                   kd_tensor x,
                   kd_tensor delta,
                   kd_tensor w,
                   kd_tensor rstd)
{
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);
    check_shape(y, rows, columns);
    KD_CHECK(x.dtype == KD_F32 && w.dtype == KD_F32 && kd_tensor_elements(w) == columns);
    KD_CHECK(delta.data == NULL || delta.dtype == KD_F32 || delta.dtype == be->compute);
    KD_CHECK(delta.data == NULL || sum.dtype == KD_F32);
    KD_CHECK(delta.data == NULL || (kd_tensor_rows(delta) == rows && kd_tensor_rows(sum) == rows));
    KD_CHECK(rstd.data == NULL || kd_tensor_elements(rstd) == rows);
}

void kd_check_norm_backward(kd_tensor dx,
                            kd_tensor dw,
                            kd_tensor dy,
                            kd_tensor x,
                            kd_tensor w,
                            kd_tensor rstd)
{
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);
    check_shape(dy, rows, columns);
    check_shape(dx, rows, columns);
    KD_CHECK(dx.dtype == KD_F32 && x.dtype == KD_F32 && kd_tensor_elements(w) == columns);
    KD_CHECK(dw.data == NULL || (dw.dtype == KD_F32 && kd_tensor_elements(dw) == columns));
    KD_CHECK(kd_tensor_elements(rstd) == rows);
}

void kd_check_head_norm(kd_tensor y, kd_tensor x, kd_tensor w, kd_tensor rstd, int64_t n_heads)
{
    const int64_t columns = kd_tensor_columns(x);
    KD_CHECK(n_heads > 0 && columns % n_heads == 0);
    KD_CHECK(w.dtype == KD_F32 && kd_tensor_elements(w) == columns / n_heads);
    KD_CHECK(rstd.dtype == KD_F32 && kd_tensor_elements(rstd) == kd_tensor_rows(x) * n_heads);
    check_same(x, y);
}

void kd_check_head_norm_backward(kd_tensor dx,
                                 kd_tensor dw,
                                 kd_tensor dy,
                                 kd_tensor x,
                                 kd_tensor w,
                                 kd_tensor rstd,
                                 int64_t n_heads)
{
    kd_check_head_norm(dy, x, w, rstd, n_heads);
    check_same(x, dx);
    KD_CHECK(dw.data == NULL ||
             (dw.dtype == KD_F32 && kd_tensor_elements(dw) == kd_tensor_elements(w)));
}

void kd_check_rotate(kd_tensor x, const kd_rotation *by)
{
    const int64_t columns = kd_tensor_columns(x);
    KD_CHECK(by->n_heads > 0 && columns % (2 * by->n_heads) == 0);
    KD_CHECK(by->table.dtype == KD_F32 && kd_tensor_columns(by->table) == columns / by->n_heads);
    KD_CHECK(kd_tensor_rows(by->table) > 0);
    KD_CHECK(
        by->positions.data == NULL ||
        (by->positions.dtype == KD_I32 && kd_tensor_elements(by->positions) == kd_tensor_rows(x)));
}

int64_t kd_norm_parts(kd_tensor x, kd_tensor w)
{
    KD_CHECK(kd_tensor_elements(w) > 0);
    return kd_tensor_columns(x) / kd_tensor_elements(w);
}

void kd_check_head_norm_rotate(kd_tensor y,
                               kd_tensor x,
                               kd_tensor w,
                               kd_tensor rstd,
                               const kd_rotation *by)
{
    const int64_t n_parts = kd_norm_parts(x, w);
    kd_check_head_norm(y, x, w, rstd, n_parts);
    kd_check_rotate(y, by);
    KD_CHECK(by->n_heads % n_parts == 0);
}

void kd_check_head_norm_rotate_backward(kd_tensor dx,
                                        kd_tensor dw,
                                        kd_tensor dy,
                                        kd_tensor x,
                                        kd_tensor w,
                                        kd_tensor rstd,
                                        const kd_rotation *by)
{
    const int64_t n_parts = kd_norm_parts(x, w);
    kd_check_head_norm_backward(dx, dw, dy, x, w, rstd, n_parts);
    kd_check_rotate(dy, by);
    KD_CHECK(by->n_heads % n_parts == 0);
}

static void check_matrix(kd_tensor t, kd_dtype dtype, int64_t rows, int64_t columns)
{
    KD_CHECK(t.dtype == dtype && t.n_dims == 2 && t.dims[0] == rows && t.dims[1] == columns);
}

void kd_check_attention(const kd_backend *be, const kd_attention *a)
{
    const int64_t n = a->n_batch * a->n_tokens;
    KD_CHECK(a->n_tokens > 0 && a->head_dim > 0 && a->window >= 0);
    KD_CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
    check_matrix(a->q, be->compute, n, a->n_heads * a->head_dim);
    check_matrix(a->k, be->compute, n, a->n_kv_heads * a->head_dim);
    check_matrix(a->v, be->compute, n, a->n_kv_heads * a->head_dim);
    check_matrix(a->out, be->compute, n, a->n_heads * a->head_dim);
    KD_CHECK(a->segments.data == NULL ||
             (a->segments.dtype == KD_I32 && kd_tensor_elements(a->segments) == n));
    KD_CHECK(a->lse.data == NULL ||
             (a->lse.dtype == KD_F32 && kd_tensor_elements(a->lse) == n * a->n_heads));
}

void kd_check_attention_backward(const kd_backend *be,
                                 const kd_attention *a,
                                 kd_tensor dq,
                                 kd_tensor dk,
                                 kd_tensor dv,
                                 kd_tensor dout)
{
    kd_check_attention(be, a);
    KD_CHECK(a->lse.data != NULL);
    KD_CHECK(dq.dtype == be->compute && dk.dtype == be->compute);
    KD_CHECK(dv.dtype == be->compute && dout.dtype == be->compute);
}

void kd_check_swiglu(kd_tensor h, kd_tensor gu)
{
    KD_CHECK(h.dtype == gu.dtype);
    check_shape(gu, kd_tensor_rows(h), 2 * kd_tensor_columns(h));
}

void kd_check_swiglu_backward(kd_tensor dgu, kd_tensor dh, kd_tensor gu)
{
    kd_check_swiglu(dh, gu);
    kd_check_swiglu(dh, dgu);
    KD_CHECK(dgu.data != gu.data);
}

/* ---- mixture of experts ---- */

void kd_check_route(const kd_backend *be, const kd_route *route, kd_tensor logits)
{
    const int64_t n = kd_tensor_rows(logits), n_experts = kd_tensor_columns(logits);
    const int64_t k = kd_tensor_columns(route->experts);
    KD_CHECK(n_experts <= KD_EXPERTS_MAX && k >= 1 && k <= n_experts);
    KD_CHECK(n * k <= KD_ROUTED_ROWS_MAX);
    KD_CHECK(logits.dtype == KD_F32 && route->probs.dtype == KD_F32);
    KD_CHECK(kd_tensor_elements(route->probs) == n * n_experts);
    KD_CHECK(kd_tensor_elements(route->experts) == n * k);
    KD_CHECK(kd_tensor_elements(route->weights) == n * k);
    KD_CHECK(kd_tensor_elements(route->position) == n * k);
    KD_CHECK(kd_tensor_elements(route->token) >= kd_expert_rows(be, n, k, n_experts));
    KD_CHECK(kd_tensor_elements(route->offset) == n_experts + 1);
}

void kd_check_route_backward(const kd_backend *be,
                             kd_tensor d_logits,
                             kd_tensor d_weights,
                             kd_tensor logits,
                             const kd_route *route)
{
    kd_check_route(be, route, logits);
    check_shape(d_logits, kd_tensor_rows(logits), kd_tensor_columns(logits));
    KD_CHECK(kd_tensor_elements(d_weights) == kd_tensor_elements(route->experts));
}

void kd_check_router_loss(const kd_router_loss *loss)
{
    const int64_t n = kd_tensor_rows(loss->logits), n_experts = kd_tensor_columns(loss->logits);
    KD_CHECK(n_experts <= KD_EXPERTS_MAX && loss->logits.dtype == KD_F32);
    KD_CHECK(kd_tensor_elements(loss->route->probs) == n * n_experts);
    KD_CHECK(kd_tensor_rows(loss->route->experts) == n);
    KD_CHECK(loss->d_logits.data == NULL || (loss->d_logits.dtype == KD_F32 &&
                                             kd_tensor_elements(loss->d_logits) == n * n_experts));
    KD_CHECK(loss->segments.data == NULL ||
             (loss->segments.dtype == KD_I32 && kd_tensor_elements(loss->segments) == n));
    KD_CHECK(loss->balance_sum.data == NULL || loss->balance_sum.dtype == KD_F64);
    KD_CHECK(loss->z_sum.data == NULL || loss->z_sum.dtype == KD_F64);
}

/* y by token, x by row of a segment; either may be a gradient. */
static void check_places(kd_tensor y, kd_tensor x, const kd_route *route)
{
    check_shape(y, kd_tensor_rows(route->position), kd_tensor_columns(x));
    KD_CHECK(kd_tensor_rows(x) == kd_tensor_elements(route->token));
}

void kd_check_dispatch(kd_tensor x, kd_tensor y, const kd_route *route)
{
    check_places(y, x, route);
    KD_CHECK(x.dtype == y.dtype);
}

void kd_check_dispatch_backward(kd_tensor dy, kd_tensor dx, const kd_route *route)
{
    check_places(dy, dx, route);
}

void kd_check_combine(const kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route)
{
    check_places(y, x, route);
    KD_CHECK(y.dtype == KD_F32 || y.dtype == be->compute);
}

void kd_check_combine_backward(kd_tensor dx,
                               kd_tensor d_weights,
                               kd_tensor dy,
                               kd_tensor x,
                               const kd_route *route)
{
    check_places(dy, x, route);
    check_same(dx, x);
    KD_CHECK(dy.dtype == KD_F32 && d_weights.dtype == KD_F32);
    KD_CHECK(kd_tensor_elements(d_weights) == kd_tensor_elements(route->position));
}

static void check_gated(kd_tensor y, kd_tensor x, kd_tensor gate)
{
    KD_CHECK(gate.dtype == KD_F32);
    check_shape(x, kd_tensor_rows(y), kd_tensor_columns(y));
    check_shape(gate, kd_tensor_rows(y), 1);
}

void kd_check_gated_add(const kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate)
{
    check_gated(y, x, gate);
    KD_CHECK(x.dtype == be->compute && (y.dtype == KD_F32 || y.dtype == x.dtype));
}

void kd_check_gated_add_backward(kd_tensor dx,
                                 kd_tensor d_gate,
                                 kd_tensor dy,
                                 kd_tensor x,
                                 kd_tensor gate)
{
    check_gated(dy, x, gate);
    check_same(dx, x);
    KD_CHECK(dy.dtype == KD_F32 && d_gate.dtype == KD_F32);
    KD_CHECK(kd_tensor_rows(d_gate) == kd_tensor_rows(dy));
}

/* ---- losses and updates ---- */

static void check_teacher(const kd_vocab_loss *loss, const kd_vocab_teacher *teacher)
{
    const bool forms = teacher->hidden.data != NULL;
    KD_CHECK(teacher->weight >= 0.0);
    KD_CHECK(kd_tensor_rows(forms ? teacher->hidden : teacher->logits) ==
             kd_tensor_rows(loss->hidden));
    KD_CHECK(!forms || is_real(teacher->lm_head.dtype));
    KD_CHECK(loss->n_vocab <=
             (forms ? kd_tensor_rows(teacher->lm_head) : kd_tensor_columns(teacher->logits)));
}

static void check_gradient(kd_tensor gradient, kd_tensor of)
{
    if (gradient.data != NULL) {
        KD_CHECK(gradient.dtype == KD_F32);
        check_shape(gradient, kd_tensor_rows(of), kd_tensor_columns(of));
    }
}

void kd_check_vocab_loss(const kd_backend *be, const kd_vocab_loss *loss)
{
    KD_CHECK(loss->hidden.dtype == be->compute && loss->lm_head.dtype == be->compute);
    KD_CHECK(kd_tensor_columns(loss->lm_head) == kd_tensor_columns(loss->hidden));
    KD_CHECK(loss->sums.dtype == KD_F64);
    KD_CHECK(loss->labels.data == NULL ||
             kd_tensor_elements(loss->labels) == kd_tensor_rows(loss->hidden));
    KD_CHECK(loss->temperature > 0.0f);
    check_gradient(loss->d_hidden, loss->hidden);
    check_gradient(loss->d_lm_head, loss->lm_head);
    KD_CHECK(loss->n_teachers == 0 ||
             (loss->n_vocab >= 1 && loss->n_vocab <= kd_tensor_rows(loss->lm_head)));
    for (int t = 0; t < loss->n_teachers; t++) {
        check_teacher(loss, &loss->teachers[t]);
    }
}

void kd_check_sum_squares(kd_tensor sum, kd_tensor x)
{
    KD_CHECK(x.dtype == KD_F32 && sum.dtype == KD_F64);
    KD_CHECK(x.row_stride == kd_tensor_columns(x));
}

void kd_check_adamw(const kd_adamw *args)
{
    const int64_t n = kd_tensor_elements(args->param);
    KD_CHECK(kd_tensor_elements(args->grad) == n);
    KD_CHECK(kd_tensor_elements(args->m) == n && kd_tensor_elements(args->v) == n);
    KD_CHECK(args->copy.data == NULL ||
             (args->copy.dtype == KD_BF16 && kd_tensor_elements(args->copy) == n));
    KD_CHECK(args->step >= 1);
    for (int i = 0; i < args->n_guards; i++) {
        KD_CHECK(args->guards[i].dtype == KD_F64);
    }
}
