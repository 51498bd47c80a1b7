/*
 * cudnn.cpp - the functions of the stand-in for cuDNN.
 */
#include "cudnn.h"

#include <cstring>
#include <map>

#include "runtime.h"

using namespace kd_host;

enum { VERSION = 91900 };

namespace
{
struct handle {
    int device;
    cudaStream_t stream;
};

} // namespace

static int attribute_type(int which)
{
    switch (which) {
    case KD_CUDNN_POINTWISE_MODE:
        return KD_CUDNN_IS_POINTWISE_MODE;
    case KD_CUDNN_REDUCTION_MODE:
        return KD_CUDNN_IS_REDUCTION_MODE;
    case KD_CUDNN_HEURISTIC_MODE:
        return KD_CUDNN_IS_HEURISTIC_MODE;
    case KD_CUDNN_POINTWISE_PRECISION:
    case KD_CUDNN_MATMUL_PRECISION:
    case KD_CUDNN_REDUCTION_PRECISION:
    case KD_CUDNN_TENSOR_DTYPE:
        return KD_CUDNN_IS_DTYPE;
    case KD_CUDNN_POINTWISE_AXIS:
    case KD_CUDNN_TENSOR_ALIGNMENT:
    case KD_CUDNN_TENSOR_DIMENSIONS:
    case KD_CUDNN_TENSOR_STRIDES:
    case KD_CUDNN_TENSOR_UID:
    case KD_CUDNN_PACK_UIDS:
    case KD_CUDNN_PLAN_WORKSPACE_BYTES:
        return KD_CUDNN_IS_INT64;
    case KD_CUDNN_TENSOR_IS_VIRTUAL:
    case KD_CUDNN_TENSOR_IS_BY_VALUE:
        return KD_CUDNN_IS_BOOL;
    case KD_CUDNN_GRAPH_HANDLE:
    case KD_CUDNN_PLAN_HANDLE:
        return KD_CUDNN_IS_HANDLE;
    case KD_CUDNN_PACK_POINTERS:
    case KD_CUDNN_PACK_WORKSPACE:
        return KD_CUDNN_IS_POINTER;
    case KD_CUDNN_ENGINE_NUMERICAL_NOTES:
        return KD_CUDNN_IS_NUMERICAL_NOTE;
    case KD_CUDNN_DEVICE_JSON:
        return KD_CUDNN_IS_CHAR;
    default:
        return KD_CUDNN_IS_DESCRIPTOR;
    }
}

static size_t type_bytes(int type)
{
    switch (type) {
    case KD_CUDNN_IS_BOOL:
    case KD_CUDNN_IS_CHAR:
        return 1;
    case KD_CUDNN_IS_HANDLE:
    case KD_CUDNN_IS_INT64:
    case KD_CUDNN_IS_POINTER:
    case KD_CUDNN_IS_DESCRIPTOR:
        return 8;
    default:
        return 4; /* an enumeration */
    }
}

/* ---- the library's functions ---- */

static size_t get_version()
{
    return VERSION;
}

static const char *name_of(int status)
{
    switch (status / 1000 * 1000) {
    case KD_CUDNN_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case KD_CUDNN_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case KD_CUDNN_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    case KD_CUDNN_INTERNAL_ERROR:
        return "CUDNN_STATUS_INTERNAL_ERROR";
    case KD_CUDNN_EXECUTION_FAILED:
        return "CUDNN_STATUS_EXECUTION_FAILED";
    }
    return "unknown";
}

static int create_handle(void **out)
{
    api_call call;
    if (check_device(current_device()) || sticky_error())
        return KD_CUDNN_EXECUTION_FAILED;
    *out = new handle{current_device(), nullptr};
    return KD_CUDNN_SUCCESS;
}

static int destroy_handle(void *h)
{
    delete (handle *)h;
    return KD_CUDNN_SUCCESS;
}

static int set_stream(void *h, void *stream)
{
    if (!h)
        return BAD_NULL;
    ((handle *)h)->stream = (cudaStream_t)stream;
    return KD_CUDNN_SUCCESS;
}

static int create_descriptor(int type, void **out)
{
    descriptor *made = new descriptor;
    made->type = type;
    *out = made;
    return KD_CUDNN_SUCCESS;
}

