/*
 * cudnn_graph.h - a graph of cuDNN's operations: tensors of four dimensions and what is computed between
 * them, an engine of the library that runs it as one, and its run on a stream.
 *
 * A graph is filled by the functions below, each of which does nothing once one of them has failed: the status
 * is looked at once, when the plan is made. Tensors have a number; those of memory have one that the caller
 * chooses (0 to KD_CUDNN_ARGUMENTS - 1) and names again at each run, virtual ones live within the engine.
 *
 * Threads: one at a time.
 */
#ifndef KD_TENSOR_CUDA_CUDNN_GRAPH_H
#define KD_TENSOR_CUDA_CUDNN_GRAPH_H

#include "tensor/cuda/cudnn.h"

constexpr int KD_CUDNN_ARGUMENTS = 16;        /* tensors of memory in a graph    */
constexpr int KD_CUDNN_OPERATIONS_MAX = 32;   /* of a graph                      */
constexpr int KD_CUDNN_DESCRIPTORS_MAX = 128; /* of a graph, with its plan       */
constexpr int64_t KD_CUDNN_ALIGN = 16; /* bytes, of tensors in bf16; others: their elements' */
constexpr int64_t KD_CUDNN_WORKSPACE_ALIGN = 256;

/* A place in a tensor is the sum of index times stride; a stride counts elements. */
struct kd_cudnn_view {
    int64_t dims[4], strides[4];
};

struct kd_cudnn_graph {
    const kd_cudnn *lib;
    int status;                           /* of the first call that failed            */
    void *held[KD_CUDNN_DESCRIPTORS_MAX]; /* descriptors, which live as long as it    */
    int n_held;
    void *operations[KD_CUDNN_OPERATIONS_MAX];
    int n_operations;
    int64_t next_virtual;
    void *config, *plan;
    int64_t workspace_bytes; /* of a run; KD_CUDNN_WORKSPACE_ALIGN */
};

typedef void *kd_cudnn_tensor;

kd_cudnn_graph kd_cudnn_graph_begin(const kd_cudnn *lib);
void kd_cudnn_graph_release(kd_cudnn_graph *graph);

/* A tensor of memory; one by value is a float that a run gives the address of, on the host. */
kd_cudnn_tensor
kd_cudnn_argument(kd_cudnn_graph *graph, int number, int dtype, const kd_cudnn_view &view);
kd_cudnn_tensor kd_cudnn_value(kd_cudnn_graph *graph, int number);
kd_cudnn_tensor kd_cudnn_virtual(kd_cudnn_graph *graph, int dtype, const kd_cudnn_view &view);

/* Operations give back what they write. Sums are f32. b and t may be NULL where the mode has none. */
kd_cudnn_tensor
kd_cudnn_matmul(kd_cudnn_graph *graph, kd_cudnn_tensor a, kd_cudnn_tensor b, kd_cudnn_tensor c);
kd_cudnn_tensor kd_cudnn_pointwise(kd_cudnn_graph *graph,
                                   int mode,
                                   kd_cudnn_tensor x,
                                   kd_cudnn_tensor b,
                                   kd_cudnn_tensor t,
                                   kd_cudnn_tensor y);
/* y (i32) is the index along the axis, in the shape of x. */
kd_cudnn_tensor
kd_cudnn_index(kd_cudnn_graph *graph, int64_t axis, kd_cudnn_tensor x, kd_cudnn_tensor y);
/* Where y has fewer of a dimension, each of them is of as many of x that follow each other. */
kd_cudnn_tensor
kd_cudnn_reduce(kd_cudnn_graph *graph, int mode, kd_cudnn_tensor x, kd_cudnn_tensor y);
/* The same elements, seen with the dimensions and strides of y. */
kd_cudnn_tensor kd_cudnn_reshape(kd_cudnn_graph *graph, kd_cudnn_tensor x, kd_cudnn_tensor y);

/*
 * Chooses the first engine of the library's heuristic that can run the graph and gives the same bits each
 * time; nothing is timed. Of the device of the handle, or of a device that a KD_CUDNN_DEVICE describes.
 * KD_CUDNN_NOT_SUPPORTED: there is none.
 */
int kd_cudnn_graph_choose(kd_cudnn_graph *graph, void *handle, void *device);
/* Makes ready what was chosen: takes a second or two, and compiles for the device. */
int kd_cudnn_graph_prepare(kd_cudnn_graph *graph, void *handle);

/* Queues a run on the handle's stream. pointers[n] is of argument or value n; NULL: the graph has none. */
int kd_cudnn_graph_run(const kd_cudnn_graph *graph,
                       void *handle,
                       void *const (&pointers)[KD_CUDNN_ARGUMENTS],
                       void *workspace);

#endif
