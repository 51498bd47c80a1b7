/*
 * device - prints the first CUDA device as JSON, on one line; exits with 1 where there is none. Compiled by itself, before
 * it is known what for.
 */
#include <cuda_runtime.h>

#include <cstdio>

int main(void)
{
    cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    const cudaError_t error = cudaGetDeviceProperties(&properties, 0);

    if (error != cudaSuccess) {
        fprintf(stderr, "device: no CUDA device: %s\n", cudaGetErrorString(error));
        return 1;
    }
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    printf(
        "{\"name\": \"%s\", \"architecture\": %d, \"memory_bytes\": %zu, \"multiprocessors\": %d, "
        "\"driver_cuda\": %d, \"runtime_cuda\": %d}\n",
        properties.name, properties.major * 10 + properties.minor, properties.totalGlobalMem,
        properties.multiProcessorCount, driver, runtime);
    return 0;
}
