#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/progress.h"
#include "wire/hello.h"
#include "wire/listener.h"
#include "worker/attempt_file.h"
#include "worker/link.h"

/* A daemon of one connection, on the test's own thread. */
typedef struct fake_daemon {
    uv_loop_t loop;
    uv_timer_t limit; /* ends a wait that has become too long */
    kd_address address;
    kd_listener *listener;
    kd_connection *rank; /* NULL: none */
    int n_hellos;        /* RankHello messages */
    int n_heartbeats;
    uint64_t step, work; /* of the last heartbeat */
    uint64_t n_steps, first_step, last_step;
    int n_faults, n_finished;
    char fault[64];
    bool refuses;
    bool timed_out;
    bool (*enough)(const struct fake_daemon *d);
} fake_daemon;

static atomic_int refusals;

static void on_refused(const char *text)
{
    cr_expect(strstr(text, "wrong secret") != NULL, "%s", text);
    atomic_fetch_add(&refusals, 1);
}

static void answer_rank_hello(fake_daemon *d, const Kd__RankHello *hello)
{
    Kd__RankWelcome welcome = KD__RANK_WELCOME__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    Kd__Error error = KD__ERROR__INIT;
    d->n_hellos++;
    cr_expect(eq(u64, hello->job_id, 7));
    cr_expect(eq(u32, hello->attempt, 2));
    cr_expect(eq(u32, hello->rank, 1));
    cr_expect(eq(u32, hello->world_size, 3));
    cr_expect(eq(sz, hello->secret.len, 4));
    cr_expect(memcmp(hello->secret.data, "\1\0\3\4", 4) == 0);
    welcome.has_heartbeat_ms = 1;
    welcome.heartbeat_ms = 5;
    if (d->refuses) {
        error.has_code = 1;
        error.code = KD__ERROR__CODE__REFUSED;
        error.text = (char *)"wrong secret";
        welcome.error = &error;
    }
    message.body_case = KD__DAEMON_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    cr_assert(eq(int, kd_connection_send(d->rank, &message.base), KD_OK));
}

static void take(fake_daemon *d, const Kd__RankMessage *message)
{
    if (message->body_case == KD__RANK_MESSAGE__BODY_HELLO) {
        answer_rank_hello(d, message->hello);
    } else if (message->body_case == KD__RANK_MESSAGE__BODY_HEARTBEAT) {
        d->n_heartbeats++;
        d->step = message->heartbeat->step;
        d->work = message->heartbeat->work;
    } else if (message->body_case == KD__RANK_MESSAGE__BODY_STEP) {
        d->first_step = d->n_steps == 0 ? message->step->step : d->first_step;
        d->last_step = message->step->step;
        d->n_steps++;
    } else if (message->body_case == KD__RANK_MESSAGE__BODY_FAULT) {
        d->n_faults++;
        (void)snprintf(d->fault, sizeof d->fault, "%s", message->fault->text);
    } else {
        cr_expect(message->body_case == KD__RANK_MESSAGE__BODY_FINISHED);
        d->n_finished++;
    }
}

static void on_frame(kd_connection *c, void *user, const uint8_t *payload, size_t size_bytes)
{
    fake_daemon *d = user;
    if (d->rank == NULL) {
        Kd__Hello *hello = NULL;
        cr_assert(eq(int, kd_hello_check(payload, size_bytes, &hello), KD_OK));
        cr_expect(eq(int, hello->role, KD__HELLO__ROLE__RANK));
        kd__hello__free_unpacked(hello, NULL);
        d->rank = c;
        cr_assert(eq(int, kd_hello_accept(c, "fake"), KD_OK));
        return;
    }
    Kd__RankMessage *message = kd__rank_message__unpack(NULL, size_bytes, payload);
    cr_assert(message != NULL);
    take(d, message);
    kd__rank_message__free_unpacked(message, NULL);
}

static void on_closed(kd_connection *c, void *user, kd_status status, const char *text)
{
    fake_daemon *d = user;
    (void)status;
    (void)text;
    if (d->rank == c) {
        d->rank = NULL;
    }
}

