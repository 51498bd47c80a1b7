/*
 * connection.c - one handle, one state, one way out: every end goes through end(), so on_closed comes once
 * and with the first reason. Requests own their bytes, so a message is the caller's again when send
 * returns.
 */
#include "wire/connection.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define READ_BUFFER_BYTES (64u << 10)

typedef enum connection_state {
    CONNECTION_NEW,      /* accepted; waits for kd_connection_start()            */
    CONNECTION_OPENING,  /* connecting; frames may be queued                     */
    CONNECTION_OPEN,     /* reads and writes                                     */
    CONNECTION_FLUSHING, /* writes what is queued, then closes; the user bounds it */
    CONNECTION_CLOSING,  /* uv_close() was called; on_handle_closed() comes      */
} connection_state;

struct kd_connection {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_pipe_t pipe;
        uv_tcp_t tcp;
    } as; /* its only handle */

    kd_address_kind kind;
    connection_state state;
    kd_connection_callbacks callbacks;
    void *user;
    kd_frame_decoder decoder;
    size_t queued_bytes;
    kd_status end_status;
    char *end_text; /* NULL until it ends, and without memory */
};

typedef struct connect_request {
    uv_connect_t uv;
    kd_address address; /* for the text of a failure */
} connect_request;

typedef struct write_request {
    uv_write_t uv;
    size_t size_bytes;
    uint8_t data[]; /* header and payload */
} write_request;

/* libuv allocates, reads and calls back in one go, so connections of a thread can share it. */
static _Thread_local char read_buffer[READ_BUFFER_BYTES];

static void ignore_sigpipe(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        (void)sigaction(SIGPIPE, &action, NULL);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    kd_connection *c = handle->data;
    KD_CHECK(c->queued_bytes == 0);
    if (c->callbacks.on_closed != NULL) {
        const char *text = c->end_text != NULL ? c->end_text : kd_status_name(c->end_status);
        c->callbacks.on_closed(c, c->user, c->end_status, text);
    }
    kd_frame_decoder_release(&c->decoder);
    free(c->end_text);
    free(c);
}

/* The only way out. The first reason given is the one that on_closed tells. */
static void __attribute__((format(printf, 3, 4)))
end(kd_connection *c, kd_status status, const char *format, ...)
{
    if (c->state == CONNECTION_CLOSING) {
        return;
    }
    c->state = CONNECTION_CLOSING;
    c->end_status = status;
    va_list args;
    va_start(args, format);
    if (vasprintf(&c->end_text, format, args) < 0) {
        c->end_text = NULL;
    }
    va_end(args);
    uv_close(&c->as.handle, on_handle_closed);
}

/* NULL after a fault was reported. */
static kd_connection *create(uv_loop_t *loop, kd_address_kind kind)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, ignore_sigpipe);

    kd_connection *c = calloc(1, sizeof *c);
    if (c == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "connection: no memory");
        return NULL;
    }
    const int error = kind == KD_ADDRESS_UNIX ? uv_pipe_init(loop, &c->as.pipe, 0)
                                              : uv_tcp_init(loop, &c->as.tcp);
    if (error != 0) {
        free(c); /* no handle is registered yet */
        (void)kd_fail(KD_ERR_NOMEM, "connection: %s", uv_strerror(error));
        return NULL;
    }
    c->as.handle.data = c;
    c->kind = kind;
    return c;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(read_buffer, sizeof read_buffer);
}

