/* devices.c - a short list, in the order in which they failed. */
#include "daemon/devices.h"

#include <stdio.h>
#include <string.h>

bool devices_avoid(devices *d, const char *identity, const char *name)
{
    if (identity[0] == '\0' || strlen(identity) >= DEVICE_IDENTITY_BYTES ||
        d->n_avoided == DEVICES_AVOIDED_MAX) {
        return false;
    }
    for (size_t i = 0; i < d->n_avoided; i++) {
        if (strcmp(d->avoided[i].identity, identity) == 0) {
            return false;
        }
    }
    avoided_device *device = &d->avoided[d->n_avoided++];
    (void)snprintf(device->identity, sizeof device->identity, "%s", identity);
    (void)snprintf(device->name, sizeof device->name, "%s", name);
    return true;
}
