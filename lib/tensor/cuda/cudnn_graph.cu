/* cudnn_graph.cu - descriptors of the library, by and by. */
#include "tensor/cuda/cudnn_graph.h"

#include "base/log.h"

/* Engines of a heuristic that are looked at. */
constexpr int ENGINES_MAX = 8, NOTES_MAX = 16;

/* The library's name of an argument. */
static int64_t uid_of(int number)
{
    KD_CHECK(number >= 0 && number <= KD_CUDNN_ARGUMENTS);
    return number + 1;
}

kd_cudnn_graph kd_cudnn_graph_begin(const kd_cudnn *lib)
{
    kd_cudnn_graph graph = {};

    graph.lib = lib;
    graph.next_virtual = uid_of(KD_CUDNN_ARGUMENTS);
    return graph;
}

void kd_cudnn_graph_release(kd_cudnn_graph *graph)
{
    while (graph->n_held > 0) {
        (void)graph->lib->destroy_descriptor(graph->held[--graph->n_held]);
    }
    *graph = {};
}

/* ---- descriptors ---- */

static void keep(kd_cudnn_graph *g, int status)
{
    if (g->status == KD_CUDNN_SUCCESS) {
        g->status = status;
    }
}

static void *create(kd_cudnn_graph *g, int type)
{
    void *descriptor = nullptr;

    if (g->status != KD_CUDNN_SUCCESS) {
        return nullptr;
    }
    KD_CHECK(g->n_held < KD_CUDNN_DESCRIPTORS_MAX);
    keep(g, g->lib->create_descriptor(type, &descriptor));
    if (g->status == KD_CUDNN_SUCCESS) {
        g->held[g->n_held++] = descriptor;
    }
    return descriptor;
}

static void
set(kd_cudnn_graph *g, void *descriptor, int attribute, int type, int64_t n, const void *values)
{
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g, g->lib->set(descriptor, attribute, type, n, values));
    }
}

/* The library's enumerations are as wide as int. */
static void set_word(kd_cudnn_graph *g, void *descriptor, int attribute, int type, int value)
{
    set(g, descriptor, attribute, type, 1, &value);
}

static void set_descriptor(kd_cudnn_graph *g, void *descriptor, int attribute, const void *value)
{
    set(g, descriptor, attribute, KD_CUDNN_IS_DESCRIPTOR, 1, &value);
}

static void finalize(kd_cudnn_graph *g, void *descriptor)
{
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g, g->lib->finalize(descriptor));
    }
}

/* ---- tensors ---- */

static kd_cudnn_tensor tensor(kd_cudnn_graph *g,
                              int64_t uid,
                              int dtype,
                              const kd_cudnn_view &view,
                              bool is_virtual,
                              bool is_by_value)
{
    void *t = create(g, KD_CUDNN_TENSOR);
    set_word(g, t, KD_CUDNN_TENSOR_DTYPE, KD_CUDNN_IS_DTYPE, dtype);
    set(g, t, KD_CUDNN_TENSOR_DIMENSIONS, KD_CUDNN_IS_INT64, 4, view.dims);
    set(g, t, KD_CUDNN_TENSOR_STRIDES, KD_CUDNN_IS_INT64, 4, view.strides);
    set(g, t, KD_CUDNN_TENSOR_UID, KD_CUDNN_IS_INT64, 1, &uid);
    const int64_t align = dtype == KD_CUDNN_BF16 ? KD_CUDNN_ALIGN : 4;
    set(g, t, KD_CUDNN_TENSOR_ALIGNMENT, KD_CUDNN_IS_INT64, 1, &align);
    set(g, t, KD_CUDNN_TENSOR_IS_VIRTUAL, KD_CUDNN_IS_BOOL, 1, &is_virtual);
    set(g, t, KD_CUDNN_TENSOR_IS_BY_VALUE, KD_CUDNN_IS_BOOL, 1, &is_by_value);
    finalize(g, t);
    return t;
}

kd_cudnn_tensor kd_cudnn_argument(kd_cudnn_graph *g, int number, int dtype, const kd_cudnn_view &v)
{
    return tensor(g, uid_of(number), dtype, v, false, false);
}

kd_cudnn_tensor kd_cudnn_value(kd_cudnn_graph *g, int number)
{
    return tensor(g, uid_of(number), KD_CUDNN_F32, {{1, 1, 1, 1}, {1, 1, 1, 1}}, false, true);
}

kd_cudnn_tensor kd_cudnn_virtual(kd_cudnn_graph *g, int dtype, const kd_cudnn_view &view)
{
    return tensor(g, g->next_virtual++, dtype, view, true, false);
}

/* ---- operations ---- */

static kd_cudnn_tensor add(kd_cudnn_graph *g, void *operation, kd_cudnn_tensor result)
{
    finalize(g, operation);
    KD_CHECK(g->n_operations < KD_CUDNN_OPERATIONS_MAX);
    g->operations[g->n_operations++] = operation;
    return result;
}

