/*
 * link.c - a state machine on a thread of its own, since training must not wait for a socket, and the
 * socket not for a step. What both touch is under one lock or atomic; all else is the thread's.
 */
#include "worker/link.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "message/reflect.h"
#include "wire/connection.h"
#include "wire/hello.h"
#include "worker/link_queue.h"

#define PROGRAM              "distill-worker"
#define RETRY_MS_MIN         100
#define RETRY_MS_MAX         2000
#define HEARTBEAT_MS_DEFAULT 1000        /* until the daemon says otherwise */
#define QUEUED_BYTES_MAX     (256 << 10) /* handed to a connection at once */

typedef enum link_state {
    LINK_AWAY,    /* no connection; the retry timer runs           */
    LINK_HELLO,   /* connecting, or waiting for the HelloReply     */
    LINK_WELCOME, /* waiting for the RankWelcome                   */
    LINK_UP,      /* reports and orders flow                       */
    LINK_LEAVING, /* all is said; the connection flushes and closes */
} link_state;

struct rank_link {
    Kd__Attempt *attempt; /* owned */
    kd_address address;
    uint32_t rank, world_size;
    void (*on_refused)(const char *text);

    uv_thread_t thread;
    uv_mutex_t lock;  /* guards queue, changes, places, closing and timeout_ms */
    link_queue queue; /* not given to a connection yet         */
    Kd__RankOrder *changes[RANK_LINK_CHANGES_MAX]; /* owned; oldest first */
    size_t n_changes;
    Kd__Heartbeat *places; /* owned; for its places alone, NULL before they are known */
    bool closing;
    uint64_t timeout_ms;
    atomic_uint_fast64_t step;
    atomic_bool save;

    /* Only the link's thread, from here on. */
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t retry, heartbeat, deadline;
    kd_connection *connection; /* NULL while away */
    link_state state;
    link_queue unconfirmed; /* given to the connection, not yet taken by the kernel */
    uint64_t retry_ms;
    uint64_t heartbeat_ms;
};

static void send_hello(rank_link *link)
{
    char host[256] = "";
    (void)gethostname(host, sizeof host - 1);
    Kd__RankHello hello = KD__RANK_HELLO__INIT;
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    hello.has_job_id = hello.has_attempt = hello.has_rank = hello.has_world_size = 1;
    hello.has_secret = hello.has_pid = 1;
    hello.job_id = link->attempt->job_id;
    hello.attempt = link->attempt->number;
    hello.rank = link->rank;
    hello.world_size = link->world_size;
    hello.secret = link->attempt->secret;
    hello.host = host;
    hello.pid = (uint64_t)getpid();
    message.body_case = KD__RANK_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    if (kd_connection_send(link->connection, &message.base)) {
        kd_connection_close(link->connection); /* on_closed tries again */
    }
}

static void send_heartbeat(rank_link *link)
{
    Kd__Heartbeat heartbeat = KD__HEARTBEAT__INIT;
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    heartbeat.has_step = heartbeat.has_work = 1;
    heartbeat.step = atomic_load(&link->step);
    heartbeat.work = kd_progress_count();
    message.body_case = KD__RANK_MESSAGE__BODY_HEARTBEAT;
    message.heartbeat = &heartbeat;
    uv_mutex_lock(&link->lock);
    if (link->places != NULL) {
        heartbeat.places = link->places->places;
        heartbeat.n_places = link->places->n_places;
    }
    const kd_status st = kd_connection_send(link->connection, &message.base);
    uv_mutex_unlock(&link->lock);
    if (st) {
        kd_connection_close(link->connection);
    }
}

static link_entry *take_entry(rank_link *link)
{
    uv_mutex_lock(&link->lock);
    link_entry *entry = link_queue_take(&link->queue);
    uv_mutex_unlock(&link->lock);
    return entry;
}

static void put_back(rank_link *link)
{
    uv_mutex_lock(&link->lock);
    link_queue_prepend(&link->queue, &link->unconfirmed);
    link_queue_trim(&link->queue, RANK_LINK_STEPS_MAX);
    uv_mutex_unlock(&link->lock);
}

static void send_queued(rank_link *link)
{
    while (kd_connection_queued_bytes(link->connection) < QUEUED_BYTES_MAX) {
        link_entry *entry = take_entry(link);
        if (entry == NULL) {
            return;
        }
        const kd_status st = kd_connection_send(link->connection, &entry->message->base);
        link_queue_add(&link->unconfirmed, entry);
        if (st) {
            kd_connection_close(link->connection);
            return;
        }
    }
}

