/*
 * cudnn_graph.cpp - a graph from its descriptors, and what engines take of those.
 */
#include "cudnn.h"

using namespace kd_host;

/* ---- graphs from descriptors ---- */

static graph_tensor tensor_of(const descriptor &d)
{
    graph_tensor t;
    t.uid = d.get<int64_t>(KD_CUDNN_TENSOR_UID);
    t.alignment = d.get<int64_t>(KD_CUDNN_TENSOR_ALIGNMENT);
    t.dtype = d.get<int>(KD_CUDNN_TENSOR_DTYPE, -1);
    t.is_virtual = d.get<bool>(KD_CUDNN_TENSOR_IS_VIRTUAL);
    t.is_by_value = d.get<bool>(KD_CUDNN_TENSOR_IS_BY_VALUE);
    const std::vector<int64_t> dims = d.all<int64_t>(KD_CUDNN_TENSOR_DIMENSIONS);
    const std::vector<int64_t> strides = d.all<int64_t>(KD_CUDNN_TENSOR_STRIDES);
    for (size_t i = 0; i < 4 && dims.size() == 4 && strides.size() == 4; i++) {
        t.dims[i] = dims[i];
        t.strides[i] = strides[i];
    }
    return t;
}

int kd_host::graph_finalize_tensor(const descriptor &d)
{
    const graph_tensor t = tensor_of(d);
    for (int i = 0; i < 4; i++)
        if (t.dims[i] < 1 || t.strides[i] < 1)
            return BAD_SHAPE;
    if (t.dtype < 0 || t.alignment < 1 || (t.is_virtual && t.is_by_value))
        return KD_CUDNN_BAD_PARAM;
    return KD_CUDNN_SUCCESS;
}

/* The place of an operation's tensor in the graph; -1: it has none, -2: one that will not do. */
static int
tensor_at(graph *g, std::map<int64_t, const descriptor *> *known, const descriptor &o, int which)
{
    if (!o.values.count(which))
        return -1;
    const descriptor *d = o.part(which, KD_CUDNN_TENSOR);
    if (!d)
        return -2;
    const graph_tensor t = tensor_of(*d);
    auto other = known->find(t.uid);
    if (other != known->end() && other->second != d)
        return -2;
    for (size_t i = 0; i < g->tensors.size(); i++)
        if (g->tensors[i].uid == t.uid)
            return (int)i;
    (*known)[t.uid] = d;
    g->tensors.push_back(t);
    return (int)g->tensors.size() - 1;
}

static int
add_operation(graph *g, std::map<int64_t, const descriptor *> *known, const descriptor &o)
{
    struct words {
        int type, of, of_type, x, b, t, y;
    };

    static const words all[] = {
        {KD_CUDNN_OPERATION_MATMUL, KD_CUDNN_MATMUL_OF, KD_CUDNN_MATMUL, KD_CUDNN_MATMUL_A,
         KD_CUDNN_MATMUL_B, -1, KD_CUDNN_MATMUL_C},
        {KD_CUDNN_OPERATION_POINTWISE, KD_CUDNN_POINTWISE_OF, KD_CUDNN_POINTWISE,
         KD_CUDNN_POINTWISE_X, KD_CUDNN_POINTWISE_B, KD_CUDNN_POINTWISE_T, KD_CUDNN_POINTWISE_Y},
        {KD_CUDNN_OPERATION_REDUCTION, KD_CUDNN_REDUCTION_OF, KD_CUDNN_REDUCTION,
         KD_CUDNN_REDUCTION_X, -1, -1, KD_CUDNN_REDUCTION_Y},
        {KD_CUDNN_OPERATION_RESHAPE, -1, 0, KD_CUDNN_RESHAPE_X, -1, -1, KD_CUDNN_RESHAPE_Y},
    };
    for (int kind = 0; kind < 4; kind++) {
        const words &w = all[kind];
        if (o.type != w.type)
            continue;
        graph_operation made = {(graph_kind)kind};
        const descriptor *how = w.of < 0 ? nullptr : o.part(w.of, w.of_type);
        if (w.of >= 0 && !how)
            return BAD_NOT_FINALIZED;
        if (kind == GRAPH_POINTWISE)
            made.mode = how->get<int>(KD_CUDNN_POINTWISE_MODE, -1);
        if (kind == GRAPH_REDUCTION)
            made.mode = how->get<int>(KD_CUDNN_REDUCTION_MODE, -1);
        if (how)
            made.axis = how->get<int64_t>(KD_CUDNN_POINTWISE_AXIS);
        made.x = tensor_at(g, known, o, w.x);
        made.b = tensor_at(g, known, o, w.b);
        made.t = tensor_at(g, known, o, w.t);
        made.y = tensor_at(g, known, o, w.y);
        if (made.x < 0 || made.y < 0 || made.b == -2 || made.t == -2)
            return BAD_DUPLICATE;
        g->operations.push_back(made);
        return KD_CUDNN_SUCCESS;
    }
    return BAD_DESCRIPTOR;
}

