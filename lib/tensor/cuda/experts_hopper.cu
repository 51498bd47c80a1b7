/*
 * experts_hopper.cu - products of the experts by wgmma and TMA, for sm_90a: a second, fast kernel beside those of
 * experts.cu.
 *
 * Idea. As many blocks as there are multiprocessors share the tiles of all experts, 128 by 256 each: a block takes
 * every n-th. Its first warpgroup only loads: TMA brings 64 of the depth after the other into a ring of
 * stages, on into the next tile while sums of the last are written. The two others multiply by wgmma, each 64
 * rows of the tile with sums in registers, or nothing where the segment has none of these rows. One barrier
 * for each stage says that it is full, another that it is empty.
 *
 * Tensor maps are of whole matrices, all experts' rows as one: where segments begin is read on the device, and
 * nothing waits for it on the host. What a box brings along of the neighbours is harmless where it makes
 * rows and columns of c, which are not written; along the depth it is cleared in shared memory before it is
 * multiplied. Each element of c is the sum of one thread, in the order of the depth, so it depends neither
 * on the number of blocks nor on their order.
 */
#include "tensor/cuda/experts.h"

#include "tensor/cuda/operand.h"

/* Of a tile; a stage has K of the depth of both operands. Swizzled rows are 128 bytes, which is K. */
static constexpr int M = 128, N = 256, K = 64, STAGES = 4;
static constexpr int A_SIZE = M * K, B_SIZE = N * K, STAGE_SIZE = A_SIZE + B_SIZE;
static constexpr size_t STAGE_BYTES = sizeof(__nv_bfloat16) * STAGE_SIZE;

static constexpr int WARPGROUP = 128, CONSUMERS = 2 * WARPGROUP, THREADS = WARPGROUP + CONSUMERS;
/* Of a thread, of 65,536 / THREADS = 168 that the launch gives to each. */
static constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;

/* How operands are stored: by the depth as rows of x and w in the forward product, or along M and N. */
template <kd_cuda_grouped KIND> static constexpr bool A_BY_K = KIND != KD_CUDA_GROUPED_DW;
template <kd_cuda_grouped KIND> static constexpr bool B_BY_K = KIND == KD_CUDA_GROUPED_Y;

/* What all blocks know. */
struct problem {
    const int32_t *offset; /* (E + 1) */
    int n_experts, w_rows; /* of an expert's matrix: O */
    int depth;             /* of y and dx */
    int n_row_tiles;       /* of an expert's dw */
    int n_column_tiles;
};

/* A block's, beside the stages. */
struct ring {
    uint64_t full[STAGES], empty[STAGES];
    int first_tile[KD_EXPERTS_MAX + 1]; /* rows of tiles before an expert's; [E]: all */

    /* The last expert whose tiles begin at `tile` or before; those without rows have none, and are before it. */
    __device__ __forceinline__ int expert_of(int n_experts, int tile) const
    {
        int low = 0, high = n_experts;

        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first_tile[middle] <= tile) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return low;
    }
};

/* One tile: its first elements in the maps of a and b, and what it writes. */
struct work {
    int a_mn, a_k, b_mn, b_k, depth;
    int64_t c_row;
    int n_rows, column; /* rows left in c for the expert, from c_row on */
};

/* ---- who does what ---- */

/* By the first warp. */
KD_FN void count_tiles(int *first_tile, const problem &p)
{
    const int lane = static_cast<int>(threadIdx.x);
    int total = 0;

    for (int e0 = 0; e0 < p.n_experts; e0 += 32) {
        const int e = e0 + lane;
        const int n = e < p.n_experts ? (p.offset[e + 1] - p.offset[e] + M - 1) / M : 0;
        int upto = n;
        for (int d = 1; d < 32; d *= 2) {
            const int before = __shfl_up_sync(~0u, upto, d);
            upto += lane >= d ? before : 0;
        }
        if (e < p.n_experts) {
            first_tile[e] = total + upto - n;
        }
        total += __shfl_sync(~0u, upto, 31);
    }
    if (lane == 0) {
        first_tile[p.n_experts] = total;
    }
}