static bool is_closing(rank_link *link)
{
    uv_mutex_lock(&link->lock);
    const bool closing = link->closing;
    uv_mutex_unlock(&link->lock);
    return closing;
}

static bool nothing_left(rank_link *link)
{
    uv_mutex_lock(&link->lock);
    const bool empty = link->queue.first == NULL;
    uv_mutex_unlock(&link->lock);
    return empty && link->unconfirmed.first == NULL;
}

/* Closes the handles, after which the loop has nothing to wait for and the thread ends. */
static void end_loop(rank_link *link)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&link->wake, (uv_handle_t *)&link->retry,
                              (uv_handle_t *)&link->heartbeat, (uv_handle_t *)&link->deadline};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
        if (!uv_is_closing(handles[i])) {
            uv_close(handles[i], NULL);
        }
    }
}

/* Moves things on after whatever happened: sends, and leaves once there is nothing left to send. */
static void advance(rank_link *link)
{
    if (link->state == LINK_UP) {
        send_queued(link);
    }
    if (!is_closing(link) || !nothing_left(link)) {
        return;
    }
    if (link->state == LINK_AWAY) {
        end_loop(link);
    } else if (link->state != LINK_LEAVING) {
        link->state = LINK_LEAVING;
        kd_connection_close_after_flush(link->connection);
    }
}

static void refuse(rank_link *link, const char *text)
{
    link->on_refused(text != NULL && *text != '\0' ? text : "no reason given");
    kd_connection_close(link->connection);
}

static void on_heartbeat(uv_timer_t *timer)
{
    rank_link *link = timer->data;
    if (link->state == LINK_UP) {
        send_heartbeat(link);
    }
}

static void take_welcome(rank_link *link, const Kd__RankWelcome *welcome)
{
    if (welcome->error != NULL) {
        if (welcome->error->code == KD__ERROR__CODE__CONFLICT) {
            kd_connection_close(link->connection); /* my former connection is not gone yet */
        } else {
            refuse(link, welcome->error->text);
        }
        return;
    }
    link->state = LINK_UP;
    link->retry_ms = RETRY_MS_MIN;
    if (welcome->has_heartbeat_ms && welcome->heartbeat_ms > 0) {
        link->heartbeat_ms = welcome->heartbeat_ms;
    }
    (void)uv_timer_start(&link->heartbeat, on_heartbeat, 0, link->heartbeat_ms);
    advance(link);
}

/* Keeps a copy for the training thread. */
static void take_set(rank_link *link, const Kd__RankOrder *order)
{
    const char *why = NULL;
    if (order->path == NULL || order->value == NULL ||
        strlen(order->path) + strlen(order->value) > RANK_LINK_CHANGE_BYTES_MAX) {
        kd_log(KD_LOG_WARN, "the daemon ordered a change without path or value, or too long a one");
        return;
    }
    Kd__RankOrder *copy = (Kd__RankOrder *)kd_message_copy(&order->base);
    uv_mutex_lock(&link->lock);
    if (copy == NULL) {
        why = "no memory";
    } else if (link->n_changes == RANK_LINK_CHANGES_MAX) {
        why = "too many changes wait already";
    } else {
        link->changes[link->n_changes++] = copy;
    }
    uv_mutex_unlock(&link->lock);
    if (why != NULL) {
        kd_log(KD_LOG_WARN, "%s: not changed: %s", order->path, why);
        kd_message_destroy((ProtobufCMessage *)copy);
    }
}

static void take_order(rank_link *link, const Kd__RankOrder *order)
{
    switch (order->kind) {
    case KD__RANK_ORDER__KIND__SAVE:
        atomic_store(&link->save, true);
        return;
    case KD__RANK_ORDER__KIND__STOP:
        kd_progress_stop();
        return;
    case KD__RANK_ORDER__KIND__SET:
        take_set(link, order);
        return;
    case _KD__RANK_ORDER__KIND_IS_INT_SIZE:
        break;
    }
    kd_log(KD_LOG_WARN, "the daemon ordered something unknown (%d)", (int)order->kind);
}

