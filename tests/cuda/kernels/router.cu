/*
 * router.cu - several launches that build on each other: softmax, top-k and the order of tokens by expert, without
 * atomics.
 */
#include "kernels.h"

enum { WARPS = 4, MAX_EXPERTS = 256, MAX_K = 8, TILE = EMU_ROUTE_TILE };

/* One warp a token; lane l holds experts l, l + 32, ... */
static __global__ void __launch_bounds__(WARPS * 32) route_topk(int *__restrict__ expert,
                                                                float *__restrict__ weight,
                                                                const float *__restrict__ logits,
                                                                int tokens,
                                                                int experts,
                                                                int k)
{
    int token = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens)
        return; /* the whole warp */
    float p[MAX_EXPERTS / 32], top = -INFINITY;
#pragma unroll
    for (int j = 0; j < MAX_EXPERTS / 32; j++) {
        int e = lane + 32 * j;
        p[j] = e < experts ? logits[(size_t)token * experts + e] : -INFINITY;
        top = fmaxf(top, p[j]);
    }
    for (int d = 16; d; d >>= 1)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
#pragma unroll
    for (int j = 0; j < MAX_EXPERTS / 32; j++)
        p[j] = __expf(p[j] - top); /* the sum cancels in the weights */
    float sum = 0, mine = 0;
    int my_expert = 0;
    for (int i = 0; i < k; i++) {
        float best = -1;
        int at = 0;
#pragma unroll
        for (int j = 0; j < MAX_EXPERTS / 32; j++)
            if (p[j] > best) {
                best = p[j];
                at = lane + 32 * j;
            }
        for (int d = 16; d; d >>= 1) {
            float other = __shfl_xor_sync(~0u, best, d);
            int other_at = __shfl_xor_sync(~0u, at, d);
            if (other > best || (other == best && other_at < at)) {
                best = other;
                at = other_at;
            }
        }
#pragma unroll
        for (int j = 0; j < MAX_EXPERTS / 32; j++)
            if (at == lane + 32 * j)
                p[j] = -1;
        if (lane == i) {
            mine = best;
            my_expert = at;
        }
        sum += best;
    }
    if (lane < k) {
        expert[token * k + lane] = my_expert;
        weight[token * k + lane] = mine / sum;
    }
}

/* One block a tile of tokens, one thread an expert, which goes through the tile's entries in order:
 * counts them (place null), or numbers them from the tile's start in the expert's list. */
static __global__ void __launch_bounds__(MAX_EXPERTS) route_tile(int *__restrict__ place,
                                                                 int *__restrict__ tile_count,
                                                                 const int *__restrict__ expert,
                                                                 int entries,
                                                                 int experts,
                                                                 int per_tile)
{
    KD_SHARED(int, entry, [TILE * MAX_K]);
    int first = blockIdx.x * per_tile, n = min(per_tile, entries - first), e = threadIdx.x;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        entry[i] = expert[first + i];
    __syncthreads();
    if (e >= experts)
        return;
    int *slot = &tile_count[blockIdx.x * experts + e], next = place ? *slot : 0;
    for (int i = 0; i < n; i++)
        if (entry[i] == e) {
            if (place)
                place[first + i] = next;
            next++;
        }
    if (!place)
        *slot = next;
}

/* One block: counts of tiles become the places where they start. */
static __global__ void __launch_bounds__(MAX_EXPERTS)
    route_scan(int *__restrict__ offset, int *__restrict__ tile_count, int tiles, int experts)
{
    KD_SHARED(int, warp_total, [MAX_EXPERTS / 32]);
    int e = threadIdx.x, lane = e % 32, total = 0;
    for (int t = 0; e < experts && t < tiles; t++)
        total += tile_count[t * experts + e];
    int before = total; /* inclusive over the warp, then over the warps before */
    for (int d = 1; d < 32; d <<= 1) {
        int v = __shfl_up_sync(~0u, before, d);
        if (lane >= d)
            before += v;
    }
    if (lane == 31)
        warp_total[e / 32] = before;
    __syncthreads();
    for (int w = 0; w < e / 32; w++)
        before += warp_total[w];
    if (e >= experts)
        return;
    offset[e + 1] = before;
    if (e == 0)
        offset[0] = 0;
    int next = before - total;
    for (int t = 0; t < tiles; t++) {
        int n = tile_count[t * experts + e];
        tile_count[t * experts + e] = next;
        next += n;
    }
}

cudaError_t
emu_route(emu_route_out r, const float *logits, int tokens, int experts, int k, cudaStream_t s)
{
    if (experts < k || experts > MAX_EXPERTS || k > MAX_K)
        return cudaErrorInvalidValue;
    int tiles = (tokens + TILE - 1) / TILE, threads = (experts + 31) / 32 * 32;
    cudaError_t e = cudaSuccess;
    if (tiles)
        e = kd_launch(route_topk, (tokens + WARPS - 1) / WARPS, WARPS * 32, 1, 0, s, r.expert,
                      r.weight, logits, tokens, experts, k);
    if (!e && tiles)
        e = kd_launch(route_tile, tiles, threads, 1, 0, s, (int *)nullptr, r.tile_count, r.expert,
                      tokens * k, experts, TILE * k);
    if (!e)
        e = kd_launch(route_scan, 1, MAX_EXPERTS, 1, 0, s, r.offset, r.tile_count, tiles, experts);
    if (!e && tiles)
        e = kd_launch(route_tile, tiles, threads, 1, 0, s, r.place, r.tile_count, r.expert,
                      tokens * k, experts, TILE * k);
    return e;
}
