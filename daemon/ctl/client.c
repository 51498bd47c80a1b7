/*
 * client.c - one call at a time, run to its end on a loop of its own: commands read from top to bottom.
 * The deadline counts silence, so a long answer may take as long as it likes.
 */
#include "daemon/ctl/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "base/log.h"
#include "daemon/ctl/print.h"
#include "wire/connection.h"
#include "wire/hello.h"

struct ctl_client {
    uv_loop_t loop;
    uv_timer_t timer;
    unsigned reply_timeout_ms;
    bool quiet;                /* what goes wrong is the caller's to tell  */
    kd_connection *connection; /* NULL once on_closed has run              */
    bool greeted;              /* the daemon accepted our hello            */
    bool waiting;              /* a reply, or the hello's answer, is due   */
    uint64_t request_id;       /* of the call under way                    */
    ctl_on_reply on_reply;
    void *user;
    ctl_exit result; /* of the call under way */
};

static ctl_exit exit_of(Kd__Error__Code code)
{
    switch (code) {
    case KD__ERROR__CODE__INVALID:
        return CTL_INVALID;
    case KD__ERROR__CODE__NOT_FOUND:
        return CTL_NOT_FOUND;
    case KD__ERROR__CODE__CONFLICT:
    case KD__ERROR__CODE__REFUSED:
        return CTL_CONFLICT;
    case KD__ERROR__CODE__UNKNOWN:
    case KD__ERROR__CODE__INTERNAL:
    case _KD__ERROR__CODE_IS_INT_SIZE:
        break;
    }
    return CTL_INTERNAL;
}

static void end_call(ctl_client *client, ctl_exit result)
{
    client->result = result;
    client->waiting = false;
    (void)uv_timer_stop(&client->timer);
    uv_stop(&client->loop);
}

static void say(bool quiet, const char *text)
{
    if (!quiet) {
        (void)fputs("distillctl: ", stderr);
        (void)fputs(text, stderr);
        (void)fputs("\n", stderr);
    }
}

static void fail_call(ctl_client *client, ctl_exit result, const char *text)
{
    say(client->quiet, text);
    end_call(client, result);
}

static void on_timeout(uv_timer_t *timer)
{
    fail_call(timer->data, CTL_UNREACHABLE, "the daemon does not answer");
}

/* Counts from now: what was printed may have waited long for its reader. */
static void expect_reply(ctl_client *client)
{
    uv_update_time(&client->loop);
    (void)uv_timer_start(&client->timer, on_timeout, client->reply_timeout_ms, 0);
}

static void take_reply(ctl_client *client, const Kd__Reply *reply)
{
    if (reply->id != client->request_id && reply->id != 0) {
        return; /* a late answer to a call that was given up */
    }
    if (reply->error) {
        fail_call(client, exit_of(reply->error->code),
                  reply->error->text ? reply->error->text : "the daemon gave no reason");
        return;
    }
    client->on_reply(reply, client->user);
    if (!ctl_flush()) {
        fail_call(client, CTL_INTERNAL, "standard output: cannot be written");
    } else if (!reply->more) {
        end_call(client, CTL_OK);
    } else if (uv_is_active((uv_handle_t *)&client->timer)) {
        expect_reply(client);
    }
}

static void on_frame(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes)
{
    ctl_client *client = user;
    (void)c;
    if (!client->waiting) {
        return;
    }
    if (!client->greeted) {
        client->greeted = kd_hello_reply_check(payload, size_bytes) == KD_OK;
        if (client->greeted) {
            end_call(client, CTL_OK);
        } else {
            fail_call(client, CTL_CONFLICT, kd_fault_text());
        }
        return;
    }
    Kd__Reply *reply = kd__reply__unpack(NULL, size_bytes, payload);
    if (reply == NULL) {
        fail_call(client, CTL_INTERNAL, "the daemon's answer is not a reply of this protocol");
        return;
    }
    take_reply(client, reply);
    kd__reply__free_unpacked(reply, NULL);
}

