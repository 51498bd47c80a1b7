/*
 * listener.h - accepts connections on an address.
 *
 * A Unix socket file that nobody answers any more is left from a crash and is replaced; if someone
 * answers, the address is in use. The file is created with mode 0600 unless a mode is given, and
 * removed on close. Lifetime, callbacks and threads are those of connection.h.
 */
#ifndef KD_WIRE_LISTENER_H
#define KD_WIRE_LISTENER_H

#include "wire/connection.h"

typedef struct kd_listener kd_listener;

typedef struct kd_listener_callbacks {
    /* A new connection: kd_connection_start() it here, or it is closed when this returns. */
    void (*on_accept)(kd_listener *listener, void *user, kd_connection *c);
    /* (optional) After kd_listener_close(); the listener is freed when it returns. */
    void (*on_closed)(kd_listener *listener, void *user);
} kd_listener_callbacks;

/*
 * Listens from now on. KD_ERR_STATE "already in use" if someone else does, KD_ERR_IO otherwise.
 * `mode` is that of the socket file, 0 for 0600; TCP ignores it.
 */
KD_MUST_USE kd_status kd_listener_open(uv_loop_t *loop,
                                       const kd_address *address,
                                       unsigned mode,
                                       const kd_listener_callbacks *callbacks,
                                       void *user,
                                       kd_listener **listener_out);

/* The address it is bound to; a port of 0 has become the real one. */
const kd_address *kd_listener_address(const kd_listener *listener);

/* Idempotent. Connections that were accepted live on. */
void kd_listener_close(kd_listener *listener);

#endif
