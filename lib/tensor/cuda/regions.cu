/*
 * regions.cu - captures are in the relaxed mode: what other threads do with their back ends is no part of them.
 */
#include "tensor/cuda/regions.h"

#include "tensor/cuda/cuda.h"

void kd_cuda_region_begin(kd_backend *be, int region)
{
    kd_cuda *cuda = kd_cuda_of(be);

    KD_CHECK(region >= 0 && cuda->regions.captured == nullptr);
    if (be->fault != KD_OK || region >= KD_CUDA_REGIONS ||
        !kd_cuda_uses(be, KD_CUDA_KERNEL_GRAPHS)) {
        return;
    }
    kd_cuda_region *r = &cuda->regions.each[region];
    if (r->has_run &&
        kd_cuda_keep(be, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeRelaxed),
                     "beginning a graph")) {
        cuda->regions.captured = r;
    }
    r->has_run = true;
}

/* The executable that runs now what the graph has. One that is replaced may still run: then this waits. */
static cudaError_t refresh(kd_cuda *cuda, kd_cuda_region *r, cudaGraph_t graph)
{
    cudaGraphExecUpdateResultInfo info;

    if (r->exec != nullptr) {
        if (cudaGraphExecUpdate(r->exec, graph, &info) == cudaSuccess) {
            return cudaSuccess;
        }
        (void)cudaGetLastError(); /* of another form; what else is wrong is told again below */
        const cudaError_t error = cudaStreamSynchronize(cuda->stream);
        (void)cudaGraphExecDestroy(r->exec);
        r->exec = nullptr;
        if (error != cudaSuccess) {
            return error;
        }
    }
    return cudaGraphInstantiate(&r->exec, graph, 0);
}

void kd_cuda_regions_break(kd_backend *be)
{
    kd_cuda *cuda = kd_cuda_of(be);
    kd_cuda_region *r = cuda->regions.captured;
    cudaGraph_t graph = nullptr;

    if (r == nullptr) {
        return;
    }
    cuda->regions.captured = nullptr;
    cudaError_t error = cudaStreamEndCapture(cuda->stream, &graph);
    if (error == cudaSuccess && be->fault == KD_OK) { /* after a fault nothing more runs */
        error = refresh(cuda, r, graph);
        if (error == cudaSuccess) {
            error = cudaGraphLaunch(r->exec, cuda->stream);
        }
    }
    if (graph != nullptr) {
        (void)cudaGraphDestroy(graph);
    }
    if (kd_cuda_keep(be, error, "a graph")) {
        kd_cuda_ran(be, KD_CUDA_KERNEL_GRAPHS);
    }
}

void kd_cuda_region_end(kd_backend *be)
{
    kd_cuda_regions_break(be);
}

void kd_cuda_regions_destroy(kd_cuda_regions *regions)
{
    for (kd_cuda_region &r : regions->each) {
        if (r.exec != nullptr) {
            (void)cudaGraphExecDestroy(r.exec);
        }
    }
}
