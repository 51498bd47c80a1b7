/*
 * rank.h - one rank's connection: its hello is checked, its reports go to its attempt, orders go out.
 *
 * A link closes with its connection. A run that ends, or gets another link for the same rank,
 * releases the link: the connection is closed and nothing more is heard of it.
 */
#ifndef KD_DAEMON_RANK_H
#define KD_DAEMON_RANK_H

#include "daemon/coordinator.h"
#include "daemon/server.h"

typedef struct rank_link rank_link;

/* For a connection that said it is a rank's. NULL without memory. */
rank_link *rank_open(coordinator *co, kd_connection *c);
extern const peer_handler rank_handler;

/* Saves and ends; asked of the leader. */
void rank_order_stop(rank_link *link);

/* The run no longer knows the link. */
void rank_release(rank_link *link);

#endif
