/*
 * regions.h - operations of a region (region_begin of ops.h) as one launch of a graph: where kernels are small,
 * queueing them takes longer than running them.
 *
 * A region is captured from the stream each time, and the capture replaces what its executable graph holds, so
 * that arguments are always this time's; only where the graph has another form is it made anew. The first time
 * a region runs as it comes: kernels are loaded and scratch memory grows then. Whatever a graph cannot hold
 * ends the capture early: what was queued so far is launched, and the rest runs as it comes.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TENSOR_CUDA_REGIONS_H
#define KD_TENSOR_CUDA_REGIONS_H

#include "tensor/cuda/device.h"

struct kd_backend;

/* Regions that have graphs; those with higher numbers run as they come. */
enum { KD_CUDA_REGIONS = 1024 };

struct kd_cuda_region {
    cudaGraphExec_t exec; /* null: none yet */
    bool has_run;
};

struct kd_cuda_regions {
    kd_cuda_region *captured; /* whose operations are being captured; null: none are */
    kd_cuda_region each[KD_CUDA_REGIONS];
};

/* Ends a capture, if there is one, by launching what it has. */
void kd_cuda_regions_break(kd_backend *be);
void kd_cuda_regions_destroy(kd_cuda_regions *regions);

#endif
