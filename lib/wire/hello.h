/*
 * hello.h - the first frame each way: a Hello from who connects, a HelloReply from who listens.
 *
 * The check functions refuse, with KD_ERR_PROTO and a text that is fit for the peer, a first frame
 * that is not the expected message, and a protocol version other than KD_PROTOCOL_VERSION (both are
 * named). They allocate the message; protobuf-c's free_unpacked function frees it.
 *
 * Threads: that of the connection's loop.
 */
#ifndef KD_WIRE_HELLO_H
#define KD_WIRE_HELLO_H

#include "proto/control.pb-c.h"
#include "wire/connection.h"

/* Client side; `program` is name and version, for the daemon's log. */
KD_MUST_USE kd_status kd_hello_send(kd_connection *c, Kd__Hello__Role role, const char *program);
KD_MUST_USE kd_status kd_hello_reply_check(const uint8_t *payload, size_t size_bytes);

/* Daemon side. */
KD_MUST_USE kd_status kd_hello_check(const uint8_t *payload,
                                     size_t size_bytes,
                                     Kd__Hello **hello_out);
KD_MUST_USE kd_status kd_hello_accept(kd_connection *c, const char *program);
/* Sends the refusal and closes once it is flushed. */
void kd_hello_refuse(kd_connection *c, const char *program, Kd__Error__Code code, const char *text);

#endif
