/*
 * support_rank.c - a rank that does what no real worker does on demand. Started by mpirun as
 * distill-worker is; the job's name says what to do:
 *
 *     finish    reports three steps and the end
 *     chatty    the same with ten thousand steps
 *     boast     the same with one step more than the job has
 *     permanent reports a fault that would come again
 *     crash     dies without a word in the first attempt, finishes in the second
 *     hang      sends heartbeats and makes no step; comes back when the daemon does
 *     stubborn  the same, and heeds neither the order to stop nor SIGTERM
 *     stray     leaves a process behind in a session of its own, its pid in OUTPUT.pid, and dies
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "job/job.h"
#include "proto/worker.pb-c.h"
#include "support_daemon.h"

typedef struct rank {
    support_daemon daemon; /* where it listens */
    Kd__Job *job;
    Kd__Attempt *attempt;
    uint32_t rank, world_size;
    int fd;
} rank;

static void send_report(rank *r, Kd__RankMessage__BodyCase body_case, void *body)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    message.body_case = body_case;
    message.heartbeat = body; /* all members of the union are pointers */
    if (r->fd >= 0 && !support_send(r->fd, &message.base)) {
        (void)close(r->fd);
        r->fd = -1;
    }
}

static void say_hello(rank *r)
{
    Kd__RankHello hello = KD__RANK_HELLO__INIT;
    size_t n_bytes;
    r->fd = support_open(&r->daemon, KD__HELLO__ROLE__RANK);
    hello.has_job_id = hello.has_attempt = hello.has_rank = hello.has_world_size = 1;
    hello.has_secret = hello.has_pid = 1;
    hello.job_id = r->attempt->job_id;
    hello.attempt = r->attempt->number;
    hello.rank = r->rank;
    hello.world_size = r->world_size;
    hello.secret = r->attempt->secret;
    hello.pid = (uint64_t)getpid();
    send_report(r, KD__RANK_MESSAGE__BODY_HELLO, &hello);
    if (r->fd >= 0) {
        free(support_receive(r->fd, &n_bytes));
    }
}

static void finish(rank *r)
{
    Kd__FinishedReport report = KD__FINISHED_REPORT__INIT;
    const bool chatty = strcmp(r->job->name, "chatty") == 0;
    const bool boasts = strcmp(r->job->name, "boast") == 0;
    const uint64_t n_steps = chatty ? 10000 : boasts ? r->job->training->steps + 1 : 3;
    for (uint64_t i = 1; i <= n_steps && r->rank == 0; i++) {
        Kd__StepMetrics step = KD__STEP_METRICS__INIT;
        step.has_step = step.has_loss = step.has_time = 1;
        step.step = i;
        step.loss = 1.0 / (double)i;
        step.time = (double)i;
        send_report(r, KD__RANK_MESSAGE__BODY_STEP, &step);
    }
    report.has_outcome = 1;
    report.outcome = KD__FINISHED_REPORT__OUTCOME__COMPLETED;
    if (r->rank == 0) {
        send_report(r, KD__RANK_MESSAGE__BODY_FINISHED, &report);
    }
    exit(0);
}

/* A minute at most: a test that fails leaves nobody behind. */
static void hang(rank *r)
{
    for (int i = 0; i < 1200; i++) {
        Kd__Heartbeat heartbeat = KD__HEARTBEAT__INIT;
        if (r->fd < 0) {
            say_hello(r);
        }
        send_report(r, KD__RANK_MESSAGE__BODY_HEARTBEAT, &heartbeat);
        (void)usleep(50000);
    }
    exit(1);
}

static void leave_a_stray(const rank *r)
{
    char path[256];
    char text[32];
    const pid_t pid = fork();
    if (pid == 0) {
        (void)setsid();
        (void)signal(SIGTERM, SIG_IGN);
        (void)sleep(60);
        _exit(0);
    }
    (void)snprintf(path, sizeof path, "%s.pid", r->job->output);
    (void)snprintf(text, sizeof text, "%d", (int)pid);
    SUPPORT_REQUIRE(kd_file_replace(path, text, strlen(text)) == KD_OK, "%s", path);
    _exit(9);
}

static void act(rank *r)
{
    Kd__FaultReport fault = KD__FAULT_REPORT__INIT;
    const char *what = r->job->name;
    fault.has_permanent = 1;
    fault.permanent = 1;
    fault.text = (char *)"the same again would fail the same way";
    if (strcmp(what, "finish") == 0 || strcmp(what, "chatty") == 0 || strcmp(what, "boast") == 0) {
        finish(r);
    } else if (strcmp(what, "permanent") == 0) {
        send_report(r, KD__RANK_MESSAGE__BODY_FAULT, &fault);
        exit(65);
    } else if (strcmp(what, "crash") == 0 && r->attempt->number == 1) {
        (void)kill(getpid(), SIGKILL);
    } else if (strcmp(what, "crash") == 0) {
        finish(r);
    } else if (strcmp(what, "stray") == 0) {
        leave_a_stray(r);
    } else {
        (void)signal(SIGTERM, strcmp(what, "stubborn") == 0 ? SIG_IGN : SIG_DFL);
        hang(r);
    }
}

static char *read_whole(const char *path, size_t *n_bytes_out)
{
    char *text;
    SUPPORT_REQUIRE(kd_file_read(path, 1u << 20, &text, n_bytes_out) == KD_OK, "%s", path);
    return text;
}

static const char *environment_of(const char *name)
{
    const char *text = getenv(name);
    SUPPORT_REQUIRE(text != NULL, "%s: the launcher sets it", name);
    return text;
}

static uint32_t number_of(const char *name)
{
    return (uint32_t)strtoul(environment_of(name), NULL, 10);
}

int main(int argc, char **argv)
{
    rank r = {0};
    size_t n_bytes;
    SUPPORT_REQUIRE(argc == 7 && strcmp(argv[1], "--job") == 0 &&
                        strcmp(argv[3], "--attempt-file") == 0 &&
                        strcmp(argv[5], "--log-level") == 0 && strcmp(argv[6], "warn") == 0,
                    "--job FILE --attempt-file FILE --log-level warn");
    (void)signal(SIGPIPE, SIG_IGN);
    char *text = read_whole(argv[2], &n_bytes);
    SUPPORT_REQUIRE(kd_job_parse(text, n_bytes, argv[2], NULL, 0, &r.job) == KD_OK, "%s", argv[2]);
    free(text);
    text = read_whole(argv[4], &n_bytes);
    r.attempt = kd__attempt__unpack(NULL, n_bytes, (uint8_t *)text);
    SUPPORT_REQUIRE(r.attempt != NULL && strncmp(r.attempt->address, "unix:", 5) == 0, "%s",
                    argv[4]);
    free(text);
    (void)snprintf(r.daemon.socket, sizeof r.daemon.socket, "%s", r.attempt->address + 5);
    r.rank = number_of("OMPI_COMM_WORLD_RANK");
    r.world_size = number_of("OMPI_COMM_WORLD_SIZE");
    SUPPORT_REQUIRE(strcmp(environment_of("HWLOC_COMPONENTS"), "-gl") == 0, "looks for X displays");
    say_hello(&r);
    act(&r);
}
