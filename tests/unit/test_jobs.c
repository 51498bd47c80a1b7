#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/jobs.h"
#include "daemon/metrics.h"

static job_table table;

static void set_up(void)
{
    kd_fault_quiet(1);
}

static void tear_down(void)
{
    jobs_release(&table);
}

TestSuite(jobs, .init = set_up, .fini = tear_down);

static entry *add(uint64_t id, const char *token)
{
    entry *e = NULL;
    const store_job row = {.job = {.id = id, .state = JOB_QUEUED},
                           .token = token,
                           .spec = (const uint8_t *)"",
                           .name = "name",
                           .output = "/out",
                           .steps = 50,
                           .submitted_at = 1.0,
                           .test_loss = (double)NAN,
                           .test_accuracy = (double)NAN};
    cr_assert(eq(int, jobs_add(&table, &row, &e), KD_OK), "%s", kd_fault_text());
    return e;
}

Test(jobs, are_found_by_id_and_by_token)
{
    char token[16];
    for (uint64_t id = 1; id <= 1000; id++) {
        (void)snprintf(token, sizeof token, "t%d", (int)id);
        (void)add(id, id % 3 == 0 ? NULL : token);
    }
    for (uint64_t id = 1; id <= 1000; id++) {
        (void)snprintf(token, sizeof token, "t%d", (int)id);
        entry *e = jobs_find(&table, id);
        cr_assert(eq(u64, e->job.id, id));
        cr_assert(eq(ptr, jobs_find_token(&table, token), id % 3 == 0 ? NULL : e));
    }
    cr_expect(eq(u64, jobs_next_id(&table), 1001));
}

Test(jobs, numbers_that_were_never_used_are_nobody)
{
    (void)add(5, NULL);
    cr_expect(eq(ptr, jobs_find(&table, 0), NULL));
    cr_expect(eq(ptr, jobs_find(&table, 4), NULL));
    cr_expect(eq(ptr, jobs_find(&table, 6), NULL));
    cr_expect(eq(ptr, jobs_find(&table, UINT64_MAX), NULL));
    cr_expect(eq(ptr, jobs_find_token(&table, "t"), NULL));
}

Test(jobs, an_id_is_given_once)
{
    entry *e = NULL;
    (void)add(2, NULL);
    const store_job again = {.job = {.id = 2}, .name = "", .output = ""};
    cr_expect(eq(int, jobs_add(&table, &again, &e), KD_ERR_PROTO));
    const store_job zero = {.job = {.id = 0}, .name = "", .output = ""};
    cr_expect(eq(int, jobs_add(&table, &zero, &e), KD_ERR_PROTO));
    cr_expect(eq(ptr, e, NULL));
}

Test(jobs, the_status_has_only_what_is_known)
{
    Kd__JobStatus status;
    entry_status(add(1, NULL), &status);
    cr_expect(eq(u64, status.id, 1));
    cr_expect(eq(u64, status.steps, 50));
    cr_expect(eq(int, status.has_loss, 0));
    cr_expect(eq(int, status.has_test_loss, 0));
    cr_expect(eq(int, status.has_started_at, 0));
    cr_expect(eq(int, status.has_eta_seconds, 0));
    cr_expect(eq(str, status.reason, "waits for slots"));
}

Test(jobs, the_status_follows_the_last_step)
{
    Kd__JobStatus status;
    entry *e = add(1, NULL);
    Kd__StepMetrics *step = calloc(1, sizeof *step);
    kd__step_metrics__init(step);
    step->has_loss = step->has_tokens_per_second = 1;
    step->loss = 2.5;
    step->tokens_per_second = 1000.0;
    cr_assert(eq(int, entry_set_last(e, step), KD_OK));
    entry_status(e, &status);
    cr_expect(eq(dbl, status.loss, 2.5));
    cr_expect(eq(dbl, status.tokens_per_second, 1000.0));
    store_job row;
    entry_row(e, &row);
    Kd__StepMetrics *read = kd__step_metrics__unpack(NULL, row.last_step_bytes, row.last_step);
    cr_assert(ne(ptr, read, NULL));
    cr_expect(eq(dbl, read->loss, 2.5));
    kd__step_metrics__free_unpacked(read, NULL);
}

Test(jobs, a_state_is_shown_when_it_is_on_disk)
{
    Kd__JobStatus status;
    entry *e = add(1, NULL);
    e->job.state = JOB_SUCCEEDED;
    entry_status(e, &status);
    cr_expect(eq(int, (int)status.state, (int)KD__JOB_STATE__QUEUED));
    e->shown = JOB_SUCCEEDED;
    entry_status(e, &status);
    cr_expect(eq(int, (int)status.state, (int)KD__JOB_STATE__SUCCEEDED));
}

Test(metrics, the_time_left_comes_from_the_pace_of_the_steps)
{
    metrics m = {0};
    double left_s = -1.0;
    metrics_add(&m, 10, 100.0, 500.0);
    cr_expect(not(metrics_eta(&m, 100, &left_s)));
    cr_expect(eq(dbl, left_s, -1.0));
    metrics_add(&m, 20, 105.0, 500.0);
    cr_assert(metrics_eta(&m, 100, &left_s));
    cr_expect(epsilon_eq(dbl, left_s, 80 * 0.5, 1e-9));
    cr_assert(metrics_eta(&m, 15, &left_s));
    cr_expect(eq(dbl, left_s, 0.0));
}

Test(metrics, a_burst_moves_the_average_by_a_sixteenth)
{
    metrics m = {0};
    metrics_add(&m, 1, 1.0, 100.0);
    metrics_add(&m, 2, 2.0, 260.0);
    cr_expect(epsilon_eq(dbl, m.tokens_per_second, 110.0, 1e-9));
}

Test(metrics, a_clock_that_goes_back_is_ignored)
{
    metrics m = {0};
    double left_s;
    metrics_add(&m, 1, 10.0, 1.0);
    metrics_add(&m, 2, 9.0, 1.0);
    cr_expect(not(metrics_eta(&m, 10, &left_s)));
}
