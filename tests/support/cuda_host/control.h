/*
 * control.h - how a test steers the emulated device, also from C.
 */
#ifndef KD_CUDA_HOST_CONTROL_H
#define KD_CUDA_HOST_CONTROL_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * With KD_CUDA_HOST_CLOSED in the environment the host cannot reach device memory but through the runtime: it
 * ends as by a wrong pointer, with a line that says so. With KD_CUDA_HOST_FAULT_AT=n the n-th kernel that the
 * process runs fails, and from then on all that is asked of its device, as where one is lost; with
 * KD_CUDA_HOST_FAULT_DEVICE=d only kernels of device d are counted. With KD_CUDA_HOST_IPC=0 no memory is shared
 * with other processes.
 *
 * The schedule from here on; waits first for all that is queued. Seed 0: threads and blocks in order,
 * asynchronous copies and the work of streams as late as allowed. Others shuffle all of these. At start it
 * is KD_CUDA_HOST_SEED, or 0.
 */
void kd_cuda_host_set_seed(unsigned seed);

/* Why a kernel failed, since start or the last recovery; "" if none did. Valid until the next failure. */
const char *kd_cuda_host_last_fault(void);

/* As after a new start of a process whose kernel failed, but memory, streams and events stay. */
void kd_cuda_host_recover(void);

/* Device memory that is allocated now, on all devices together. */
unsigned long long kd_cuda_host_allocated_bytes(void);

typedef struct kd_cuda_host_work {
    unsigned long long n_launches, n_threads, n_switches; /* since start */
} kd_cuda_host_work;

kd_cuda_host_work kd_cuda_host_work_done(void);

/* A function of the stand-in for cuDNN by the library's name for it; NULL: there is no such. */
void *kd_cuda_host_cudnn(const char *name);

/* From here on no engine of it takes a graph; 0: as before. */
void kd_cuda_host_refuse_graphs(int refuses);

#ifdef __cplusplus
}
#endif

#endif