template <kd_cuda_grouped KIND> KD_FN int count_work(const ring &r, const problem &p)
{
    const int n_row_tiles =
        KIND == KD_CUDA_GROUPED_DW ? p.n_experts * p.n_row_tiles : r.first_tile[p.n_experts];
    return n_row_tiles * p.n_column_tiles;
}

/* Columns of the same rows come one after the other, so that blocks at work together read the same rows of a. */
template <kd_cuda_grouped KIND> KD_FN work find_work(const ring &r, const problem &p, int i)
{
    const int row_tile = i / p.n_column_tiles, column = i % p.n_column_tiles * N;

    if constexpr (KIND == KD_CUDA_GROUPED_DW) {
        const int e = row_tile / p.n_row_tiles, row = row_tile % p.n_row_tiles * M;
        const int first = p.offset[e];
        return {row,
                first,
                column,
                first,
                p.offset[e + 1] - first,
                int64_t(e) * p.w_rows + row,
                p.w_rows - row,
                column};
    } else {
        const int e = r.expert_of(p.n_experts, row_tile);
        const int row = p.offset[e] + (row_tile - r.first_tile[e]) * M, w_row = e * p.w_rows;
        const int b_mn = B_BY_K<KIND> ? w_row + column : column, b_k = B_BY_K<KIND> ? 0 : w_row;
        return {row, 0, b_mn, b_k, p.depth, row, p.offset[e + 1] - row, column};
    }
}

/* ---- the warpgroup that loads ---- */

/* MN rows of K elements, or boxes of K rows by 64 along MN, one behind the other. */
template <bool BY_K, int MN>
KD_FN void load_operand(__nv_bfloat16 *to, const CUtensorMap *map, int mn, int k, uint64_t *full)
{
    if constexpr (BY_K) {
        kd_tma_load_2d(to, map, k, mn, full);
    } else {
        for (int i = 0; i < MN; i += K) {
            kd_tma_load_2d(to + i * K, map, mn + i, k, full);
        }
    }
}

/* By one thread. */
template <kd_cuda_grouped KIND>
KD_FN void produce(__nv_bfloat16 *stages,
                   ring &r,
                   const CUtensorMap *a,
                   const CUtensorMap *b,
                   const problem &p)
{
    const int n = count_work<KIND>(r, p);
    unsigned step = 0; /* of all tiles */

    kd_tma_prefetch(a);
    kd_tma_prefetch(b);
    for (int i = static_cast<int>(blockIdx.x); i < n; i += static_cast<int>(gridDim.x)) {
        const work w = find_work<KIND>(r, p, i);
        for (int k = 0; k < w.depth; k += K, step++) {
            const unsigned s = step % STAGES;
            __nv_bfloat16 *stage = stages + s * STAGE_SIZE;
            kd_mbar_wait(&r.empty[s], (step / STAGES & 1) ^ 1); /* at once in the first round */
            kd_mbar_arrive_expect_tx(&r.full[s], STAGE_BYTES);
            load_operand<A_BY_K<KIND>, M>(stage, a, w.a_mn, w.a_k + k, &r.full[s]);
            load_operand<B_BY_K<KIND>, N>(stage + A_SIZE, b, w.b_mn, w.b_k + k, &r.full[s]);
        }
    }
}

/* ---- the warpgroups that multiply ---- */

/*
 * Zeros from row `end` on in each box of operands that are stored along MN, by all consumers: what lies beyond
 * the depth there is another expert's. (Beyond a row of K elements is nothing, and TMA brings zeros.)
 */
template <kd_cuda_grouped KIND> KD_FN void clear_beyond(__nv_bfloat16 *stage, int end)
{
    constexpr int PIECE = KD_VECTOR<__nv_bfloat16>, FIRST = A_BY_K<KIND> ? A_SIZE : 0;

    for (int i = FIRST / PIECE + static_cast<int>(threadIdx.x) - WARPGROUP; i < STAGE_SIZE / PIECE;
         i += CONSUMERS) {
        if (i / (K / PIECE) % K >= end) { /* the swizzle stays within a row */
            kd_store_16(stage + i * PIECE, make_uint4(0, 0, 0, 0));
        }
    }
    kd_fence_async();
    kd_bar_sync(1, CONSUMERS);
}

