/*
 * router.cu - chooses, and then sorts by counting: how many of each block of tokens each expert
 * gets, where segments and the blocks' parts of them begin, and where each choice goes. A token
 * picks an expert at most once, so a block's choices of one expert are a bit for each of its
 * tokens: counts and places are counts of bits, the same whatever order they were set in, and
 * segments are in the order of tokens.
 */
#include "tensor/cuda/cuda.h"

enum {
    TOKENS = 64, /* of a block */
    WORDS = TOKENS / 32,
    WARPS = 16,
    THREADS = 32 * WARPS,
    LAY_OUT_THREADS = KD_EXPERTS_MAX, /* one an expert at least */
    SLICES_MAX = 32,
};

struct routing {
    const float *logits; /* (N, E) */
    float *probs;        /* (N, E) */
    int64_t logits_stride, probs_stride;
    int32_t *experts, *position; /* (N, K) */
    float *weights;              /* (N, K) */
    int32_t *token;              /* (R) */
    int32_t *offset;             /* (E + 1) */
    int32_t *start; /* (blocks, E): an expert's tokens in a block; later the first one's row */
    int64_t n_tokens, n_rows; /* N, R */
    int n_blocks, n_experts, k, tile;
    bool renormalise;
};

/* ---- choosing ---- */

/* As the CPU's: never 0 or subnormal, so that what is far below ties there and here; a NaN stays
 * one. */
KD_FN float exp_cut(float x)
{
    return expf(x < -87.33654f ? -87.33654f : x);
}

/* Order of probabilities as one of integers: 0 is below all, a NaN above all and equal to any
 * other. */
KD_FN unsigned key_of(float p)
{
    return p != p ? 0x80000000u : __float_as_uint(p) + 1;
}

KD_FN float probability_of(unsigned key)
{
    return __uint_as_float(key - 1);
}

/* Softmax of a token's logits; lane l holds experts l, l + 32, ..., and keeps their keys, 0
 * behind E. */
template <int PER_LANE>
KD_FN void softmax(unsigned (&key)[PER_LANE], const routing &r, int64_t token)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float *logits = r.logits + token * r.logits_stride;
    float *probs = r.probs + token * r.probs_stride;
    float p[PER_LANE], largest = -INFINITY, sum = 0.0f;

#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int e = lane + 32 * i;
        p[i] = e < r.n_experts ? logits[e] : -INFINITY;
        largest = fmaxf(largest, p[i]);
    }
    largest = kd_warp_max(largest);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        p[i] = lane + 32 * i < r.n_experts ? exp_cut(p[i] - largest) : 0.0f;
        sum += p[i];
    }
    const float scale = 1.0f / kd_warp_sum(sum);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int e = lane + 32 * i;
        key[i] = 0;
        if (e < r.n_experts) {
            p[i] *= scale;
            probs[e] = p[i];
            key[i] = key_of(p[i]);
        }
    }
}

/* K times the largest that is left, of those the lowest id. Lane l writes choices l, l + 32, ... */
template <int PER_LANE> KD_FN void pick(unsigned (&key)[PER_LANE], const routing &r, int64_t token)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    int32_t *experts = r.experts + token * r.k;
    float *weights = r.weights + token * r.k;
    float sum = 0.0f;

    for (int j = 0; j < r.k; j++) {
        unsigned best = 0;
        int at = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            at = key[i] > best ? lane + 32 * i : at;
            best = key[i] > best ? key[i] : best;
        }
        const unsigned top = __reduce_max_sync(~0u, best);
        const int e =
            static_cast<int>(__reduce_min_sync(~0u, best == top ? static_cast<unsigned>(at) : ~0u));
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            key[i] = e == lane + 32 * i ? 0 : key[i];
        }
        sum += probability_of(top);
        if (lane == j % 32) {
            experts[j] = e;
            weights[j] = probability_of(top);
        }
    }
    for (int j = lane; r.renormalise && j < r.k; j += 32) {
        weights[j] /= sum;
    }
}

/* ---- sorting ---- */

