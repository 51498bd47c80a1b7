/*
 * address.c - refuses what would be unsafe before anything is opened: plain TCP goes to this machine only.
 */
#include "wire/address.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static kd_status parse_unix(const char *text, const char *path, kd_address *address)
{
    const size_t length = strlen(path);
    if (length == 0) {
        return kd_fail(KD_ERR_INVALID, "address \"%s\": found no path, expected unix:PATH", text);
    }
    if (length >= KD_ADDRESS_PATH_MAX) {
        return kd_fail(KD_ERR_INVALID,
                       "address \"%s\": found a path of %zu bytes, expected at most %d", text,
                       length, KD_ADDRESS_PATH_MAX - 1);
    }
    address->kind = KD_ADDRESS_UNIX;
    memcpy(address->path, path, length + 1);
    return KD_OK;
}

static kd_status parse_port(const char *text, const char *digits, uint16_t *port_out)
{
    char *end;
    const unsigned long port = strtoul(digits, &end, 10);
    if (digits[0] < '0' || digits[0] > '9' || *end != '\0' || port > UINT16_MAX) {
        return kd_fail(KD_ERR_INVALID,
                       "address \"%s\": found port \"%s\", expected a number from 0 to 65535", text,
                       digits);
    }
    *port_out = (uint16_t)port;
    return KD_OK;
}

/* Copies the host without its brackets; false if it does not fit, and so is no numeric address. */
static bool copy_host(const char *host, size_t length, char *host_out, size_t capacity)
{
    if (length >= 2 && host[0] == '[' && host[length - 1] == ']') {
        host++;
        length -= 2;
    }
    if (length >= capacity) {
        return false;
    }
    memcpy(host_out, host, length);
    host_out[length] = '\0';
    return true;
}

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static kd_status parse_tcp(const char *text, const char *rest, kd_address *address)
{
    const char *colon = strrchr(rest, ':');
    if (colon == NULL || colon == rest) {
        return kd_fail(KD_ERR_INVALID, "address \"%s\": expected tcp:HOST:PORT", text);
    }
    kd_status st = parse_port(text, colon + 1, &address->port);
    if (st) {
        return st;
    }
    const size_t host_length = (size_t)(colon - rest);
    const bool fits = copy_host(rest, host_length, address->host, sizeof address->host);
    if (fits && strcmp(address->host, "localhost") == 0) {
        (void)strcpy(address->host, "127.0.0.1");
    }
    if (!fits || !is_loopback(address->host)) {
        return kd_fail(KD_ERR_INVALID,
                       "address \"%s\": found host \"%.*s\", expected a loopback host (127.0.0.1, "
                       "[::1] or localhost): TCP is neither encrypted nor authenticated",
                       text, (int)host_length, rest);
    }
    address->kind = KD_ADDRESS_TCP;
    return KD_OK;
}

kd_status kd_address_parse(const char *text, kd_address *address_out)
{
    kd_address address = {0};
    kd_status st;
    if (strncmp(text, "unix:", 5) == 0) {
        st = parse_unix(text, text + 5, &address);
    } else if (strncmp(text, "tcp:", 4) == 0) {
        st = parse_tcp(text, text + 4, &address);
    } else {
        st = kd_fail(KD_ERR_INVALID, "address \"%s\": expected unix:PATH or tcp:HOST:PORT", text);
    }
    if (!st) {
        *address_out = address;
    }
    return st;
}

const char *kd_address_format(const kd_address *address, char text_out[KD_ADDRESS_TEXT_MAX])
{
    if (address->kind == KD_ADDRESS_UNIX) {
        (void)snprintf(text_out, KD_ADDRESS_TEXT_MAX, "unix:%s", address->path);
    } else {
        const bool v6 = strchr(address->host, ':') != NULL;
        (void)snprintf(text_out, KD_ADDRESS_TEXT_MAX, "tcp:%s%s%s:%u", v6 ? "[" : "", address->host,
                       v6 ? "]" : "", (unsigned)address->port);
    }
    return text_out;
}
