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

static bool is_avoided(uint64_t avoided, int number)
{
    return number < KD_CUDA_DEVICES_MAX && (avoided >> number & 1) != 0;
}

static int count_left(int n_devices, uint64_t avoided)
{
    int n = 0;
    for (int i = 0; i < n_devices; i++) {
        n += is_avoided(avoided, i) ? 0 : 1;
    }
    return n;
}

int kd_device_count(uint64_t avoided)
{
    return count_left(kd_cuda_device_count(), avoided);
}

int kd_device_turn(int n_devices, uint64_t avoided, int64_t local_rank)
{
    const int n_left = count_left(n_devices, avoided);
    if (n_left == 0) {
        return -1;
    }
    int before = (int)(local_rank % n_left), number = 0;
    while (is_avoided(avoided, number) || before-- > 0) {
        number++;
    }
    return number;
}

kd_status kd_device_open(const kd_device_place *place, kd_dtype compute, kd_backend **be_out)
{
    KD_CHECK(place->device != KD__RESOURCES__DEVICE__AUTO);
    if (place->device == KD__RESOURCES__DEVICE__CPU) {
        return kd_backend_create_cpu_at(compute, place->n_threads, place->level, be_out);
    }
    const int number = kd_device_turn(kd_cuda_device_count(), place->avoided, place->local_rank);
    if (number < 0 && place->avoided != 0) {
        return kd_fail(KD_ERR_NOT_FOUND, "no CUDA device is left: all of this host are avoided");
    }
    return kd_backend_create_cuda(compute, number >= 0 ? number : 0, be_out);
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
