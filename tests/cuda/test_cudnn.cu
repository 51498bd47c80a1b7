/*
 * test_cudnn.cu - attention by the emulator's stand-in for cuDNN: what the stand-in refuses, and which kernels run
 * then.
 */
#include "harness.h"

#ifndef __CUDACC__
#include "tensor/cuda/attention_graph.h"
#include "tensor/cuda/kernels.h"
#include "tensor/ops.h"

/* ---- graphs ---- */

static kd_attention_graph_shape shape_of(int64_t tokens, int64_t dim, int64_t stride)
{
    kd_attention_graph_shape s = {};
    s.n_batch = 1;
    s.n_tokens = tokens;
    s.n_heads = s.n_kv_heads = 1;
    s.head_dim = dim;
    for (int i : {KD_ATTENTION_Q, KD_ATTENTION_K, KD_ATTENTION_V, KD_ATTENTION_OUT})
        s.strides[i] = stride;
    return s;
}

static int chosen(const kd_attention_graph_shape &shape)
{
    kd_cudnn_graph g = kd_attention_graph(kd_cudnn_library(), shape);
    const int status = kd_cudnn_graph_choose(&g, nullptr, nullptr);
    kd_cudnn_graph_release(&g);
    return status;
}

KD_TEST(cudnn, engines_take_rows_of_whole_pieces)
{
    KD_EXPECT(chosen(shape_of(17, 16, 16)) == KD_CUDNN_SUCCESS, "packed");
    KD_EXPECT(chosen(shape_of(17, 16, 24)) == KD_CUDNN_SUCCESS, "apart");
    KD_EXPECT(chosen(shape_of(17, 16, 20)) == KD_CUDNN_NOT_SUPPORTED, "rows apart by 40 bytes");
    KD_EXPECT(chosen(shape_of(17, 12, 16)) == KD_CUDNN_NOT_SUPPORTED, "heads of 24 bytes");
    KD_EXPECT(chosen(shape_of(17, 512, 512)) == KD_CUDNN_NOT_SUPPORTED, "heads of 512 columns");
    kd_cuda_host_refuse_graphs(1);
    KD_EXPECT(chosen(shape_of(17, 16, 16)) == KD_CUDNN_NOT_SUPPORTED, "no engine");
    kd_cuda_host_refuse_graphs(0);
}

/* The engine that is offered first is one whose bits may differ. */
KD_TEST(cudnn, an_engine_with_the_same_bits_each_time_is_chosen)
{
    const kd_cudnn *lib = kd_cudnn_library();
    void *handle = nullptr, *pointers[KD_CUDNN_ARGUMENTS] = {};
    float scale = 1, never = -INFINITY;
    device_array<__nv_bfloat16> q(16), k(16), v(16), out(16);
    device_array<float> lse(2), workspace(1024);
    KD_EXPECT(!lib->create(&handle), "create");
    kd_cudnn_graph g = kd_attention_graph(lib, shape_of(2, 8, 8));
    KD_EXPECT(!kd_cudnn_graph_choose(&g, handle, nullptr), "choose");
    KD_EXPECT(!kd_cudnn_graph_prepare(&g, handle), "prepare");
    KD_EXPECT(g.workspace_bytes <= 4096, "workspace");
    pointers[KD_ATTENTION_Q] = q.p;
    pointers[KD_ATTENTION_K] = k.p;
    pointers[KD_ATTENTION_V] = v.p;
    pointers[KD_ATTENTION_OUT] = out.p;
    pointers[KD_ATTENTION_SCALE] = &scale;
    pointers[KD_ATTENTION_NEVER] = &never;
    KD_EXPECT(kd_cudnn_graph_run(&g, handle, pointers, workspace.p) / 1000 == 2, "no lse");
    pointers[KD_ATTENTION_LSE] = lse.p;
    KD_EXPECT(kd_cudnn_graph_run(&g, handle, pointers, nullptr) / 1000 == 2, "no workspace");
    KD_EXPECT(kd_cudnn_graph_run(&g, handle, pointers, workspace.p + 1) / 1000 == 2, "alignment");
    KD_EXPECT(!kd_cudnn_graph_run(&g, handle, pointers, workspace.p), "run");
    KD_EXPECT(!cudaDeviceSynchronize(), "run");
    kd_cudnn_graph_release(&g);
    KD_EXPECT(!lib->destroy(handle), "destroy");
}