/*
 * A descriptor of 16 of the depth. Stored by K: 8 rows of 128 bytes after another. Along MN: from 64 to 64 a box
 * further, from 8 to 8 of the depth 8 rows.
 */
template <bool BY_K> KD_FN uint64_t descriptor(const __nv_bfloat16 *operand, int k)
{
    constexpr unsigned ROW_BYTES = K * sizeof(__nv_bfloat16);
    return BY_K ? kd_wgmma_desc(operand + k, 0, 8 * ROW_BYTES)
                : kd_wgmma_desc(operand + k * K, K * ROW_BYTES, 8 * ROW_BYTES);
}

/* A stage, for the 64 rows of a warpgroup; 64 of A are as much further in either order. */
template <kd_cuda_grouped KIND>
KD_FN void multiply_stage(float (&sum)[N / 2], const __nv_bfloat16 *stage, int row)
{
    kd_wgmma_fence();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        kd_wgmma<!A_BY_K<KIND>, !B_BY_K<KIND>>(sum, descriptor<A_BY_K<KIND>>(stage + row * K, k),
                                               descriptor<B_BY_K<KIND>>(stage + A_SIZE, k), 1);
    }
    kd_wgmma_commit();
}

/*
 * One row of a thread's sums, pairs of columns 8 apart, of which n pairs are within c; `at` is the first. All lanes
 * come; rows that are not `there` are not written. Four lanes write 32 bytes side by side.
 */
template <bool ADDS>
KD_FN void put_row(float *at, bool there, int n, const float (&sum)[N / 2], int first)
{
    constexpr int BATCH = 16; /* loads on their way at once */

#pragma unroll
    for (int j0 = 0; j0 < N / 8; j0 += BATCH) {
        float2 old[BATCH] = {};
#pragma unroll
        for (int j = 0; ADDS && j < BATCH; j++) {
            if (there && j0 + j < n) {
                old[j] = kd_load_bytes<float2>(at + (j0 + j) * 8);
            }
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float *two = sum + (j0 + j) * 4 + first;
            if (there && j0 + j < n) {
                kd_store_bytes(at + (j0 + j) * 8,
                               make_float2(old[j].x + two[0], old[j].y + two[1]));
            }
        }
    }
}

/* Neighbours change pairs, so that one has four of the first 8 columns, the other of the next. */
template <bool ADDS>
KD_FN void put_row(__nv_bfloat16 *at, bool there, int n, const float (&sum)[N / 2], int first)
{
    static_assert(!ADDS, "only sums in f32 are added to");
    const bool odd = threadIdx.x % 2 == 1;

    at += odd ? 6 : 0; /* of the next 8, from the neighbour's columns on */
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        const float *two = sum + j * 4 + first;
        const unsigned left = kd_pack(two[0], two[1]), right = kd_pack(two[4], two[5]);
        const unsigned got = __shfl_xor_sync(~0u, odd ? left : right, 1);
        if (there && j + odd < n) {
            kd_store_bytes(at + j * 8, odd ? make_uint2(got, right) : make_uint2(left, got));
        }
    }
}

/* Any columns, at any address. */
template <class Out>
KD_FN void
put_pairs(const kd_result<Out> &c, int64_t row, int64_t column, const float (&sum)[N / 2])
{
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        kd_put_pair(c, row, column + j * 8, sum[j * 4], sum[j * 4 + 1]);
        kd_put_pair(c, row + 8, column + j * 8, sum[j * 4 + 2], sum[j * 4 + 3]);
    }
}