static int destroy_descriptor(void *d)
{
    delete (descriptor *)d;
    return KD_CUDNN_SUCCESS;
}

static int set_attribute(void *to, int which, int type, int64_t n, const void *values)
{
    descriptor *d = (descriptor *)to;
    if (!d || !values || n < 1)
        return BAD_NULL;
    if (d->is_final)
        return KD_CUDNN_BAD_PARAM;
    if (type != attribute_type(which))
        return BAD_TYPE;
    const char *bytes = (const char *)values;
    d->values[which] = {type, std::vector<char>(bytes, bytes + (size_t)n * type_bytes(type))};
    return KD_CUDNN_SUCCESS;
}

static bool refuses_all;

void kd_cuda_host_refuse_graphs(int refuses)
{
    refuses_all = refuses != 0;
}

static int give_engines(const descriptor &d, int64_t room, int64_t *n_out, void *values)
{
    *n_out = 0;
    for (int64_t i = 0; i < 2 && i < room && !refuses_all && graph_is_supported(*d.made); i++) {
        descriptor *config = ((descriptor **)values)[i];
        if (!config || config->type != KD_CUDNN_CONFIG)
            return BAD_DESCRIPTOR;
        config->made = d.made;
        config->is_deterministic = i > 0;
        config->is_final = true;
        ++*n_out;
    }
    return KD_CUDNN_SUCCESS;
}

static int
get_attribute(const void *of, int which, int type, int64_t room, int64_t *n_out, void *values)
{
    const descriptor *d = (const descriptor *)of;
    if (!d || !values || !n_out)
        return BAD_NULL;
    if (!d->is_final)
        return BAD_NOT_FINALIZED;
    if (type != attribute_type(which))
        return BAD_TYPE;
    if (room < 1)
        return BAD_ROOM;
    *n_out = 1;
    if (d->type == KD_CUDNN_HEURISTIC && which == KD_CUDNN_HEURISTIC_RESULTS)
        return give_engines(*d, room, n_out, values);
    if (d->type == KD_CUDNN_CONFIG && which == KD_CUDNN_CONFIG_ENGINE) {
        descriptor *engine = *(descriptor **)values;
        engine->is_deterministic = d->is_deterministic;
        engine->is_final = true;
    } else if (d->type == KD_CUDNN_ENGINE && which == KD_CUDNN_ENGINE_NUMERICAL_NOTES) {
        *n_out = d->is_deterministic ? 0 : 1;
        if (!d->is_deterministic)
            *(int *)values = KD_CUDNN_NOTE_NONDETERMINISTIC;
    } else if (d->type == KD_CUDNN_PLAN && which == KD_CUDNN_PLAN_WORKSPACE_BYTES) {
        *(int64_t *)values = (int64_t)graph_workspace_bytes(*d->made);
    } else {
        return KD_CUDNN_BAD_PARAM;
    }
    return KD_CUDNN_SUCCESS;
}

/* Passes on the graph of the part that it is made from. */
static int finalize_from(descriptor *d, int which, int type)
{
    const descriptor *from = d->part(which, type);
    if (!from)
        return BAD_NOT_FINALIZED;
    d->made = from->made;
    d->is_deterministic = from->is_deterministic;
    return KD_CUDNN_SUCCESS;
}

static int finalize(void *what)
{
    descriptor *d = (descriptor *)what;
    if (!d)
        return BAD_NULL;
    int status = KD_CUDNN_SUCCESS;
    if (d->type == KD_CUDNN_TENSOR)
        status = graph_finalize_tensor(*d);
    else if (d->type == KD_CUDNN_GRAPH)
        status = graph_finalize(d);
    else if (d->type == KD_CUDNN_HEURISTIC)
        status = finalize_from(d, KD_CUDNN_HEURISTIC_GRAPH, KD_CUDNN_GRAPH);
    else if (d->type == KD_CUDNN_PLAN)
        status = d->get<void *>(KD_CUDNN_PLAN_HANDLE)
                     ? finalize_from(d, KD_CUDNN_PLAN_CONFIG, KD_CUDNN_CONFIG)
                     : BAD_NULL;
    else if (d->type == KD_CUDNN_CONFIG || d->type == KD_CUDNN_ENGINE)
        status = KD_CUDNN_NOT_SUPPORTED; /* by hand: they come from a heuristic */
    d->is_final = status == KD_CUDNN_SUCCESS;
    return status;
}