static void deliver(kd_connection *c, const uint8_t *bytes, size_t n_bytes)
{
    while (c->state == CONNECTION_OPEN) {
        kd_frame frame;
        kd_status st = kd_frame_decoder_take(&c->decoder, &bytes, &n_bytes, &frame);
        if (st) {
            end(c, st, "%s", kd_fault_text());
            return;
        }
        if (frame.payload == NULL) {
            return;
        }
        c->callbacks.on_frame(c, c->user, frame.payload, frame.size_bytes);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf)
{
    kd_connection *c = stream->data;
    if (n_read > 0) {
        deliver(c, (const uint8_t *)buf->base, (size_t)n_read);
    } else if (n_read == UV_EOF) {
        const bool cut = kd_frame_decoder_is_partial(&c->decoder);
        end(c, cut ? KD_ERR_PROTO : KD_OK,
            cut ? "closed by the peer within a frame" : "closed by the peer");
    } else if (n_read < 0) {
        end(c, KD_ERR_IO, "read: %s", uv_strerror((int)n_read));
    }
}

/* TCP carries small requests whose answers someone waits for. */
static kd_status begin_reading(kd_connection *c)
{
    if (c->kind == KD_ADDRESS_TCP) {
        (void)uv_tcp_nodelay(&c->as.tcp, 1);
    }
    const int error = uv_read_start(&c->as.stream, on_alloc, on_read);
    if (error != 0) {
        return kd_fail(KD_ERR_IO, "connection: cannot read: %s", uv_strerror(error));
    }
    c->state = CONNECTION_OPEN;
    return KD_OK;
}

static void on_connect(uv_connect_t *uv, int status)
{
    connect_request *request = uv->data;
    kd_connection *c = uv->handle->data;
    char address[KD_ADDRESS_TEXT_MAX];
    (void)kd_address_format(&request->address, address);
    free(request);

    if (status != 0) {
        const bool nobody = status == UV_ENOENT || status == UV_ECONNREFUSED;
        end(c, nobody ? KD_ERR_NOT_FOUND : KD_ERR_IO, "cannot connect to %s: %s", address,
            uv_strerror(status));
        return;
    }
    if (c->state == CONNECTION_OPENING) {
        kd_status st = begin_reading(c);
        if (st) {
            end(c, st, "%s", kd_fault_text());
        } else if (c->callbacks.on_open != NULL) {
            c->callbacks.on_open(c, c->user);
        }
    }
}

static int connect_tcp(kd_connection *c, connect_request *request)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to;

    const kd_address *address = &request->address;
    int error = uv_ip4_addr(address->host, address->port, &to.v4);
    if (error != 0) {
        error = uv_ip6_addr(address->host, address->port, &to.v6);
    }
    return error != 0 ? error : uv_tcp_connect(&request->uv, &c->as.tcp, &to.any, on_connect);
}

kd_status kd_connection_connect(uv_loop_t *loop,
                                const kd_address *address,
                                const kd_connection_callbacks *callbacks,
                                void *user,
                                kd_connection **c_out)
{
    connect_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return kd_fail(KD_ERR_NOMEM, "connection: no memory");
    }
    request->address = *address;
    request->uv.data = request;

    kd_status st = KD_ERR_NOMEM;
    kd_connection *c = create(loop, address->kind);
    if (c == NULL) {
        goto err_free_request;
    }
    c->state = CONNECTION_OPENING;
    if (address->kind == KD_ADDRESS_UNIX) {
        uv_pipe_connect(&request->uv, &c->as.pipe, address->path, on_connect);
    } else {
        const int error = connect_tcp(c, request);
        if (error != 0) {
            st = kd_fail(KD_ERR_IO, "cannot connect to %s: %s", address->host, uv_strerror(error));
            goto err_close;
        }
    }
    c->callbacks = *callbacks;
    c->user = user;
    *c_out = c;
    return KD_OK;

err_close:
    end(c, st, "never connected"); /* without callbacks nobody hears of it */
err_free_request:
    free(request);
    return st;
}

kd_status kd_connection_accept(uv_stream_t *server, kd_address_kind kind, kd_connection **c_out)
{
    kd_connection *c = create(server->loop, kind);
    if (c == NULL) {
        return KD_ERR_NOMEM;
    }
    const int error = uv_accept(server, &c->as.stream);
    if (error != 0) {
        end(c, KD_ERR_IO, "never accepted");
        return kd_fail(KD_ERR_IO, "cannot accept a connection: %s", uv_strerror(error));
    }
    *c_out = c;
    return KD_OK;
}