static void on_closed(kd_connection *c, void *user, kd_status status, const char *text)
{
    ctl_client *client = user;
    (void)c;
    client->connection = NULL;
    if (client->waiting) {
        fail_call(client, CTL_UNREACHABLE,
                  status == KD_OK ? "the daemon closed the connection" : text);
    }
}

/* Runs the loop until end_call(). */
static ctl_exit wait_for_reply(ctl_client *client, bool bounded)
{
    client->waiting = true;
    if (bounded) {
        expect_reply(client);
    }
    while (client->waiting) {
        (void)uv_run(&client->loop, UV_RUN_DEFAULT);
    }
    return client->result;
}

void ctl_client_close(ctl_client *client)
{
    if (client == NULL) {
        return;
    }
    if (client->connection) {
        kd_connection_close(client->connection);
    }
    uv_close((uv_handle_t *)&client->timer, NULL);
    (void)uv_run(&client->loop, UV_RUN_DEFAULT);
    KD_CHECK(uv_loop_close(&client->loop) == 0);
    free(client);
}

ctl_exit ctl_client_open(const ctl_options *options, ctl_client **client_out)
{
    static const kd_connection_callbacks callbacks = {.on_frame = on_frame, .on_closed = on_closed};
    kd_address address;
    ctl_client *client = calloc(1, sizeof *client);
    if (client == NULL || uv_loop_init(&client->loop) != 0) {
        free(client);
        (void)fputs("distillctl: out of memory\n", stderr);
        return CTL_INTERNAL;
    }
    KD_CHECK(uv_timer_init(&client->loop, &client->timer) == 0);
    client->timer.data = client;
    client->quiet = options->quiet;
    client->reply_timeout_ms = options->reply_timeout_ms;

    ctl_exit result = CTL_UNREACHABLE;
    if (kd_address_parse(options->server, &address)) {
        (void)fprintf(stderr, "distillctl: --server: %s\n", kd_fault_text());
        result = CTL_USAGE;
    } else if (kd_connection_connect(&client->loop, &address, &callbacks, client,
                                     &client->connection) ||
               kd_hello_send(client->connection, KD__HELLO__ROLE__PERSON,
                             "distillctl " KD_VERSION)) {
        say(client->quiet, kd_fault_text());
    } else {
        result = wait_for_reply(client, true);
    }
    if (result != CTL_OK) {
        ctl_client_close(client);
        return result;
    }
    *client_out = client;
    return CTL_OK;
}

/* Its answers come as things happen, and that may be never. */
static bool is_stream(const Kd__Request *request)
{
    return request->body_case == KD__REQUEST__BODY_WATCH ||
           (request->body_case == KD__REQUEST__BODY_LOGS && request->logs->follow);
}

ctl_exit ctl_call(ctl_client *client, Kd__Request *request, ctl_on_reply on_reply, void *user)
{
    if (client->connection == NULL) {
        say(client->quiet, "the daemon closed the connection");
        return CTL_UNREACHABLE;
    }
    client->on_reply = on_reply;
    client->user = user;
    request->id = ++client->request_id;
    request->has_id = true;
    if (kd_connection_send(client->connection, &request->base)) {
        say(client->quiet, kd_fault_text());
        return CTL_UNREACHABLE;
    }
    return wait_for_reply(client, !is_stream(request));
}

ctl_exit
ctl_ask(const ctl_options *options, Kd__Request *request, ctl_on_reply on_reply, void *user)
{
    ctl_client *client;
    ctl_exit result = ctl_client_open(options, &client);
    if (result == CTL_OK) {
        result = ctl_call(client, request, on_reply, user);
        ctl_client_close(client);
    }
    return result;
}

ctl_exit ctl_job_id(const char *text, uint64_t *id_out)
{
    char *end;
    errno = 0;
    const unsigned long long id = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || id == 0) {
        (void)fprintf(stderr, "distillctl: found \"%s\", expected a job's number\n", text);
        return CTL_USAGE;
    }
    *id_out = id;
    return CTL_OK;
}
