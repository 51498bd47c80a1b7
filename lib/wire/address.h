/*
 * address.h - where a daemon listens and its clients connect: "unix:PATH" or "tcp:HOST:PORT".
 *
 * TCP is plain text, so its host has to be this machine: 127.0.0.0/8, [::1] or localhost, which
 * means 127.0.0.1. An IPv6 host stands in brackets. Port 0 lets the kernel choose (listeners only).
 *
 * Pure. Threads: any.
 */
#ifndef KD_WIRE_ADDRESS_H
#define KD_WIRE_ADDRESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define KD_ADDRESS_PATH_MAX 108 /* sun_path, its NUL included */
#define KD_ADDRESS_TEXT_MAX 128 /* any address as text, its NUL included */

typedef enum kd_address_kind { KD_ADDRESS_UNIX, KD_ADDRESS_TCP } kd_address_kind;

typedef struct kd_address {
    kd_address_kind kind;
    char path[KD_ADDRESS_PATH_MAX]; /* KD_ADDRESS_UNIX */
    char host[46];                  /* KD_ADDRESS_TCP: a numeric IPv4 or IPv6 address */
    uint16_t port;                  /* KD_ADDRESS_TCP */
} kd_address;

/* KD_ERR_INVALID, with the reason, if the text is no address or not one that is allowed. */
KD_MUST_USE kd_status kd_address_parse(const char *text, kd_address *address_out);

/* The address as kd_address_parse() reads it; returns text_out. */
const char *kd_address_format(const kd_address *address, char text_out[KD_ADDRESS_TEXT_MAX]);

#endif
