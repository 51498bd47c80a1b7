/*
 * rotary.h - the turn of one pair of a head, for rotary.cu and for what norms heads on the way.
 *
 * (u, v) = (x_i, x_{i + D/2}) becomes (u cos - v sin, v cos + u sin) with the angle of i at the row's position;
 * back with the sine's other sign. One wording for all, so that all round alike.
 */
#ifndef KD_TENSOR_CUDA_ROTARY_H
#define KD_TENSOR_CUDA_ROTARY_H

#include "tensor/cuda/pieces.h"

struct kd_rotary {
    const float *table; /* (T, D): cosines, then sines */
    int64_t table_stride;
    const int32_t *positions; /* (N), or none: row mod T */
    kd_divisor n_positions;
    kd_divisor head_dim;
    int half;   /* D / 2                        */
    float sign; /* of the sines: -1 turns back  */
    int *trap;
};

/* The angles of a row, below 2^31. */
KD_FN const float *kd_rotary_angles(const kd_rotary &r, unsigned row)
{
    const unsigned position = r.positions != nullptr
                                  ? (unsigned)r.positions[row]
                                  : kd_remainder(row, kd_divide(row, r.n_positions), r.n_positions);
    kd_device_check(position < r.n_positions.divisor, r.trap, KD_TRAP_ROTATE);
    return r.table + (int64_t)position * r.table_stride;
}

KD_FN float kd_turned_low(float u, float v, float cosine, float sine)
{
    return u * cosine - v * sine;
}

KD_FN float kd_turned_high(float u, float v, float cosine, float sine)
{
    return v * cosine + u * sine;
}

/* low and high, at the pair i of a head and behind it, with `angle` at the cosine of i. */
template <int V>
KD_FN void
kd_turn(float (&low)[V], float (&high)[V], const kd_rotary &r, const float *angle, kd_piece piece)
{
    float cosine[V], sine[V];

    kd_read(cosine, angle, piece);
    kd_read(sine, angle + r.half, piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float u = low[i], v = high[i], turn = r.sign * sine[i];
        low[i] = kd_turned_low(u, v, cosine[i], turn);
        high[i] = kd_turned_high(u, v, cosine[i], turn);
    }
}

/* What a tensor of so many columns is turned by. */
static inline kd_rotary
kd_rotary_of(kd_backend *be, kd_tensor x, const kd_rotation *by, bool inverse)
{
    const int64_t head_dim = kd_tensor_columns(x) / by->n_heads;

    KD_CHECK(kd_tensor_rows(x) <= INT32_MAX);
    return {kd_cuda_data<float>(by->table),
            by->table.row_stride,
            kd_cuda_data<int32_t>(by->positions),
            kd_divisor_of(kd_tensor_rows(by->table)),
            kd_divisor_of(head_dim),
            static_cast<int>(head_dim / 2),
            inverse ? -1.0f : 1.0f,
            kd_cuda_of(be)->trap};
}

/* Whether pairs of each head, and their angles, may be moved `width` at once where the tensors may. */
static inline bool kd_rotary_fits(const kd_rotation *by, int64_t head_dim, int width)
{
    return head_dim / 2 % width == 0 && kd_cuda_fits(by->table, width);
}

#endif