/* Each after what it reads; false: there is a circle, or a tensor with two writers, or a virtual one with none. */
static bool put_in_order(graph *g)
{
    std::vector<int> writers(g->tensors.size());
    for (const graph_operation &o : g->operations)
        writers[(size_t)o.y]++;
    std::vector<bool> there;
    for (size_t i = 0; i < writers.size(); i++) {
        if (writers[i] > 1 || (g->tensors[i].is_virtual && writers[i] == 0))
            return false;
        there.push_back(writers[i] == 0);
    }
    std::vector<graph_operation> left = g->operations, done;
    while (!left.empty()) {
        size_t i = 0;
        auto ready = [&](int t) { return t < 0 || there[(size_t)t]; };
        while (i < left.size() && !(ready(left[i].x) && ready(left[i].b) && ready(left[i].t)))
            i++;
        if (i == left.size())
            return false;
        there[(size_t)left[i].y] = true;
        done.push_back(left[i]);
        left.erase(left.begin() + (long)i);
    }
    g->operations = done;
    return true;
}

int kd_host::graph_finalize(descriptor *d)
{
    auto made = std::make_shared<graph>();
    std::map<int64_t, const descriptor *> known;
    for (const descriptor *o : d->all<descriptor *>(KD_CUDNN_GRAPH_OPERATIONS)) {
        if (!o || !o->is_final)
            return BAD_NOT_FINALIZED;
        if (int status = add_operation(made.get(), &known, *o))
            return status;
    }
    if (made->operations.empty() || !put_in_order(made.get()))
        return KD_CUDNN_BAD_PARAM;
    d->made = made;
    return KD_CUDNN_SUCCESS;
}

/* ---- what engines take ---- */

static bool fits(const graph &g, const graph_operation &o)
{
    auto dims = [&](int t) { return g.tensors[(size_t)t].dims; };
    const int64_t *x = dims(o.x), *y = dims(o.y);
    switch (o.kind) {
    case GRAPH_MATMUL: {
        if (o.b < 0)
            return false;
        const int64_t *b = dims(o.b);
        return x[0] == y[0] && b[0] == y[0] && x[1] == y[1] && y[1] % b[1] == 0 && x[2] == y[2] &&
               x[3] == b[2] && b[3] == y[3];
    }
    case GRAPH_POINTWISE:
        for (int t : {o.x, o.b, o.t})
            for (int i = 0; i < 4 && t >= 0; i++)
                if (dims(t)[i] != y[i] && dims(t)[i] != 1)
                    return false;
        return true;
    case GRAPH_REDUCTION:
        for (int i = 0; i < 4; i++)
            if (x[i] % y[i])
                return false;
        return true;
    case GRAPH_RESHAPE:
        return g.tensors[(size_t)o.x].elements() == g.tensors[(size_t)o.y].elements();
    }
    return false;
}

static bool knows(const graph_operation &o)
{
    const int n_operands = (o.b >= 0) + (o.t >= 0);
    if (o.kind == GRAPH_REDUCTION)
        return o.mode == KD_CUDNN_SUM || o.mode == KD_CUDNN_MAX;
    if (o.kind != GRAPH_POINTWISE)
        return true;
    switch (o.mode) {
    case KD_CUDNN_EXP:
    case KD_CUDNN_LOG:
    case KD_CUDNN_GEN_INDEX:
        return n_operands == 0 && o.axis >= 0 && o.axis < 4;
    case KD_CUDNN_ADD:
    case KD_CUDNN_SUB:
    case KD_CUDNN_MUL:
    case KD_CUDNN_DIV:
    case KD_CUDNN_GREATER_OR_EQUAL:
        return n_operands == 1;
    case KD_CUDNN_SELECT:
        return n_operands == 2;
    }
    return false;
}

/* Rows and columns that whole pieces of 16 bytes reach, as the copy engine (TMA) wants them. */
static bool is_in_pieces(const graph_tensor &t)
{
    if (t.is_virtual || t.dtype != KD_CUDNN_BF16)
        return true;
    if (t.alignment % 16)
        return false;
    for (int i = 0; i < 4; i++)
        if (t.strides[i] == 1 ? t.dims[i] % 8 || t.dims[i] > 256 : t.strides[i] % 8 != 0)
            return false;
    return true;
}

bool kd_host::graph_is_supported(const graph &g)
{
    for (const graph_operation &o : g.operations)
        if (!knows(o) || !fits(g, o))
            return false;
    for (const graph_tensor &t : g.tensors)
        if (!is_in_pieces(t))
            return false;
    return true;
}
