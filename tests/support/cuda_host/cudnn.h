/*
 * cudnn.h - a stand-in for cuDNN's graph interface: descriptors under the library's values (those of
 * tensor/cuda/cudnn.h), put together to a graph that runs on the emulated streams.
 *
 * It has what graphs of attention are made of: products, pointwise operations, reductions and reshapes of
 * tensors with four dimensions. What is virtual is computed in f32 and rounded to the type that it was given;
 * a product's operand is rounded to bf16 if the other one is, and its sums are f32 in the order of k. Each
 * graph is offered two engines, of which the first says that its results may differ from run to run, and fails
 * if it is run: nothing here wants that one.
 *
 * Refused, as by the library: attributes of another type than theirs, values of what is finalized and use of
 * what is not (BAD_PARAM); tensors that two operations write or that lie apart by other than whole pieces of
 * 16 bytes, shapes that do not fit, heads of a number of columns that 8 does not divide or above 256, modes
 * that are not named in tensor/cuda/cudnn.h (no engine); arguments that a run does not give, or gives in host
 * memory, workspaces that are missing or not aligned to 256 bytes (BAD_PARAM). An argument that leaves its
 * memory is a fault of the device. A workspace is filled with NaN.
 */
#ifndef KD_CUDA_HOST_CUDNN_H
#define KD_CUDA_HOST_CUDNN_H

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "cuda_runtime.h"
#include "tensor/cuda/cudnn.h"

namespace kd_host
{
struct graph_tensor {
    int64_t uid = 0, alignment = 0, dims[4] = {}, strides[4] = {};
    int dtype = KD_CUDNN_F32;
    bool is_virtual = false, is_by_value = false;

    int64_t elements() const; /* from the first to the last in memory */
};

enum graph_kind { GRAPH_MATMUL, GRAPH_POINTWISE, GRAPH_REDUCTION, GRAPH_RESHAPE };

/* Tensors by their place in the graph; -1: none. Of a product x, b and y are A, B and C. */
struct graph_operation {
    graph_kind kind;
    int mode = 0;
    int64_t axis = 0;
    int x = -1, b = -1, t = -1, y = -1;
};

struct graph {
    std::vector<graph_tensor> tensors;
    std::vector<graph_operation> operations; /* each after those whose results it reads */
};

/* Statuses within KD_CUDNN_BAD_PARAM. */
enum {
    BAD_NOT_FINALIZED = KD_CUDNN_BAD_PARAM + 4,
    BAD_NULL = KD_CUDNN_BAD_PARAM + 2,
    BAD_ALIGNMENT = KD_CUDNN_BAD_PARAM + 3,
    BAD_ROOM = KD_CUDNN_BAD_PARAM + 6,
    BAD_SHAPE = KD_CUDNN_BAD_PARAM + 8,
    BAD_DUPLICATE = KD_CUDNN_BAD_PARAM + 9,
    BAD_TYPE = KD_CUDNN_BAD_PARAM + 10,
    BAD_DESCRIPTOR = KD_CUDNN_BAD_PARAM + 12,
};

struct attribute {
    int type;
    std::vector<char> bytes;
};

struct descriptor {
    int type = 0;
    bool is_final = false;
    std::map<int, attribute> values;
    std::shared_ptr<const graph> made; /* of a graph, and of what is made from it */
    bool is_deterministic = true;      /* an engine's, as its configuration says  */

    template <class T> T get(int which, T otherwise = {}) const
    {
        auto found = values.find(which);
        if (found == values.end() || found->second.bytes.size() < sizeof(T))
            return otherwise;
        T value;
        memcpy(&value, found->second.bytes.data(), sizeof value);
        return value;
    }

    template <class T> std::vector<T> all(int which) const
    {
        std::vector<T> found;
        auto at = values.find(which);
        if (at != values.end()) {
            found.resize(at->second.bytes.size() / sizeof(T));
            if (!found.empty())
                memcpy(found.data(), at->second.bytes.data(), found.size() * sizeof(T));
        }
        return found;
    }

    /* One that is set and finalized, or null. */
    const descriptor *part(int which, int of_type) const
    {
        const descriptor *d = get<descriptor *>(which);
        return d && d->type == of_type && d->is_final ? d : nullptr;
    }
};

/* What finalizing them finds; a graph's is kept in `made`. */
int graph_finalize_tensor(const descriptor &d);
int graph_finalize(descriptor *d);

size_t graph_dtype_bytes(int dtype);
/* Whether an engine takes it. */
bool graph_is_supported(const graph &g);
size_t graph_workspace_bytes(const graph &g);
/* Runs it; memory of tensor i is at[i], NULL where it is virtual. */
cudaError_t graph_run(const graph &g, const std::vector<char *> &at);
} // namespace kd_host

#endif
