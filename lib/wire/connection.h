/*
 * connection.h - one stream that speaks frames, over a Unix socket or TCP, on a libuv loop.
 *
 * Lifetime
 * 1. A connection comes from kd_connection_connect() or from a listener (listener.h).
 * 2. It ends by kd_connection_close(), kd_connection_close_after_flush(), the peer, or a fault.
 * 3. However it ends, on_closed runs exactly once, last, from the loop, never from within a call of
 *    this header. The connection is freed when it returns; nobody frees it earlier.
 * 4. If kd_connection_connect() returns an error no callback ever runs.
 *
 * Callbacks may call anything here, close included. After a close no on_frame, on_open or
 * on_drained follows.
 *
 * Memory: an idle connection has no buffers. Bytes are read into one buffer a thread, which
 * libuv's order of calls (allocate, read, callback) allows.
 *
 * Signals: the first connection makes the process ignore SIGPIPE if nobody set it otherwise, since
 * libuv writes without MSG_NOSIGNAL.
 *
 * Threads: only on the loop's thread. Nothing here blocks.
 */
#ifndef KD_WIRE_CONNECTION_H
#define KD_WIRE_CONNECTION_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"
#include "wire/address.h"
#include "wire/frame.h"

typedef struct kd_connection kd_connection;

typedef struct kd_connection_callbacks {
    /* (optional) Connected; what was sent before goes out now. Not on accepted connections. */
    void (*on_open)(kd_connection *c, void *user);
    /* One frame; the payload is valid until the callback returns. */
    void (*on_frame)(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes);
    /* (optional) The kernel took all that was sent: kd_connection_queued_bytes() is 0 again. */
    void (*on_drained)(kd_connection *c, void *user);
    /*
     * The end. KD_OK: closed here, or by the peer between two frames. KD_ERR_PROTO: bad length, or
     * cut off within a frame. KD_ERR_NOT_FOUND: nobody listens at the address. KD_ERR_IO: else.
     * `text` says it for people and is valid until the callback returns.
     */
    void (*on_closed)(kd_connection *c, void *user, kd_status status, const char *text);
} kd_connection_callbacks;

/*
 * Starts to connect. The callbacks are copied. Frames may be sent at once; they leave once it is
 * open.
 */
KD_MUST_USE kd_status kd_connection_connect(uv_loop_t *loop,
                                            const kd_address *address,
                                            const kd_connection_callbacks *callbacks,
                                            void *user,
                                            kd_connection **c_out);

/*
 * For listener.c: takes the next connection of a listening stream. It has no callbacks until
 * kd_connection_start().
 */
KD_MUST_USE kd_status kd_connection_accept(uv_stream_t *server,
                                           kd_address_kind kind,
                                           kd_connection **c_out);

/*
 * For connections from a listener: sets the callbacks and starts to read. Once, within on_accept.
 */
KD_MUST_USE kd_status kd_connection_start(kd_connection *c,
                                          const kd_connection_callbacks *callbacks,
                                          void *user);

/*
 * Packs the message into one frame and one write; the message is the caller's again at once.
 * KD_ERR_INVALID if it is empty or above KD_FRAME_BYTES_MAX. KD_ERR_STATE, which is not logged, if
 * the connection is closing. What was accepted is sent in order, or on_closed tells why not.
 */
KD_MUST_USE kd_status kd_connection_send(kd_connection *c, const ProtobufCMessage *message);

/* Bytes accepted by kd_connection_send() that the kernel has not taken yet. */
size_t kd_connection_queued_bytes(const kd_connection *c);

/*
 * Stops and resumes reading, for a peer that asks faster than it takes the answers. Frames that
 * were read before the pause still come.
 */
void kd_connection_pause(kd_connection *c);
void kd_connection_resume(kd_connection *c);

/* Drops what is queued. Calling it again, or while it is closing, does nothing. */
void kd_connection_close(kd_connection *c);

/* Reads no more, closes when the queue is empty. Still to be bounded in time by the caller. */
void kd_connection_close_after_flush(kd_connection *c);

/* False until kd_connection_start(), or always true if it came from kd_connection_connect(). */
bool kd_connection_is_started(const kd_connection *c);
bool kd_connection_is_closing(const kd_connection *c);

#endif
