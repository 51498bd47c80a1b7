/*
 * cudnn_plans.cu - asks the real cuDNN whether it has engines for the graphs of attention, on devices that are
 * not here: it plans by the description of a device. Nothing runs.
 *
 *     cudnn_plans LIBRARY    libcudnn.so.9, as dlopen() finds it; its loader wants some libcuda.so.1, for which
 *                            the toolkit's stub will do (see the script of the same folder)
 *
 * Exits with 1 where a graph that must have an engine has none, with 77 where there is no library, or an older
 * one than attention uses.
 */
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>

#include "tensor/cuda/attention_graph.h"

/* What a device of the kind says of itself, as far as engines ask. */
static std::string description(int capability)
{
    return R"({"cudaDeviceId":0,"deviceName":"described","deviceVer":)" +
           std::to_string(capability * 10) +
           R"(,"driverVer":13000,"isTccDriver":0,"l2CacheSize":62914560,"maxCtasPerSM":32,)"
           R"("maxRegistersPerSM":65536,"maxSharedMemoryPerBlock":49152,)"
           R"("maxSharedMemoryPerBlockOptin":232448,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,)"
           R"("memClockRateKHz":3201000,"multiProcessorCount":132,"pciDeviceId":9045,)"
           R"("regsPerBlock":65536,"reservedSharedMemoryPerBlock":1024,"smClockRateKHz":1980000,)"
           R"("supportCoopLaunch":1,"totalGlobalMem":150000000000,"warpSize":32,)"
           R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64]})";
}

/* A descriptor of it; NULL: the library does not take the description. */
static void *device_of(const kd_cudnn *lib, int capability)
{
    const std::string text = description(capability);
    void *device = nullptr;
    if (lib->create_descriptor(KD_CUDNN_DEVICE, &device) ||
        lib->set(device, KD_CUDNN_DEVICE_JSON, KD_CUDNN_IS_CHAR, (int64_t)text.size(),
                 text.c_str()) ||
        lib->finalize(device))
        return nullptr;
    return device;
}

struct size {
    int64_t batch, tokens, heads, kv_heads, dim;
};

/* The layouts of a decoder: q, k and v are columns of one matrix, copies and gradients have their own. */
static kd_attention_graph_shape shape_of(const size &s, bool backward, bool bounded)
{
    kd_attention_graph_shape shape = {s.batch, s.tokens, s.heads, s.kv_heads,
                                      s.dim,   backward, bounded, {}};
    const int64_t q = s.heads * s.dim, kv = s.kv_heads * s.dim, fused = q + 2 * kv;
    for (int i : {KD_ATTENTION_Q, KD_ATTENTION_K, KD_ATTENTION_V})
        shape.strides[i] = bounded ? (i == KD_ATTENTION_Q && backward ? q : kv) : fused;
    if (bounded && !backward)
        shape.strides[KD_ATTENTION_Q] = fused;
    shape.strides[KD_ATTENTION_OUT] = q;
    if (backward) {
        shape.strides[KD_ATTENTION_DOUT] = q;
        for (int i : {KD_ATTENTION_DQ, KD_ATTENTION_DK, KD_ATTENTION_DV})
            shape.strides[i] = fused;
    }
    return shape;
}

int main(int argc, char **argv)
{
    static const size sizes[] = {{4, 4096, 32, 4, 128}, {1, 4096, 32, 8, 128},
                                 {8, 1024, 16, 16, 64}, {2, 17, 4, 2, 16},
                                 {1, 130, 2, 1, 24},    {1, 8192, 8, 1, 128}};

    static const struct {
        int capability;
        bool backward_with_bounds;
    } kinds[] = {{80, false}, {90, true}, {100, false}};

    kd_cudnn lib;
    int n_missing = 0;

    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library || !kd_cudnn_find(&lib, dlsym, library)) {
        printf("cudnn_plans: %s: no cuDNN of version %d or later\n", argc == 2 ? argv[1] : "",
               KD_CUDNN_VERSION_MIN);
        return 77;
    }
    for (const auto &kind : kinds) {
        void *device = device_of(&lib, kind.capability);
        for (int way = 0; way < 4 && device; way++) {
            const bool backward = way >= 2, bounded = way % 2 == 1;
            const bool must = !(backward && bounded) || kind.backward_with_bounds;
            int n_planned = 0, n = 0;
            for (const size &s : sizes) {
                kd_cudnn_graph g = kd_attention_graph(&lib, shape_of(s, backward, bounded));
                const int n_operations = g.n_operations;
                const int status = kd_cudnn_graph_choose(&g, nullptr, device);
                n++;
                n_planned += status == KD_CUDNN_SUCCESS;
                if (status != KD_CUDNN_SUCCESS && must)
                    printf("cudnn_plans: sm_%d, %" PRId64 " x %" PRId64 ", heads %" PRId64
                           "/%" PRId64 " of %" PRId64 ", %d operations: %s\n",
                           kind.capability, s.batch, s.tokens, s.heads, s.kv_heads, s.dim,
                           n_operations, lib.name_of(status));
                kd_cudnn_graph_release(&g);
            }
            n_missing += must ? n - n_planned : 0;
            printf("cudnn_plans: cuDNN %zu, sm_%d, %s%s: engines for %d of %d shapes%s\n",
                   lib.version(), kind.capability, backward ? "backward" : "forward",
                   bounded ? " with bounds" : "", n_planned, n, must ? "" : ", none is expected");
        }
        if (!device) {
            printf("cudnn_plans: sm_%d cannot be described\n", kind.capability);
            n_missing++;
        } else {
            (void)lib.destroy_descriptor(device);
        }
    }
    return n_missing > 0;
}
