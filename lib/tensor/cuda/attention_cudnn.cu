/*
 * attention_cudnn.cu - attention by the graphs of attention_graph.h.
 *
 * The engines move what attention.cu says, and backward 2 bytes twice for each pair of rows in whole tiles.
 * Around them, a bound for each row (8 bytes a row) with segments or a window, and with segments copies without
 * padding of what is multiplied (forward k and v, backward q and dout, too: 2 bytes read and written an element),
 * and zeros into the padding of the result.
 */
#include "tensor/cuda/attention_cudnn.h"

#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "tensor/cuda/attention.h"
#include "tensor/cuda/attention_graph.h"

constexpr int THREADS = 256, PIECE = 8; /* elements of 16 bytes */

struct plan {
    kd_attention_graph_shape shape;
    kd_cudnn_graph graph; /* whose status is 0, or no engine takes the shape */
};

struct kd_cuda_attention_plans {
    const kd_cudnn *lib;
    void *handle; /* NULL: the library cannot be used on this device */
    int64_t kept_max;
    int n;
    plan table[KD_ATTENTION_PLANS_MAX];
};

void kd_cuda_attention_plans_destroy(kd_cuda_attention_plans *plans)
{
    if (plans == nullptr) {
        return;
    }
    for (int i = 0; i < plans->n; i++) {
        kd_cudnn_graph_release(&plans->table[i].graph);
    }
    if (plans->handle != nullptr) {
        (void)plans->lib->destroy(plans->handle);
    }
    free(plans);
}

/* ---- plans ---- */

static void keep_fault(kd_backend *be, const kd_cudnn *lib, const char *what, int status)
{
    const bool is_memory = status == KD_CUDNN_NO_HOST_MEMORY || status == KD_CUDNN_NO_DEVICE_MEMORY;

    kd_backend_keep_fault(be,
                          kd_fail(is_memory ? KD_ERR_NOMEM : KD_ERR_IO, "%s: cuDNN cannot %s: %s",
                                  kd_cuda_of(be)->name, what, lib->name_of(status)));
}

/* What will be the same when it is tried again: parts of the library that are missing, graphs that its engines do
 * not take. Anything else is a fault, lest a run's bits hang on whether there was memory once. */
static bool is_refusal(int status)
{
    const int kind = status / 1000 * 1000;

    return kind == KD_CUDNN_NOT_SUPPORTED || kind == KD_CUDNN_NOT_INITIALIZED ||
           status == KD_CUDNN_NOT_COMPILED;
}

/* The back end's plans; NULL: there is no library, or the back end now has a fault. */
static kd_cuda_attention_plans *plans_of(kd_backend *be)
{
    kd_cuda *cuda = kd_cuda_of(be);
    const kd_cudnn *lib = kd_cudnn_library();

    if (cuda->attention != nullptr || lib == nullptr) {
        return cuda->attention;
    }
    kd_cuda_attention_plans *plans =
        static_cast<kd_cuda_attention_plans *>(calloc(1, sizeof *plans));
    if (plans == nullptr) {
        kd_backend_keep_fault(be, kd_fail(KD_ERR_NOMEM, "no memory for plans of attention"));
        return nullptr;
    }
    plans->lib = lib;
    plans->kept_max = KD_ATTENTION_KEPT_MAX;
    const int status = lib->create(&plans->handle);
    if (status != KD_CUDNN_SUCCESS && !is_refusal(status)) {
        free(plans);
        keep_fault(be, lib, "be made ready", status);
        return nullptr;
    }
    if (status != KD_CUDNN_SUCCESS) {
        plans->handle = nullptr;
        kd_log(KD_LOG_WARN, "%s: cuDNN cannot be used: %s", cuda->name, lib->name_of(status));
    }
    cuda->attention = plans;
    return plans;
}

