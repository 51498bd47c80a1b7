#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "daemon/job.h"

#define NO ((job_state)JOB_STATE_COUNT) /* the event is refused */

typedef struct row {
    job_state next[JOB_EVENT_COUNT];
} row;

/* Every state and every event, for a job with restarts left and no cancel asked. */
static const row expected[JOB_STATE_COUNT] = {
    [JOB_QUEUED] = {{[JOB_EV_LAUNCH] = JOB_STARTING,
                     [JOB_EV_RANKS_UP] = NO,
                     [JOB_EV_FINISHED] = NO,
                     [JOB_EV_STOPPED] = NO,
                     [JOB_EV_LOST] = NO,
                     [JOB_EV_DEVICE] = NO,
                     [JOB_EV_NO_DEVICE] = NO,
                     [JOB_EV_GONE] = NO,
                     [JOB_EV_FAULT] = NO,
                     [JOB_EV_DEPENDENCY] = JOB_FAILED,
                     [JOB_EV_CANCEL] = JOB_CANCELLED}},
    [JOB_STARTING] = {{[JOB_EV_LAUNCH] = NO,
                       [JOB_EV_RANKS_UP] = JOB_RUNNING,
                       [JOB_EV_FINISHED] = JOB_SUCCEEDED,
                       [JOB_EV_STOPPED] = JOB_QUEUED,
                       [JOB_EV_LOST] = JOB_QUEUED,
                       [JOB_EV_DEVICE] = JOB_QUEUED,
                       [JOB_EV_NO_DEVICE] = JOB_QUEUED,
                       [JOB_EV_GONE] = JOB_QUEUED,
                       [JOB_EV_FAULT] = JOB_FAILED,
                       [JOB_EV_DEPENDENCY] = NO,
                       [JOB_EV_CANCEL] = JOB_STARTING}},
    [JOB_RUNNING] = {{[JOB_EV_LAUNCH] = NO,
                      [JOB_EV_RANKS_UP] = NO,
                      [JOB_EV_FINISHED] = JOB_SUCCEEDED,
                      [JOB_EV_STOPPED] = JOB_QUEUED,
                      [JOB_EV_LOST] = JOB_QUEUED,
                      [JOB_EV_DEVICE] = JOB_QUEUED,
                      [JOB_EV_NO_DEVICE] = JOB_QUEUED,
                      [JOB_EV_GONE] = JOB_QUEUED,
                      [JOB_EV_FAULT] = JOB_FAILED,
                      [JOB_EV_DEPENDENCY] = NO,
                      [JOB_EV_CANCEL] = JOB_RUNNING}},
    [JOB_SUCCEEDED] = {{NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO}},
    [JOB_FAILED] = {{NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO}},
    [JOB_CANCELLED] = {{NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO}},
};

static job make(job_state state)
{
    return (job){.id = 7, .state = state, .attempts = 1, .max_restarts = 2};
}

Test(job_state, every_event_in_every_state)
{
    for (int state = 0; state < JOB_STATE_COUNT; state++) {
        for (int event = 0; event < JOB_EVENT_COUNT; event++) {
            job j = make((job_state)state);
            job_action action = (job_action)77;
            const job_state next = expected[state].next[event];
            const kd_status st = job_handle(&j, (job_event)event, &action);
            cr_expect(eq(int, (int)st, (int)(next == NO ? KD_ERR_STATE : KD_OK)), "%s, event %d",
                      job_state_name((job_state)state), event);
            cr_expect(eq(int, (int)j.state, (int)(next == NO ? (job_state)state : next)),
                      "%s, event %d", job_state_name((job_state)state), event);
        }
    }
}

Test(job_state, a_refused_event_changes_nothing)
{
    job j = make(JOB_SUCCEEDED);
    const job before = j;
    job_action action = (job_action)77;
    cr_assert(eq(int, job_handle(&j, JOB_EV_CANCEL, &action), KD_ERR_STATE));
    cr_expect(eq(int, j.cancel_asked, before.cancel_asked));
    cr_expect(eq(u32, j.attempts, before.attempts));
    cr_expect(eq(int, (int)action, 77));
}

