/*
 * planted.cu - kernels that are wrong on purpose, each in one way, and what the emulator says to them.
 *
 * Each build (plain, AddressSanitizer with UBSan, race detector) has to find the bugs that the table gives it,
 * with the words that the table gives; and to pass the kernel without a bug. A bug runs in a child, which may
 * die of it.
 */
#include "tensor/cuda/device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

enum planted_bug {
    NONE,
    NO_SYNC,
    EXITED_WARP,
    DIVERGENT,
    PAST_SHARED,
    PAST_GLOBAL,
    FULL_MASK,
    NO_ASYNC_WAIT,
    NO_SYNCWARP,
    MISALIGNED,
    MISALIGNED_8,
    LEFT_CLUSTER,
    WRONG_PARITY,
    STAGE_REUSED,
    NO_WGMMA_WAIT,
    BLOCKS_COLLIDE,
    REUSED,
    NO_FENCE_ASYNC,
    SAME_VALUE,
    N_BUGS
};

/* Turns around 128 numbers through shared memory. BUG says which mistake is made. */
template <int BUG> static __global__ void turn(int *out, const int *in)
{
    KD_SHARED(int, a, [128]);
    int t = threadIdx.x, v = 0;
    if (BUG == EXITED_WARP && t / 32 == 2)
        return;
    if (BUG == NO_ASYNC_WAIT) {
        if (t < 32)
            kd_cp_async16(&a[t * 4], &in[t * 4], 16);
        kd_cp_async_commit();
    } else {
        a[BUG == PAST_SHARED && t == 127 ? 128 : t] = in[t];
    }
    if (BUG == DIVERGENT) {
        if (t < 64)
            __syncthreads();
        else
            __syncthreads();
    } else if (BUG == NO_SYNCWARP) {
        if (t / 32 != 3)
            __syncwarp(); /* out of the warp's own part below */
    } else if (BUG != NO_SYNC) {
        __syncthreads();
    }
    v = a[BUG == NO_SYNCWARP ? t ^ 31 : 127 - t];
    if (BUG == REUSED) {
        a[t] = v;
        __syncthreads();
        v = a[t];
    }
    if (BUG == SAME_VALUE) {
        a[5] = 1;
        if (a[5] != 1)
            v = 0;
    }
    if (BUG == FULL_MASK && t % 32 < 16)
        v = __shfl_sync(~0u, v, t % 32);
    if (BUG == MISALIGNED)
        v += (int)kd_load_16(in + 1).x - 1;
    if (BUG == MISALIGNED_8)
        v += (int)kd_load_bytes<uint2>(in + 1).x - 1;
    out[BUG == PAST_GLOBAL && t == 127 ? 128
        : BUG == BLOCKS_COLLIDE        ? t / 2
                                       : t] = BUG == BLOCKS_COLLIDE ? (int)blockIdx.x : v;
}

static __global__ void left_cluster(int *out, const int *in)
{
    KD_SHARED(int, a, [128]);
    a[threadIdx.x] = in[threadIdx.x];
    kd_cluster_sync();
    int v = kd_map_rank(a, kd_cluster_rank() ^ 1)[127 - threadIdx.x];
    if (blockIdx.x == 0)
        out[threadIdx.x] = v;
}

/* 8 tiles of 64 x 64 through one stage; each thread sums its column. */
template <int BUG> static __global__ void tma_sum(int *out, const __grid_constant__ CUtensorMap map)
{
    KD_DYN_SHARED(__nv_bfloat16, mem, 1024);
    KD_SHARED(uint64_t, full, );
    KD_SHARED(uint64_t, empty, );
    if (threadIdx.x == 0) {
        kd_mbar_init(&full, 1);
        kd_mbar_init(&empty, 64);
        kd_fence_mbar_init();
    }
    __syncthreads();
    float s = 0;
    for (int i = 0; i < 8; i++) {
        if (threadIdx.x == 64) {
            if (BUG != STAGE_REUSED)
                kd_mbar_wait(&empty, (i & 1) ^ (BUG != WRONG_PARITY));
            kd_mbar_arrive_expect_tx(&full, 64 * 64 * 2);
            kd_tma_load_2d(mem, &map, 0, i * 64, &full);
        } else if (threadIdx.x < 64) {
            kd_mbar_wait(&full, i & 1);
            for (int r = 0; r < 64; r++)
                s += __bfloat162float(mem[r * 64 + (threadIdx.x ^ (r % 8) << 3)]);
            kd_mbar_arrive(&empty);
        }
    }
    if (threadIdx.x < 64)
        out[threadIdx.x] = (int)s;
}