static kd_cudnn_graph make_plan(const kd_cuda_attention_plans *plans,
                                const kd_attention_graph_shape &shape)
{
    kd_cudnn_graph graph = kd_attention_graph(plans->lib, shape);

    if (kd_cudnn_graph_choose(&graph, plans->handle, nullptr) == KD_CUDNN_SUCCESS) {
        (void)kd_cudnn_graph_prepare(&graph, plans->handle);
    }
    kd_log(KD_LOG_DEBUG,
           "cuDNN: attention%s%s, %" PRId64 " x %" PRId64 " tokens, heads %" PRId64 "/%" PRId64
           " of %" PRId64 ": %s, %" PRId64 " bytes of workspace",
           shape.is_backward ? " backward" : "", shape.is_bounded ? " with bounds" : "",
           shape.n_batch, shape.n_tokens, shape.n_heads, shape.n_kv_heads, shape.head_dim,
           plans->lib->name_of(graph.status), graph.workspace_bytes);
    if (graph.status != KD_CUDNN_SUCCESS) {
        const int status = graph.status;
        kd_cudnn_graph_release(&graph);
        graph.status = status;
    }
    return graph;
}

/* The plan of a shape; NULL: no engine takes it, or the back end now has a fault. */
static const kd_cudnn_graph *plan_for(kd_backend *be, const kd_attention_graph_shape &shape)
{
    kd_cuda_attention_plans *plans = plans_of(be);

    if (plans == nullptr || plans->handle == nullptr) {
        return nullptr;
    }
    int i = 0;
    while (i < plans->n && memcmp(&plans->table[i].shape, &shape, sizeof shape) != 0) {
        i++;
    }
    if (i == KD_ATTENTION_PLANS_MAX) {
        return nullptr;
    }
    if (i == plans->n) {
        kd_cuda_regions_break(be); /* the library loads kernels, and may take memory */
        kd_cudnn_graph graph = make_plan(plans, shape);
        if (graph.status != KD_CUDNN_SUCCESS && !is_refusal(graph.status)) {
            keep_fault(be, plans->lib, "plan attention", graph.status);
            return nullptr;
        }
        plans->table[plans->n++] = {shape, graph};
    }
    const kd_cudnn_graph *graph = &plans->table[i].graph;
    return graph->status == KD_CUDNN_SUCCESS ? graph : nullptr;
}

static void run(kd_backend *be,
                const kd_cudnn_graph *graph,
                void *const (&pointers)[KD_CUDNN_ARGUMENTS],
                void *workspace)
{
    const kd_cuda_attention_plans *plans = kd_cuda_of(be)->attention;

    if (be->fault != KD_OK) {
        return;
    }
    int status = plans->lib->set_stream(plans->handle, kd_cuda_of(be)->stream);
    if (status == KD_CUDNN_SUCCESS) {
        status = kd_cudnn_graph_run(graph, plans->handle, pointers, workspace);
    }
    if (status != KD_CUDNN_SUCCESS) {
        keep_fault(be, plans->lib, "run attention", status);
    }
}

/* ---- rows that engines may read ---- */

/* first (N) i32: of its sequence, the first row that a row sees, which sees `reach` rows at most; one of padding
 * sees itself. */
static __global__ void __launch_bounds__(THREADS)
    find_first(int32_t *first, const int32_t *places, int64_t n_rows, int64_t n_tokens, int reach)
{
    const int64_t row = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (row < n_rows) {
        first[row] = static_cast<int32_t>(row % n_tokens) - min(max(places[row], 0), reach - 1);
    }
}

/* to (N, C) = from, zeros in rows of padding. A thread has 16 bytes. */
static __global__ void __launch_bounds__(THREADS)
    copy_without_padding(__nv_bfloat16 *to,
                         kd_attention_rows<const __nv_bfloat16> from,
                         const int32_t *places,
                         int64_t n_rows,
                         int64_t n_pieces)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int64_t row = i / n_pieces, column = i % n_pieces * PIECE;
    if (row < n_rows) {
        uint4 piece = {0, 0, 0, 0};
        if (places[row] >= 0) {
            piece = *reinterpret_cast<const uint4 *>(from.data + row * from.stride + column);
        }
        *reinterpret_cast<uint4 *>(to + i * PIECE) = piece;
    }
}

/* Zeros in rows of padding. A thread has 16 bytes. */
static __global__ void __launch_bounds__(THREADS)
    clear_row_padding(kd_attention_rows<__nv_bfloat16> to,
                      const int32_t *places,
                      int64_t n_rows,
                      int64_t n_pieces)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int64_t row = i / n_pieces, column = i % n_pieces * PIECE;
    if (row < n_rows && places[row] < 0) {
        *reinterpret_cast<uint4 *>(to.data + row * to.stride + column) = {0, 0, 0, 0};
    }
}

