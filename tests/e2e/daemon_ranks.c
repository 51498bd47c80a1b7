/*
 * daemon_ranks.c - ranks under a real mpirun that finish, fail, crash, hang, will not die, leave
 * processes behind, or are not who they say they are.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "proto/worker.pb-c.h"
#include "support_daemon.h"

static support_daemon d;

static uint64_t submit(const char *text)
{
    const int fd = support_open(&d, KD__HELLO__ROLE__PERSON);
    Kd__Reply *reply = support_submit(&d, fd, NULL, text);
    SUPPORT_REQUIRE(reply != NULL && reply->status != NULL, "%s",
                    reply != NULL && reply->error != NULL ? reply->error->text : "no reply");
    const uint64_t id = reply->status->id;
    kd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
    return id;
}

static void cancel(uint64_t id)
{
    Kd__JobRequest which = KD__JOB_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    const int fd = support_open(&d, KD__HELLO__ROLE__PERSON);
    which.has_job_id = 1;
    which.job_id = id;
    request.body_case = KD__REQUEST__BODY_CANCEL;
    request.cancel = &which;
    Kd__Reply *reply = support_ask(fd, &request);
    SUPPORT_REQUIRE(reply != NULL && reply->error == NULL, "cancel of job %d", (int)id);
    kd__reply__free_unpacked(reply, NULL);
    (void)close(fd);
}

/* The job comes to this state after so many attempts, and says so much about it. */
static void expect(uint64_t id, Kd__JobState state, uint32_t attempts, const char *reason)
{
    Kd__Reply *reply = support_wait(&d, id, state);
    SUPPORT_REQUIRE(reply->status->attempts == attempts, "job %d: %u attempts, expected %u",
                    (int)id, reply->status->attempts, attempts);
    SUPPORT_REQUIRE(strstr(reply->status->reason, reason) != NULL,
                    "job %d: \"%s\", expected \"%s\"", (int)id, reply->status->reason, reason);
    kd__reply__free_unpacked(reply, NULL);
}

static void two_ranks_finish(void)
{
    const uint64_t id = submit("  resources: {ranks: 2}\nname: finish");
    Kd__Reply *reply = support_wait(&d, id, KD__JOB_STATE__SUCCEEDED);
    SUPPORT_REQUIRE(reply->status->step == 3 && reply->status->loss < 0.34, "step %d",
                    (int)reply->status->step);
    kd__reply__free_unpacked(reply, NULL);
}

static void a_permanent_fault_is_not_tried_again(void)
{
    expect(submit("name: permanent"), KD__JOB_STATE__FAILED, 1, "would fail the same way");
}

static void a_crash_is_tried_again(void)
{
    expect(submit("name: crash"), KD__JOB_STATE__SUCCEEDED, 2, "");
}

static void crashes_end_with_the_budget(void)
{
    expect(submit("name: crash\nlimits: {max_restarts: 0}"), KD__JOB_STATE__FAILED, 1, "137");
}

static void a_hang_is_ended(void)
{
    expect(submit("name: hang\nlimits: {max_restarts: 0, hang_timeout_seconds: 1}"),
           KD__JOB_STATE__FAILED, 1, "hung: no progress");
}

static void a_rank_that_will_not_stop_is_killed(void)
{
    const uint64_t id = submit("name: stubborn");
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    cancel(id);
    expect(id, KD__JOB_STATE__CANCELLED, 1, "cancelled by its user");
}

static void a_process_left_behind_is_killed_before_the_next_attempt(void)
{
    char path[128];
    char *text;
    size_t n_bytes;
    expect(submit("name: stray\nlimits: {max_restarts: 0}"), KD__JOB_STATE__FAILED, 1,
           "exit code 9");
    (void)snprintf(path, sizeof path, "%s/out.pid", d.folder);
    SUPPORT_REQUIRE(kd_file_read(path, 32, &text, &n_bytes) == KD_OK, "%s", path);
    const pid_t stray = (pid_t)atoi(text);
    free(text);
    (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)stray);
    SUPPORT_REQUIRE(kd_file_read(path, 1u << 20, &text, &n_bytes) != KD_OK || n_bytes == 0,
                    "process %d lives on", (int)stray);
}

