/* Every writer of a parameter's gradient writes it whole, or adds to it, as it is told. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/support/ops_check.h"

enum { N = 35, IN = 17, OUT = 12, HEADS = 3, EXPERTS = 4, ROWS = 96, VOCAB = 37 };

/* Operands that all writers take theirs from. */
typedef struct operands {
    kd_backend *be;
    kd_tensor x, dy, dy32, x32, rows, d_rows;
    kd_tensor w_in, w_head, rstd, d32, d_out;
    kd_tensor ids, offset;
    kd_route route;
} operands;

static void make(operands *o, kd_dtype compute, int n_threads)
{
    static const int32_t offset[EXPERTS + 1] = {0, 64, 64, 96, 96}; /* two have no rows */
    o->be = kd_test_backend(compute, n_threads);
    o->x = kd_test_padded(compute, N, IN, 3, 1);
    o->dy = kd_test_padded(compute, N, OUT, 1, 2);
    o->dy32 = kd_test_random(KD_F32, N, OUT, 3);
    o->x32 = kd_test_random(KD_F32, N, OUT, 4);
    o->rows = kd_test_random(compute, ROWS, IN, 5);
    o->d_rows = kd_test_random(compute, ROWS, OUT, 6);
    o->w_in = kd_test_random(KD_F32, 1, OUT, 7);
    o->w_head = kd_test_random(KD_F32, 1, OUT / HEADS, 8);
    o->rstd = kd_test_random(KD_F32, N, HEADS, 9);
    o->d32 = kd_test_zeros(KD_F32, N, OUT);
    o->d_out = kd_test_zeros(compute, N, OUT);
    int32_t ids[N];
    for (int i = 0; i < N; i++) {
        ids[i] = i * 5 % (VOCAB - 4);
    }
    o->ids = kd_test_i32(ids, N);
    o->offset = kd_test_i32(offset, EXPERTS + 1);
    o->route = (kd_route){.offset = o->offset};
}

static void release(operands *o)
{
    const kd_tensor all[] = {o->x,      o->dy,   o->dy32, o->x32,   o->rows, o->d_rows, o->w_in,
                             o->w_head, o->rstd, o->d32,  o->d_out, o->ids,  o->offset};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(o->be);
}

static kd_tensor as_vector(kd_tensor t)
{
    return kd_tensor_1d(t.data, t.dtype, kd_tensor_elements(t));
}

static void linear(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->linear_backward_w(o->be, grad, o->dy, o->x, accumulate);
}

/* A gradient that comes in f32, as that of the residual stream does. */
static void linear_f32(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->linear_backward_w(o->be, grad, o->dy32, o->x, accumulate);
}

static void linear_without_rows(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->linear_backward_w(o->be, grad, kd_tensor_slice_rows(o->dy, 0, 0),
                                  kd_tensor_slice_rows(o->x, 0, 0), accumulate);
}

static void bias(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->bias_backward(o->be, as_vector(grad), o->dy, accumulate);
}

static void experts(operands *o, kd_tensor grad, bool accumulate)
{
    const kd_tensor dw = kd_tensor_3d(grad.data, KD_F32, EXPERTS, OUT, IN);
    o->be->ops->experts_backward_w(o->be, dw, o->d_rows, o->rows, &o->route, accumulate);
}

static void embed(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->embed_backward(o->be, grad, o->dy32, o->ids, accumulate);
}

static void norm(operands *o, kd_tensor grad, bool accumulate)
{
    const kd_tensor rstd = kd_tensor_1d(o->rstd.data, KD_F32, N);
    o->be->ops->norm_backward(o->be, o->d32, as_vector(grad), o->dy, o->x32, as_vector(o->w_in),
                              rstd, accumulate);
}

static void head_norm(operands *o, kd_tensor grad, bool accumulate)
{
    o->be->ops->head_norm_backward(o->be, o->d_out, as_vector(grad), o->dy, o->dy,
                                   as_vector(o->w_head), o->rstd, HEADS, accumulate);
}

