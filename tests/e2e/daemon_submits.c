/*
 * daemon_submits.c - 1,000 submits by four clients while the daemon is killed twenty times: every job
 * that was acknowledged is there once, and a repeated token never makes a second one.
 */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "support_daemon.h"

#define N_CLIENTS 4
#define N_EACH    250
#define N_JOBS    (N_CLIENTS * N_EACH)
#define N_KILLS   20

static support_daemon daemon_under_test;
static uint64_t acknowledged[N_JOBS]; /* (N_JOBS) by token */
static atomic_int n_acknowledged;

static void make_token(int n, char *token)
{
    (void)sprintf(token, "token-%d", n);
}

/* Until it is acknowledged: the client cannot know whether a broken connection lost its submit. */
static uint64_t submit(int *fd, int n)
{
    char token[32];
    char name[64];
    make_token(n, token);
    (void)snprintf(name, sizeof name, "name: %s", token);
    for (;;) {
        Kd__Reply *reply = *fd < 0 ? NULL : support_submit(&daemon_under_test, *fd, token, name);
        if (reply != NULL) {
            SUPPORT_REQUIRE(reply->status != NULL, "%s",
                            reply->error != NULL ? reply->error->text : "no status");
            const uint64_t id = reply->status->id;
            kd__reply__free_unpacked(reply, NULL);
            return id;
        }
        if (*fd >= 0) {
            (void)close(*fd);
        }
        (void)usleep(2000);
        *fd = support_open(&daemon_under_test, KD__HELLO__ROLE__PERSON);
    }
}

static void *run_client(void *context)
{
    const int first = *(const int *)context;
    int fd = -1;
    for (int n = first; n < first + N_EACH; n++) {
        acknowledged[n] = submit(&fd, n);
        n_acknowledged++;
    }
    (void)close(fd);
    return NULL;
}

/* Spread over the submits, at moments that differ: just after a start, and in the midst of work. */
static void kill_again_and_again(void)
{
    for (int i = 0; i < N_KILLS; i++) {
        const int until = i * N_JOBS / N_KILLS;
        while (n_acknowledged < until) {
            (void)usleep(200);
        }
        (void)usleep((useconds_t)(kd_rng_u64(1, (uint64_t)i) % 15000));
        (void)support_daemon_end(&daemon_under_test, SIGKILL);
        support_daemon_start(&daemon_under_test, NULL);
    }
}

static int seen[N_JOBS];

static void check_list_page(const Kd__JobList *list)
{
    for (size_t i = 0; i < list->n_jobs; i++) {
        int n;
        SUPPORT_REQUIRE(sscanf(list->jobs[i]->name, "token-%d", &n) == 1, "%s",
                        list->jobs[i]->name);
        SUPPORT_REQUIRE(acknowledged[n] == list->jobs[i]->id, "token %d: acknowledged as %d, is %d",
                        n, (int)acknowledged[n], (int)list->jobs[i]->id);
        seen[n]++;
    }
}

static void check_list(int fd)
{
    Kd__ListRequest list = KD__LIST_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    request.body_case = KD__REQUEST__BODY_LIST;
    request.list = &list;
    Kd__Reply *reply = support_ask(fd, &request);
    for (;;) {
        SUPPORT_REQUIRE(reply != NULL && reply->list != NULL, "no list");
        check_list_page(reply->list);
        const bool more = reply->more;
        kd__reply__free_unpacked(reply, NULL);
        if (!more) {
            break;
        }
        size_t n_bytes;
        uint8_t *payload = support_receive(fd, &n_bytes);
        SUPPORT_REQUIRE(payload != NULL, "the list was cut off");
        reply = kd__reply__unpack(NULL, n_bytes, payload);
        free(payload);
    }
    for (int n = 0; n < N_JOBS; n++) {
        SUPPORT_REQUIRE(seen[n] == 1, "token %d is there %d times", n, seen[n]);
    }
}

int main(void)
{
    pthread_t clients[N_CLIENTS];
    int firsts[N_CLIENTS];
    support_daemon_init(&daemon_under_test, "hold_queue: true");
    support_daemon_start(&daemon_under_test, NULL);
    for (int i = 0; i < N_CLIENTS; i++) {
        firsts[i] = i * N_EACH;
        SUPPORT_REQUIRE(pthread_create(&clients[i], NULL, run_client, &firsts[i]) == 0, "thread");
    }
    kill_again_and_again();
    for (int i = 0; i < N_CLIENTS; i++) {
        (void)pthread_join(clients[i], NULL);
    }
    (void)support_daemon_end(&daemon_under_test, SIGKILL);
    support_daemon_start(&daemon_under_test, NULL);

    int fd = support_open(&daemon_under_test, KD__HELLO__ROLE__PERSON);
    check_list(fd);
    for (int n = 0; n < N_JOBS; n += 97) {
        SUPPORT_REQUIRE(submit(&fd, n) == acknowledged[n], "token %d made a second job", n);
    }
    (void)close(fd);
    support_daemon_release(&daemon_under_test);
    puts("1000 jobs, 20 kills: every acknowledged job is there once");
    return 0;
}