kd_status
kd_connection_start(kd_connection *c, const kd_connection_callbacks *callbacks, void *user)
{
    KD_CHECK(c->state == CONNECTION_NEW);
    kd_status st = begin_reading(c);
    if (st) {
        return st;
    }
    c->callbacks = *callbacks;
    c->user = user;
    return KD_OK;
}

static void on_written(uv_write_t *uv, int status)
{
    write_request *request = uv->data;
    kd_connection *c = uv->handle->data;
    c->queued_bytes -= request->size_bytes;
    free(request);

    if (status == UV_ECANCELED) {
        return; /* closing, or the connect failed: whoever caused that gives the reason */
    }
    if (status != 0) {
        end(c, KD_ERR_IO, "write: %s", uv_strerror(status));
    } else if (c->queued_bytes == 0 && c->state == CONNECTION_FLUSHING) {
        end(c, KD_OK, "closed here");
    } else if (c->queued_bytes == 0 && c->state == CONNECTION_OPEN &&
               c->callbacks.on_drained != NULL) {
        c->callbacks.on_drained(c, c->user);
    }
}

kd_status kd_connection_send(kd_connection *c, const ProtobufCMessage *message)
{
    if (c->state != CONNECTION_OPEN && c->state != CONNECTION_OPENING) {
        return KD_ERR_STATE;
    }
    const size_t payload_bytes = protobuf_c_message_get_packed_size(message);
    if (payload_bytes == 0 || payload_bytes > KD_FRAME_BYTES_MAX) {
        return kd_fail(KD_ERR_INVALID, "cannot send %s: found %zu bytes, expected 1 to %u",
                       message->descriptor->short_name, payload_bytes, KD_FRAME_BYTES_MAX);
    }
    const size_t size_bytes = KD_FRAME_HEADER_BYTES + payload_bytes;
    write_request *request = malloc(sizeof *request + size_bytes);
    if (request == NULL) {
        return kd_fail(KD_ERR_NOMEM, "connection: no memory for %zu bytes", size_bytes);
    }
    kd_frame_write_header(request->data, payload_bytes);
    (void)protobuf_c_message_pack(message, request->data + KD_FRAME_HEADER_BYTES);
    request->size_bytes = size_bytes;
    request->uv.data = request;

    const uv_buf_t buf = uv_buf_init((char *)request->data, (unsigned)size_bytes);
    const int error = uv_write(&request->uv, &c->as.stream, &buf, 1, on_written);
    if (error != 0) {
        free(request);
        if (c->state == CONNECTION_OPENING) {
            return KD_OK; /* it failed to open at once; on_connect() is about to tell why */
        }
        return kd_fail(KD_ERR_IO, "write: %s", uv_strerror(error));
    }
    c->queued_bytes += size_bytes;
    return KD_OK;
}

size_t kd_connection_queued_bytes(const kd_connection *c)
{
    return c->queued_bytes;
}

void kd_connection_pause(kd_connection *c)
{
    if (c->state == CONNECTION_OPEN) {
        (void)uv_read_stop(&c->as.stream);
    }
}

void kd_connection_resume(kd_connection *c)
{
    if (c->state == CONNECTION_OPEN) {
        (void)uv_read_start(&c->as.stream, on_alloc, on_read); /* UV_EALREADY is fine */
    }
}

void kd_connection_close(kd_connection *c)
{
    end(c, KD_OK, "closed here");
}

void kd_connection_close_after_flush(kd_connection *c)
{
    if (c->state == CONNECTION_CLOSING || c->state == CONNECTION_FLUSHING) {
        return;
    }
    if (c->queued_bytes == 0) {
        end(c, KD_OK, "closed here");
        return;
    }
    if (c->state == CONNECTION_OPEN) {
        (void)uv_read_stop(&c->as.stream);
    }
    c->state = CONNECTION_FLUSHING;
}

bool kd_connection_is_closing(const kd_connection *c)
{
    return c->state == CONNECTION_CLOSING || c->state == CONNECTION_FLUSHING;
}

bool kd_connection_is_started(const kd_connection *c)
{
    return c->state != CONNECTION_NEW;
}
