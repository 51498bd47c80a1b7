#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "wire/hello.h"
#include "wire/listener.h"

/* One end of a connection, and what it was told. */
typedef struct end {
    kd_connection *c; /* NULL once closed */
    int n_opened, n_frames, n_drained, n_closed;
    size_t received_bytes;
    kd_status status;
    char text[256];
    bool echoes;
    bool closes_on_frame;
} end;

static uv_loop_t loop;
static kd_address address;
static kd_listener *listener;
static end client, server;
static bool server_ignores;

static void on_open(kd_connection *c, void *user)
{
    (void)c;
    ((end *)user)->n_opened++;
}

static void on_frame(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes)
{
    end *e = user;
    e->n_frames++;
    e->received_bytes += size_bytes;
    if (e->echoes) {
        Kd__LogChunk *chunk = kd__log_chunk__unpack(NULL, size_bytes, payload);
        cr_assert(chunk != NULL);
        cr_expect(eq(int, kd_connection_send(c, &chunk->base), KD_OK));
        kd__log_chunk__free_unpacked(chunk, NULL);
    }
    if (e->closes_on_frame) {
        kd_connection_close(c);
        kd_connection_close(c);
        cr_expect(eq(int, e->n_closed, 0), "never from within the call that caused it");
    }
}

static void on_drained(kd_connection *c, void *user)
{
    cr_expect(eq(sz, kd_connection_queued_bytes(c), 0));
    ((end *)user)->n_drained++;
}

static void on_closed(kd_connection *c, void *user, kd_status status, const char *text)
{
    end *e = user;
    e->n_closed++;
    e->status = status;
    (void)snprintf(e->text, sizeof e->text, "%s", text);
    if (e->c == c) { /* the server's end may have had several */
        e->c = NULL;
    }
}

static const kd_connection_callbacks callbacks = {on_open, on_frame, on_drained, on_closed};

static void on_accept(kd_listener *l, void *user, kd_connection *c)
{
    (void)l;
    (void)user;
    if (server_ignores) {
        return;
    }
    server.c = c;
    cr_assert(eq(int, kd_connection_start(c, &callbacks, &server), KD_OK));
}

static const kd_listener_callbacks listener_callbacks = {.on_accept = on_accept};

static void begin(void)
{
    kd_fault_quiet(1);
    cr_assert(uv_loop_init(&loop) == 0);
    temporary_enter();
    address = (kd_address){.kind = KD_ADDRESS_UNIX};
    (void)snprintf(address.path, sizeof address.path, "%s", temporary_path("s"));
}

/* Everything must close. Criterion does not count a failed assertion here, but a crash it does. */
static void finish(void)
{
    if (client.c != NULL) {
        kd_connection_close(client.c);
    }
    if (server.c != NULL) {
        kd_connection_close(server.c);
    }
    if (listener != NULL) {
        kd_listener_close(listener);
    }
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    KD_CHECK(uv_loop_close(&loop) == 0);
    KD_CHECK(access(address.path, F_OK) != 0); /* the socket file is gone */
    temporary_leave();
}

TestSuite(connection, .init = begin, .fini = finish);
TestSuite(listener, .init = begin, .fini = finish);
TestSuite(hello, .init = begin, .fini = finish);

static void listen_and_connect(void)
{
    cr_assert(
        eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener), KD_OK));
    cr_assert(eq(
        int,
        kd_connection_connect(&loop, kd_listener_address(listener), &callbacks, &client, &client.c),
        KD_OK));
}

static void run_until(const int *counter, int value)
{
    for (int i = 0; i < 10000 && *counter < value; i++) {
        (void)uv_run(&loop, UV_RUN_ONCE);
    }
    cr_assert(ge(int, *counter, value));
}

static kd_status send_bytes(kd_connection *c, size_t n)
{
    Kd__LogChunk chunk = KD__LOG_CHUNK__INIT;
    chunk.has_data = 1;
    chunk.data.len = n;
    chunk.data.data = calloc(n + 1, 1);
    kd_status st = kd_connection_send(c, &chunk.base);
    free(chunk.data.data);
    return st;
}

/* A plain socket, for what kd_connection would never send. */
static int connect_plainly(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    (void)strcpy(to.sun_path, address.path);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    return fd;
}

