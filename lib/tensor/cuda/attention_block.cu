/*
 * attention_block.cu - what both directions of attention ask before their kernels run: alignment,
 * and each row's place in its span.
 */
#include <cmath>

#include "tensor/cuda/attention.h"

constexpr int THREADS = 256, STEPS = 8;

/*
 * Rows from row `end` - 1 back to the first that begins a span; `begin` is one for sure. A warp
 * looks at 32 * STEPS rows at once, whose loads do not wait for each other.
 */
static __device__ int64_t back_to_begin(const int32_t *segments, int64_t begin, int64_t end)
{
    const unsigned lane = threadIdx.x % 32;
    for (int64_t back = 0;; back += 32 * STEPS) {
        unsigned nearest = 32 * STEPS;
#pragma unroll
        for (int i = STEPS - 1; i >= 0; i--) {
            const int64_t row = end - 1 - back - i * 32 - lane;
            if (row == begin || (row > begin && segments[row] != segments[row - 1])) {
                nearest = i * 32 + lane;
            }
        }
        nearest = __reduce_min_sync(~0u, nearest);
        if (nearest < 32 * STEPS) {
            return back + nearest;
        }
    }
}

/*
 * places (N) i32: how many rows of its span lie before a row, -1 for padding; segments (N) i32, or
 * none. A thread has a row; a warp's rows whose spans began before them are counted from the first
 * of them, and the search for its beginning is the warp's. Moves 8 bytes a row, and 4 for each row
 * that is searched.
 */
static __global__ void __launch_bounds__(THREADS)
    find_places(int32_t *places, const int32_t *segments, int64_t n_rows, int64_t n_tokens)
{
    const int64_t row = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int64_t at = row % n_tokens; /* in the sequence */
    if (segments == nullptr) {
        if (row < n_rows) {
            places[row] = static_cast<int32_t>(at);
        }
        return;
    }
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t first = row - lane;
    if (first >= n_rows) {
        return;
    }
    const bool inside = row < n_rows;
    const bool begins = inside && (at == 0 || segments[row] != segments[row - 1]);
    const unsigned until_here = __ballot_sync(~0u, begins) & ((2u << lane) - 1u);
    const int64_t before = back_to_begin(segments, first - first % n_tokens, first + 1);
    if (inside) {
        const int64_t place =
            until_here != 0 ? lane - (31 - __clz(static_cast<int>(until_here))) : before + lane;
        places[row] = segments[row] < 0 ? -1 : static_cast<int32_t>(place);
    }
}

kd_attention_shape kd_cuda_attention_shape(kd_backend *be, const kd_attention *a)
{
    const int64_t n = a->n_batch * a->n_tokens;
    int32_t *places =
        static_cast<int32_t *>(kd_cuda_scratch(be, static_cast<size_t>(n) * sizeof(int32_t)));
    if (be->fault == KD_OK) {
        KD_CHECK(a->n_tokens <= INT32_MAX && a->n_heads * a->head_dim <= INT32_MAX);
        kd_cuda_launch(be, "attention's spans", find_places, kd_cuda_blocks(n, THREADS), THREADS, 0,
                       places, kd_cuda_data<const int32_t>(a->segments), n, a->n_tokens);
    }
    kd_attention_shape shape = {};
    shape.places = places;
    shape.n_rows = n;
    shape.n_tokens = a->n_tokens;
    shape.n_heads = static_cast<int>(a->n_heads);
    shape.n_kv_heads = static_cast<int>(a->n_kv_heads);
    shape.head_dim = static_cast<int>(a->head_dim);
    shape.reach =
        static_cast<int>(a->window == 0 || a->window > INT32_MAX ? int64_t{INT32_MAX} : a->window);
    shape.scale = 1.0f / std::sqrt(static_cast<float>(a->head_dim));
    return shape;
}

bool kd_cuda_attention_vectors(int64_t head_dim, const kd_tensor *tensors, int n_tensors)
{
    bool aligned = true;
    for (int i = 0; i < n_tensors; i++) {
        const int64_t per_vector = 16 / static_cast<int64_t>(kd_dtype_bytes(tensors[i].dtype));
        aligned = aligned && kd_cuda_fits(tensors[i], static_cast<int>(per_vector)) &&
                  head_dim % per_vector == 0;
    }
    return aligned;
}