kd_cudnn_tensor
kd_cudnn_matmul(kd_cudnn_graph *g, kd_cudnn_tensor a, kd_cudnn_tensor b, kd_cudnn_tensor c)
{
    void *how = create(g, KD_CUDNN_MATMUL), *operation = create(g, KD_CUDNN_OPERATION_MATMUL);
    set_word(g, how, KD_CUDNN_MATMUL_PRECISION, KD_CUDNN_IS_DTYPE, KD_CUDNN_F32);
    finalize(g, how);
    set_descriptor(g, operation, KD_CUDNN_MATMUL_A, a);
    set_descriptor(g, operation, KD_CUDNN_MATMUL_B, b);
    set_descriptor(g, operation, KD_CUDNN_MATMUL_C, c);
    set_descriptor(g, operation, KD_CUDNN_MATMUL_OF, how);
    return add(g, operation, c);
}

/* axis: of GEN_INDEX, else unused. */
static kd_cudnn_tensor pointwise(kd_cudnn_graph *g,
                                 int mode,
                                 int precision,
                                 int64_t axis,
                                 const kd_cudnn_tensor (&xbt)[3],
                                 kd_cudnn_tensor y)
{
    void *how = create(g, KD_CUDNN_POINTWISE), *operation = create(g, KD_CUDNN_OPERATION_POINTWISE);
    set_word(g, how, KD_CUDNN_POINTWISE_MODE, KD_CUDNN_IS_POINTWISE_MODE, mode);
    set_word(g, how, KD_CUDNN_POINTWISE_PRECISION, KD_CUDNN_IS_DTYPE, precision);
    if (mode == KD_CUDNN_GEN_INDEX) {
        set(g, how, KD_CUDNN_POINTWISE_AXIS, KD_CUDNN_IS_INT64, 1, &axis);
    }
    finalize(g, how);
    set_descriptor(g, operation, KD_CUDNN_POINTWISE_OF, how);
    set_descriptor(g, operation, KD_CUDNN_POINTWISE_X, xbt[0]);
    if (xbt[1] != nullptr) {
        set_descriptor(g, operation, KD_CUDNN_POINTWISE_B, xbt[1]);
    }
    if (xbt[2] != nullptr) {
        set_descriptor(g, operation, KD_CUDNN_POINTWISE_T, xbt[2]);
    }
    set_descriptor(g, operation, KD_CUDNN_POINTWISE_Y, y);
    return add(g, operation, y);
}

kd_cudnn_tensor kd_cudnn_pointwise(kd_cudnn_graph *g,
                                   int mode,
                                   kd_cudnn_tensor x,
                                   kd_cudnn_tensor b,
                                   kd_cudnn_tensor t,
                                   kd_cudnn_tensor y)
{
    const int precision = mode == KD_CUDNN_GREATER_OR_EQUAL ? KD_CUDNN_I32 : KD_CUDNN_F32;
    return pointwise(g, mode, precision, 0, {x, b, t}, y);
}

kd_cudnn_tensor
kd_cudnn_index(kd_cudnn_graph *g, int64_t axis, kd_cudnn_tensor x, kd_cudnn_tensor y)
{
    return pointwise(g, KD_CUDNN_GEN_INDEX, KD_CUDNN_I32, axis, {x, nullptr, nullptr}, y);
}

kd_cudnn_tensor kd_cudnn_reduce(kd_cudnn_graph *g, int mode, kd_cudnn_tensor x, kd_cudnn_tensor y)
{
    void *how = create(g, KD_CUDNN_REDUCTION), *operation = create(g, KD_CUDNN_OPERATION_REDUCTION);
    set_word(g, how, KD_CUDNN_REDUCTION_MODE, KD_CUDNN_IS_REDUCTION_MODE, mode);
    set_word(g, how, KD_CUDNN_REDUCTION_PRECISION, KD_CUDNN_IS_DTYPE, KD_CUDNN_F32);
    finalize(g, how);
    set_descriptor(g, operation, KD_CUDNN_REDUCTION_OF, how);
    set_descriptor(g, operation, KD_CUDNN_REDUCTION_X, x);
    set_descriptor(g, operation, KD_CUDNN_REDUCTION_Y, y);
    return add(g, operation, y);
}

kd_cudnn_tensor kd_cudnn_reshape(kd_cudnn_graph *g, kd_cudnn_tensor x, kd_cudnn_tensor y)
{
    void *operation = create(g, KD_CUDNN_OPERATION_RESHAPE);
    set_descriptor(g, operation, KD_CUDNN_RESHAPE_X, x);
    set_descriptor(g, operation, KD_CUDNN_RESHAPE_Y, y);
    return add(g, operation, y);
}

/* ---- engines ---- */

