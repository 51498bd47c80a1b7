/*
 * devices.c - what a device is known by is asked for before it is used: of one that failed nothing can be
 * learned any more.
 */
#include "worker/devices.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

/* The avoided device of that identity, or NULL. */
static const Kd__AvoidedDevice *find(const Kd__Attempt *attempt, const char *identity)
{
    for (size_t i = 0; identity[0] != '\0' && i < attempt->n_avoid; i++) {
        const Kd__AvoidedDevice *avoid = attempt->avoid[i];
        if (avoid->identity != NULL && strcmp(avoid->identity, identity) == 0) {
            return avoid;
        }
    }
    return NULL;
}

void devices_avoid(rank_devices *devices, const Kd__Attempt *attempt)
{
    const int n = attempt->n_avoid > 0 ? kd_cuda_device_count() : 0;
    for (int i = 0; i < n && i < KD_CUDA_DEVICES_MAX; i++) {
        char identity[KD_CUDA_IDENTITY_BYTES];
        kd_cuda_identity(i, identity);
        const Kd__AvoidedDevice *avoid = find(attempt, identity);
        if (avoid != NULL) {
            devices->avoided |= UINT64_C(1) << i;
            kd_log(KD_LOG_WARN, "CUDA device %d of %d is avoided: %s failed before", i, n,
                   avoid->name != NULL ? avoid->name : identity);
        }
    }
}

/* The device that a place comes to, noted before it is opened; NULL: it is none of CUDA's. */
static opened_device *note(rank_devices *devices, const kd_device_place *place)
{
    const int number = kd_device_turn(kd_cuda_device_count(), place->avoided, place->local_rank);
    if (place->device != KD__RESOURCES__DEVICE__CUDA || number < 0 ||
        devices->n_opened == DEVICES_OPENED_MAX) {
        return NULL;
    }
    opened_device *opened = &devices->opened[devices->n_opened++];
    *opened = (opened_device){.be = NULL};
    kd_cuda_identity(number, opened->identity);
    (void)snprintf(opened->name, sizeof opened->name, "CUDA device, number %d", number);
    return opened;
}

kd_status devices_open(rank_devices *devices,
                       const kd_device_place *place,
                       kd_dtype compute,
                       kd_backend **be_out)
{
    kd_device_place mine = *place;
    mine.avoided = devices->avoided;
    opened_device *opened = note(devices, &mine);
    const kd_status st = kd_device_open(&mine, compute, be_out);
    if (opened != NULL && !st) {
        opened->be = *be_out;
        kd_device_text(*be_out, opened->name);
    } else if (opened != NULL && st != KD_ERR_IO) { /* no fault of the device */
        devices->n_opened--;
    }
    return st;
}

static void report(const Kd__DeviceReport *device, rank_link *link)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    message.body_case = KD__RANK_MESSAGE__BODY_DEVICE;
    message.device = (Kd__DeviceReport *)device; /* only read */
    rank_link_report(link, &message);
}

/* Faults pass from one back end to another that waits for it: those of a device are its own. */
static bool has_failed(const opened_device *opened)
{
    return opened->be == NULL || opened->be->fault == KD_ERR_IO;
}

void devices_tell_failed(const rank_devices *devices, rank_link *link)
{
    for (int i = 0; i < devices->n_opened; i++) {
        const opened_device *opened = &devices->opened[i];
        Kd__DeviceReport device = KD__DEVICE_REPORT__INIT;
        if (!has_failed(opened)) {
            continue;
        }
        device.has_kind = 1;
        device.kind = KD__DEVICE_REPORT__KIND__FAILED;
        device.identity = (char *)opened->identity; /* all three only read */
        device.name = (char *)opened->name;
        device.text = (char *)(opened->be != NULL ? opened->be->fault_text : kd_fault_text());
        report(&device, link);
        return; /* of several in one process the others fail with it */
    }
}

void devices_tell_none_left(rank_link *link, const char *text)
{
    Kd__DeviceReport device = KD__DEVICE_REPORT__INIT;
    device.has_kind = 1;
    device.kind = KD__DEVICE_REPORT__KIND__NONE_LEFT;
    device.text = (char *)text; /* only read */
    report(&device, link);
}
