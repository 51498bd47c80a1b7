/*
 * device.h - what a job's words for a device (`student.resources.device`, `teachers[i].resources.device`)
 * come to, and its back end.
 */
#ifndef KD_TRAIN_DEVICE_H
#define KD_TRAIN_DEVICE_H

#include "proto/job.pb-c.h"
#include "tensor/ops.h"

/* The wish, unless it is auto: then cuda if all of n_ranks ranks see a CUDA device, as n_see do. Pure. */
Kd__Resources__Device kd_device_choose(Kd__Resources__Device wish, int64_t n_ranks, int64_t n_see);

/* For people: "cpu v3, 2 threads", "NVIDIA H100, number 0". */
#define KD_DEVICE_TEXT_BYTES 288
void kd_device_text(const kd_backend *be, char text_out[KD_DEVICE_TEXT_BYTES]);

/*
 * CUDA devices of this process without some: bit i of `avoided` is set where number i is not to be taken; of
 * those from KD_CUDA_DEVICES_MAX on none can be avoided.
 */
int kd_device_count(uint64_t avoided);

/* The one of n devices that a rank takes, of which a host's ranks take those left in turn; -1: none is left. Pure. */
int kd_device_turn(int n_devices, uint64_t avoided, int64_t local_rank);

/* Where a back end is to be. */
typedef struct kd_device_place {
    Kd__Resources__Device device; /* no longer auto                                              */
    int64_t local_rank;           /* among this host's ranks, which take its CUDA devices in turn */
    uint64_t avoided;             /* of the CUDA devices                                         */
    int n_threads;
    const char *level; /* of the CPU's kernels; NULL: the highest */
} kd_device_place;

/* KD_ERR_NOT_FOUND: cuda, and this process sees no such device, or none that is not avoided. */
KD_MUST_USE kd_status kd_device_open(const kd_device_place *place,
                                     kd_dtype compute,
                                     kd_backend **be_out);

#endif