/* to (B H, T) = lse, 0 in rows of padding, where it says nothing. */
static __global__ void __launch_bounds__(THREADS) copy_lse(float *to,
                                                           const float *lse,
                                                           const int32_t *places,
                                                           int64_t n,
                                                           int64_t n_heads,
                                                           int64_t n_tokens)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i < n) {
        const int64_t row = i / n_tokens / n_heads * n_tokens + i % n_tokens;
        to[i] = places[row] < 0 ? 0.0f : lse[i];
    }
}

/* ---- a call ---- */

struct call {
    kd_attention_graph_shape whole, part; /* what is asked for, and what an engine runs at once */
    bool is_packed;                       /* there are segments, and may be padding             */
    const int32_t *places;                /* of a graph with bounds                             */
    void *data[KD_CUDNN_ARGUMENTS];       /* of the whole                                       */
};

/* Tensors that are in bf16, by their numbers; what is none is NULL. */
typedef kd_tensor tensors_of[KD_ATTENTION_TENSORS];

static call begin(const kd_attention *a, const tensors_of &tensors)
{
    call c = {};

    c.is_packed = a->segments.data != nullptr;
    c.whole.n_batch = a->n_batch;
    c.whole.n_tokens = a->n_tokens;
    c.whole.n_heads = a->n_heads;
    c.whole.n_kv_heads = a->n_kv_heads;
    c.whole.head_dim = a->head_dim;
    c.whole.is_bounded = c.is_packed || (a->window > 0 && a->window < a->n_tokens);
    for (int i = 0; i < KD_ATTENTION_TENSORS; i++) {
        c.data[i] = tensors[i].data;
        c.whole.strides[i] = tensors[i].data != nullptr ? tensors[i].row_stride : 0;
    }
    return c;
}

/* A row alone needs no engine, and the plain kernels give it no rounding. */
static bool suits(kd_backend *be, const kd_attention *a, const tensors_of &tensors)
{
    bool suits = kd_cuda_uses(be, KD_CUDA_KERNEL_ATTENTION_CUDNN) && be->compute == KD_BF16 &&
                 a->n_tokens > 1 && a->head_dim <= KD_ATTENTION_WIDEST_MMA;
    for (const kd_tensor &t : tensors) {
        suits = suits && (t.data == nullptr || kd_cuda_attention_vectors(a->head_dim, &t, 1));
    }
    return suits;
}

/* Engines will be given copies of these tensors, whose rows are packed. */
template <int N>
static void expect_copies(call *c, const tensors_of &tensors, const int (&copied)[N])
{
    for (int i = 0; i < N && c->is_packed; i++) {
        c->whole.strides[copied[i]] = kd_tensor_columns(tensors[copied[i]]);
    }
}

static void *copy_of(kd_backend *be, const call &c, kd_tensor t)
{
    const int64_t n = kd_tensor_rows(t), n_pieces = kd_tensor_columns(t) / PIECE;
    const kd_tensor copy = kd_cuda_scratch_2d(be, KD_BF16, n, kd_tensor_columns(t));

    kd_cuda_launch(be, "attention's rows without padding", copy_without_padding,
                   kd_cuda_blocks(n * n_pieces, THREADS), THREADS, 0,
                   kd_cuda_data<__nv_bfloat16>(copy), kd_attention_rows_of<const __nv_bfloat16>(t),
                   c.places, n, n_pieces);
    return copy.data;
}

/* Of a graph with bounds these; and where there are segments, the copies. */
template <int N>
static void make_copies(kd_backend *be,
                        call *c,
                        const kd_attention *a,
                        const tensors_of &tensors,
                        const int (&copied)[N])
{
    const int64_t n = a->n_batch * a->n_tokens;

    if (!c->whole.is_bounded) {
        return;
    }
    const kd_attention_shape shape = kd_cuda_attention_shape(be, a);
    int32_t *first =
        static_cast<int32_t *>(kd_cuda_scratch(be, static_cast<size_t>(n) * sizeof(int32_t)));
    kd_cuda_launch(be, "attention's bounds", find_first, kd_cuda_blocks(n, THREADS), THREADS, 0,
                   first, shape.places, n, a->n_tokens, shape.reach);
    c->places = shape.places;
    c->data[KD_ATTENTION_FIRST] = first;
    for (int i = 0; i < N && c->is_packed; i++) {
        c->data[copied[i]] = copy_of(be, *c, tensors[copied[i]]);
    }
}