/* Sets bit t of an expert's mask where token t of this block chose it. The block has its
 * barriers here. */
KD_FN void mark_choices(unsigned (*mask)[KD_EXPERTS_MAX], const routing &r, int64_t first)
{
    const int n = static_cast<int>(min(int64_t{TOKENS}, r.n_tokens - first)) * r.k;
    const int32_t *experts = r.experts + first * r.k;

    for (int i = static_cast<int>(threadIdx.x); i < WORDS * r.n_experts; i += THREADS) {
        mask[i / r.n_experts][i % r.n_experts] = 0;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < n; i += THREADS) {
        const int t = i / r.k;
        (void)atomicOr(&mask[t / 32][experts[i]], 1u << t % 32);
    }
    __syncthreads();
}

/*
 * Softmax and the K largest, a warp a token, TOKENS tokens a block; then how many of them each
 * expert gets.
 *   probs = softmax(logits)
 * Bytes: logits and probs (N, E) once, (N, K) ids and weights once, token numbers (R) once; what
 * each of PER_LANE registers holds is read and written by 32 neighbours.
 */
template <int PER_LANE> static __global__ void __launch_bounds__(THREADS, 1) choose(routing r)
{
    KD_SHARED(unsigned, mask, [WORDS][KD_EXPERTS_MAX]);
    const int64_t first = int64_t{blockIdx.x} * TOKENS;

    for (int t = static_cast<int>(threadIdx.x / 32); t < TOKENS && first + t < r.n_tokens;
         t += WARPS) {
        unsigned key[PER_LANE];
        softmax(key, r, first + t);
        pick(key, r, first + t);
    }
    for (int64_t row = int64_t{blockIdx.x} * THREADS + threadIdx.x; row < r.n_rows;
         row += int64_t{gridDim.x} * THREADS) {
        r.token[row] = -1; /* what place() leaves so is padding */
    }
    mark_choices(mask, r, first);
    for (int e = static_cast<int>(threadIdx.x); e < r.n_experts; e += THREADS) {
        int count = 0;
        for (int w = 0; w < WORDS; w++) {
            count += __popc(mask[w][e]);
        }
        r.start[int64_t{blockIdx.x} * r.n_experts + e] = count;
    }
}

/* Sum over the threads before this one in a block of LAY_OUT_THREADS. */
KD_FN int sum_before(int v)
{
    KD_SHARED(int, of_warp, [LAY_OUT_THREADS / 32]);
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    int sum = v;

    for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(~0u, sum, d);
        sum += lane >= d ? other : 0;
    }
    if (lane == 31) {
        of_warp[warp] = sum;
    }
    __syncthreads();
    for (int w = 0; w < warp; w++) {
        sum += of_warp[w];
    }
    return sum - v;
}

/* Counts of blocks [begin, end) become rows from `row` on; or are only added up, with `row`
 * below 0. */
KD_FN int walk_blocks(const routing &r, int e, int begin, int end, int row)
{
    int count = 0;

    for (int b = begin; b < end; b++) {
        int32_t *at = &r.start[int64_t{b} * r.n_experts + e];
        const int n = *at;
        if (row >= 0) {
            *at = row + count;
        }
        count += n;
    }
    return count;
}

/*
 * One block: where segments begin, each rounded up to whole tiles, and in them each block's part. A
 * thread walks a slice of the blocks for one expert, first to add up, then to number. Bytes:
 * (blocks, E) twice read, once written.
 */
