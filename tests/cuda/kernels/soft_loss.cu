/*
 * soft_loss.cu - clusters and distributed shared memory: KL to the teacher plus cross entropy, and the gradient. A
 * cluster holds one row of both logits in its shared memories, so that global memory is read and written once.
 */
#include "kernels.h"

enum { THREADS = 256, WARPS = THREADS / 32, MAX_CLUSTER = 8 };

static __device__ __forceinline__ float warp_reduce(float v, bool max_of)
{
#pragma unroll
    for (int d = 16; d; d >>= 1) {
        float o = __shfl_xor_sync(~0u, v, d);
        v = max_of ? fmaxf(v, o) : v + o;
    }
    return v;
}

/* Sum or maximum over the cluster of N values a thread.  part and total are shared, and not in use
 * by another reduction: between two there is a cluster barrier, which comes here after total is written. */
template <int N>
static __device__ void
cluster_reduce(float (&v)[N], bool max_of, float (*part)[WARPS], float *total)
{
    for (int i = 0; i < N; i++) {
        float r = warp_reduce(v[i], max_of);
        if (threadIdx.x % 32 == 0)
            part[i][threadIdx.x / 32] = r;
    }
    __syncthreads();
    if (threadIdx.x < N) {
        float r = part[threadIdx.x][0];
        for (int w = 1; w < WARPS; w++)
            r = max_of ? fmaxf(r, part[threadIdx.x][w]) : r + part[threadIdx.x][w];
        total[threadIdx.x] = r;
    }
    kd_cluster_sync();
    for (int i = 0; i < N; i++) {
        v[i] = *kd_map_rank(&total[i], 0);
        for (unsigned c = 1; c < kd_cluster_size(); c++) { /* in the same order in every CTA */
            float o = *kd_map_rank(&total[i], c);
            v[i] = max_of ? fmaxf(v[i], o) : v[i] + o;
        }
    }
}

static __global__ void __launch_bounds__(THREADS) soft_loss(float *__restrict__ loss,
                                                            __nv_bfloat16 *__restrict__ grad,
                                                            const __nv_bfloat16 *__restrict__ z,
                                                            const __nv_bfloat16 *__restrict__ t,
                                                            const int *__restrict__ label,
                                                            int vocab,
                                                            int slice,
                                                            float inv_temp,
                                                            float mix)
{
    KD_DYN_SHARED(float, mem, 16); /* slice logits of the student, slice of the teacher */
    KD_SHARED(float, part, [4][WARPS]);
    KD_SHARED(float, top, [2]);
    KD_SHARED(float, sums, [4]);
    int row = blockIdx.x / kd_cluster_size(), first = kd_cluster_rank() * slice,
        n = max(0, min(slice, vocab - first));
    size_t at = (size_t)row * vocab + first;
    float *sz = mem, *st = mem + slice;

    float m[2] = {-INFINITY, -INFINITY};
    for (int i = threadIdx.x; i < n; i += THREADS) { /* a thread later reads only what it wrote */
        sz[i] = __bfloat162float(z[at + i]);
        st[i] = __bfloat162float(t[at + i]);
        m[0] = fmaxf(m[0], sz[i]);
        m[1] = fmaxf(m[1], st[i]);
    }
    cluster_reduce(m, true, part, top);

    float s[4] = {0, 0, 0,
                  0}; /* of exp(z/T), exp(t/T), exp(z), exp(t/T) (t - z)/T, less the maxima */
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float q = __expf((st[i] - m[1]) * inv_temp);
        s[0] += __expf((sz[i] - m[0]) * inv_temp);
        s[1] += q;
        s[2] += __expf(sz[i] - m[0]);
        s[3] += q * ((st[i] - m[1]) - (sz[i] - m[0])) * inv_temp;
    }
    cluster_reduce(s, false, part, sums);

    int l = label[row];
    float soft = mix / inv_temp, hard = 1 - mix;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float p = __expf((sz[i] - m[0]) * inv_temp) / s[0],
              q = __expf((st[i] - m[1]) * inv_temp) / s[1];
        float h = __expf(sz[i] - m[0]) / s[2] - (first + i == l);
        grad[at + i] = __float2bfloat16(soft * (p - q) + hard * h);
    }
    if (kd_cluster_rank() == 0 && threadIdx.x == 0) {
        float z_label = kd_map_rank(sz, l / slice)[l % slice];
        float kl = s[3] / s[1] + __logf(s[0]) - __logf(s[1]);
        loss[row] = mix / (inv_temp * inv_temp) * kl + hard * (__logf(s[2]) + m[0] - z_label);
    }
    kd_cluster_sync(); /* nobody leaves while its shared memory may be read */
}

cudaError_t emu_soft_loss(float *loss,
                          __nv_bfloat16 *grad,
                          const __nv_bfloat16 *z,
                          const __nv_bfloat16 *t,
                          const int *label,
                          int rows,
                          int vocab,
                          float temperature,
                          float mix,
                          int cluster,
                          cudaStream_t s)
{
    if (cluster < 1 || cluster > MAX_CLUSTER)
        return cudaErrorInvalidValue;
    int slice = (vocab + cluster - 1) / cluster;
    return rows ? kd_launch(soft_loss, rows * cluster, THREADS, cluster, slice * 2 * sizeof(float),
                            s, loss, grad, z, t, label, vocab, slice, 1 / temperature, mix)
                : cudaSuccess;
}