KD_TEST(cudnn, what_leaves_its_memory_is_a_fault)
{
    const kd_cudnn *lib = kd_cudnn_library();
    void *handle = nullptr, *pointers[KD_CUDNN_ARGUMENTS] = {};
    float scale = 1, never = -INFINITY;
    device_array<__nv_bfloat16> q(16), k(8), out(16);
    device_array<float> lse(2), workspace(1024);
    KD_EXPECT(!lib->create(&handle), "create");
    kd_cudnn_graph g = kd_attention_graph(lib, shape_of(2, 8, 8));
    KD_EXPECT(!kd_cudnn_graph_choose(&g, handle, nullptr), "choose");
    KD_EXPECT(!kd_cudnn_graph_prepare(&g, handle), "prepare");
    pointers[KD_ATTENTION_Q] = q.p;
    pointers[KD_ATTENTION_K] = k.p;
    pointers[KD_ATTENTION_V] = q.p;
    pointers[KD_ATTENTION_OUT] = out.p;
    pointers[KD_ATTENTION_LSE] = lse.p;
    pointers[KD_ATTENTION_SCALE] = &scale;
    pointers[KD_ATTENTION_NEVER] = &never;
    KD_EXPECT(!kd_cudnn_graph_run(&g, handle, pointers, workspace.p), "queue");
    KD_EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "k is too short");
    KD_EXPECT(strstr(kd_cuda_host_last_fault(), "leaves the memory"), kd_cuda_host_last_fault());
    kd_cuda_host_recover();
    kd_cudnn_graph_release(&g);
    KD_EXPECT(!lib->destroy(handle), "destroy");
}

/* ---- the operation ---- */

enum { DIM = 8, ROWS = 100 };

/* Attention of one head over the first rows of a matrix of ones. */
struct device_call {
    kd_backend *be;
    void *memory;

    device_call()
    {
        KD_EXPECT(!setenv("KD_CUDA_KERNELS", "fast", 1), "set");
        if (kd_backend_create_cuda(KD_BF16, 0, &be))
            abort();
        KD_EXPECT(!unsetenv("KD_CUDA_KERNELS"), "unset");
        const std::vector<__nv_bfloat16> ones((size_t)(2 * ROWS * DIM), __float2bfloat16(1));
        memory = be->ops->alloc(be, KD_MEMORY_DEVICE, ones.size() * 2);
        if (!memory)
            abort();
        be->ops->upload(be, kd_tensor_2d(memory, KD_BF16, 2 * ROWS, DIM), ones.data());
    }

    ~device_call()
    {
        be->ops->free(be, memory);
        kd_backend_destroy(be);
    }

    device_call(const device_call &) = delete;
    device_call &operator=(const device_call &) = delete;

    /* Whether an engine ran; q, k and v are all ones, so that the result is near them. */
    bool fast(int64_t n)
    {
        const kd_tensor in = kd_tensor_2d(memory, KD_BF16, n, DIM);
        const kd_tensor out = kd_tensor_2d((__nv_bfloat16 *)memory + ROWS * DIM, KD_BF16, n, DIM);
        kd_attention a = {};
        a.q = a.k = a.v = in;
        a.out = out;
        a.lse = a.segments = kd_tensor_none();
        a.n_batch = a.n_heads = a.n_kv_heads = 1;
        a.n_tokens = n;
        a.head_dim = DIM;
        const int64_t before = kd_cuda_runs(be, KD_CUDA_KERNEL_ATTENTION_CUDNN);
        std::vector<__nv_bfloat16> got((size_t)(n * DIM));
        be->ops->zero(be, out);
        be->ops->attention(be, &a);
        be->ops->download(be, got.data(), out);
        KD_EXPECT(kd_backend_wait(be) == KD_OK, "attention");
        for (__nv_bfloat16 x : got)
            KD_EXPECT(fabsf(__bfloat162float(x) - 1) < 0.01f, std::to_string(n) + " rows");
        return kd_cuda_runs(be, KD_CUDA_KERNEL_ATTENTION_CUDNN) > before;
    }
};

KD_TEST(cudnn, a_shape_without_an_engine_is_left_to_the_plain_kernels)
{
    device_call call;
    kd_cuda_host_refuse_graphs(1);
    KD_EXPECT(!call.fast(17), "refused");
    kd_cuda_host_refuse_graphs(0);
    KD_EXPECT(!call.fast(17), "it was looked for once");
    KD_EXPECT(call.fast(18), "another");
}

KD_TEST(cudnn, a_full_table_of_plans_leaves_new_shapes_to_the_plain_kernels)
{
    device_call call;
    int n = 2;
    while (n < ROWS && call.fast(n))
        n++;
    KD_EXPECT(n > 32 && n < ROWS, std::to_string(n) + " rows");
    KD_EXPECT(call.fast(2), "what is planned stays so");
    KD_EXPECT(!call.fast(n), "what is not, too");
}

KD_TEST(cudnn, plans_give_back_all_memory)
{
    const unsigned long long before = kd_cuda_host_allocated_bytes();
    {
        device_call call;
        KD_EXPECT(call.fast(5), "an engine");
    }
    KD_EXPECT(kd_cuda_host_allocated_bytes() == before, "memory");
}
#endif