static void on_accept(kd_listener *listener, void *user, kd_connection *c)
{
    static const kd_connection_callbacks callbacks = {.on_frame = on_frame, .on_closed = on_closed};
    (void)listener;
    cr_assert(eq(int, kd_connection_start(c, &callbacks, user), KD_OK));
}

static void on_limit(uv_timer_t *timer)
{
    ((fake_daemon *)timer->data)->timed_out = true;
}

static void listen_again(fake_daemon *d)
{
    static const kd_listener_callbacks callbacks = {.on_accept = on_accept};
    cr_assert(
        eq(int, kd_listener_open(&d->loop, &d->address, 0, &callbacks, d, &d->listener), KD_OK));
}

static void start(fake_daemon *d)
{
    char text[KD_ADDRESS_TEXT_MAX];
    *d = (fake_daemon){0};
    (void)snprintf(text, sizeof text, "unix:/tmp/kd-test-link.%d", (int)getpid());
    cr_assert(eq(int, kd_address_parse(text, &d->address), KD_OK));
    cr_assert(uv_loop_init(&d->loop) == 0);
    cr_assert(uv_timer_init(&d->loop, &d->limit) == 0);
    d->limit.data = d;
}

/* Runs until `enough`, at most ten seconds. */
static void serve(fake_daemon *d, bool (*enough)(const fake_daemon *d))
{
    d->timed_out = false;
    (void)uv_timer_start(&d->limit, on_limit, 10000, 0);
    while (!enough(d) && !d->timed_out) {
        (void)uv_run(&d->loop, UV_RUN_ONCE);
    }
    (void)uv_timer_stop(&d->limit);
    cr_assert(not(d->timed_out));
}

static void go_away(fake_daemon *d)
{
    if (d->listener != NULL) {
        kd_listener_close(d->listener);
        d->listener = NULL;
    }
    if (d->rank != NULL) {
        kd_connection_close(d->rank);
    }
    for (int i = 0; i < 5; i++) {
        (void)uv_run(&d->loop, UV_RUN_NOWAIT);
    }
}

static void finish(fake_daemon *d)
{
    go_away(d);
    uv_close((uv_handle_t *)&d->limit, NULL);
    (void)uv_run(&d->loop, UV_RUN_DEFAULT);
    cr_expect(uv_loop_close(&d->loop) == 0);
}

static rank_link *open_link(const fake_daemon *d)
{
    char text[KD_ADDRESS_TEXT_MAX];
    uint8_t secret[4] = {1, 0, 3, 4};
    rank_link *link = NULL;
    Kd__Attempt attempt = KD__ATTEMPT__INIT;
    attempt.has_job_id = attempt.has_number = attempt.has_secret = 1;
    attempt.job_id = 7;
    attempt.number = 2;
    attempt.secret = (ProtobufCBinaryData){sizeof secret, secret};
    attempt.address = (char *)kd_address_format(&d->address, text);
    const rank_link_settings settings = {&attempt, 1, 3, on_refused};
    cr_assert(eq(int, rank_link_open(&settings, &link), KD_OK));
    return link;
}

static void report_step(rank_link *link, uint64_t step)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__StepMetrics metrics = KD__STEP_METRICS__INIT;
    metrics.has_step = 1;
    metrics.step = step;
    message.body_case = KD__RANK_MESSAGE__BODY_STEP;
    message.step = &metrics;
    rank_link_report(link, &message);
}

static void report_fault(rank_link *link, const char *text)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__FaultReport report = KD__FAULT_REPORT__INIT;
    report.text = (char *)text;
    message.body_case = KD__RANK_MESSAGE__BODY_FAULT;
    message.fault = &report;
    rank_link_report(link, &message);
}

static void report_finished(rank_link *link)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__FinishedReport report = KD__FINISHED_REPORT__INIT;
    message.body_case = KD__RANK_MESSAGE__BODY_FINISHED;
    message.finished = &report;
    rank_link_report(link, &message);
}

static void send_set(fake_daemon *d, Kd__RankOrder__Kind kind, const char *path, const char *value)
{
    Kd__RankOrder order = KD__RANK_ORDER__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    order.has_kind = 1;
    order.kind = kind;
    order.path = (char *)path;   /* only read, */
    order.value = (char *)value; /* likewise   */
    message.body_case = KD__DAEMON_MESSAGE__BODY_ORDER;
    message.order = &order;
    cr_assert(eq(int, kd_connection_send(d->rank, &message.base), KD_OK));
}