static Kd__Attempt *read_attempt(uint64_t id)
{
    char path[128];
    char *text;
    size_t n_bytes;
    struct stat status;
    (void)snprintf(path, sizeof path, "%s/state/jobs/%d/attempt-1", d.folder, (int)id);
    SUPPORT_REQUIRE(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600, "%s", path);
    SUPPORT_REQUIRE(kd_file_read(path, 4096, &text, &n_bytes) == KD_OK, "%s", path);
    Kd__Attempt *attempt = kd__attempt__unpack(NULL, n_bytes, (uint8_t *)text);
    SUPPORT_REQUIRE(attempt != NULL, "%s", path);
    free(text);
    return attempt;
}

/* A hello that has to be refused, and the connection closed. */
static void expect_refusal(const Kd__RankHello *hello, const char *why)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    size_t n_bytes;
    const int fd = support_open(&d, KD__HELLO__ROLE__RANK);
    message.body_case = KD__RANK_MESSAGE__BODY_HELLO;
    message.hello = (Kd__RankHello *)hello; /* only read */
    SUPPORT_REQUIRE(support_send(fd, &message.base), "hello");
    uint8_t *payload = support_receive(fd, &n_bytes);
    SUPPORT_REQUIRE(payload != NULL, "%s: no answer", why);
    Kd__DaemonMessage *answer = kd__daemon_message__unpack(NULL, n_bytes, payload);
    SUPPORT_REQUIRE(answer != NULL && answer->welcome != NULL && answer->welcome->error != NULL,
                    "%s: welcomed", why);
    SUPPORT_REQUIRE(strstr(answer->welcome->error->text, why) != NULL, "\"%s\", expected \"%s\"",
                    answer->welcome->error->text, why);
    SUPPORT_REQUIRE(support_is_closed(fd), "%s: still open", why);
    kd__daemon_message__free_unpacked(answer, NULL);
    free(payload);
    (void)close(fd);
}

static void impostors_are_refused_and_disturb_nobody(void)
{
    const uint64_t id = submit("name: hang");
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    Kd__Attempt *attempt = read_attempt(id);
    Kd__RankHello hello = KD__RANK_HELLO__INIT;
    hello.has_job_id = hello.has_attempt = hello.has_rank = hello.has_world_size = 1;
    hello.has_secret = hello.has_pid = 1;
    hello.job_id = id;
    hello.attempt = 1;
    hello.world_size = 1;
    hello.secret = attempt->secret;
    hello.pid = (uint64_t)getpid();
    expect_refusal(&hello, "connected already");
    hello.secret.data[0] ^= 1;
    expect_refusal(&hello, "secret is wrong");
    hello.secret.len = 0;
    expect_refusal(&hello, "secret is wrong");
    hello.attempt = 2;
    expect_refusal(&hello, "expected job");
    hello.job_id = 999;
    expect_refusal(&hello, "no attempt under way");
    hello.secret.len = 32;
    kd__attempt__free_unpacked(attempt, NULL);
    expect(id, KD__JOB_STATE__RUNNING, 1, "");
    cancel(id);
    expect(id, KD__JOB_STATE__CANCELLED, 1, "");
}

/* It reads nothing until the job is over: it has missed much, was told so, and still sees the end. */
static void a_slow_watcher_is_told_what_it_missed(void)
{
    Kd__WatchRequest watch = KD__WATCH_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    size_t n_bytes;
    uint64_t n_missed = 0;
    bool more = true;
    const uint64_t id = submit("name: chatty");
    const int fd = support_open(&d, KD__HELLO__ROLE__PERSON);
    watch.has_job_id = 1;
    watch.job_id = id;
    request.has_id = 1;
    request.id = 1;
    request.body_case = KD__REQUEST__BODY_WATCH;
    request.watch = &watch;
    SUPPORT_REQUIRE(support_send(fd, &request.base), "watch");
    expect(id, KD__JOB_STATE__SUCCEEDED, 1, "");
    Kd__JobState state = KD__JOB_STATE__QUEUED;
    while (more) {
        uint8_t *payload = support_receive(fd, &n_bytes);
        SUPPORT_REQUIRE(payload != NULL, "the stream was cut off");
        Kd__Reply *reply = kd__reply__unpack(NULL, n_bytes, payload);
        SUPPORT_REQUIRE(reply != NULL && reply->update != NULL, "no update");
        n_missed += reply->update->missed;
        state = reply->update->status->state;
        more = reply->more;
        kd__reply__free_unpacked(reply, NULL);
        free(payload);
    }
    SUPPORT_REQUIRE(n_missed > 0 && state == KD__JOB_STATE__SUCCEEDED, "missed %d, state %d",
                    (int)n_missed, (int)state);
    (void)close(fd);
}

