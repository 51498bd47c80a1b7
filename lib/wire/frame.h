/*
 * frame.h - messages on a byte stream: a 32-bit big-endian length, then that many bytes.
 *
 * A length of 0 or above KD_FRAME_BYTES_MAX is refused as soon as its four bytes are in, before any
 * memory is taken; after that memory grows with the bytes received, not with the length announced.
 * An idle decoder holds none. Pure: no sockets. Not thread-safe.
 */
#ifndef KD_WIRE_FRAME_H
#define KD_WIRE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Both sides of a connection say theirs in the hello; they talk only if the two are equal. */
#define KD_PROTOCOL_VERSION 1u

#define KD_FRAME_HEADER_BYTES 4u
#define KD_FRAME_BYTES_MAX    (4u << 20) /* of the payload */

/* Starts as {0}. */
typedef struct kd_frame_decoder {
    uint8_t header[KD_FRAME_HEADER_BYTES];
    uint32_t header_bytes;   /* of the header received so far      */
    uint32_t payload_bytes;  /* announced; 0 until the header is in */
    uint32_t received_bytes; /* of the payload                     */
    uint32_t capacity_bytes;
    uint8_t *payload;
} kd_frame_decoder;

/* A view: valid until the decoder, or the input it came from, is next touched. */
typedef struct kd_frame {
    const uint8_t *payload; /* NULL: no whole frame yet */
    size_t size_bytes;
} kd_frame;

/*
 * Takes bytes from the front of *bytes until one frame is whole or none is left, and moves *bytes
 * and *n_bytes past them. Call it until *frame_out is empty:
 *
 *     do { st = kd_frame_decoder_take(&d, &bytes, &n, &frame); } while (!st && frame.payload);
 *
 * KD_ERR_PROTO on a bad length, KD_ERR_NOMEM: the stream cannot be followed any further.
 */
KD_MUST_USE kd_status kd_frame_decoder_take(kd_frame_decoder *decoder,
                                            const uint8_t **bytes,
                                            size_t *n_bytes,
                                            kd_frame *frame_out);

/* True in the middle of a frame: a stream that ends here was cut off. */
bool kd_frame_decoder_is_partial(const kd_frame_decoder *decoder);

/* Frees what it holds and makes it {0} again. */
void kd_frame_decoder_release(kd_frame_decoder *decoder);

/* Writes the length before a payload of 1 to KD_FRAME_BYTES_MAX bytes. */
void kd_frame_write_header(uint8_t header_out[KD_FRAME_HEADER_BYTES], size_t payload_bytes);

#endif
