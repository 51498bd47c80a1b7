/*
 * frame.c - a whole frame in the input is given out where it lies; only one that was cut is copied, into
 * memory that grows with what has come, never with what was promised.
 */
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const uint32_t first_capacity_bytes = 512; /* most messages are smaller */

static uint32_t min_u32(uint32_t a, size_t b)
{
    return b < a ? (uint32_t)b : a;
}

static void advance(const uint8_t **bytes, size_t *n_bytes, uint32_t n)
{
    *bytes += n;
    *n_bytes -= n;
}

/* Moves header bytes in; once all four are there, checks the length they announce. */
static kd_status take_header(kd_frame_decoder *d, const uint8_t **bytes, size_t *n_bytes)
{
    const uint32_t n = min_u32(KD_FRAME_HEADER_BYTES - d->header_bytes, *n_bytes);
    memcpy(d->header + d->header_bytes, *bytes, n);
    d->header_bytes += n;
    advance(bytes, n_bytes, n);
    if (d->header_bytes < KD_FRAME_HEADER_BYTES) {
        return KD_OK;
    }
    const uint32_t size = (uint32_t)d->header[0] << 24 | (uint32_t)d->header[1] << 16 |
                          (uint32_t)d->header[2] << 8 | (uint32_t)d->header[3];
    if (size == 0 || size > KD_FRAME_BYTES_MAX) {
        return kd_fail(KD_ERR_PROTO, "frame: found a length of %u bytes, expected 1 to %u", size,
                       KD_FRAME_BYTES_MAX);
    }
    d->payload_bytes = size;
    return KD_OK;
}

/* Room for `needed` bytes, at least doubled so that a long frame is copied few times. */
static kd_status grow(kd_frame_decoder *d, uint32_t needed)
{
    if (needed <= d->capacity_bytes) {
        return KD_OK;
    }
    uint32_t capacity = d->capacity_bytes * 2;
    if (capacity < first_capacity_bytes) {
        capacity = first_capacity_bytes;
    }
    if (capacity > d->payload_bytes) {
        capacity = d->payload_bytes;
    }
    if (capacity < needed) {
        capacity = needed;
    }
    uint8_t *payload = realloc(d->payload, capacity);
    if (payload == NULL) {
        return kd_fail(KD_ERR_NOMEM, "frame: no memory for %u bytes", capacity);
    }
    d->payload = payload;
    d->capacity_bytes = capacity;
    return KD_OK;
}

/* Forgets the frame given out last, whose view ended with this call. */
static void begin_next(kd_frame_decoder *d)
{
    free(d->payload);
    memset(d, 0, sizeof *d);
}

kd_status kd_frame_decoder_take(kd_frame_decoder *d,
                                const uint8_t **bytes,
                                size_t *n_bytes,
                                kd_frame *frame_out)
{
    if (d->payload_bytes != 0 && d->received_bytes == d->payload_bytes) {
        begin_next(d);
    }
    if (d->payload_bytes == 0) {
        kd_status st = take_header(d, bytes, n_bytes);
        if (st) {
            return st;
        }
    }
    kd_frame frame = {0};
    if (d->payload_bytes != 0 && d->received_bytes == 0 && *n_bytes >= d->payload_bytes) {
        frame = (kd_frame){*bytes, d->payload_bytes}; /* all here: no copy */
        advance(bytes, n_bytes, d->payload_bytes);
        begin_next(d);
    } else if (d->payload_bytes != 0 && *n_bytes > 0) {
        const uint32_t n = min_u32(d->payload_bytes - d->received_bytes, *n_bytes);
        kd_status st = grow(d, d->received_bytes + n);
        if (st) {
            return st;
        }
        memcpy(d->payload + d->received_bytes, *bytes, n);
        d->received_bytes += n;
        advance(bytes, n_bytes, n);
        if (d->received_bytes == d->payload_bytes) {
            frame = (kd_frame){d->payload, d->payload_bytes};
        }
    }
    *frame_out = frame;
    return KD_OK;
}

bool kd_frame_decoder_is_partial(const kd_frame_decoder *d)
{
    return d->header_bytes != 0 && (d->payload_bytes == 0 || d->received_bytes < d->payload_bytes);
}

void kd_frame_decoder_release(kd_frame_decoder *d)
{
    begin_next(d);
}

void kd_frame_write_header(uint8_t header_out[KD_FRAME_HEADER_BYTES], size_t payload_bytes)
{
    KD_CHECK(payload_bytes >= 1 && payload_bytes <= KD_FRAME_BYTES_MAX);
    header_out[0] = (uint8_t)(payload_bytes >> 24);
    header_out[1] = (uint8_t)(payload_bytes >> 16);
    header_out[2] = (uint8_t)(payload_bytes >> 8);
    header_out[3] = (uint8_t)payload_bytes;
}