static void send_order(fake_daemon *d, Kd__RankOrder__Kind kind)
{
    send_set(d, kind, NULL, NULL);
}

static bool three_heartbeats_of_step_9(const fake_daemon *d)
{
    return d->n_heartbeats >= 3 && d->step == 9;
}

static bool heartbeat_with_all_work(const fake_daemon *d)
{
    return d->n_heartbeats > 0 && d->work == kd_progress_count();
}

static bool one_step(const fake_daemon *d)
{
    return d->n_steps > 0;
}

static bool one_fault(const fake_daemon *d)
{
    return d->n_faults > 0;
}

static bool second_hello(const fake_daemon *d)
{
    return d->n_hellos > 1;
}

static bool welcomed(const fake_daemon *d)
{
    return d->n_heartbeats > 0;
}

static bool refused(const fake_daemon *d)
{
    (void)d;
    return atomic_load(&refusals) > 0;
}

Test(link, says_hello_with_the_secret_then_heartbeats_with_the_last_step)
{
    fake_daemon d;
    start(&d);
    listen_again(&d);
    rank_link *link = open_link(&d);
    rank_link_set_step(link, 9);
    serve(&d, three_heartbeats_of_step_9);
    cr_expect(eq(int, d.n_hellos, 1));
    rank_link_close(link, 1000);
    finish(&d);
}

Test(link, heartbeats_tell_of_work_between_steps)
{
    fake_daemon d;
    start(&d);
    listen_again(&d);
    kd_progress_tick();
    rank_link *link = open_link(&d);
    serve(&d, heartbeat_with_all_work);
    cr_expect(eq(u64, d.step, 0));
    kd_progress_tick();
    serve(&d, heartbeat_with_all_work);
    rank_link_close(link, 1000);
    finish(&d);
}