Test(connection, frames_sent_before_it_is_open_arrive_and_come_back)
{
    server.echoes = true;
    listen_and_connect();
    for (size_t i = 1; i <= 100; i++) {
        cr_assert(eq(int, send_bytes(client.c, i), KD_OK));
    }
    run_until(&client.n_frames, 100);
    cr_expect(eq(int, client.n_opened, 1));
    cr_expect(eq(int, server.n_opened, 0), "an accepted connection was open before");
    cr_expect(ge(int, client.n_drained, 1));
    cr_expect(eq(sz, client.received_bytes, server.received_bytes));
}

Test(connection, a_frame_of_the_largest_size_arrives_over_tcp)
{
    cr_assert(eq(int, kd_address_parse("tcp:127.0.0.1:0", &address), KD_OK));
    server.echoes = true;
    listen_and_connect();
    cr_expect(ne(u16, kd_listener_address(listener)->port, 0));
    cr_assert(eq(int, send_bytes(client.c, KD_FRAME_BYTES_MAX - 5), KD_OK));
    cr_expect(gt(sz, kd_connection_queued_bytes(client.c), KD_FRAME_BYTES_MAX - 5));
    run_until(&client.n_frames, 1);
    cr_expect(eq(sz, client.received_bytes, KD_FRAME_BYTES_MAX));
    cr_expect(eq(sz, kd_connection_queued_bytes(client.c), 0));
}

Test(connection, tcp_over_ipv6_works_where_there_is_ipv6)
{
    cr_assert(eq(int, kd_address_parse("tcp:[::1]:0", &address), KD_OK));
    if (kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener)) {
        listener = NULL;
        return; /* a kernel without it */
    }
    cr_assert(eq(
        int,
        kd_connection_connect(&loop, kd_listener_address(listener), &callbacks, &client, &client.c),
        KD_OK));
    cr_assert(eq(int, send_bytes(client.c, 3), KD_OK));
    run_until(&server.n_frames, 1);
}

Test(connection, an_oversized_or_empty_message_is_refused_and_the_connection_lives)
{
    listen_and_connect();
    cr_expect(eq(int, send_bytes(client.c, KD_FRAME_BYTES_MAX), KD_ERR_INVALID));
    const Kd__ListRequest empty = KD__LIST_REQUEST__INIT;
    cr_expect(eq(int, kd_connection_send(client.c, &empty.base), KD_ERR_INVALID));
    cr_expect(eq(int, send_bytes(client.c, 1), KD_OK));
    run_until(&server.n_frames, 1);
}

Test(connection, closing_twice_in_a_callback_ends_once_and_last)
{
    server.closes_on_frame = true;
    listen_and_connect();
    for (int i = 0; i < 5; i++) {
        cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    }
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, server.n_frames, 1), "no frame after the close");
    cr_expect(eq(int, server.n_closed, 1));
    cr_expect(eq(int, server.status, KD_OK));
    cr_expect(eq(str, server.text, "closed here"));
    cr_expect(eq(int, client.n_closed, 1));
}

Test(connection, the_peers_close_is_told_as_such)
{
    listen_and_connect();
    cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    run_until(&server.n_frames, 1);
    kd_connection_close(server.c);
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, client.status, KD_OK));
    cr_expect(eq(str, client.text, "closed by the peer"));
}

Test(connection, closing_before_it_is_open_still_calls_back_once)
{
    listen_and_connect();
    cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    kd_connection_close(client.c);
    cr_expect(kd_connection_is_closing(client.c));
    cr_expect(eq(int, send_bytes(client.c, 1), KD_ERR_STATE));
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, client.n_opened, 0));
    cr_expect(eq(int, client.status, KD_OK));
}

Test(connection, close_after_flush_sends_all_that_was_accepted)
{
    listen_and_connect();
    for (int i = 0; i < 4; i++) {
        cr_assert(eq(int, send_bytes(client.c, 1 << 20), KD_OK));
    }
    kd_connection_close_after_flush(client.c);
    kd_connection_close_after_flush(client.c);
    cr_expect(eq(int, send_bytes(client.c, 1), KD_ERR_STATE));
    run_until(&server.n_closed, 1);
    cr_expect(eq(int, server.n_frames, 4));
    cr_expect(eq(int, server.status, KD_OK));
    cr_expect(eq(int, client.n_closed, 1));
}