static __global__ void __launch_bounds__(LAY_OUT_THREADS) lay_out(routing r)
{
    KD_SHARED(int, part, [LAY_OUT_THREADS]);
    KD_SHARED(int, segment, [KD_EXPERTS_MAX]);
    const int thread = static_cast<int>(threadIdx.x);
    const int e = thread % r.n_experts, slice = thread / r.n_experts;
    const int n_slices = min(LAY_OUT_THREADS / r.n_experts, int{SLICES_MAX});
    const int per_slice = (r.n_blocks + n_slices - 1) / n_slices;
    const int begin = slice < n_slices ? min(slice * per_slice, r.n_blocks) : r.n_blocks;
    const int end = min(begin + per_slice, r.n_blocks);
    int before = 0, total = 0;

    part[thread] = walk_blocks(r, e, begin, end, -1);
    __syncthreads();
    for (int s = 0; s < n_slices; s++) {
        before += s < slice ? part[s * r.n_experts + e] : 0;
        total += part[s * r.n_experts + e];
    }
    const int rounded = slice == 0 ? (total + r.tile - 1) / r.tile * r.tile : 0;
    const int row = sum_before(rounded); /* of slice 0: thread e is expert e */
    if (slice == 0) {
        segment[e] = r.offset[e] = row;
    }
    if (thread == r.n_experts - 1) {
        r.offset[r.n_experts] = row + rounded;
    }
    __syncthreads();
    (void)walk_blocks(r, e, begin, end, segment[e] + before);
}

/*
 * Where each choice goes: the row at which its block's part of the segment begins, and how many of
 * the block's tokens before it chose the same expert. Bytes: (N, K) ids read, places written; token
 * numbers scattered.
 */
static __global__ void __launch_bounds__(THREADS) place(routing r)
{
    KD_SHARED(unsigned, mask, [WORDS][KD_EXPERTS_MAX]);
    const int64_t first = int64_t{blockIdx.x} * TOKENS;
    const int n = static_cast<int>(min(int64_t{TOKENS}, r.n_tokens - first)) * r.k;

    mark_choices(mask, r, first);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += THREADS) {
        const int t = i / r.k, e = r.experts[first * r.k + i];
        int row = r.start[int64_t{blockIdx.x} * r.n_experts + e];
        for (int w = 0; w < t / 32; w++) {
            row += __popc(mask[w][e]);
        }
        row += __popc(mask[t / 32][e] & ((1u << t % 32) - 1));
        r.position[first * r.k + i] = row;
        r.token[row] = static_cast<int32_t>(first + t);
    }
}

/* ---- backward ---- */

struct route_gradient {
    const float *probs;               /* (N, E) */
    const float *d_weights, *weights; /* (N, K) */
    const int32_t *experts;           /* (N, K) */
    float *d_logits;                  /* (N, E) */
    int64_t probs_stride, d_logits_stride, n_tokens;
    int n_experts, k;
    bool renormalise;
};

/*
 * A warp a token. By the probability of choice j, and by the logit of expert e:
 *   g_j = dw_j, renormalised: (dw_j - sum_i dw_i w_i) / sum_i p_i     (sums over the chosen)
 *   d_e = p_e (g_e - sum_j g_j p_j), g_e = 0 where e was not chosen
 * Bytes: probs read and d_logits written (N, E) once; (N, K) ids, weights and their gradient read.
 */
static __global__ void __launch_bounds__(THREADS) choose_backward(route_gradient r)
{
    const int64_t token = int64_t{blockIdx.x} * WARPS + threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float *probs = r.probs + token * r.probs_stride;
    const float *weights = r.weights + token * r.k, *dw = r.d_weights + token * r.k;
    const int32_t *experts = r.experts + token * r.k;
    float *d = r.d_logits + token * r.d_logits_stride;
    float chosen = 1.0f, mean = 0.0f, dot = 0.0f;

    if (token >= r.n_tokens) {
        return;
    }
    if (r.renormalise) {
        chosen = 0.0f;
        for (int j = lane; j < r.k; j += 32) {
            chosen += probs[experts[j]];
            mean += dw[j] * weights[j];
        }
        chosen = kd_warp_sum(chosen);
        mean = kd_warp_sum(mean);
    }
    for (int j = lane; j < r.k; j += 32) {
        dot += (dw[j] - mean) / chosen * probs[experts[j]];
    }
    dot = kd_warp_sum(dot);
    for (int e = lane; e < r.n_experts; e += 32) {
        d[e] = probs[e] * (0.0f - dot);
    }
    __syncwarp(); /* the chosen are written once more, by other lanes */
    for (int j = lane; j < r.k; j += 32) {
        d[experts[j]] = probs[experts[j]] * ((dw[j] - mean) / chosen - dot);
    }
}