static void a_step_beyond_the_last_is_not_believed(void)
{
    const uint64_t id = submit("name: boast\nlimits: {max_restarts: 0}");
    Kd__Reply *reply = support_wait(&d, id, KD__JOB_STATE__FAILED);
    SUPPORT_REQUIRE(reply->status->step == reply->status->steps, "step %d",
                    (int)reply->status->step);
    kd__reply__free_unpacked(reply, NULL);
}

static void two_jobs_do_not_write_to_one_folder(void)
{
    const uint64_t first = submit("name: hang");
    kd__reply__free_unpacked(support_wait(&d, first, KD__JOB_STATE__RUNNING), NULL);
    expect(submit("name: finish"), KD__JOB_STATE__FAILED, 1, "(hang) is writing to");
    cancel(first);
    expect(first, KD__JOB_STATE__CANCELLED, 1, "");
}

static void an_attempt_outlives_a_killed_daemon(void)
{
    const uint64_t id = submit("name: hang\nlimits: {max_restarts: 0}");
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    (void)support_daemon_end(&d, SIGKILL);
    support_daemon_start(&d, KD_TEST_RANK);
    (void)usleep(800000); /* longer than a rank may be silent */
    expect(id, KD__JOB_STATE__RUNNING, 1, "");
    cancel(id);
    expect(id, KD__JOB_STATE__CANCELLED, 1, "");
}

/* Stopping the daemon is not the job's fault: no restart is left, and it is queued all the same. */
static void a_stopped_daemon_leaves_its_jobs_in_the_queue(void)
{
    const uint64_t id = submit("name: hang\nlimits: {max_restarts: 0}");
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    SUPPORT_REQUIRE(support_daemon_end(&d, SIGTERM) == 0, "exit code");
    support_daemon_start(&d, KD_TEST_RANK);
    expect(id, KD__JOB_STATE__RUNNING, 2, "");
    cancel(id);
    expect(id, KD__JOB_STATE__CANCELLED, 2, "");
}

static void a_second_signal_leaves_the_ranks_to_the_next_daemon(void)
{
    const uint64_t id = submit("name: stubborn");
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    const double start = kd_clock_monotonic_s();
    SUPPORT_REQUIRE(kill(d.pid, SIGTERM) == 0, "signal");
    (void)usleep(5000);
    SUPPORT_REQUIRE(support_daemon_end(&d, SIGTERM) == 0, "exit code");
    SUPPORT_REQUIRE(kd_clock_monotonic_s() - start < 1.0, "it waited for its ranks");
    support_daemon_start(&d, KD_TEST_RANK);
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__RUNNING), NULL);
    cancel(id);
    kd__reply__free_unpacked(support_wait(&d, id, KD__JOB_STATE__CANCELLED), NULL);
}

int main(void)
{
    support_daemon_init(&d, "slots: 2\nheartbeat_ms: 100\nrank_silence_ms: 500\n"
                            "stop_grace_seconds: 0\nkill_grace_seconds: 1\n");
    support_daemon_start(&d, KD_TEST_RANK);
    two_ranks_finish();
    a_permanent_fault_is_not_tried_again();
    a_crash_is_tried_again();
    crashes_end_with_the_budget();
    a_hang_is_ended();
    a_rank_that_will_not_stop_is_killed();
    a_process_left_behind_is_killed_before_the_next_attempt();
    impostors_are_refused_and_disturb_nobody();
    a_slow_watcher_is_told_what_it_missed();
    a_step_beyond_the_last_is_not_believed();
    two_jobs_do_not_write_to_one_folder();
    an_attempt_outlives_a_killed_daemon();
    a_stopped_daemon_leaves_its_jobs_in_the_queue();
    a_second_signal_leaves_the_ranks_to_the_next_daemon();
    SUPPORT_REQUIRE(support_daemon_end(&d, SIGTERM) == 0, "exit code");
    support_daemon_release(&d);
    puts("all checks passed");
    return 0;
}
