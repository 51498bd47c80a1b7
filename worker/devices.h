/*
 * devices.h - the CUDA devices of a rank: those that failed under earlier attempts are not taken, and one that
 * fails is told to the daemon, which then has the next attempts avoid it. A rank without a daemon avoids none.
 *
 * Threads: that of the training.
 */
#ifndef KD_WORKER_DEVICES_H
#define KD_WORKER_DEVICES_H

#include "proto/worker.pb-c.h"
#include "tensor/ops.h"
#include "train/device.h"
#include "worker/link.h"

/* A device that this rank opened, as it was told of before it could fail. */
typedef struct opened_device {
    const kd_backend *be; /* borrowed; NULL: making it failed */
    char identity[KD_CUDA_IDENTITY_BYTES];
    char name[KD_DEVICE_TEXT_BYTES];
} opened_device;

#define DEVICES_OPENED_MAX                                                                         \
    32 /* of one rank: the student's and one for each teacher; later ones are not told */

typedef struct rank_devices {
    uint64_t avoided; /* as train/device.h has it */
    opened_device opened[DEVICES_OPENED_MAX];
    int n_opened;
} rank_devices;

/* Finds those that the attempt is to avoid among this host's, with a line of the log for each. */
void devices_avoid(rank_devices *devices, const Kd__Attempt *attempt);

/* kd_device_open() without those. A failure of a CUDA device is noted. */
KD_MUST_USE kd_status devices_open(rank_devices *devices,
                                   const kd_device_place *place,
                                   kd_dtype compute,
                                   kd_backend **be_out);

/* After a fault, while back ends live: tells which device failed, if one has. */
void devices_tell_failed(const rank_devices *devices, rank_link *link);

/* That this host has devices, but none that is not avoided; `text` says who wanted one. */
void devices_tell_none_left(rank_link *link, const char *text);

#endif