Test(connection, close_after_flush_with_nothing_queued_closes)
{
    listen_and_connect();
    run_until(&client.n_opened, 1);
    kd_connection_close_after_flush(client.c);
    cr_expect(eq(int, client.n_closed, 0));
    run_until(&client.n_closed, 1);
}

Test(connection, pause_holds_later_frames_until_resume)
{
    listen_and_connect();
    cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    run_until(&server.n_frames, 1);
    kd_connection_pause(server.c);
    cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    for (int i = 0; i < 20; i++) {
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    }
    cr_expect(eq(int, server.n_frames, 1));
    kd_connection_resume(server.c);
    kd_connection_resume(server.c);
    run_until(&server.n_frames, 2);
}

Test(connection, nobody_at_the_address_is_not_found)
{
    cr_assert(
        eq(int, kd_connection_connect(&loop, &address, &callbacks, &client, &client.c), KD_OK));
    cr_assert(eq(int, send_bytes(client.c, 10), KD_OK));
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, client.n_opened, 0));
    cr_expect(eq(int, client.status, KD_ERR_NOT_FOUND));
    cr_expect(strstr(client.text, "cannot connect to unix:/") != NULL);
    cr_expect(strstr(client.text, address.path) != NULL);
    cr_expect(strstr(client.text, "no such file") != NULL);
}

Test(connection, a_bad_length_ends_the_connection)
{
    cr_assert(
        eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener), KD_OK));
    const int fd = connect_plainly();
    cr_assert(write(fd, "\xff\xff\xff\xff", 4) == 4);
    run_until(&server.n_closed, 1);
    cr_expect(eq(int, server.status, KD_ERR_PROTO));
    cr_expect(strstr(server.text, "found a length of 4294967295 bytes") != NULL);
    (void)close(fd);
}

Test(connection, a_stream_cut_within_a_frame_is_a_fault)
{
    cr_assert(
        eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener), KD_OK));
    const int fd = connect_plainly();
    cr_assert(write(fd, "\0\0\0\x09half", 8) == 8);
    (void)close(fd);
    run_until(&server.n_closed, 1);
    cr_expect(eq(int, server.status, KD_ERR_PROTO));
    cr_expect(eq(str, server.text, "closed by the peer within a frame"));
}

Test(connection, writing_to_a_dead_peer_ends_it_without_a_signal)
{
    cr_assert(
        eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener), KD_OK));
    const int fd = connect_plainly();
    cr_assert(write(fd, "\0\0\0\x01x", 5) == 5);
    run_until(&server.n_frames, 1);
    kd_connection_pause(server.c);
    (void)close(fd);
    cr_assert(eq(int, send_bytes(server.c, 100), KD_OK));
    run_until(&server.n_closed, 1);
    cr_expect(eq(int, server.status, KD_ERR_IO));
    cr_expect(strstr(server.text, "write: ") == server.text);
}

Test(listener, a_connection_nobody_starts_is_closed)
{
    server_ignores = true;
    listen_and_connect();
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, client.status, KD_OK));
}

Test(listener, socket_file_has_the_mode_asked_for)
{
    struct stat file;
    listen_and_connect();
    cr_assert(stat(address.path, &file) == 0);
    cr_expect(eq(uint, file.st_mode & 0777, 0600));
}

Test(listener, a_stale_socket_file_is_replaced)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    (void)strcpy(at.sun_path, address.path);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    (void)close(fd); /* leaves the file, as a crash does */
    listen_and_connect();
    run_until(&client.n_opened, 1);
}

Test(listener, a_live_socket_is_already_in_use)
{
    listen_and_connect();
    kd_listener *second = NULL;
    cr_expect(eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &second),
                 KD_ERR_STATE));
    EXPECT_FAULT("already in use");
    cr_expect(second == NULL);
    run_until(&client.n_opened, 1); /* the first goes on */
}

Test(listener, a_port_in_use_is_already_in_use)
{
    cr_assert(eq(int, kd_address_parse("tcp:127.0.0.1:0", &address), KD_OK));
    listen_and_connect();
    kd_listener *second = NULL;
    cr_expect(eq(int,
                 kd_listener_open(&loop, kd_listener_address(listener), 0, &listener_callbacks,
                                  NULL, &second),
                 KD_ERR_STATE));
    EXPECT_FAULT("already in use");
}