template <int BUG> static __global__ void wgmma_ones(int *out)
{
    KD_DYN_SHARED(__nv_bfloat16, mem, 1024);
    for (int i = threadIdx.x; i < 64 * 64; i += 128)
        mem[i] = __float2bfloat16(1);
    if (BUG != NO_FENCE_ASYNC)
        kd_fence_async();
    __syncthreads();
    float d[32];
    for (int i = 0; i < 32; i++)
        d[i] = 0;
    kd_wgmma_fence();
    kd_wgmma(d, kd_wgmma_desc(mem, 0, 1024), kd_wgmma_desc(mem, 0, 1024), 1);
    kd_wgmma_commit();
    if (BUG != NO_WGMMA_WAIT)
        kd_wgmma_wait<0>();
    out[threadIdx.x] = (int)d[threadIdx.x % 32];
    if (BUG == NO_WGMMA_WAIT)
        kd_wgmma_wait<0>();
}

struct arrays {
    int *out, *in;
    __nv_bfloat16 *ones;
};

template <int BUG> static cudaError_t start(const arrays &a)
{
    CUtensorMap map;
    switch (BUG) {
    case LEFT_CLUSTER:
        return kd_launch(left_cluster, 2, 128, 2, 0, nullptr, a.out, a.in);
    case WRONG_PARITY:
    case STAGE_REUSED:
        if (kd_tensor_map_2d(&map, a.ones, 512, 64, 64, 64, 64, KD_SWIZZLE_128))
            return cudaErrorInvalidValue;
        return kd_launch(tma_sum<BUG>, 1, 96, 1, 8192, nullptr, a.out, map);
    case NO_WGMMA_WAIT:
    case NO_FENCE_ASYNC:
        return kd_launch(wgmma_ones<BUG>, 1, 128, 1, 8192, nullptr, a.out);
    default:
        return kd_launch(turn<BUG>, BUG == BLOCKS_COLLIDE ? 2 : 1, 128, 1, 0, nullptr, a.out, a.in);
    }
}

static int wanted(int bug, int t)
{
    switch (bug) {
    case NO_SYNCWARP:
        return t ^ 31;
    case NO_WGMMA_WAIT:
    case NO_FENCE_ASYNC:
        return 16;
    case BLOCKS_COLLIDE:
        return 0;
    case WRONG_PARITY:
    case STAGE_REUSED:
        return 512;
    default:
        return 127 - t;
    }
}

/* How many numbers the kernel writes. */
static int written(int bug)
{
    return bug == WRONG_PARITY || bug == STAGE_REUSED || bug == BLOCKS_COLLIDE ? 64 : 128;
}

static arrays make_arrays()
{
    arrays a;
    std::vector<int> in(132);
    std::vector<__nv_bfloat16> ones(512 * 64, __float2bfloat16(1));
    for (int i = 0; i < 132; i++)
        in[i] = i;
    if (cudaMalloc(&a.out, 128 * sizeof(int)) || cudaMalloc(&a.in, 132 * sizeof(int)) ||
        cudaMalloc(&a.ones, 512 * 64 * 2) ||
        cudaMemcpy(a.in, in.data(), 132 * sizeof(int), cudaMemcpyHostToDevice) ||
        cudaMemcpy(a.ones, ones.data(), 512 * 64 * 2, cudaMemcpyHostToDevice))
        abort();
    return a;
}

/* In the child: under a few schedules until something shows; it says what on stderr, and 3 is its status. */
template <int BUG> static void run_bug()
{
    arrays a = make_arrays();
    for (unsigned seed = 0; seed < 6; seed++) {
        int out[128];
        kd_cuda_host_set_seed(seed);
        cudaError_t error = cudaMemset(a.out, 0xff, sizeof out);
        if (!error)
            error = start<BUG>(a);
        if (!error)
            error = cudaMemcpy(out, a.out, sizeof out, cudaMemcpyDeviceToHost);
        if (error)
            _exit(3);
        for (int t = 0; t < written(BUG); t++) {
            if (out[t] == wanted(BUG, t))
                continue;
            fprintf(stderr, "wrong result: seed %u, out[%d] = %d, expected %d", seed, t, out[t],
                    wanted(BUG, t));
            _exit(3);
        }
    }
    _exit(0);
}

