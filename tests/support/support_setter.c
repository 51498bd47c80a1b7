/*
 * support_setter.c - a stand-in for the daemon that changes live values:
 *
 *     support_setter SOCKET ATTEMPT_FILE [STEP PATH VALUE]...
 *
 * Writes the attempt file, prints a line, and answers ranks until it is killed. Once rank 0 has reported a
 * step, that step's orders go out, each once.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "proto/worker.pb-c.h"
#include "tests/support/support_daemon.h"
#include "wire/frame.h"

static char secret[] = "not much of one";

static void write_attempt(const char *path, const char *socket_path)
{
    Kd__Attempt attempt = KD__ATTEMPT__INIT;
    uint8_t packed[512];
    char address[200];
    (void)snprintf(address, sizeof address, "unix:%s", socket_path);
    attempt.has_job_id = attempt.has_number = attempt.has_secret = 1;
    attempt.job_id = 1;
    attempt.number = 1;
    attempt.secret = (ProtobufCBinaryData){strlen(secret), (uint8_t *)secret};
    attempt.address = address;
    SUPPORT_REQUIRE(kd__attempt__get_packed_size(&attempt) <= sizeof packed, "a long path");
    const size_t n = kd__attempt__pack(&attempt, packed);
    SUPPORT_REQUIRE(kd_file_replace_mode(path, packed, n, 0600) == KD_OK, "%s", path);
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)unlink(path);
    SUPPORT_REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                        listen(fd, 16) == 0,
                    "%s", path);
    return fd;
}

static bool accept_hello(int fd)
{
    size_t n_bytes;
    Kd__HelloReply reply = KD__HELLO_REPLY__INIT;
    uint8_t *hello = support_receive(fd, &n_bytes);
    free(hello);
    reply.has_protocol = 1;
    reply.protocol = KD_PROTOCOL_VERSION;
    reply.program = "setter";
    return hello != NULL && support_send(fd, &reply.base);
}

static bool welcome(int fd)
{
    Kd__RankWelcome welcome = KD__RANK_WELCOME__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    welcome.has_heartbeat_ms = 1;
    welcome.heartbeat_ms = 20;
    message.body_case = KD__DAEMON_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    return support_send(fd, &message.base);
}

static bool order_change(int fd, char *path, char *value)
{
    Kd__RankOrder order = KD__RANK_ORDER__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    order.has_kind = 1;
    order.kind = KD__RANK_ORDER__KIND__SET;
    order.path = path;
    order.value = value;
    message.body_case = KD__DAEMON_MESSAGE__BODY_ORDER;
    message.order = &order;
    return support_send(fd, &message.base);
}

/* Of one message: the leader's step, or 0. Says welcome to who says hello. */
static uint64_t step_of(int fd, const Kd__RankMessage *message, bool *leads)
{
    if (message->body_case == KD__RANK_MESSAGE__BODY_HELLO) {
        *leads = message->hello->rank == 0;
        (void)welcome(fd);
    }
    if (*leads && message->body_case == KD__RANK_MESSAGE__BODY_STEP) {
        return message->step->step;
    }
    return 0;
}

/* One connection, to its end; n_orders triples of step, path and value. */
static void serve(int fd, char **orders, int n_orders)
{
    bool leads = false;
    int n_sent = 0;
    size_t n_bytes;
    if (!accept_hello(fd)) {
        return;
    }
    for (;;) {
        uint8_t *payload = support_receive(fd, &n_bytes);
        Kd__RankMessage *message =
            payload != NULL ? kd__rank_message__unpack(NULL, n_bytes, payload) : NULL;
        free(payload);
        if (message == NULL) {
            return;
        }
        const uint64_t step = step_of(fd, message, &leads);
        kd__rank_message__free_unpacked(message, NULL);
        for (; n_sent < n_orders && step >= strtoull(orders[3 * n_sent], NULL, 10) && step > 0;
             n_sent++) {
            if (!order_change(fd, orders[3 * n_sent + 1], orders[3 * n_sent + 2])) {
                return;
            }
        }
    }
}

int main(int argc, char **argv)
{
    SUPPORT_REQUIRE(argc >= 3 && argc % 3 == 0, "usage: see above");
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGCHLD, SIG_IGN);
    const int fd = listen_on(argv[1]);
    write_attempt(argv[2], argv[1]);
    (void)puts("ready");
    (void)fflush(stdout);
    for (;;) {
        const int rank = accept(fd, NULL, NULL);
        if (rank >= 0 && fork() == 0) {
            serve(rank, argv + 3, (argc - 3) / 3);
            _exit(0);
        }
        (void)close(rank);
    }
}