static void take_daemon_message(rank_link *link, const uint8_t *payload, size_t size_bytes)
{
    Kd__DaemonMessage *message = kd__daemon_message__unpack(NULL, size_bytes, payload);
    if (message == NULL) {
        kd_log(KD_LOG_WARN, "the daemon sent %zu bytes that are no message", size_bytes);
        kd_connection_close(link->connection);
        return;
    }
    if (message->body_case == KD__DAEMON_MESSAGE__BODY_WELCOME && link->state == LINK_WELCOME) {
        take_welcome(link, message->welcome);
    } else if (message->body_case == KD__DAEMON_MESSAGE__BODY_ORDER && link->state == LINK_UP) {
        take_order(link, message->order);
    } /* else: of a later protocol, or too late to matter */
    kd__daemon_message__free_unpacked(message, NULL);
}

static void on_open(kd_connection *c, void *user)
{
    (void)user;
    if (kd_hello_send(c, KD__HELLO__ROLE__RANK, PROGRAM)) {
        kd_connection_close(c);
    }
}

static void on_frame(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes)
{
    rank_link *link = user;
    (void)c;
    if (link->state != LINK_HELLO) {
        take_daemon_message(link, payload, size_bytes);
    } else if (kd_hello_reply_check(payload, size_bytes)) {
        refuse(link, kd_fault_text());
    } else {
        link->state = LINK_WELCOME;
        send_hello(link);
    }
}

static void on_drained(kd_connection *c, void *user)
{
    rank_link *link = user;
    (void)c;
    link_queue_clear(&link->unconfirmed);
    advance(link);
}

static void on_retry(uv_timer_t *timer);

static void go_away(rank_link *link)
{
    link->connection = NULL;
    link->state = LINK_AWAY;
    (void)uv_timer_stop(&link->heartbeat);
    (void)uv_timer_start(&link->retry, on_retry, link->retry_ms, 0);
    link->retry_ms = link->retry_ms * 2 < RETRY_MS_MAX ? link->retry_ms * 2 : RETRY_MS_MAX;
}

static void on_closed(kd_connection *c, void *user, kd_status status, const char *text)
{
    rank_link *link = user;
    (void)c;
    if (link->state == LINK_UP) {
        kd_log(KD_LOG_WARN, "lost the daemon: %s", status ? text : "it closed the connection");
    }
    put_back(link);
    if (uv_is_closing((uv_handle_t *)&link->retry)) {
        link->connection = NULL; /* the deadline has ended the loop */
        return;
    }
    go_away(link);
    advance(link);
}

static void on_retry(uv_timer_t *timer)
{
    static const kd_connection_callbacks callbacks = {on_open, on_frame, on_drained, on_closed};
    rank_link *link = timer->data;
    link->state = LINK_HELLO;
    kd_fault_quiet(1); /* a daemon that is away is no fault of this rank's */
    if (kd_connection_connect(&link->loop, &link->address, &callbacks, link, &link->connection)) {
        go_away(link);
    }
    kd_fault_quiet(0);
}

static void on_deadline(uv_timer_t *timer)
{
    rank_link *link = timer->data;
    if (!nothing_left(link)) {
        kd_log(KD_LOG_WARN, "the daemon did not take the last reports in time");
    }
    if (link->connection != NULL) {
        kd_connection_close(link->connection);
    }
    end_loop(link);
}

static void on_wake(uv_async_t *wake)
{
    rank_link *link = wake->data;
    if (is_closing(link) && !uv_is_active((uv_handle_t *)&link->deadline)) {
        (void)uv_timer_start(&link->deadline, on_deadline, link->timeout_ms, 0);
    }
    advance(link);
}

static void run(void *arg)
{
    rank_link *link = arg;
    (void)uv_run(&link->loop, UV_RUN_DEFAULT);
}

static kd_status init_loop(rank_link *link)
{
    if (uv_mutex_init(&link->lock) != 0) {
        return kd_fail(KD_ERR_NOMEM, "no mutex for the link to the daemon");
    }
    const int code = uv_loop_init(&link->loop);
    if (code != 0) {
        uv_mutex_destroy(&link->lock);
        return kd_fail(KD_ERR_IO, "no event loop for the link to the daemon: %s",
                       uv_strerror(code));
    }
    /* On a new loop none of these can fail but the first, which wants a descriptor. */
    KD_CHECK(uv_async_init(&link->loop, &link->wake, on_wake) == 0);
    KD_CHECK(uv_timer_init(&link->loop, &link->retry) == 0);
    KD_CHECK(uv_timer_init(&link->loop, &link->heartbeat) == 0);
    KD_CHECK(uv_timer_init(&link->loop, &link->deadline) == 0);
    link->wake.data = link->retry.data = link->heartbeat.data = link->deadline.data = link;
    (void)uv_timer_start(&link->retry, on_retry, 0, 0);
    return KD_OK;
}

