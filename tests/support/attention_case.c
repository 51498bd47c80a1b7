#include "tests/support/attention_case.h"

#include <criterion/criterion.h>

#include "tests/support/ops_check.h"

attention_case
attention_case_make_padded(kd_dtype compute, int n_threads, attention_shape s, int64_t padding)
{
    const int64_t n = s.b * s.t, width = (s.h + 2 * s.g) * s.d;
    attention_case f = {
        .be = kd_test_backend(compute, n_threads),
        .qkv = kd_test_padded(compute, n, width, padding, 1),
        .out = kd_test_zeros(compute, n, s.h * s.d),
        .lse = kd_test_zeros(KD_F32, s.b * s.h, s.t),
        .dqkv = kd_test_padded(compute, n, width, 3 * padding, 2),
        .dout = kd_test_random(compute, n, s.h * s.d, 3),
    };
    f.a = (kd_attention){
        .q = kd_tensor_slice_columns(f.qkv, 0, s.h * s.d),
        .k = kd_tensor_slice_columns(f.qkv, s.h * s.d, s.g * s.d),
        .v = kd_tensor_slice_columns(f.qkv, (s.h + s.g) * s.d, s.g * s.d),
        .out = f.out,
        .lse = f.lse,
        .n_batch = s.b,
        .n_tokens = s.t,
        .n_heads = s.h,
        .n_kv_heads = s.g,
        .head_dim = s.d,
    };
    return f;
}

attention_case attention_case_make(kd_dtype compute, int n_threads, attention_shape s)
{
    return attention_case_make_padded(compute, n_threads, s, 3);
}

void attention_case_release(attention_case *f)
{
    kd_test_free(f->qkv);
    kd_test_free(f->out);
    kd_test_free(f->lse);
    kd_test_free(f->dqkv);
    kd_test_free(f->dout);
    if (f->a.segments.data != NULL) {
        kd_test_free(f->a.segments);
    }
    kd_backend_destroy(f->be);
}

void attention_case_forward(attention_case *f)
{
    f->be->ops->attention(f->be, &f->a);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

void attention_case_backward(attention_case *f)
{
    const kd_attention *a = &f->a;
    const int64_t hd = a->n_heads * a->head_dim, gd = a->n_kv_heads * a->head_dim;
    f->be->ops->attention_backward(f->be, a, kd_tensor_slice_columns(f->dqkv, 0, hd),
                                   kd_tensor_slice_columns(f->dqkv, hd, gd),
                                   kd_tensor_slice_columns(f->dqkv, hd + gd, gd), f->dout);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}