Test(job_state, a_failed_device_costs_nothing_and_none_left_is_waited_for)
{
    job j = make(JOB_RUNNING);
    job_action action;
    j.failures = j.max_restarts;
    cr_assert(eq(int, job_handle(&j, JOB_EV_DEVICE, &action), KD_OK));
    cr_expect(eq(int, (int)action, JOB_DO_QUEUE));
    cr_assert(eq(int, job_handle(&j, JOB_EV_LAUNCH, &action), KD_OK));
    cr_assert(eq(int, job_handle(&j, JOB_EV_NO_DEVICE, &action), KD_OK));
    cr_expect(eq(int, (int)action, JOB_DO_WAIT));
    cr_expect(eq(int, (int)j.state, JOB_QUEUED));
    cr_expect(eq(u32, j.failures, j.max_restarts));
    cr_assert(eq(int, job_handle(&j, JOB_EV_CANCEL, &action), KD_OK));
    cr_expect(eq(int, (int)j.state, JOB_CANCELLED));
}

Test(job_state, a_launch_counts_an_attempt_and_no_failure)
{
    job j = make(JOB_QUEUED);
    job_action action;
    cr_assert(eq(int, job_handle(&j, JOB_EV_LAUNCH, &action), KD_OK));
    cr_expect(eq(u32, j.attempts, 2));
    cr_expect(eq(u32, j.failures, 0));
}

Test(job_state, restarts_end_with_the_budget)
{
    job j = make(JOB_RUNNING);
    job_action action;
    for (uint32_t i = 0; i < j.max_restarts; i++) {
        j.state = JOB_RUNNING;
        cr_assert(eq(int, job_handle(&j, JOB_EV_LOST, &action), KD_OK));
        cr_assert(eq(int, (int)j.state, JOB_QUEUED));
        cr_assert(eq(int, (int)action, JOB_DO_RETRY));
    }
    j.state = JOB_RUNNING;
    cr_assert(eq(int, job_handle(&j, JOB_EV_LOST, &action), KD_OK));
    cr_expect(eq(int, (int)j.state, JOB_FAILED));
    cr_expect(eq(int, (int)action, JOB_DO_END));
    cr_expect(eq(u32, j.failures, 3));
}

Test(job_state, stops_and_a_dead_daemon_cost_nothing)
{
    const job_event free_of_charge[] = {JOB_EV_STOPPED, JOB_EV_GONE};
    for (int i = 0; i < 2; i++) {
        job j = make(JOB_RUNNING);
        job_action action;
        j.max_restarts = 0;
        cr_assert(eq(int, job_handle(&j, free_of_charge[i], &action), KD_OK));
        cr_expect(eq(int, (int)j.state, JOB_QUEUED));
        cr_expect(eq(int, (int)action, JOB_DO_QUEUE));
        cr_expect(eq(u32, j.failures, 0));
    }
}

Test(job_state, a_cancelled_job_ends_cancelled_however_its_attempt_ends)
{
    const job_event ends[] = {JOB_EV_STOPPED, JOB_EV_LOST, JOB_EV_GONE, JOB_EV_FAULT};
    for (int i = 0; i < 4; i++) {
        job j = make(JOB_RUNNING);
        job_action action;
        cr_assert(eq(int, job_handle(&j, JOB_EV_CANCEL, &action), KD_OK));
        cr_expect(eq(int, (int)action, JOB_DO_STOP));
        cr_assert(eq(int, job_handle(&j, ends[i], &action), KD_OK));
        cr_expect(eq(int, (int)j.state, JOB_CANCELLED));
        cr_expect(eq(u32, j.failures, 0));
    }
}

Test(job_state, a_job_that_finished_before_its_cancel_arrived_has_succeeded)
{
    job j = make(JOB_RUNNING);
    job_action action;
    cr_assert(eq(int, job_handle(&j, JOB_EV_CANCEL, &action), KD_OK));
    cr_assert(eq(int, job_handle(&j, JOB_EV_FINISHED, &action), KD_OK));
    cr_expect(eq(int, (int)j.state, JOB_SUCCEEDED));
}

Test(job_state, backoff_doubles_from_one_second_to_thirty)
{
    const uint64_t expected_ms[] = {1000, 1000, 2000, 4000, 8000, 16000, 30000, 30000};
    for (uint32_t failures = 0; failures < 8; failures++) {
        job j = make(JOB_QUEUED);
        j.failures = failures;
        cr_expect(eq(u64, job_backoff_ms(&j), expected_ms[failures]));
    }
    job j = make(JOB_QUEUED);
    j.failures = UINT32_MAX;
    cr_expect(eq(u64, job_backoff_ms(&j), 30000));
}