/* A tensor's beginning for a part, which begins with a sequence and a head of keys. */
static void *beginning(const call &c, int which, int64_t sequence, int64_t kv_head)
{
    const kd_attention_graph_shape &s = c.whole;
    const int64_t row = sequence * s.n_tokens, head = kv_head * (s.n_heads / s.n_kv_heads);
    char *data = static_cast<char *>(c.data[which]);

    if (data == nullptr) {
        return nullptr;
    }
    switch (which) {
    case KD_ATTENTION_Q:
    case KD_ATTENTION_OUT:
    case KD_ATTENTION_DOUT:
    case KD_ATTENTION_DQ:
        return data + (row * s.strides[which] + head * s.head_dim) * 2;
    case KD_ATTENTION_K:
    case KD_ATTENTION_V:
    case KD_ATTENTION_DK:
    case KD_ATTENTION_DV:
        return data + (row * s.strides[which] + kv_head * s.head_dim) * 2;
    case KD_ATTENTION_LSE:
        return data + (sequence * s.n_heads + head) * s.n_tokens * 4;
    case KD_ATTENTION_FIRST:
        return data + row * 4;
    default: /* values, and what each part writes anew */
        return data;
    }
}

static void run_parts(kd_backend *be, const call &c, const kd_cudnn_graph *graph)
{
    void *pointers[KD_CUDNN_ARGUMENTS];
    const int64_t n_bytes = graph->workspace_bytes; /* none, of some engines */
    void *workspace = kd_cuda_scratch(be, n_bytes > 0 ? static_cast<size_t>(n_bytes) : 1);

    for (int64_t b = 0; b < c.whole.n_batch; b += c.part.n_batch) {
        for (int64_t g = 0; g < c.whole.n_kv_heads; g += c.part.n_kv_heads) {
            for (int i = 0; i < KD_CUDNN_ARGUMENTS; i++) {
                pointers[i] = beginning(c, i, b, g);
            }
            run(be, graph, pointers, workspace);
        }
    }
}

bool kd_cuda_attention_by_cudnn(kd_backend *be, const kd_attention *a)
{
    static const int copied[] = {KD_ATTENTION_K, KD_ATTENTION_V};
    const tensors_of tensors = {a->q, a->k, a->v, a->out};
    const int64_t n = a->n_batch * a->n_tokens, n_pieces = a->n_heads * a->head_dim / PIECE;
    float scale = 1.0f / std::sqrt(static_cast<float>(a->head_dim)), never = -INFINITY;

    if (!suits(be, a, tensors)) {
        return false;
    }
    call c = begin(a, tensors);
    expect_copies(&c, tensors, copied);
    c.part = c.whole;
    const kd_cudnn_graph *graph = plan_for(be, c.part);
    if (graph == nullptr) {
        return be->fault != KD_OK;
    }
    const size_t mark = kd_cuda_scratch_mark(be);
    make_copies(be, &c, a, tensors, copied);
    c.data[KD_ATTENTION_LSE] =
        a->lse.data != nullptr
            ? a->lse.data
            : kd_cuda_scratch_2d(be, KD_F32, a->n_batch * a->n_heads, a->n_tokens).data;
    c.data[KD_ATTENTION_SCALE] = &scale;
    c.data[KD_ATTENTION_NEVER] = &never;
    run_parts(be, c, graph);
    if (c.is_packed) {
        kd_cuda_launch(be, "attention's padding", clear_row_padding,
                       kd_cuda_blocks(n * n_pieces, THREADS), THREADS, 0,
                       kd_attention_rows_of<__nv_bfloat16>(a->out), c.places, n, n_pieces);
    }
    kd_cuda_ran(be, KD_CUDA_KERNEL_ATTENTION_CUDNN);
    kd_cuda_scratch_rewind(be, mark);
    return true;
}