Test(link, orders_reach_the_training_thread_once)
{
    fake_daemon d;
    start(&d);
    listen_again(&d);
    rank_link *link = open_link(&d);
    serve(&d, welcomed);
    cr_expect(not(rank_link_take_save(link)));
    send_order(&d, KD__RANK_ORDER__KIND__SAVE);
    send_order(&d, KD__RANK_ORDER__KIND__STOP);
    for (int i = 0; i < 1000 && !kd_progress_is_stopped(); i++) {
        (void)uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    cr_expect(kd_progress_is_stopped());
    cr_expect(kd_progress_is_stopped(), "an order to stop stays");
    cr_expect(rank_link_take_save(link));
    cr_expect(not(rank_link_take_save(link)));
    rank_link_close(link, 1000);
    finish(&d);
}

/* Oldest first; what is no change, or one too many, is not kept. */
Test(link, changes_wait_for_the_training_thread_in_order_and_in_bounds)
{
    char value[RANK_LINK_CHANGE_BYTES_MAX + 1];
    fake_daemon d;
    start(&d);
    listen_again(&d);
    rank_link *link = open_link(&d);
    serve(&d, welcomed);
    cr_expect(rank_link_take_change(link) == NULL);
    memset(value, '1', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    send_set(&d, KD__RANK_ORDER__KIND__SET, "a.path", value);
    send_set(&d, KD__RANK_ORDER__KIND__SET, "a.path", NULL);
    for (int i = 0; i < RANK_LINK_CHANGES_MAX + 3; i++) {
        (void)snprintf(value, sizeof value, "%d", i);
        send_set(&d, KD__RANK_ORDER__KIND__SET, "a.path", value);
    }
    send_order(&d, KD__RANK_ORDER__KIND__STOP);
    for (int i = 0; i < 1000 && !kd_progress_is_stopped(); i++) {
        (void)uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    for (int i = 0; i < RANK_LINK_CHANGES_MAX; i++) {
        Kd__RankOrder *order = rank_link_take_change(link);
        cr_assert(order != NULL);
        (void)snprintf(value, sizeof value, "%d", i);
        cr_expect(eq(str, order->path, (char *)"a.path"));
        cr_expect(eq(str, order->value, value));
        kd__rank_order__free_unpacked(order, NULL);
    }
    cr_expect(rank_link_take_change(link) == NULL);
    rank_link_close(link, 1000);
    finish(&d);
}

Test(link, says_hello_again_when_the_daemon_comes_back)
{
    fake_daemon d;
    start(&d);
    listen_again(&d);
    rank_link *link = open_link(&d);
    serve(&d, welcomed);
    go_away(&d);
    listen_again(&d);
    serve(&d, second_hello);
    rank_link_close(link, 1000);
    finish(&d);
}

Test(link, keeps_what_matters_and_the_newest_steps_while_the_daemon_is_away)
{
    const uint64_t n = RANK_LINK_STEPS_MAX + 100;
    fake_daemon d;
    start(&d);
    rank_link *link = open_link(&d); /* nobody listens yet */
    report_fault(link, "first of all");
    for (uint64_t step = 1; step <= n; step++) {
        report_step(link, step);
    }
    listen_again(&d);
    serve(&d, one_fault);
    cr_expect(eq(str, d.fault, "first of all"));
    serve(&d, one_step);
    while (d.last_step < n) {
        (void)uv_run(&d.loop, UV_RUN_ONCE);
    }
    cr_expect(eq(u64, d.n_steps, RANK_LINK_STEPS_MAX));
    cr_expect(eq(u64, d.first_step, 101));
    rank_link_close(link, 1000);
    finish(&d);
}

static void close_link(void *link)
{
    rank_link_close(link, 5000);
}

Test(link, close_waits_until_the_last_word_has_left)
{
    fake_daemon d;
    uv_thread_t closer;
    start(&d);
    rank_link *link = open_link(&d);
    report_finished(link);
    cr_assert(uv_thread_create(&closer, close_link, link) == 0);
    usleep(50000); /* it waits for a daemon that is late */
    listen_again(&d);
    while (d.n_finished == 0) {
        (void)uv_run(&d.loop, UV_RUN_ONCE);
    }
    (void)uv_thread_join(&closer);
    finish(&d);
}

Test(link, close_gives_up_at_its_deadline)
{
    fake_daemon d;
    start(&d);
    rank_link *link = open_link(&d);
    report_finished(link);
    const uint64_t start_ns = uv_hrtime();
    rank_link_close(link, 100);
    cr_expect(lt(u64, uv_hrtime() - start_ns, 5000000000u));
    cr_expect(ge(u64, uv_hrtime() - start_ns, 90000000u));
    finish(&d);
}

Test(link, close_does_not_wait_if_nothing_is_left_to_say)
{
    fake_daemon d;
    start(&d);
    rank_link *link = open_link(&d);
    const uint64_t start_ns = uv_hrtime();
    rank_link_close(link, 10000);
    cr_expect(lt(u64, uv_hrtime() - start_ns, 5000000000u));
    finish(&d);
}

Test(link, a_refusal_is_told_at_once)
{
    fake_daemon d;
    start(&d);
    d.refuses = true;
    listen_again(&d);
    rank_link *link = open_link(&d);
    atomic_store(&refusals, 0);
    (void)uv_timer_start(&d.limit, on_limit, 10000, 10); /* wakes the loop to look again */
    while (!refused(&d)) {
        (void)uv_run(&d.loop, UV_RUN_ONCE);
    }
    cr_expect(eq(int, atomic_load(&refusals), 1));
    rank_link_close(link, 100);
    finish(&d);
}

Test(link, no_link_is_a_worker_without_a_daemon)
{
    rank_link_set_step(NULL, 3);
    report_step(NULL, 3);
    cr_expect(not(rank_link_take_save(NULL)));
    rank_link_close(NULL, 1000);
}

Test(link, a_file_that_is_no_attempt_is_refused)
{
    char path[] = "/tmp/kd-test-attempt.XXXXXX";
    Kd__Attempt *attempt = NULL;
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert(write(fd, "not an attempt", 14) == 14);
    (void)close(fd);
    cr_expect(eq(int, attempt_file_read(path, &attempt), KD_ERR_PROTO));
    (void)unlink(path);
    cr_expect(eq(int, attempt_file_read(path, &attempt), KD_ERR_NOT_FOUND));
    cr_expect(attempt == NULL);
}
