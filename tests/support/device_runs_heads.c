/* Attention and SwiGLU. */
#include "tests/support/device_runs.h"

#include "tests/support/ops_check.h"

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

void device_run_attention(side *d)
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
void device_run_attention_backward(side *d)
{
    backward(d, false);
    if (d->s.n >= 30) {
        backward(d, true);
    }
}

void device_run_swiglu(side *d)
{
    CALL(d, swiglu, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, 2 * d->s.c));
}

void device_run_swiglu_backward(side *d)
{
    CALL(d, swiglu_backward, side_out(d, d->compute, d->s.n, 2 * d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), side_in(d, d->compute, d->s.n, 2 * d->s.c));
}