/* Equal parts, the largest that keep little enough; false: even one head's is too large. */
static bool cut(kd_attention_graph_shape *part, int64_t kept_max)
{
    const int64_t n_batch = part->n_batch, n_kv_heads = part->n_kv_heads;
    const int64_t group = part->n_heads / n_kv_heads;

    while (part->n_batch > 1 &&
           (n_batch % part->n_batch != 0 || kd_attention_graph_kept_bytes(*part) > kept_max)) {
        part->n_batch--;
    }
    while (part->n_kv_heads > 1 && (n_kv_heads % part->n_kv_heads != 0 ||
                                    kd_attention_graph_kept_bytes(*part) > kept_max)) {
        part->n_kv_heads--;
        part->n_heads = part->n_kv_heads * group;
    }
    return kd_attention_graph_kept_bytes(*part) <= kept_max;
}

/* The log-sum-exp that engines may read in each row. */
static void *readable_lse(kd_backend *be, const call &c, const kd_attention *a)
{
    const int64_t n = a->n_batch * a->n_heads * a->n_tokens;

    if (!c.is_packed) {
        return a->lse.data;
    }
    const kd_tensor copy = kd_cuda_scratch_2d(be, KD_F32, a->n_batch * a->n_heads, a->n_tokens);
    kd_cuda_launch(be, "attention's log-sum-exp", copy_lse, kd_cuda_blocks(n, THREADS), THREADS, 0,
                   kd_cuda_data<float>(copy), kd_cuda_data<const float>(a->lse), c.places, n,
                   a->n_heads, a->n_tokens);
    return copy.data;
}

/* Padding needs no zeros of ours: its rows of dout, q, k and v are zeros, so what engines write there is, too. */
bool kd_cuda_attention_backward_by_cudnn(kd_backend *be,
                                         const kd_attention *a,
                                         kd_tensor dq,
                                         kd_tensor dk,
                                         kd_tensor dv,
                                         kd_tensor dout)
{
    static const int copied[] = {KD_ATTENTION_Q, KD_ATTENTION_K, KD_ATTENTION_V, KD_ATTENTION_DOUT};
    float scale = 1.0f / std::sqrt(static_cast<float>(a->head_dim)), never = -INFINITY, one = 1.0f;
    tensors_of tensors = {a->q, a->k, a->v, a->out};

    tensors[KD_ATTENTION_DOUT] = dout;
    tensors[KD_ATTENTION_DQ] = dq;
    tensors[KD_ATTENTION_DK] = dk;
    tensors[KD_ATTENTION_DV] = dv;
    if (!suits(be, a, tensors)) {
        return false;
    }
    const kd_cuda_attention_plans *plans = plans_of(be);
    call c = begin(a, tensors);
    c.whole.is_backward = 1;
    expect_copies(&c, tensors, copied);
    c.part = c.whole;
    const kd_cudnn_graph *graph =
        plans != nullptr && cut(&c.part, plans->kept_max) ? plan_for(be, c.part) : nullptr;
    if (graph == nullptr) {
        return be->fault != KD_OK;
    }
    const size_t mark = kd_cuda_scratch_mark(be);
    make_copies(be, &c, a, tensors, copied);
    c.data[KD_ATTENTION_LSE] = readable_lse(be, c, a);
    c.data[KD_ATTENTION_DELTA] =
        kd_cuda_scratch_2d(be, KD_F32, c.part.n_batch * c.part.n_heads, a->n_tokens).data;
    c.data[KD_ATTENTION_SCALE] = &scale;
    c.data[KD_ATTENTION_NEVER] = &never;
    c.data[KD_ATTENTION_ONE] = &one;
    run_parts(be, c, graph);
    kd_cuda_ran(be, KD_CUDA_KERNEL_ATTENTION_CUDNN);
    kd_cuda_scratch_rewind(be, mark);
    return true;
}

void kd_cuda_attention_keep_at_most(kd_backend *be, int64_t n_bytes)
{
    kd_cuda_attention_plans *plans = plans_of(be);

    if (plans != nullptr) {
        plans->kept_max = n_bytes;
    }
}
