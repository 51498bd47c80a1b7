/*
 * daemon_protocol.c - bytes and requests that are wrong: each is answered or ends its connection, and
 * the daemon goes on; wrong command lines end with the documented exit codes.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "support_daemon.h"
#include "wire/frame.h"

static support_daemon d;

static int person(void)
{
    const int fd = support_open(&d, KD__HELLO__ROLE__PERSON);
    SUPPORT_REQUIRE(fd >= 0, "the daemon does not answer");
    return fd;
}

static void
expect_error(Kd__Reply *reply, Kd__Error__Code code, const char *text, const char *field)
{
    SUPPORT_REQUIRE(reply != NULL && reply->error != NULL, "expected \"%s\"", text);
    SUPPORT_REQUIRE(reply->error->code == code, "%s: code %d, expected %d", reply->error->text,
                    (int)reply->error->code, (int)code);
    SUPPORT_REQUIRE(strstr(reply->error->text, text) != NULL, "\"%s\", expected \"%s\"",
                    reply->error->text, text);
    SUPPORT_REQUIRE(field == NULL ||
                        (reply->error->field != NULL && strcmp(reply->error->field, field) == 0),
                    "%s: expected field %s", reply->error->text, field);
    kd__reply__free_unpacked(reply, NULL);
}

static void another_protocol_version_is_refused(void)
{
    Kd__Hello hello = KD__HELLO__INIT;
    size_t n_bytes;
    const int fd = support_connect(&d);
    hello.has_protocol = hello.has_role = 1;
    hello.protocol = 99;
    SUPPORT_REQUIRE(support_send(fd, &hello.base), "hello");
    uint8_t *payload = support_receive(fd, &n_bytes);
    SUPPORT_REQUIRE(payload != NULL, "no answer");
    Kd__HelloReply *reply = kd__hello_reply__unpack(NULL, n_bytes, payload);
    SUPPORT_REQUIRE(reply != NULL && reply->error != NULL, "not refused");
    SUPPORT_REQUIRE(reply->error->code == KD__ERROR__CODE__REFUSED &&
                        strstr(reply->error->text, "99") != NULL,
                    "%s", reply->error->text);
    SUPPORT_REQUIRE(support_is_closed(fd), "still open");
    kd__hello_reply__free_unpacked(reply, NULL);
    free(payload);
    (void)close(fd);
}

static void bad_frames_end_their_connection(void)
{
    static const uint8_t oversized[] = {0xff, 0xff, 0xff, 0xff, 1, 2, 3};
    static const uint8_t just_too_long[] = {0x00, 0x40, 0x00, 0x01};
    static const uint8_t empty[] = {0, 0, 0, 0};

    const struct {
        const uint8_t *bytes;
        size_t n_bytes;
    } frames[] = {{oversized, sizeof oversized},
                  {just_too_long, sizeof just_too_long},
                  {empty, sizeof empty}};

    for (int i = 0; i < 3; i++) {
        for (int greeted = 0; greeted < 2; greeted++) {
            const int fd = greeted ? person() : support_connect(&d);
            SUPPORT_REQUIRE(support_send_bytes(fd, frames[i].bytes, frames[i].n_bytes), "frame %d",
                            i);
            SUPPORT_REQUIRE(support_is_closed(fd), "frame %d: still open", i);
            (void)close(fd);
        }
    }
}

static void a_frame_that_is_cut_off_is_forgotten(void)
{
    static const uint8_t half[] = {0, 0, 0, 100, 1, 2, 3};
    const int fd = person();
    SUPPORT_REQUIRE(support_send_bytes(fd, half, sizeof half), "half a frame");
    (void)close(fd);
}

static void a_frame_that_is_no_message_is_answered(void)
{
    static const uint8_t garbage[] = {0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff};
    size_t n_bytes;
    const int fd = person();
    SUPPORT_REQUIRE(support_send_bytes(fd, garbage, sizeof garbage), "garbage");
    uint8_t *payload = support_receive(fd, &n_bytes);
    SUPPORT_REQUIRE(payload != NULL, "no answer");
    expect_error(kd__reply__unpack(NULL, n_bytes, payload), KD__ERROR__CODE__INVALID, "no request",
                 NULL);
    SUPPORT_REQUIRE(support_is_closed(fd), "still open");
    free(payload);
    (void)close(fd);
}

static Kd__Reply *ask_job(int fd, Kd__Request__BodyCase what, uint64_t id)
{
    Kd__JobRequest which = KD__JOB_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    which.has_job_id = 1;
    which.job_id = id;
    request.body_case = what;
    request.show = &which;
    return support_ask(fd, &request);
}

static void requests_that_cannot_be_met_are_answered(void)
{
    Kd__Request nothing = KD__REQUEST__INIT;
    const int fd = person();
    expect_error(support_show(fd, 0), KD__ERROR__CODE__NOT_FOUND, "no job 0", NULL);
    expect_error(support_show(fd, UINT64_MAX), KD__ERROR__CODE__NOT_FOUND,
                 "no job 18446744073709551615", NULL);
    expect_error(support_ask(fd, &nothing), KD__ERROR__CODE__INVALID, "request", NULL);
    expect_error(support_submit(&d, fd, NULL, "  resources: {ranks: 2, threads: 4}"),
                 KD__ERROR__CODE__INVALID, "student.resources: found 2 ranks on 8 slots",
                 "student.resources");
    expect_error(support_submit(&d, fd, NULL, "seed: 1\nafter: [\"12\"]"), KD__ERROR__CODE__INVALID,
                 "after.0: found \"12\"", "after.0");
    expect_error(support_submit(&d, fd, NULL, "teachers: [{checkpoint: /nowhere}]"),
                 KD__ERROR__CODE__INVALID, "/nowhere", NULL);
    expect_error(support_submit(&d, fd, "", NULL), KD__ERROR__CODE__INVALID, "token", "token");
    (void)close(fd);
}

/* A field whose length is `n_bytes` begins; returns the bytes written. */
static size_t begin_field(uint8_t *out, uint8_t tag, size_t n_bytes)
{
    size_t n = 0;
    out[n++] = tag;
    for (; n_bytes >= 0x80; n_bytes >>= 7) {
        out[n++] = (uint8_t)(n_bytes | 0x80);
    }
    out[n++] = (uint8_t)n_bytes;
    return n;
}

