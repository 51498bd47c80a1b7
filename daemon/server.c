/*
 * server.c - a connection belongs to nobody until its hello; then to a session or a rank. One timer looks
 * after all deadlines, because ten thousand ranks would mean ten thousand timers.
 */
#include "daemon/server.h"

#include <stdlib.h>

#include "base/log.h"
#include "daemon/coordinator.h"
#include "daemon/rank.h"
#include "daemon/session.h"
#include "wire/hello.h"
#include "wire/listener.h"

#define HELLO_DEADLINE_MS 10000
#define FLUSH_DEADLINE_MS 2000 /* to take what is queued when a connection is being closed */
#define LISTENERS_MAX     16

typedef struct peer {
    kd_connection *c;
    server *server;
    const peer_handler *handler; /* NULL until the hello */
    void *user;
    uint64_t accepted_at_ms;
    uint64_t closing_at_ms; /* 0: it is not being closed, as far as was seen */
    struct peer *next, *previous;
} peer;

struct server {
    coordinator *co;
    kd_listener *listeners[LISTENERS_MAX];
    size_t n_listeners;
    uv_timer_t deadlines;
    peer *peers; /* newest first */
    size_t n_peers;
};

static void on_hello(peer *p, const uint8_t *payload, size_t size_bytes)
{
    Kd__Hello *hello;
    if (kd_hello_check(payload, size_bytes, &hello)) {
        kd_hello_refuse(p->c, DAEMON_PROGRAM, KD__ERROR__CODE__REFUSED, kd_fault_text());
        return;
    }
    const bool is_rank = hello->role == KD__HELLO__ROLE__RANK;
    kd__hello__free_unpacked(hello, NULL);
    void *user = is_rank ? (void *)rank_open(p->server->co, p->c)
                         : (void *)session_open(p->server->co, p->c);
    if (user == NULL) {
        kd_connection_close(p->c);
        return;
    }
    p->user = user;
    p->handler = is_rank ? &rank_handler : &session_handler;
    if (kd_hello_accept(p->c, DAEMON_PROGRAM)) {
        kd_connection_close(p->c);
    }
}

static void on_frame(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes)
{
    peer *p = user;
    (void)c;
    if (p->handler == NULL) {
        on_hello(p, payload, size_bytes);
    } else {
        p->handler->on_frame(p->user, payload, size_bytes);
    }
}

static void on_drained(kd_connection *c, void *user)
{
    const peer *p = user;
    (void)c;
    if (p->handler != NULL && p->handler->on_drained != NULL) {
        p->handler->on_drained(p->user);
    }
}

static void on_closed(kd_connection *c, void *user, kd_status status, const char *text)
{
    peer *p = user;
    (void)c;
    if (status == KD_ERR_PROTO) {
        kd_log(KD_LOG_WARN, "a connection was closed: %s", text);
    }
    if (p->handler != NULL) {
        p->handler->on_closed(p->user);
    }
    if (p->previous != NULL) {
        p->previous->next = p->next;
    } else {
        p->server->peers = p->next;
    }
    if (p->next != NULL) {
        p->next->previous = p->previous;
    }
    p->server->n_peers--;
    free(p);
}

static void on_accept(kd_listener *listener, void *user, kd_connection *c)
{
    static const kd_connection_callbacks callbacks = {
        .on_frame = on_frame, .on_drained = on_drained, .on_closed = on_closed};
    server *s = user;
    (void)listener;
    if (s->n_peers >= s->co->config->max_connections) {
        kd_log(KD_LOG_WARN, "a connection was refused: found %zu, expected at most %u", s->n_peers,
               s->co->config->max_connections);
        return;
    }
    peer *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return;
    }
    *p = (peer){.c = c, .server = s, .accepted_at_ms = uv_now(s->co->loop), .next = s->peers};
    if (kd_connection_start(c, &callbacks, p)) {
        free(p);
        return;
    }
    if (s->peers != NULL) {
        s->peers->previous = p;
    }
    s->peers = p;
    s->n_peers++;
}

static bool is_late(peer *p, uint64_t now_ms)
{
    if (kd_connection_is_closing(p->c) && p->closing_at_ms == 0) {
        p->closing_at_ms = now_ms;
    }
    return (p->handler == NULL && now_ms - p->accepted_at_ms > HELLO_DEADLINE_MS) ||
           (p->closing_at_ms != 0 && now_ms - p->closing_at_ms > FLUSH_DEADLINE_MS);
}

static void on_deadlines(uv_timer_t *timer)
{
    const server *s = timer->data;
    const uint64_t now_ms = uv_now(s->co->loop);
    for (peer *p = s->peers; p != NULL; p = p->next) {
        if (is_late(p, now_ms)) {
            kd_connection_close(p->c);
        }
    }
}

static kd_status listen_on(server *s, const char *text)
{
    static const kd_listener_callbacks callbacks = {.on_accept = on_accept};
    kd_address address;
    const kd_status st = kd_address_parse(text, &address);
    if (st) {
        return st;
    }
    if (s->n_listeners == LISTENERS_MAX) {
        return kd_fail(KD_ERR_INVALID, "listen: expected at most %d addresses", LISTENERS_MAX);
    }
    return kd_listener_open(s->co->loop, &address, 0, &callbacks, s, &s->listeners[s->n_listeners]);
}

kd_status
server_open(coordinator *co, const char *const *addresses, size_t n_addresses, server **server_out)
{
    server *s = calloc(1, sizeof *s);
    if (s == NULL || uv_timer_init(co->loop, &s->deadlines) != 0) {
        free(s);
        return kd_fail(KD_ERR_NOMEM, "no memory to listen");
    }
    s->co = co;
    s->deadlines.data = s;
    kd_status st = KD_OK;
    for (size_t i = 0; st == KD_OK && i < n_addresses; i++) {
        st = listen_on(s, addresses[i]);
        s->n_listeners += st == KD_OK;
    }
    if (st == KD_OK && uv_timer_start(&s->deadlines, on_deadlines, 1000, 1000) != 0) {
        st = kd_fail(KD_ERR_IO, "cannot start a timer");
    }
    *server_out = s; /* to be closed in any case: its handles are on the loop */
    if (st == KD_OK) {
        (void)kd_address_format(kd_listener_address(s->listeners[0]), co->rank_address);
    }
    return st;
}

void server_stop_accepting(server *s)
{
    while (s->n_listeners > 0) {
        kd_listener_close(s->listeners[--s->n_listeners]);
    }
}

void server_close(server *s)
{
    server_stop_accepting(s);
    for (const peer *p = s->peers; p != NULL; p = p->next) {
        kd_connection_close(p->c);
    }
    uv_close((uv_handle_t *)&s->deadlines, NULL);
}

void server_destroy(server *s)
{
    free(s);
}
