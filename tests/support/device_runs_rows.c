/* Copies, products, norms: what works on rows. */
#include "tests/support/device_runs.h"

#include "tests/support/ops_check.h"

/* ---- what lies in memory ---- */

void device_run_zero(side *d)
{
    CALL(d, zero, side_out(d, KD_F32, d->s.n, d->s.c));
    CALL(d, zero, side_out(d, d->compute, d->s.n, d->s.c));
}

void device_run_copy(side *d)
{
    const kd_tensor wide = side_in(d, KD_F32, d->s.n, d->s.c),
                    narrow = side_in(d, KD_BF16, d->s.n, d->s.c);
    CALL(d, copy, side_out(d, KD_BF16, d->s.n, d->s.c), wide);
    CALL(d, copy, side_out(d, KD_F32, d->s.n, d->s.c), narrow);
    CALL(d, copy, side_out(d, KD_F32, d->s.n, d->s.c), wide);
    CALL(d, copy, side_out(d, KD_BF16, d->s.n, d->s.c), narrow);
}

void device_run_add(side *d)
{
    CALL(d, add, side_out(d, KD_F32, d->s.n, d->s.c), side_in(d, KD_F32, d->s.n, d->s.c));
    CALL(d, add, side_out(d, KD_F32, d->s.n, d->s.c), side_in(d, KD_BF16, d->s.n, d->s.c));
}

void device_run_upload(side *d)
{
    const kd_tensor host = side_weight(d, d->compute, d->s.n, d->s.c);
    CALL(d, upload, side_out(d, d->compute, d->s.n, d->s.c), host.data);
}

void device_run_download(side *d)
{
    const kd_tensor host = side_gradient(d, d->s.n, d->s.c);
    CALL(d, download, host.data, side_in(d, KD_F32, d->s.n, d->s.c));
}

/* ---- products ---- */

void device_run_linear(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c);
    const kd_tensor w = side_weight(d, d->compute, d->s.o, d->s.c);
    CALL(d, linear, side_out(d, d->compute, d->s.n, d->s.o), x, w);
    CALL(d, linear, side_out(d, KD_F32, d->s.n, d->s.o), x, w);
}

void device_run_linear_backward_x(side *d)
{
    const kd_tensor w = side_weight(d, d->compute, d->s.o, d->s.c);
    CALL(d, linear_backward_x, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.o), w);
    CALL(d, linear_backward_x, side_out(d, KD_F32, d->s.n, d->s.c),
         side_in(d, KD_F32, d->s.n, d->s.o), w);
}

void device_run_linear_backward_w(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c);
    CALL(d, linear_backward_w, side_gradient(d, d->s.o, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.o), x, false);
    CALL(d, linear_backward_w, side_gradient(d, d->s.o, d->s.c), side_in(d, KD_F32, d->s.n, d->s.o),
         x, true);
}

void device_run_bias(side *d)
{
    CALL(d, bias, side_out(d, d->compute, d->s.n, d->s.c), side_in_1d(d, d->s.c));
}

void device_run_bias_backward(side *d)
{
    const kd_tensor dy = side_in(d, d->compute, d->s.n, d->s.c);
    CALL(d, bias_backward, side_out_1d(d, KD_F32, d->s.c), dy, false);
    CALL(d, bias_backward, side_out_1d(d, KD_F32, d->s.c), dy, true);
}

/* ---- embedding, norms, rotation ---- */

void device_run_embed(side *d)
{
    const kd_tensor which = side_ids(d, d->s.n, d->s.o);
    CALL(d, embed, side_out(d, KD_F32, d->s.n, d->s.c), side_weight(d, d->compute, d->s.o, d->s.c),
         which);
    CALL(d, embed, side_out(d, KD_F32, d->s.n, d->s.c), side_weight(d, KD_F32, d->s.o, d->s.c),
         which);
}

void device_run_embed_backward(side *d)
{
    const kd_tensor which = side_ids(d, d->s.n, d->s.o), dy = side_in(d, KD_F32, d->s.n, d->s.c);
    CALL(d, embed_backward, side_gradient(d, d->s.o, d->s.c), dy, which, false);
    CALL(d, embed_backward, side_gradient(d, d->s.o, d->s.c), dy, which, true);
}

void device_run_norm(side *d)
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

void device_run_norm_backward(side *d)
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

void device_run_head_norm(side *d)
{
    const int64_t width = d->s.heads * d->s.dim;
    const kd_tensor x = side_in(d, d->compute, d->s.n, width);
    CALL(d, head_norm, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, d->s.dim),
         side_gradient(d, d->s.n, d->s.heads), d->s.heads, 1e-5f);
    CALL(d, head_norm, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, width),
         side_gradient(d, d->s.n, 1), 1, 1e-5f);
}

void device_run_head_norm_backward(side *d)
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

/* Each position has more than one row. */
static kd_rotation rotation_of(side *d, bool has_positions)
{
    const int64_t n_positions = (d->s.n + 1) / 2 + 1;
    return (kd_rotation){
        .table = side_weight(d, KD_F32, n_positions, d->s.dim),
        .positions = has_positions ? side_ids(d, d->s.n, n_positions) : kd_tensor_none(),
        .n_heads = d->s.heads,
    };
}

void device_run_rotate(side *d)
{
    const kd_rotation by_row = rotation_of(d, false), by_position = rotation_of(d, true);
    const int64_t width = d->s.heads * d->s.dim;
    CALL(d, rotate, side_out(d, d->compute, d->s.n, width), &by_row, false);
    CALL(d, rotate, side_out(d, d->compute, d->s.n, width), &by_position, true);
}

void device_run_head_norm_rotate(side *d)
{
    const kd_rotation by_row = rotation_of(d, false), by_position = rotation_of(d, true);
    const int64_t heads = d->s.heads, width = heads * d->s.dim;
    const kd_tensor x = side_in(d, d->compute, d->s.n, width);
    CALL(d, head_norm_rotate, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, d->s.dim),
         side_gradient(d, d->s.n, heads), 1e-5f, &by_row);
    CALL(d, head_norm_rotate, side_out(d, d->compute, d->s.n, width), x, side_in_1d(d, width),
         side_gradient(d, d->s.n, 1), 1e-5f, &by_position);
}

/* The gradient that goes in is used up: one for each call. */
static void turn_and_norm_back(side *d,
                               kd_tensor x,
                               int64_t n_parts,
                               bool has_weight,
                               bool adds,
                               const kd_rotation *by)
{
    const int64_t width = d->s.heads * d->s.dim;
    CALL(d, head_norm_rotate_backward, side_out(d, d->compute, d->s.n, width),
         has_weight ? side_out_1d(d, KD_F32, width / n_parts) : kd_tensor_none(),
         side_in(d, d->compute, d->s.n, width), x, side_in_1d(d, width / n_parts),
         side_weight(d, KD_F32, d->s.n, n_parts), adds, by);
}

void device_run_head_norm_rotate_backward(side *d)
{
    const kd_rotation by_row = rotation_of(d, false), by_position = rotation_of(d, true);
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.heads * d->s.dim);
    turn_and_norm_back(d, x, d->s.heads, true, false, &by_row);
    turn_and_norm_back(d, x, d->s.heads, false, false, &by_position);
    turn_and_norm_back(d, x, 1, true, true, &by_position);
}