/* The longest frame that is taken, of a job with two million teachers that say nothing; its size. */
static size_t make_long_submit(uint8_t *frame)
{
    enum { N_TEACHERS = 2000000, TAG_TEACHERS = 0x3a, TAG_JOB = 0x0a, TAG_SUBMIT = 0x12 };

    const size_t n_job = 2 * (size_t)N_TEACHERS, head = 5; /* tag and length, at this size */
    uint8_t *at = frame + KD_FRAME_HEADER_BYTES;
    at += begin_field(at, 0x08, 9); /* the request's id, which is a number: one byte */
    at += begin_field(at, TAG_SUBMIT, n_job + head);
    at += begin_field(at, TAG_JOB, n_job);
    for (size_t i = 0; i < N_TEACHERS; i++) {
        *at++ = TAG_TEACHERS;
        *at++ = 0;
    }
    const size_t n_payload = (size_t)(at - frame) - KD_FRAME_HEADER_BYTES;
    kd_frame_write_header(frame, n_payload);
    return KD_FRAME_HEADER_BYTES + n_payload;
}

static void a_job_of_millions_of_parts_holds_nobody_up(void)
{
    uint8_t *frame = malloc(KD_FRAME_BYTES_MAX + KD_FRAME_HEADER_BYTES);
    SUPPORT_REQUIRE(frame != NULL, "memory");
    const int fd = person();
    const int other = person();
    size_t n_bytes = make_long_submit(frame);
    SUPPORT_REQUIRE(support_send_bytes(fd, frame, n_bytes), "a long frame");
    const double begin = kd_clock_monotonic_s();
    kd__reply__free_unpacked(support_show(other, 1), NULL);
    const double s = kd_clock_monotonic_s() - begin;
    SUPPORT_REQUIRE(s < 5.0, "others waited for %.1f s", s);
    free(frame);
    frame = support_receive(fd, &n_bytes);
    SUPPORT_REQUIRE(frame != NULL, "no answer");
    expect_error(kd__reply__unpack(NULL, n_bytes, frame), KD__ERROR__CODE__INVALID,
                 "teachers: found 2000000, expected at most 1", "teachers");
    free(frame);
    (void)close(fd);
    (void)close(other);
}

