/* What distillctl does with a daemon that took the connection, said hello and then says nothing more. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/ctl/client.h"
#include "proto/control.pb-c.h"
#include "tests/support/temporary.h"
#include "wire/frame.h"
#include "wire/hello.h"

#define STUCK_MS 4000 /* then the silent daemon closes, if the client did not */

static int listener = -1;
static pthread_t thread;
static char server[128];

static void send_hello_reply(int fd)
{
    uint8_t frame[256];
    Kd__HelloReply reply = KD__HELLO_REPLY__INIT;
    reply.has_protocol = 1;
    reply.protocol = KD_PROTOCOL_VERSION;
    const size_t n = kd__hello_reply__pack(&reply, frame + KD_FRAME_HEADER_BYTES);
    kd_frame_write_header(frame, n);
    (void)send(fd, frame, KD_FRAME_HEADER_BYTES + n, MSG_NOSIGNAL);
}

static void *be_stuck(void *unused)
{
    char bytes[1024];
    const int fd = accept(listener, NULL, NULL);
    if (fd >= 0 && read(fd, bytes, sizeof bytes) > 0) {
        send_hello_reply(fd);
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        while (poll(&wait, 1, STUCK_MS) > 0 && read(fd, bytes, sizeof bytes) > 0) {
        }
    }
    (void)close(fd);
    return unused;
}

static void start_stuck_daemon(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    temporary_enter();
    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s/s", temporary_folder());
    (void)snprintf(server, sizeof server, "unix:%s", at.sun_path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(listener >= 0 && bind(listener, (struct sockaddr *)&at, sizeof at) == 0 &&
              listen(listener, 1) == 0);
    cr_assert(pthread_create(&thread, NULL, be_stuck, NULL) == 0);
}

static void end_stuck_daemon(void)
{
    (void)pthread_join(thread, NULL);
    (void)close(listener);
    temporary_leave();
}

TestSuite(client, .init = start_stuck_daemon, .fini = end_stuck_daemon, .timeout = 20);

static void take_no_reply(const Kd__Reply *reply, void *user)
{
    (void)reply;
    (void)user;
    cr_assert(0, "the daemon had said nothing");
}

/* Asks for a log, and returns the seconds until that was given up. */
static double ask_for_log(bool follow)
{
    const ctl_options options = {.server = server, .reply_timeout_ms = 200, .quiet = true};
    Kd__LogsRequest logs = KD__LOGS_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    logs.has_job_id = logs.has_follow = 1;
    logs.job_id = 1;
    logs.follow = follow;
    request.body_case = KD__REQUEST__BODY_LOGS;
    request.logs = &logs;
    const double begin = kd_clock_monotonic_s();
    cr_expect(eq(int, ctl_ask(&options, &request, take_no_reply, NULL), CTL_UNREACHABLE));
    return kd_clock_monotonic_s() - begin;
}

Test(client, a_log_that_does_not_come_is_not_waited_for)
{
    cr_expect(lt(dbl, ask_for_log(false), STUCK_MS / 1e3));
}

Test(client, a_log_that_is_followed_may_be_silent)
{
    cr_expect(ge(dbl, ask_for_log(true), STUCK_MS / 1e3 * 0.9));
}