/* What the child said; "" if it ended well. */
static std::string in_child(void (*run)())
{
    int ends[2], status;
    std::string said;
    char text[4096];
    if (pipe(ends))
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        run();
    }
    close(ends[1]);
    for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;)
        said.append(text, (size_t)n);
    close(ends[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        abort();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return "";
    return said.empty() ? "died without a word" : said;
}

/* What each build has to say, as a part of its text; null: it is known to miss it. */
struct planted {
    const char *name, *plain, *asan, *race;
    void (*run)();
};

#define ALL(text) text, text, text
static const planted bugs[] = {
    {"none", ALL(nullptr), run_bug<NONE>},
    {"a missing __syncthreads", "wrong result", "wrong result",
     "nobody has written: shared memory, a +", run_bug<NO_SYNC>},
    {"a warp that leaves before the barrier", ALL("have exited"), run_bug<EXITED_WARP>},
    {"__syncthreads in two branches", ALL("divergent __syncthreads"), run_bug<DIVERGENT>},
    {"a write past shared memory", "wrote outside shared memory: at a + 512 of 512",
     "index 128 out of bounds", "nobody has written: shared memory, a + 508", run_bug<PAST_SHARED>},
    {"a write past global memory",
     "wrote outside global memory: at byte 512 of an allocation of 512", "use-after-poison",
     "wrote outside global memory", run_bug<PAST_GLOBAL>},
    {"a shuffle that half the warp skips", ALL("__shfl_sync"), run_bug<FULL_MASK>},
    {"cp.async without wait", "wrong result", "wrong result", "reads what nobody has written",
     run_bug<NO_ASYNC_WAIT>},
    {"lanes exchange without __syncwarp", "wrong result", "wrong result",
     "nobody has written: shared memory, a +", run_bug<NO_SYNCWARP>},
    {"a misaligned load of 16 bytes", ALL("misaligned address"), run_bug<MISALIGNED>},
    {"a misaligned load of 8 bytes", ALL("misaligned address"), run_bug<MISALIGNED_8>},
    {"a block that leaves its cluster early", ALL("which has exited"), run_bug<LEFT_CLUSTER>},
    {"an mbarrier wait with the wrong parity", ALL("deadlock"), run_bug<WRONG_PARITY>},
    {"a TMA stage refilled too early", ALL("more than 1 arrivals"), run_bug<STAGE_REUSED>},
    {"wgmma read before its wait", "wrong result", "wrong result", "wrong result",
     run_bug<NO_WGMMA_WAIT>},
    {"blocks that write the same word", "wrong result", "wrong result", "race in global memory",
     run_bug<BLOCKS_COLLIDE>},
    {"a buffer used again without barrier", "wrong result", "wrong result",
     "race in shared memory, a +", run_bug<REUSED>},
    {"wgmma of plain writes without proxy fence", nullptr, nullptr, "no kd_fence_async()",
     run_bug<NO_FENCE_ASYNC>},
    {"a flag set by all, read at once", "wrong result", "wrong result",
     "race in shared memory, a +", run_bug<SAME_VALUE>},
};

static const char *expected(const planted &bug)
{
    const char *build = KD_CUDA_BUILD;
    return !strcmp(build, "plain") ? bug.plain : !strcmp(build, "asan") ? bug.asan : bug.race;
}

int main()
{
    int n_wrong = 0;
    static_assert(sizeof bugs / sizeof *bugs == N_BUGS, "each bug has its row");
    for (const planted &bug : bugs) {
        std::string said = in_child(bug.run);
        const char *want = expected(bug);
        bool right = want ? !said.empty() && said.find(want) != std::string::npos : said.empty();
        said = said.substr(0, said.find('\n'));
        printf("%-6s %-42s %.200s\n", right ? "ok" : "FAILED", bug.name,
               said.empty() ? "(nothing)" : said.c_str());
        n_wrong += !right;
    }
    return n_wrong != 0;
}
