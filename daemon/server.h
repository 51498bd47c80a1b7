/*
 * server.h - the addresses the daemon listens on, and each connection until its hello says what it is.
 *
 * A connection that has not said hello within 10 s is closed, so that strangers cannot hold places.
 */
#ifndef KD_DAEMON_SERVER_H
#define KD_DAEMON_SERVER_H

#include <uv.h>

#include "base/status.h"
#include "wire/connection.h"

struct coordinator;

/* What a session or a rank link does with its connection; on_closed is last and comes once. */
typedef struct peer_handler {
    void (*on_frame)(void *user, const uint8_t *payload, size_t size_bytes);
    void (*on_drained)(void *user); /* (optional) */
    void (*on_closed)(void *user);
} peer_handler;

typedef struct server server;

/*
 * Listens on every address; KD_ERR_STATE if one is in use. The first address as bound, for ranks
 * and for the line that says so, is written to co->rank_address.
 */
KD_MUST_USE kd_status server_open(struct coordinator *co,
                                  const char *const *addresses,
                                  size_t n_addresses,
                                  server **server_out);

/* Accepts no more; those who are connected stay. */
void server_stop_accepting(server *s);

/* Closes everything; the loop has to run until it is empty, then server_destroy(). */
void server_close(server *s);
void server_destroy(server *s);

#endif