/* Values are read now, and memory when the stream comes to it. */
static int find_arguments(const graph &g,
                          const descriptor &pack,
                          std::vector<char *> *at,
                          std::vector<float> *by_value)
{
    const std::vector<int64_t> uids = pack.all<int64_t>(KD_CUDNN_PACK_UIDS);
    const std::vector<char *> pointers = pack.all<char *>(KD_CUDNN_PACK_POINTERS);
    if (uids.size() != pointers.size())
        return BAD_SHAPE;
    for (size_t i = 0; i < g.tensors.size(); i++) {
        const graph_tensor &t = g.tensors[i];
        for (size_t j = 0; j < uids.size(); j++)
            if (uids[j] == t.uid && !t.is_virtual)
                (*at)[i] = pointers[j];
        if (t.is_virtual)
            continue;
        if (!(*at)[i])
            return BAD_NULL;
        if (t.is_by_value)
            memcpy(&(*by_value)[i], (*at)[i], sizeof(float));
        else if (memory_place((*at)[i]) == ON_HOST)
            return KD_CUDNN_BAD_PARAM;
        else if ((uintptr_t)(*at)[i] % (size_t)t.alignment)
            return BAD_ALIGNMENT;
    }
    return KD_CUDNN_SUCCESS;
}

static int execute(void *with, void *what, void *arguments)
{
    api_call call;
    const handle *h = (const handle *)with;
    const descriptor *plan = (const descriptor *)what, *pack = (const descriptor *)arguments;
    if (!h || !plan || !pack)
        return BAD_NULL;
    if (!plan->is_final || !pack->is_final)
        return BAD_NOT_FINALIZED;
    if (sticky_error() || h->device != current_device() || !plan->is_deterministic)
        return KD_CUDNN_EXECUTION_FAILED;
    std::shared_ptr<const graph> g = plan->made;
    std::vector<char *> at(g->tensors.size());
    std::vector<float> by_value(g->tensors.size());
    if (int status = find_arguments(*g, *pack, &at, &by_value))
        return status;
    const size_t n_bytes = graph_workspace_bytes(*g);
    char *workspace = pack->get<char *>(KD_CUDNN_PACK_WORKSPACE);
    if (!workspace || (uintptr_t)workspace % 256)
        return BAD_ALIGNMENT;
    auto run = [=]() mutable {
        for (size_t i = 0; i < at.size(); i++)
            if (g->tensors[i].is_by_value)
                at[i] = (char *)&by_value[i];
        if (!memory_holds(workspace, n_bytes)) {
            engine().fault = "cuDNN: the workspace leaves the memory it lies in";
            return cudaErrorLaunchFailure;
        }
        memset(workspace, 0xff, n_bytes);
        return graph_run(*g, at);
    };
    return enqueue(h->stream, {run, {}, current_device()}) ? KD_CUDNN_EXECUTION_FAILED
                                                           : KD_CUDNN_SUCCESS;
}

void *kd_cuda_host_cudnn(const char *name)
{
    static const std::map<std::string, void *> functions = {
        {"cudnnGetVersion", (void *)get_version},
        {"cudnnGetErrorString", (void *)name_of},
        {"cudnnCreate", (void *)create_handle},
        {"cudnnDestroy", (void *)destroy_handle},
        {"cudnnSetStream", (void *)set_stream},
        {"cudnnBackendCreateDescriptor", (void *)create_descriptor},
        {"cudnnBackendDestroyDescriptor", (void *)destroy_descriptor},
        {"cudnnBackendSetAttribute", (void *)set_attribute},
        {"cudnnBackendGetAttribute", (void *)get_attribute},
        {"cudnnBackendFinalize", (void *)finalize},
        {"cudnnBackendExecute", (void *)execute},
    };
    auto found = functions.find(name);
    return found == functions.end() ? nullptr : found->second;
}