static void head_norm_rotate(operands *o, kd_tensor grad, bool accumulate)
{
    const kd_tensor dy = kd_test_zeros(o->be->compute, N, OUT),
                    table = kd_test_random(KD_F32, N, OUT / HEADS, 9);
    const kd_rotation by = {.table = table, .positions = kd_tensor_none(), .n_heads = HEADS};
    o->be->ops->copy(o->be, dy, o->dy); /* what goes in is used up */
    o->be->ops->head_norm_rotate_backward(o->be, o->d_out, as_vector(grad), dy, o->dy,
                                          as_vector(o->w_head), o->rstd, accumulate, &by);
    kd_test_free(dy);
    kd_test_free(table);
}

static void vocab_loss(operands *o, kd_tensor grad, bool accumulate)
{
    const kd_tensor lm_head = kd_test_zeros(o->be->compute, VOCAB, IN);
    const kd_tensor sums = kd_test_zeros(KD_F64, 1, KD_VOCAB_SUMS);
    const kd_vocab_loss loss = {
        .hidden = o->x,
        .lm_head = lm_head,
        .labels = o->ids,
        .sums = sums,
        .d_lm_head = grad,
        .accumulate = accumulate,
        .temperature = 1.0f,
        .hard_scale = 1.0f,
        .chunk_rows = 10,
    };
    o->be->ops->vocab_loss(o->be, &loss);
    kd_test_free(lm_head);
    kd_test_free(sums);
}

static const struct {
    const char *name;
    void (*run)(operands *o, kd_tensor grad, bool accumulate);
    int64_t rows, columns;
} writers[] = {
    {"linear", linear, OUT, IN},
    {"linear of f32", linear_f32, OUT, IN},
    {"linear without rows", linear_without_rows, OUT, IN},
    {"bias", bias, 1, OUT},
    {"experts", experts, (int64_t)EXPERTS *OUT, IN},
    {"embed", embed, VOCAB, OUT},
    {"norm", norm, 1, OUT},
    {"head_norm", head_norm, 1, OUT / HEADS},
    {"head_norm_rotate", head_norm_rotate, 1, OUT / HEADS},
    {"vocab_loss", vocab_loss, VOCAB, IN},
};

enum { N_WRITERS = sizeof writers / sizeof *writers };

static kd_tensor filled(int64_t rows, int64_t columns, double value)
{
    const kd_tensor t = kd_test_zeros(KD_F32, rows, columns);
    for (int64_t i = 0; i < rows * columns; i++) {
        kd_test_set(t, i / columns, i % columns, value);
    }
    return t;
}

static void expect_writer(int i, operands *o)
{
    const int64_t rows = writers[i].rows, columns = writers[i].columns;
    const kd_tensor written = filled(rows, columns, (double)NAN),
                    added = filled(rows, columns, 0.0), twice = filled(rows, columns, 3.0);
    writers[i].run(o, written, false);
    writers[i].run(o, added, true);
    writers[i].run(o, twice, true);
    writers[i].run(o, twice, true);
    cr_assert_eq(kd_backend_wait(o->be), KD_OK);
    cr_expect_eq(kd_test_nmse(written, added), 0.0, "%s: written is added to zero",
                 writers[i].name);
    for (int64_t e = 0; e < rows * columns; e++) {
        const double once = kd_test_get(written, e / columns, e % columns);
        const double found = kd_test_get(twice, e / columns, e % columns);
        cr_expect_float_eq(found, 3.0 + 2.0 * once, 1e-5 * (3.0 + fabs(once)), "%s: %g and %g",
                           writers[i].name, found, once);
    }
    kd_test_free(written);
    kd_test_free(added);
    kd_test_free(twice);
}

static void expect_all(kd_dtype compute)
{
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        operands o;
        make(&o, compute, n_threads);
        for (int i = 0; i < N_WRITERS; i++) {
            expect_writer(i, &o);
        }
        release(&o);
    }
}

Test(ops_accumulate, every_gradient_is_written_or_added_to_in_f32)
{
    expect_all(KD_F32);
}

Test(ops_accumulate, every_gradient_is_written_or_added_to_in_bf16)
{
    expect_all(KD_BF16);
}