static uint64_t submit(int fd, const char *text)
{
    Kd__Reply *reply = support_submit(&d, fd, NULL, text);
    SUPPORT_REQUIRE(reply != NULL && reply->status != NULL, "%s",
                    reply != NULL && reply->error != NULL ? reply->error->text : "no reply");
    const uint64_t id = reply->status->id;
    kd__reply__free_unpacked(reply, NULL);
    return id;
}

static void expect_state(int fd, uint64_t id, Kd__JobState state, const char *reason)
{
    Kd__Reply *reply = support_show(fd, id);
    SUPPORT_REQUIRE(reply != NULL && reply->status != NULL, "job %d", (int)id);
    SUPPORT_REQUIRE(reply->status->state == state, "job %d: state %d", (int)id,
                    (int)reply->status->state);
    SUPPORT_REQUIRE(strstr(reply->status->reason, reason) != NULL,
                    "job %d: \"%s\", expected \"%s\"", (int)id, reply->status->reason, reason);
    kd__reply__free_unpacked(reply, NULL);
}

/* A chain of three: what comes after a cancelled job fails, and so does what comes after that. */
static void a_cancelled_job_takes_its_followers_along(void)
{
    char text[64];
    const int fd = person();
    const uint64_t first = submit(fd, "name: first");
    (void)snprintf(text, sizeof text, "after: [\"%d\"]", (int)first);
    const uint64_t second = submit(fd, text);
    (void)snprintf(text, sizeof text, "after: [\"%d\"]", (int)second);
    const uint64_t third = submit(fd, text);
    expect_state(fd, first, KD__JOB_STATE__QUEUED, "waits for slots");
    expect_state(fd, third, KD__JOB_STATE__QUEUED, "waits for jobs");
    kd__reply__free_unpacked(ask_job(fd, KD__REQUEST__BODY_CANCEL, first), NULL);
    expect_state(fd, first, KD__JOB_STATE__CANCELLED, "cancelled by its user");
    expect_state(fd, second, KD__JOB_STATE__FAILED, "(first), which it comes after, was cancelled");
    expect_state(fd, third, KD__JOB_STATE__FAILED, "which it comes after, failed");
    expect_error(ask_job(fd, KD__REQUEST__BODY_CANCEL, first), KD__ERROR__CODE__CONFLICT,
                 "found it cancelled", NULL);
    (void)snprintf(text, sizeof text, "after: [\"%d\"]", (int)first);
    expect_error(support_submit(&d, fd, NULL, text), KD__ERROR__CODE__INVALID, "which is cancelled",
                 "after.0");
    (void)close(fd);
}

static void a_watcher_sees_the_end(void)
{
    size_t n_bytes;
    const int fd = person();
    const int other = person();
    const uint64_t id = submit(fd, NULL);
    Kd__Reply *reply = ask_job(fd, KD__REQUEST__BODY_WATCH, id);
    SUPPORT_REQUIRE(reply != NULL && reply->more && reply->update != NULL &&
                        reply->update->status->state == KD__JOB_STATE__QUEUED,
                    "the first update");
    kd__reply__free_unpacked(reply, NULL);
    kd__reply__free_unpacked(ask_job(other, KD__REQUEST__BODY_CANCEL, id), NULL);
    uint8_t *payload = support_receive(fd, &n_bytes);
    reply = payload == NULL ? NULL : kd__reply__unpack(NULL, n_bytes, payload);
    SUPPORT_REQUIRE(reply != NULL && !reply->more && reply->update != NULL &&
                        reply->update->status->state == KD__JOB_STATE__CANCELLED &&
                        reply->update->event != NULL,
                    "the last update");
    kd__reply__free_unpacked(reply, NULL);
    free(payload);
    (void)close(fd);
    (void)close(other);
}