Test(listener, a_file_that_is_no_socket_is_left_alone)
{
    const int fd = open(address.path, O_CREAT | O_WRONLY, 0600);
    (void)close(fd);
    cr_expect(eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener),
                 KD_ERR_STATE));
    cr_expect(eq(int, access(address.path, F_OK), 0));
    (void)unlink(address.path);
}

Test(listener, a_folder_that_is_not_there_is_an_io_fault)
{
    (void)strcpy(address.path, "/nonexistent-folder/s");
    cr_expect(eq(int, kd_listener_open(&loop, &address, 0, &listener_callbacks, NULL, &listener),
                 KD_ERR_IO));
    EXPECT_FAULT("/nonexistent-folder/s: cannot bind: no such file or directory");
}

static kd_status check_hello(const Kd__Hello *hello)
{
    uint8_t bytes[128];
    Kd__Hello *out = NULL;
    kd_status st = kd_hello_check(bytes, kd__hello__pack(hello, bytes), &out);
    kd__hello__free_unpacked(out, NULL);
    return st;
}

Test(hello, another_protocol_version_is_refused_naming_both)
{
    Kd__Hello hello = KD__HELLO__INIT;
    hello.has_protocol = hello.has_role = 1;
    hello.protocol = KD_PROTOCOL_VERSION;
    cr_expect(eq(int, check_hello(&hello), KD_OK));
    hello.protocol = 9;
    hello.program = "distillctl 9.0";
    cr_expect(eq(int, check_hello(&hello), KD_ERR_PROTO));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "protocol: distillctl 9.0 speaks version 9, this side speaks version 1"));
}

Test(hello, an_unknown_role_is_refused)
{
    Kd__Hello hello = KD__HELLO__INIT;
    hello.has_protocol = hello.has_role = 1;
    hello.protocol = KD_PROTOCOL_VERSION;
    hello.role = (Kd__Hello__Role)77;
    cr_expect(eq(int, check_hello(&hello), KD_ERR_PROTO));
    EXPECT_FAULT("found role 77");
}

Test(hello, a_request_in_its_place_is_refused)
{
    Kd__Request request = KD__REQUEST__INIT;
    Kd__ListRequest list = KD__LIST_REQUEST__INIT;
    request.has_id = 1;
    request.id = KD_PROTOCOL_VERSION; /* looks like a hello's first field */
    request.body_case = KD__REQUEST__BODY_LIST;
    request.list = &list;
    uint8_t bytes[64];
    Kd__Hello *hello = NULL;
    cr_expect(
        eq(int, kd_hello_check(bytes, kd__request__pack(&request, bytes), &hello), KD_ERR_PROTO));
    cr_expect(eq(str, (char *)kd_fault_text(), "the first frame is no hello"));
    cr_expect(eq(int, kd_hello_check((const uint8_t *)"\xff\xff", 2, &hello), KD_ERR_PROTO));
    cr_expect(hello == NULL);
}

Test(hello, a_refusal_reaches_the_client_and_closes)
{
    listen_and_connect();
    cr_assert(eq(int, kd_hello_send(client.c, KD__HELLO__ROLE__PERSON, "test 1"), KD_OK));
    run_until(&server.n_frames, 1);
    kd_hello_refuse(server.c, "distilld 1", KD__ERROR__CODE__REFUSED, "no");
    run_until(&client.n_closed, 1);
    cr_expect(eq(int, client.n_frames, 1));
}

Test(hello, the_reply_says_yes_or_the_reason)
{
    uint8_t bytes[128];
    Kd__Error error = KD__ERROR__INIT;
    Kd__HelloReply reply = KD__HELLO_REPLY__INIT;
    reply.has_protocol = 1;
    reply.protocol = KD_PROTOCOL_VERSION;
    cr_expect(eq(int, kd_hello_reply_check(bytes, kd__hello_reply__pack(&reply, bytes)), KD_OK));
    error.text = "too many connections";
    reply.error = &error;
    cr_expect(
        eq(int, kd_hello_reply_check(bytes, kd__hello_reply__pack(&reply, bytes)), KD_ERR_STATE));
    cr_expect(eq(str, (char *)kd_fault_text(), "refused: too many connections"));
    reply.protocol = 2;
    cr_expect(
        eq(int, kd_hello_reply_check(bytes, kd__hello_reply__pack(&reply, bytes)), KD_ERR_PROTO));
    cr_expect(eq(int, kd_hello_reply_check((const uint8_t *)"\xff", 1), KD_ERR_PROTO));
}