template <bool ADDS, class Out>
KD_FN void
put_tile(const kd_result<Out> &c, const work &w, int group_row, const float (&sum)[N / 2])
{
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp_row = static_cast<int>(threadIdx.x) % WARPGROUP / 32 * 16;
    const int64_t row = group_row + warp_row + lane / 4, column = w.column + lane % 4 * 2;
    const kd_result<Out> tile = {
        c.data + w.c_row * c.stride, w.n_rows, c.columns, c.stride, c.pairs, ADDS};

    if (!(c.columns % 8 == 0 && kd_rows_are_aligned(c.data, c.stride))) {
        put_pairs(tile, row, column, sum);
        return;
    }
    const int n = static_cast<int>((c.columns - w.column) / 8);
    Out *at = tile.data + row * c.stride + column;
    put_row<ADDS>(at, row < w.n_rows, n, sum, 0);
    put_row<ADDS>(at + 8 * c.stride, row + 8 < w.n_rows, n, sum, 2);
}

/* Each warp says of each stage that it needs it no more, whether it multiplied or not. */
template <kd_cuda_grouped KIND, bool ADDS, class Out>
KD_FN void consume(__nv_bfloat16 *stages, ring &r, const kd_result<Out> &c, const problem &p)
{
    const int n = count_work<KIND>(r, p);
    const int group_row = (static_cast<int>(threadIdx.x) / WARPGROUP - 1) * 64;
    const bool speaks = threadIdx.x % 32 == 0;
    unsigned step = 0;

    for (int i = static_cast<int>(blockIdx.x); i < n; i += static_cast<int>(gridDim.x)) {
        const work w = find_work<KIND>(r, p, i);
        float sum[N / 2] = {};
        for (int k = 0; k < w.depth; k += K, step++) {
            __nv_bfloat16 *stage = stages + step % STAGES * STAGE_SIZE;
            kd_mbar_wait(&r.full[step % STAGES], step / STAGES & 1);
            if (!B_BY_K<KIND> && w.depth - k < K) {
                clear_beyond<KIND>(stage, w.depth - k);
            }
            if (group_row < w.n_rows) {
                multiply_stage<KIND>(sum, stage, group_row);
            }
            kd_wgmma_wait<1>(); /* the stage before is done with */
            if (k > 0 && speaks) {
                kd_mbar_arrive(&r.empty[(step - 1) % STAGES]);
            }
        }
        kd_wgmma_wait<0>();
        kd_wgmma_operand(sum);
        if (w.depth > 0 && speaks) {
            kd_mbar_arrive(&r.empty[(step - 1) % STAGES]);
        }
        if (!ADDS || w.depth > 0) {
            put_tile<ADDS>(c, w, group_row, sum);
        }
    }
}

/* ---- the kernel ---- */

KD_FN void set_up(ring &r, const problem &p)
{
    if (threadIdx.x < 32) {
        count_tiles(r.first_tile, p);
    }
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            kd_mbar_init(&r.full[s], 1);
            kd_mbar_init(&r.empty[s], CONSUMERS / 32);
        }
        kd_fence_mbar_init();
        kd_fence_async();
    }
    __syncthreads();
}

/*
 * Formula: experts.h.
 * Shapes: y, dx: c (R, columns), a (R, depth), b (E * O, K); dw: c (E * O, K), a (R, O), b (R, K).
 * Bytes: a is read for every N columns of c, b for every M rows, mostly from the L2 cache; c is written once, and
 * read once where it is added to.
 */
template <kd_cuda_grouped KIND, bool ADDS, class Out>
static __global__ void __launch_bounds__(THREADS, 1)
    multiply_groups(kd_result<Out> c,
                    const __grid_constant__ CUtensorMap a,
                    const __grid_constant__ CUtensorMap b,
                    problem p)
{
    if constexpr (KD_HAS_WGMMA) {
        KD_DYN_SHARED(__nv_bfloat16, stages, 1024); /* where the pattern of the swizzle begins */
        KD_SHARED(ring, r, );

        set_up(r, p);
        if (threadIdx.x < WARPGROUP) {
            kd_setmaxnreg_dec<PRODUCER_REGISTERS>();
            if (threadIdx.x == 0) {
                produce<KIND>(stages, r, &a, &b, p);
            }
        } else {
            kd_setmaxnreg_inc<CONSUMER_REGISTERS>();
            consume<KIND, ADDS>(stages, r, c, p);
        }
    } else {
        __trap();
    }
}

/* ---- launch ---- */

