/*
 * columns.cu - column sums. A block has 32 pieces side by side and up to 128 rows: each warp sums every
 * eighth row in registers, then the first adds what the warps have, in their order. Reads x once; the sums
 * of nodes are 1/128 of that.
 */
#include "tensor/cuda/columns.h"
#include "tensor/cuda/pieces.h"

/* Rows in flight: those that a thread reads before it adds the first of them. */
enum { WARPS = 8, NODE_ROWS = 128, ROWS_IN_FLIGHT = 4 };

struct node_args {
    float *sum;         /* (nodes, columns) */
    int64_t sum_stride; /* from node to node */
    int64_t rows, columns, x_stride;
    unsigned column_blocks;
    bool aligned, accumulate;
};

/* sum[node] = the sum over the node's rows of x (rows, columns), or += it. */
template <class T>
static __global__ void __launch_bounds__(32 * WARPS) sum_nodes(node_args a, const T *x)
{
    constexpr int V = KD_VECTOR<T>;
    KD_SHARED(float, part, [WARPS][32 * V]);
    const int64_t node = blockIdx.x / a.column_blocks;
    const int64_t first = (int64_t)(blockIdx.x % a.column_blocks) * 32 * V;
    const int64_t column = first + threadIdx.x * V;
    const int64_t end = min(a.rows, (node + 1) * NODE_ROWS);
    const kd_piece piece = kd_piece_of<V>(a.columns - column, a.aligned);
    float v[ROWS_IN_FLIGHT][V], acc[V] = {};

    for (int64_t i = node * NODE_ROWS + threadIdx.y; i < end; i += ROWS_IN_FLIGHT * WARPS) {
#pragma unroll
        for (int k = 0; k < ROWS_IN_FLIGHT; k++) {
            const int64_t row = i + k * WARPS;
            kd_read(v[k], x + row * a.x_stride + column, row < end ? piece : kd_piece{0, false});
        }
#pragma unroll
        for (int k = 0; k < ROWS_IN_FLIGHT * V; k++) {
            acc[k % V] += v[k / V][k % V];
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        part[threadIdx.y][threadIdx.x * V + i] = acc[i];
    }
    __syncthreads();
    const int at = threadIdx.y * 32 + threadIdx.x;
    if (at < 32 * V && first + at < a.columns) {
        float *to = a.sum + node * a.sum_stride + first + at;
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) {
            total += part[w][at];
        }
        *to = a.accumulate ? *to + total : total;
    }
}

static void launch(kd_backend *be, kd_tensor sum, kd_tensor x, int64_t n_nodes, bool accumulate)
{
    kd_cuda_with_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_VECTOR<T>;
        const unsigned column_blocks = kd_cuda_blocks(kd_tensor_columns(x), 32 * V);
        const node_args a = {kd_cuda_data<float>(sum),
                             kd_tensor_columns(x),
                             kd_tensor_rows(x),
                             kd_tensor_columns(x),
                             x.row_stride,
                             column_blocks,
                             kd_cuda_fits(x, V),
                             accumulate};
        kd_cuda_launch(be, "sums of columns", sum_nodes<T>,
                       dim3(kd_cuda_blocks(n_nodes * column_blocks, 1)), dim3(32, WARPS), 0, a,
                       kd_cuda_data<T>(x));
    });
}

void kd_cuda_sum_columns(kd_backend *be, kd_tensor sum, kd_tensor x, bool accumulate)
{
    const size_t mark = kd_cuda_scratch_mark(be);
    const int64_t columns = kd_tensor_columns(x);

    KD_CHECK(sum.dtype == KD_F32 && kd_tensor_elements(sum) == columns);
    while (be->fault == KD_OK && kd_tensor_rows(x) > NODE_ROWS) {
        const int64_t n_nodes = (kd_tensor_rows(x) + NODE_ROWS - 1) / NODE_ROWS;
        const kd_tensor nodes = kd_cuda_scratch_2d(be, KD_F32, n_nodes, columns);
        launch(be, nodes, x, n_nodes, false);
        x = nodes;
    }
    launch(be, sum, x, 1, accumulate);
    kd_cuda_scratch_rewind(be, mark);
}