static bool is_deterministic(kd_cudnn_graph *g, const void *config)
{
    int notes[NOTES_MAX] = {};
    int64_t n = 0;

    void *engine = create(g, KD_CUDNN_ENGINE);
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g,
             g->lib->get(config, KD_CUDNN_CONFIG_ENGINE, KD_CUDNN_IS_DESCRIPTOR, 1, &n, &engine));
    }
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g, g->lib->get(engine, KD_CUDNN_ENGINE_NUMERICAL_NOTES, KD_CUDNN_IS_NUMERICAL_NOTE,
                            NOTES_MAX, &n, notes));
    }
    bool same_bits = g->status == KD_CUDNN_SUCCESS;
    for (int64_t i = 0; i < n && i < NOTES_MAX; i++) {
        same_bits = same_bits && notes[i] != KD_CUDNN_NOTE_NONDETERMINISTIC;
    }
    return same_bits;
}

/* The heuristic's engines, the best first, all of which can run the graph. */
static int64_t engines(kd_cudnn_graph *g, void *graph, void *device, void *(&configs)[ENGINES_MAX])
{
    int64_t n = 0;

    void *heuristic = create(g, KD_CUDNN_HEURISTIC);
    set_descriptor(g, heuristic, KD_CUDNN_HEURISTIC_GRAPH, graph);
    set_word(g, heuristic, KD_CUDNN_HEURISTIC_MODE, KD_CUDNN_IS_HEURISTIC_MODE,
             KD_CUDNN_HEURISTIC_A);
    if (device != nullptr) {
        set_descriptor(g, heuristic, KD_CUDNN_HEURISTIC_DEVICE, device);
    }
    finalize(g, heuristic);
    for (void *&config : configs) {
        config = create(g, KD_CUDNN_CONFIG);
    }
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g, g->lib->get(heuristic, KD_CUDNN_HEURISTIC_RESULTS, KD_CUDNN_IS_DESCRIPTOR,
                            ENGINES_MAX, &n, configs));
    }
    return g->status == KD_CUDNN_SUCCESS ? n : 0;
}

int kd_cudnn_graph_choose(kd_cudnn_graph *g, void *handle, void *device)
{
    void *configs[ENGINES_MAX];

    void *graph = create(g, KD_CUDNN_GRAPH);
    set(g, graph, KD_CUDNN_GRAPH_OPERATIONS, KD_CUDNN_IS_DESCRIPTOR, g->n_operations,
        g->operations);
    if (handle != nullptr) {
        set(g, graph, KD_CUDNN_GRAPH_HANDLE, KD_CUDNN_IS_HANDLE, 1, &handle);
    }
    finalize(g, graph);
    const int64_t n = engines(g, graph, device, configs);
    for (int64_t i = 0; i < n && g->config == nullptr; i++) {
        g->config = is_deterministic(g, configs[i]) ? configs[i] : nullptr;
    }
    if (g->config == nullptr) {
        keep(g, KD_CUDNN_NOT_SUPPORTED);
    }
    return g->status;
}

int kd_cudnn_graph_prepare(kd_cudnn_graph *g, void *handle)
{
    int64_t n = 0;

    void *plan = create(g, KD_CUDNN_PLAN);
    set(g, plan, KD_CUDNN_PLAN_HANDLE, KD_CUDNN_IS_HANDLE, 1, &handle);
    set_descriptor(g, plan, KD_CUDNN_PLAN_CONFIG, g->config);
    finalize(g, plan);
    if (g->status == KD_CUDNN_SUCCESS) {
        keep(g, g->lib->get(plan, KD_CUDNN_PLAN_WORKSPACE_BYTES, KD_CUDNN_IS_INT64, 1, &n,
                            &g->workspace_bytes));
    }
    g->plan = plan;
    return g->status;
}

int kd_cudnn_graph_run(const kd_cudnn_graph *g,
                       void *handle,
                       void *const (&pointers)[KD_CUDNN_ARGUMENTS],
                       void *workspace)
{
    int64_t uids[KD_CUDNN_ARGUMENTS], n = 0;
    void *given[KD_CUDNN_ARGUMENTS], *pack = nullptr;

    for (int i = 0; i < KD_CUDNN_ARGUMENTS; i++) {
        if (pointers[i] != nullptr) {
            uids[n] = uid_of(i);
            given[n++] = pointers[i];
        }
    }
    int status = g->lib->create_descriptor(KD_CUDNN_PACK, &pack);
    if (status != KD_CUDNN_SUCCESS) {
        return status;
    }
    status = g->lib->set(pack, KD_CUDNN_PACK_UIDS, KD_CUDNN_IS_INT64, n, uids);
    if (status == KD_CUDNN_SUCCESS) {
        status = g->lib->set(pack, KD_CUDNN_PACK_POINTERS, KD_CUDNN_IS_POINTER, n, given);
    }
    if (status == KD_CUDNN_SUCCESS) {
        status = g->lib->set(pack, KD_CUDNN_PACK_WORKSPACE, KD_CUDNN_IS_POINTER, 1, &workspace);
    }
    if (status == KD_CUDNN_SUCCESS) {
        status = g->lib->finalize(pack);
    }
    if (status == KD_CUDNN_SUCCESS) {
        status = g->lib->execute(handle, g->plan, pack);
    }
    (void)g->lib->destroy_descriptor(pack);
    return status;
}