/* Boxes are found by 32 bits, and begin at most N before the end. */
static bool is_operand(kd_tensor t)
{
    const int64_t most = INT32_MAX - N;
    return t.dtype == KD_BF16 && kd_tensor_rows(t) > 0 && kd_tensor_columns(t) > 0 &&
           kd_tensor_rows(t) <= most && kd_tensor_columns(t) <= most &&
           kd_rows_are_aligned(kd_cuda_data<const __nv_bfloat16>(t), t.row_stride);
}

static cudaError_t map_of(CUtensorMap *map, kd_tensor t, bool by_k, int mn)
{
    return kd_tensor_map_2d(map, t.data, static_cast<uint64_t>(kd_tensor_rows(t)),
                            static_cast<uint64_t>(kd_tensor_columns(t)),
                            static_cast<uint64_t>(t.row_stride), by_k ? mn : K, K, KD_SWIZZLE_128);
}

/* Tiles at most, for any routing. */
template <kd_cuda_grouped KIND> static unsigned most_work(kd_tensor c, const problem &p)
{
    const int64_t n_row_tiles = KIND == KD_CUDA_GROUPED_DW ? int64_t(p.n_experts) * p.n_row_tiles
                                                           : kd_tensor_rows(c) / M + p.n_experts;
    return kd_cuda_blocks(n_row_tiles * p.n_column_tiles, 1);
}

template <kd_cuda_grouped KIND, bool ADDS, class Out>
static void
run(kd_backend *be, const char *what, kd_tensor c, kd_tensor a, kd_tensor b, const problem &p)
{
    const unsigned n_tiles = most_work<KIND>(c, p);
    CUtensorMap a_map, b_map;
    int n_blocks = 0;
    cudaError_t error = map_of(&a_map, a, A_BY_K<KIND>, M);

    if (error == cudaSuccess) {
        error = map_of(&b_map, b, B_BY_K<KIND>, N);
    }
    if (error == cudaSuccess) {
        error =
            cudaDeviceGetAttribute(&n_blocks, cudaDevAttrMultiProcessorCount, be->device.number);
    }
    if (kd_cuda_keep(be, error, what)) {
        kd_cuda_launch(be, what, multiply_groups<KIND, ADDS, Out>,
                       n_tiles < static_cast<unsigned>(n_blocks) ? n_tiles : n_blocks, THREADS,
                       STAGES * STAGE_BYTES, kd_cuda_result<Out>(c, ADDS), a_map, b_map, p);
    }
}

bool kd_cuda_grouped_product(kd_backend *be,
                             const char *what,
                             kd_cuda_grouped kind,
                             kd_tensor c,
                             kd_tensor a,
                             kd_tensor b,
                             const kd_route *route,
                             bool accumulate)
{
    const kd_tensor w = kind == KD_CUDA_GROUPED_DW ? c : b;
    const problem p = {kd_cuda_data<const int32_t>(route->offset),
                       static_cast<int>(w.dims[0]),
                       static_cast<int>(w.dims[1]),
                       static_cast<int>(kd_tensor_columns(a)),
                       static_cast<int>(kd_cuda_blocks(w.dims[1], M)),
                       static_cast<int>(kd_cuda_blocks(kd_tensor_columns(c), N))};

    if (be->fault != KD_OK || !kd_cuda_uses(be, KD_CUDA_KERNEL_EXPERTS_FAST) || !is_operand(a) ||
        !is_operand(b)) {
        return false;
    }
    if (kind == KD_CUDA_GROUPED_DW) {
        accumulate ? run<KD_CUDA_GROUPED_DW, true, float>(be, what, c, a, b, p)
                   : run<KD_CUDA_GROUPED_DW, false, float>(be, what, c, a, b, p);
    } else {
        kd_cuda_with_type(c.dtype, [&](auto result) {
            using Out = decltype(result);
            kind == KD_CUDA_GROUPED_Y ? run<KD_CUDA_GROUPED_Y, false, Out>(be, what, c, a, b, p)
                                      : run<KD_CUDA_GROUPED_DX, false, Out>(be, what, c, a, b, p);
        });
    }
    kd_cuda_ran(be, KD_CUDA_KERNEL_EXPERTS_FAST);
    return true;
}