/* Runs distilld with these arguments in a shell; its exit code, and its errors contain the text. */
/* Sends the same frame until the daemon takes no more; how many it sent whole. */
static size_t send_until_stuck(int fd, const uint8_t *frame, size_t n_bytes, size_t n_max)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    size_t n_sent = 0;
    while (n_sent < n_max * n_bytes && poll(&room, 1, 500) == 1) {
        const size_t at = n_sent % n_bytes;
        const ssize_t n = send(fd, frame + at, n_bytes - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        SUPPORT_REQUIRE(n > 0 || errno == EAGAIN, "send: %s", strerror(errno));
        n_sent += n > 0 ? (size_t)n : 0;
    }
    return n_sent / n_bytes;
}

/* A request to show a job, as a frame; its size. */
static size_t make_show_frame(uint64_t job_id, uint8_t *frame)
{
    Kd__JobRequest which = KD__JOB_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    which.has_job_id = request.has_id = 1;
    which.job_id = job_id;
    request.id = 7;
    request.body_case = KD__REQUEST__BODY_SHOW;
    request.show = &which;
    const size_t n_payload = kd__request__pack(&request, frame + KD_FRAME_HEADER_BYTES);
    kd_frame_write_header(frame, n_payload);
    return KD_FRAME_HEADER_BYTES + n_payload;
}

static void who_asks_and_does_not_listen_is_slowed_down(void)
{
    enum { REQUESTS_MAX = 1000000 };

    uint8_t frame[64];
    const int fd = person();
    const size_t n_frame = make_show_frame(submit(fd, NULL), frame);
    const size_t n = send_until_stuck(fd, frame, n_frame, REQUESTS_MAX);
    SUPPORT_REQUIRE(n > 0 && n < REQUESTS_MAX, "took %zu requests without an answer read", n);
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes;
        uint8_t *payload = support_receive(fd, &n_bytes);
        SUPPORT_REQUIRE(payload != NULL, "answer %zu of %zu", i, n);
        free(payload);
    }
    (void)close(fd);
}

/* Garbage ends a connection once the answers before it are taken; here nobody takes them. */
static void an_end_that_nobody_reads_does_not_last(void)
{
    enum { REQUESTS = 1000 }; /* few enough bytes for one read */

    static const uint8_t garbage[] = {0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff};
    static uint8_t bytes[REQUESTS * 64 + sizeof garbage];

    const int fd = person();
    const uint64_t id = submit(fd, NULL);
    size_t n_sent = 0, n_answers = 0, n_bytes;
    for (int i = 0; i < REQUESTS; i++) {
        n_sent += make_show_frame(id, bytes + n_sent);
    }
    memcpy(bytes + n_sent, garbage, sizeof garbage);
    SUPPORT_REQUIRE(support_send_bytes(fd, bytes, n_sent + sizeof garbage), "requests");
    (void)sleep(4);
    for (uint8_t *payload; (payload = support_receive(fd, &n_bytes)) != NULL; n_answers++) {
        free(payload);
    }
    SUPPORT_REQUIRE(n_answers < REQUESTS, "all %zu answers had waited", n_answers);
    (void)close(fd);
}

static void a_connection_has_at_most_so_many_streams(void)
{
    const int fd = person();
    const uint64_t id = submit(fd, NULL);
    for (int i = 0; i < 64; i++) {
        kd__reply__free_unpacked(ask_job(fd, KD__REQUEST__BODY_WATCH, id), NULL);
    }
    expect_error(ask_job(fd, KD__REQUEST__BODY_WATCH, id), KD__ERROR__CODE__REFUSED,
                 "too many answers", NULL);
    (void)close(fd);
}