/* ---- the table's functions ---- */

static routing routing_of(kd_backend *be, const kd_route *route, kd_tensor logits)
{
    routing r = {};
    r.logits = kd_cuda_data<float>(logits);
    r.logits_stride = logits.row_stride;
    r.probs = kd_cuda_data<float>(route->probs);
    r.probs_stride = route->probs.row_stride;
    r.experts = kd_cuda_data<int32_t>(route->experts);
    r.position = kd_cuda_data<int32_t>(route->position);
    r.weights = kd_cuda_data<float>(route->weights);
    r.token = kd_cuda_data<int32_t>(route->token);
    r.offset = kd_cuda_data<int32_t>(route->offset);
    r.n_tokens = kd_tensor_rows(logits);
    r.n_rows = kd_tensor_elements(route->token);
    r.n_blocks = static_cast<int>(r.n_tokens == 0 ? 1 : kd_cuda_blocks(r.n_tokens, TOKENS));
    r.n_experts = static_cast<int>(kd_tensor_columns(logits));
    r.k = static_cast<int>(kd_tensor_columns(route->experts));
    r.tile = static_cast<int>(be->expert_tile);
    r.renormalise = route->renormalise;
    return r;
}

/* By the logits of a lane. */
static void (*choose_for(int n_experts))(routing)
{
    static_assert(KD_EXPERTS_MAX == 32 * 32, "the last holds them all");
    return n_experts <= 32    ? choose<1>
           : n_experts <= 64  ? choose<2>
           : n_experts <= 128 ? choose<4>
           : n_experts <= 256 ? choose<8>
           : n_experts <= 512 ? choose<16>
                              : choose<32>;
}

void kd_cuda_route(kd_backend *be, const kd_route *route, kd_tensor logits)
{
    const size_t mark = kd_cuda_scratch_mark(be);

    kd_check_route(be, route, logits);
    routing r = routing_of(be, route, logits);
    const size_t n_counts = static_cast<size_t>(r.n_blocks) * static_cast<size_t>(r.n_experts);
    r.start = static_cast<int32_t *>(kd_cuda_scratch(be, n_counts * sizeof *r.start));
    const unsigned n_blocks = static_cast<unsigned>(r.n_blocks);
    kd_cuda_launch(be, "route", choose_for(r.n_experts), n_blocks, THREADS, 0, r);
    kd_cuda_launch(be, "route", lay_out, 1, LAY_OUT_THREADS, 0, r);
    kd_cuda_launch(be, "route", place, n_blocks, THREADS, 0, r);
    kd_cuda_scratch_rewind(be, mark);
}

void kd_cuda_route_backward(kd_backend *be,
                            kd_tensor d_logits,
                            kd_tensor d_weights,
                            kd_tensor logits,
                            const kd_route *route)
{
    const int64_t n = kd_tensor_rows(logits), n_experts = kd_tensor_columns(logits);
    const int64_t k = kd_tensor_columns(route->experts);
    route_gradient r = {};

    kd_check_route_backward(be, d_logits, d_weights, logits, route);
    r.probs = kd_cuda_data<float>(route->probs);
    r.probs_stride = route->probs.row_stride;
    r.d_weights = kd_cuda_data<float>(d_weights);
    r.weights = kd_cuda_data<float>(route->weights);
    r.experts = kd_cuda_data<int32_t>(route->experts);
    r.d_logits = kd_cuda_data<float>(d_logits);
    r.d_logits_stride = d_logits.row_stride;
    r.n_tokens = n;
    r.n_experts = static_cast<int>(n_experts);
    r.k = static_cast<int>(k);
    r.renormalise = route->renormalise;
    kd_cuda_launch(be, "route_backward", choose_backward, kd_cuda_blocks(n, WARPS), THREADS, 0, r);
}
