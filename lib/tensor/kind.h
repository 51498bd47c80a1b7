/*
 * kind.h - what the size of tensors owes to the kind of their device: a back end is made with it, and so is the
 * rehearsal of one of another kind.
 *
 * Pure.
 */
#ifndef KD_TENSOR_KIND_H
#define KD_TENSOR_KIND_H

#include "tensor/ops.h"

/*
 * kd_backend.expert_tile. CPU: products of few shapes are prepared, and padding costs little. CUDA: the rows of a
 * warp's part of a tile, so that a segment ends with whole parts.
 */
static inline int64_t kd_kind_expert_tile(kd_device_kind kind)
{
    static const int64_t tiles[KD_DEVICE_KIND_COUNT] = {
        32, /* KD_DEVICE_CPU  */
        32, /* KD_DEVICE_CUDA */
    };
    return tiles[kind];
}

/* kd_backend.delta. CPU, measured: casts cost more than they save. */
static inline kd_dtype kd_kind_delta(kd_device_kind kind, kd_dtype compute)
{
    return kind == KD_DEVICE_CUDA ? compute : KD_F32;
}

/* Of a back end that is being made, or that is to rehearse another kind's. */
static inline void kd_kind_apply(kd_device_kind kind, kd_backend *be)
{
    be->expert_tile = kd_kind_expert_tile(kind);
    be->delta = kd_kind_delta(kind, be->compute);
}

#endif