static void expect_exit(int code, const char *arguments, const char *text)
{
    char command[512];
    char path[128];
    char *output;
    size_t n_bytes;
    (void)snprintf(path, sizeof path, "%s/errors", d.folder);
    (void)snprintf(command, sizeof command, "cd %s && exec %s %s >errors 2>&1", d.folder,
                   KD_TEST_DISTILLD, arguments);
    const int status = system(command);
    SUPPORT_REQUIRE(kd_file_read(path, 1u << 16, &output, &n_bytes) == KD_OK, "%s", path);
    SUPPORT_REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == code,
                    "%s: exit code %d, expected %d: %s", arguments, WEXITSTATUS(status), code,
                    output);
    SUPPORT_REQUIRE(strstr(output, text) != NULL, "%s: \"%s\", expected \"%s\"", arguments, output,
                    text);
    free(output);
}

static void wrong_starts_end_with_their_exit_codes(void)
{
    char text[64];
    expect_exit(0, "--help", "exit codes");
    expect_exit(2, "", "--state");
    expect_exit(2, "--state x --slots many", "many");
    expect_exit(2, "--state x --sloths 2", "--sloths");
    expect_exit(3, "--state x --listen tcp:0.0.0.0:1", "0.0.0.0");
    expect_exit(3, "--state x --config missing.yaml", "missing.yaml");
    expect_exit(4, "--state x --listen unix:state/distilld.sock", "in use");
    (void)snprintf(text, sizeof text, "process %d", (int)d.pid);
    expect_exit(5, "--state state", text);
    SUPPORT_REQUIRE(support_daemon_end(&d, SIGTERM) == 0, "exit code");
    expect_exit(0, "--state state --version", "distilld");
}

/* Its disk is full: it acknowledges no more and ends; what it acknowledged is there. */
static void a_store_that_cannot_be_written_ends_the_daemon(void)
{
    uint64_t last = 0;
    d.file_bytes_max = 300000;
    support_daemon_start(&d, NULL);
    int fd = person();
    for (;;) {
        Kd__Reply *reply = support_submit(&d, fd, NULL, NULL);
        if (reply == NULL) {
            break;
        }
        SUPPORT_REQUIRE(reply->status != NULL, "%s", reply->error->text);
        last = reply->status->id;
        kd__reply__free_unpacked(reply, NULL);
    }
    (void)close(fd);
    const int status = support_daemon_end(&d, 0);
    SUPPORT_REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 6, "exit code %d",
                    WEXITSTATUS(status));
    SUPPORT_REQUIRE(last > 10, "%d jobs", (int)last);
    d.file_bytes_max = 0;
    support_daemon_start(&d, NULL);
    fd = person();
    expect_state(fd, last, KD__JOB_STATE__QUEUED, "");
    expect_error(support_show(fd, last + 2), KD__ERROR__CODE__NOT_FOUND, "no job", NULL);
    (void)close(fd);
    (void)support_daemon_end(&d, SIGTERM);
}

static void a_damaged_store_ends_with_its_exit_code(void)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/y", d.folder);
    SUPPORT_REQUIRE(kd_folder_make(path) == KD_OK, "%s", path);
    (void)snprintf(path, sizeof path, "%s/y/jobs.db", d.folder);
    static const char damaged[] =
        "no database at all, but long enough to be taken for the header of "
        "one: a hundred bytes are what SQLite looks at first, and more.";
    SUPPORT_REQUIRE(kd_file_replace(path, damaged, sizeof damaged) == KD_OK, "%s", path);
    expect_exit(6, "--state y", "jobs.db");
}

int main(void)
{
    support_daemon_init(&d, "hold_queue: true\nslots: 2\n");
    support_daemon_start(&d, NULL);
    another_protocol_version_is_refused();
    bad_frames_end_their_connection();
    a_frame_that_is_cut_off_is_forgotten();
    a_frame_that_is_no_message_is_answered();
    requests_that_cannot_be_met_are_answered();
    a_job_of_millions_of_parts_holds_nobody_up();
    a_cancelled_job_takes_its_followers_along();
    a_watcher_sees_the_end();
    who_asks_and_does_not_listen_is_slowed_down();
    an_end_that_nobody_reads_does_not_last();
    a_connection_has_at_most_so_many_streams();
    wrong_starts_end_with_their_exit_codes();
    a_store_that_cannot_be_written_ends_the_daemon();
    a_damaged_store_ends_with_its_exit_code();
    support_daemon_release(&d);
    puts("all checks passed");
    return 0;
}
