/*
 * experts.c - one product for each part of an expert's segment. Which sizes occur is up to the routing, so
 * all that can occur are made ready when a matrix is first seen: a step of later hours then meets no new
 * one.
 */
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Which of the three products of an expert; the last is written, or added to what is there. */
typedef enum expert_product {
    FORWARD,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    WEIGHT_GRADIENT_ADDED,
} expert_product;

/* Rows of one product at most. */
#define CHUNK_ROWS_MAX 512

/*
 * A segment is cut into parts as equal as its tiles allow, so that no small and slow product is
 * left at its end. The parts are multiples of the tile: products see 16 shapes, whatever the
 * routing.
 */
static int64_t chunk_rows(int64_t n_left, int64_t tile)
{
    KD_CHECK(n_left % tile == 0);
    const int64_t n_parts = (n_left + CHUNK_ROWS_MAX - 1) / CHUNK_ROWS_MAX;
    const int64_t n_tiles = n_left / tile;
    return (n_tiles + n_parts - 1) / n_parts * tile;
}

/* w[e] of (E, O, K) as a matrix. */
static kd_tensor expert_matrix(kd_tensor w, int64_t e)
{
    KD_CHECK(w.n_dims == 3);
    const size_t bytes = (size_t)(e * w.dims[1] * w.row_stride) * kd_dtype_bytes(w.dtype);
    kd_tensor matrix = kd_tensor_2d((char *)w.data + bytes, w.dtype, w.dims[1], w.dims[2]);
    matrix.row_stride = w.row_stride;
    return matrix;
}

/* x has the width of w's rows, y that of its columns; which of the three is written differs. */
static void run_part(kd_backend *be, expert_product which, kd_tensor y, kd_tensor x, kd_tensor w)
{
    switch (which) {
    case FORWARD:
        KD_KERNEL(linear)(be, y, x, w);
        return;
    case INPUT_GRADIENT:
        KD_KERNEL(linear_backward_x)(be, x, y, w);
        return;
    case WEIGHT_GRADIENT:
        KD_KERNEL(linear_backward_w)(be, w, y, x, false);
        return;
    case WEIGHT_GRADIENT_ADDED:
        KD_KERNEL(linear_backward_w)(be, w, y, x, true);
        return;
    }
}

/*
 * Before matrices of a shape are multiplied for the first time, the products of every number of rows
 * that routing can bring are prepared: afterwards it brings none that is new.
 */
static void prepare(kd_backend *be, expert_product which, kd_tensor y, kd_tensor x, kd_tensor w)
{
    kd_cpu *cpu = (kd_cpu *)be;
    const int64_t n_rows = kd_tensor_rows(x);
    const int64_t most = n_rows < CHUNK_ROWS_MAX ? n_rows : CHUNK_ROWS_MAX;
    const kd_expert_shape shape = {
        .words = {which, most, w.dims[1], w.dims[2], w.dtype, w.row_stride, x.dtype, x.row_stride,
                  y.dtype, y.row_stride},
    };
    for (int i = 0; i < KD_EXPERT_SHAPES_MAX; i++) {
        if (memcmp(&cpu->expert_shapes[i], &shape, sizeof shape) == 0) {
            return;
        }
    }
    cpu->expert_shapes[cpu->n_expert_shapes++ % KD_EXPERT_SHAPES_MAX] = shape;
    cpu->prepares = true;
    for (int64_t n = be->expert_tile; n <= most; n += be->expert_tile) {
        run_part(be, which, kd_tensor_slice_rows(y, 0, n), kd_tensor_slice_rows(x, 0, n),
                 expert_matrix(w, 0));
    }
    cpu->prepares = false;
}

static void run(kd_backend *be,
                expert_product which,
                kd_tensor y,
                kd_tensor x,
                kd_tensor w,
                const kd_route *route)
{
    const int32_t *offset = route->offset.data;
    prepare(be, which, y, x, w);
    if (which == WEIGHT_GRADIENT) { /* parts of a segment behind its first add */
        prepare(be, WEIGHT_GRADIENT_ADDED, y, x, w);
    }
    for (int64_t e = 0; e < w.dims[0] && !be->fault; e++) {
        const kd_tensor we = expert_matrix(w, e);
        if (which == WEIGHT_GRADIENT && offset[e] == offset[e + 1]) {
            KD_KERNEL(zero)(be, we);
        }
        for (int64_t at = offset[e], n; at < offset[e + 1]; at += n) {
            n = chunk_rows(offset[e + 1] - at, be->expert_tile);
            const bool again = which == WEIGHT_GRADIENT && at > offset[e];
            run_part(be, again ? WEIGHT_GRADIENT_ADDED : which, kd_tensor_slice_rows(y, at, n),
                     kd_tensor_slice_rows(x, at, n), we);
        }
    }
}

void KD_KERNEL(
    experts)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w, const kd_route *route)
{
    run(be, FORWARD, y, x, w, route);
}

void KD_KERNEL(experts_backward_x)(kd_backend *be,
                                   kd_tensor dx,
                                   kd_tensor dy,
                                   kd_tensor w,
                                   const kd_route *route)
{
    run(be, INPUT_GRADIENT, dy, dx, w, route);
}

void KD_KERNEL(experts_backward_w)(kd_backend *be,
                                   kd_tensor dw,
                                   kd_tensor dy,
                                   kd_tensor x,
                                   const kd_route *route,
                                   bool accumulate)
{
    run(be, accumulate ? WEIGHT_GRADIENT_ADDED : WEIGHT_GRADIENT, dy, x, dw, route);
}
