/*
 * device.c - beside dtype.c: one device for all ranks of a role, so that what they add up was rounded
 * alike.
 */
#include "train/device.h"

#include <stdio.h>

#include "base/log.h"

Kd__Resources__Device kd_device_choose(Kd__Resources__Device wish, int64_t n_ranks, int64_t n_see)
{
    if (wish != KD__RESOURCES__DEVICE__AUTO) {
        return wish;
    }
    return n_ranks > 0 && n_see == n_ranks ? KD__RESOURCES__DEVICE__CUDA
                                           : KD__RESOURCES__DEVICE__CPU;
}

kd_status kd_device_open(const kd_device_place *place, kd_dtype compute, kd_backend **be_out)
{
    KD_CHECK(place->device != KD__RESOURCES__DEVICE__AUTO);
    if (place->device == KD__RESOURCES__DEVICE__CPU) {
        return kd_backend_create_cpu_at(compute, place->n_threads, place->level, be_out);
    }
    const int n_devices = kd_cuda_device_count();
    const int number = n_devices > 0 ? (int)(place->local_rank % n_devices) : 0;
    return kd_backend_create_cuda(compute, number, be_out);
}

void kd_device_text(const kd_backend *be, char text_out[KD_DEVICE_TEXT_BYTES])
{
    if (be->device.kind == KD_DEVICE_CPU) {
        (void)snprintf(text_out, KD_DEVICE_TEXT_BYTES, "%s, %d %s", be->ops->name, be->n_threads,
                       be->n_threads == 1 ? "thread" : "threads");
    } else {
        (void)snprintf(text_out, KD_DEVICE_TEXT_BYTES, "%s, number %d", be->device.name,
                       be->device.number);
    }
}