static void release(rank_link *link)
{
    KD_CHECK(uv_loop_close(&link->loop) == 0);
    uv_mutex_destroy(&link->lock);
    link_queue_clear(&link->queue);
    link_queue_clear(&link->unconfirmed);
    for (size_t i = 0; i < link->n_changes; i++) {
        kd_message_destroy(&link->changes[i]->base);
    }
    kd_message_destroy((ProtobufCMessage *)link->places);
    kd_message_destroy(&link->attempt->base);
    free(link);
}

kd_status rank_link_open(const rank_link_settings *settings, rank_link **link_out)
{
    rank_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the link to the daemon");
    }
    kd_status st = kd_address_parse(settings->attempt->address, &link->address);
    if (st) {
        goto err_free;
    }
    link->rank = settings->rank;
    link->world_size = settings->world_size;
    link->on_refused = settings->on_refused;
    link->retry_ms = RETRY_MS_MIN;
    link->heartbeat_ms = HEARTBEAT_MS_DEFAULT;
    link->attempt = (Kd__Attempt *)kd_message_copy(&settings->attempt->base);
    if (link->attempt == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for the link to the daemon");
        goto err_free;
    }
    st = init_loop(link);
    if (st) {
        goto err_attempt;
    }
    const int code = uv_thread_create(&link->thread, run, link);
    if (code != 0) {
        st = kd_fail(KD_ERR_IO, "no thread for the link to the daemon: %s", uv_strerror(code));
        end_loop(link);
        (void)uv_run(&link->loop, UV_RUN_DEFAULT);
        release(link);
        return st;
    }
    *link_out = link;
    return KD_OK;

err_attempt:
    kd_message_destroy(&link->attempt->base);
err_free:
    free(link);
    return st;
}

void rank_link_set_step(rank_link *link, uint64_t step)
{
    if (link != NULL) {
        atomic_store(&link->step, step);
    }
}

void rank_link_set_places(rank_link *link, const Kd__Heartbeat *heartbeat)
{
    Kd__Heartbeat *copy = link != NULL ? (Kd__Heartbeat *)kd_message_copy(&heartbeat->base) : NULL;
    if (copy == NULL) {
        return;
    }
    uv_mutex_lock(&link->lock);
    Kd__Heartbeat *before = link->places;
    link->places = copy;
    uv_mutex_unlock(&link->lock);
    kd_message_destroy((ProtobufCMessage *)before);
}

void rank_link_report(rank_link *link, const Kd__RankMessage *message)
{
    if (link == NULL) {
        return;
    }
    link_entry *entry = link_entry_create(message);
    if (entry == NULL) {
        kd_log(KD_LOG_WARN, "no memory for a report to the daemon");
        return;
    }
    uv_mutex_lock(&link->lock);
    link_queue_add(&link->queue, entry);
    link_queue_trim(&link->queue, RANK_LINK_STEPS_MAX);
    uv_mutex_unlock(&link->lock);
    (void)uv_async_send(&link->wake);
}

Kd__RankOrder *rank_link_take_change(rank_link *link)
{
    Kd__RankOrder *oldest = NULL;
    if (link == NULL) {
        return NULL;
    }
    uv_mutex_lock(&link->lock);
    if (link->n_changes > 0) {
        oldest = link->changes[0];
        link->n_changes--;
        memmove(link->changes, link->changes + 1, link->n_changes * sizeof(Kd__RankOrder *));
    }
    uv_mutex_unlock(&link->lock);
    return oldest;
}

bool rank_link_take_save(rank_link *link)
{
    return link != NULL && atomic_exchange(&link->save, false);
}

void rank_link_close(rank_link *link, uint64_t timeout_ms)
{
    if (link == NULL) {
        return;
    }
    uv_mutex_lock(&link->lock);
    link->closing = true;
    link->timeout_ms = timeout_ms;
    uv_mutex_unlock(&link->lock);
    (void)uv_async_send(&link->wake);
    (void)uv_thread_join(&link->thread);
    release(link);
}
