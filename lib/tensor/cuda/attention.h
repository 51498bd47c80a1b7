/*
 * attention.h - what the forward and the backward pass of attention share.
 *
 * A span is a run of rows that may see each other: a sequence, or a segment of one. It is cut into
 * blocks of KD_ATTENTION_ROWS rows from its first row on, so a row's sums have the same order
 * wherever its span lies: segments give the bits that the same rows give as sequences of their own.
 * The rows of the micro-batch are cut into windows of as many; who has a window computes the blocks
 * that begin in it (one, where no segment ends) and zeroes its rows of padding. So no list of
 * blocks is made, and the host need not know the segments.
 */
#ifndef KD_TENSOR_CUDA_ATTENTION_H
#define KD_TENSOR_CUDA_ATTENTION_H

#include "tensor/cuda/cuda.h"

constexpr int KD_ATTENTION_ROWS = 64;        /* of a block, and of a window            */
constexpr int KD_ATTENTION_WIDEST_MMA = 128; /* columns of a head on the tensor cores  */
constexpr float KD_LOG2_E = 1.44269504f;     /* exp(x) is exp2(x times it)             */

struct kd_attention_shape {
    const int32_t *places; /* (N) a row's place in its span, -1: padding     */
    int64_t n_rows, n_tokens;
    int n_heads, n_kv_heads, head_dim;
    int reach;    /* rows that a row sees at most: itself and those before it */
    bool vectors; /* heads of all rows begin at multiples of 16 bytes and end so */
    float scale;  /* 1 / sqrt(D)                                            */
};

/* Rows of a matrix, or of some of its columns. */
template <class T> struct kd_attention_rows {
    T *data;
    int64_t stride; /* elements from row to row */

    __device__ kd_attention_rows from(int64_t row, int64_t column = 0) const
    {
        return {data + row * stride + column, stride};
    }
};

template <class T> kd_attention_rows<T> kd_attention_rows_of(kd_tensor t)
{
    return {kd_cuda_data<T>(t), t.row_stride};
}

/* Of a call; its places are scratch memory, which is filled on the stream. */
kd_attention_shape kd_cuda_attention_shape(kd_backend *be, const kd_attention *a);

/* Whether 16-byte accesses reach all of a head's columns, in each of the tensors. */
bool kd_cuda_attention_vectors(int64_t head_dim, const kd_tensor *tensors, int n_tensors);

/* Calls f(C type, W), W of the tensor cores' narrowest kernel that holds head_dim; 0: none does. */
template <class F> void kd_cuda_attention_with(kd_dtype compute, int64_t head_dim, F f)
{
    if (compute == KD_F32) {
        f(float{}, std::integral_constant<int, 0>{});
    } else if (head_dim <= 32) {
        f(__nv_bfloat16{}, std::integral_constant<int, 32>{});
    } else if (head_dim <= 64) {
        f(__nv_bfloat16{}, std::integral_constant<int, 64>{});
    } else if (head_dim <= KD_ATTENTION_WIDEST_MMA) {
        f(__nv_bfloat16{}, std::integral_constant<int, KD_ATTENTION_WIDEST_MMA>{});
    } else {
        f(__nv_bfloat16{}, std::integral_constant<int, 0>{});
    }
}

/* ---- in kernels ---- */

/* Whether the row at place `query` of a span sees that at `key`. Behind it the difference is a large number. */
KD_FN bool kd_attention_sees(const kd_attention_shape &s, int query, int key)
{
    return static_cast<unsigned>(query - key) < static_cast<unsigned>(s.reach);
}

/* Where the tiles of `rows` keys begin that rows from a place on see. */
KD_FN int kd_attention_first_key(const kd_attention_shape &s, int place, int rows)
{
    return max(0, place - s.reach + 1) / rows * rows;
}

/* Some rows of a span from a place on. */
struct kd_attention_block {
    int64_t row;
    int place, n_rows;
};

/* Those from a row on that are of the same span, `most` or fewer. Each warp finds it for itself. */
KD_FN kd_attention_block kd_attention_block_at(const kd_attention_shape &s,
                                               int64_t first,
                                               int place,
                                               int most)
{
    int n = 0;
    for (int i = static_cast<int>(threadIdx.x % 32); i - static_cast<int>(threadIdx.x % 32) < most;
         i += 32) {
        const bool same = i < most && first + i < s.n_rows && s.places[first + i] == place + i;
        n += __popc(__ballot_sync(~0u, same));
    }
    return {first, place, n};
}

/* Calls f(block) for each block that begins in the window; all threads come together. */
template <class F>
KD_FN void kd_attention_each_block(const kd_attention_shape &s, int64_t window, F f)
{
    for (int64_t base = window * KD_ATTENTION_ROWS; base < (window + 1) * KD_ATTENTION_ROWS;
         base += 32) {
        const int64_t row = base + threadIdx.x % 32;
        const int place = row < s.n_rows ? s.places[row] : -1;
        unsigned begins = __ballot_sync(~0u, place >= 0 && place % KD_ATTENTION_ROWS == 0);
        for (; begins != 0; begins &= begins - 1) {
            const int64_t first = base + __ffs(static_cast<int>(begins)) - 1;
            f(kd_attention_block_at(s, first, s.places[first], KD_ATTENTION_ROWS));
        }
    }
}

/* Zeroes a head's columns, at which `to` begins, in the window's rows of padding. */
template <class T>
KD_FN void
kd_attention_clear_padding(const kd_attention_shape &s, int64_t window, kd_attention_rows<T> to)
{
    for (unsigned i = threadIdx.x / 32; i < KD_ATTENTION_ROWS; i += blockDim.x / 32) {
        const int64_t row = window * KD_ATTENTION_ROWS + i;
        if (row < s.n_rows && s.places[row] < 0) {
            for (int c = static_cast<int>(threadIdx.x % 32); c < s.head_dim; c += 32) {
                kd_store(to.data + row * to.stride + c, 0.0f);
            }
        }
    }
}

/* Where (B * H, T) has the value of a row and head; the rows of its sequence come after it. */
KD_FN int64_t kd_attention_at(const kd_attention_shape &s, int64_t row, int h)
{
    return (row / s.n_tokens * s.n_heads + h) * s.n_tokens + row % s.n_tokens;
}

#endif
