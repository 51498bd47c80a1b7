/*
 * devices.h - the CUDA devices that failed under an attempt and are avoided by those that start later, until this
 * daemon ends: they are kept in memory, so that starting distilld again is how a person gives them back.
 *
 * Pure.
 */
#ifndef KD_DAEMON_DEVICES_H
#define KD_DAEMON_DEVICES_H

#include <stdbool.h>
#include <stddef.h>

#define DEVICES_AVOIDED_MAX   64 /* of all hosts; more are not avoided */
#define DEVICE_IDENTITY_BYTES 40
#define DEVICE_NAME_BYTES     384

typedef struct avoided_device {
    char identity[DEVICE_IDENTITY_BYTES]; /* its UUID in hex, as its rank told it */
    char name[DEVICE_NAME_BYTES];         /* for people: "NVIDIA H100, number 0 on node1" */
} avoided_device;

/* Starts as {0}. */
typedef struct devices {
    avoided_device avoided[DEVICES_AVOIDED_MAX];
    size_t n_avoided;
} devices;

/* Whether it is new among them; never one without a proper identity, since no rank could find it. */
bool devices_avoid(devices *d, const char *identity, const char *name);

#endif
