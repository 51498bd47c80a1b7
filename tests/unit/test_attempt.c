#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/log.h"
#include "daemon/attempt.h"

#define JOB     7
#define NUMBER  2
#define N_RANKS 3

static const attempt_limits limits = {.start_ms = 1000,
                                      .silence_ms = 500,
                                      .hang_ms = 5000,
                                      .grace_ms = 3000,
                                      .kill_ms = 400,
                                      .leave_ms = 200};
static attempt a;
static char reason[ATTEMPT_TEXT_BYTES];

static void set_up(void)
{
    kd_fault_quiet(1);
    cr_assert(eq(int, attempt_init(&a, JOB, NUMBER, N_RANKS, &limits, 0), KD_OK));
    memset(a.secret, 42, sizeof a.secret);
}

static void tear_down(void)
{
    attempt_release(&a);
}

TestSuite(attempt, .init = set_up, .fini = tear_down);

static attempt_claim claim_of(uint32_t rank)
{
    return (attempt_claim){.job_id = JOB,
                           .attempt = NUMBER,
                           .rank = rank,
                           .world_size = N_RANKS,
                           .secret = a.secret,
                           .secret_bytes = sizeof a.secret,
                           .pid = 100 + rank};
}

static kd_status say_hello(uint32_t rank, uint64_t now_ms)
{
    const attempt_claim claim = claim_of(rank);
    return attempt_register(&a, &claim, now_ms);
}

static void all_up(uint64_t now_ms)
{
    for (uint32_t rank = 0; rank < N_RANKS; rank++) {
        cr_assert(eq(int, say_hello(rank, now_ms), KD_OK));
    }
    cr_assert(eq(int, (int)attempt_next(&a, now_ms), ATTEMPT_DO_NOTHING));
    cr_assert(eq(int, (int)a.state, ATTEMPT_WORKING));
}

static void all_leave(void)
{
    for (uint32_t rank = 0; rank < N_RANKS; rank++) {
        attempt_disconnect(&a, rank);
    }
}

static void expect_next(uint64_t now_ms, attempt_action action)
{
    cr_expect(eq(int, (int)attempt_next(&a, now_ms), (int)action), "at %d ms, in state %d",
              (int)now_ms, (int)a.state);
}

/* The launcher ends, the sweep finds nothing, the attempt is over. */
static job_event end_with(int exit_status, uint64_t now_ms)
{
    all_leave();
    attempt_launcher_gone(&a, exit_status, now_ms);
    expect_next(now_ms, ATTEMPT_DO_SWEEP);
    attempt_swept(&a, 0, now_ms);
    expect_next(now_ms, ATTEMPT_DO_END);
    return attempt_verdict(&a, reason, sizeof reason);
}

Test(attempt, works_when_the_last_rank_has_said_hello)
{
    cr_assert(eq(int, say_hello(2, 10), KD_OK));
    cr_assert(eq(int, say_hello(0, 20), KD_OK));
    expect_next(20, ATTEMPT_DO_NOTHING);
    cr_expect(eq(int, (int)a.state, ATTEMPT_GATHERING));
    cr_assert(eq(int, say_hello(1, 30), KD_OK));
    expect_next(30, ATTEMPT_DO_NOTHING);
    cr_expect(eq(int, (int)a.state, ATTEMPT_WORKING));
}

Test(attempt, a_device_that_failed_is_the_hosts_fault_unless_the_input_is_bad)
{
    all_up(0);
    attempt_device_failed(&a);
    attempt_fault(&a, "rank 1: a kernel failed", false);
    cr_expect(eq(int, (int)end_with(74, 10), JOB_EV_DEVICE));
    cr_expect(eq(str, reason, "rank 1: a kernel failed"));
    attempt_no_device(&a);
    cr_expect(eq(int, (int)attempt_verdict(&a, reason, sizeof reason), JOB_EV_NO_DEVICE));
    attempt_fault(&a, "the job is wrong", true);
    cr_expect(eq(int, (int)attempt_verdict(&a, reason, sizeof reason), JOB_EV_FAULT));
    attempt_finished(&a, ATTEMPT_COMPLETED);
    cr_expect(eq(int, (int)attempt_verdict(&a, reason, sizeof reason), JOB_EV_FINISHED));
}

Test(attempt, refuses_a_wrong_secret_of_any_length)
{
    uint8_t wrong[ATTEMPT_SECRET_BYTES];
    memcpy(wrong, a.secret, sizeof wrong);
    wrong[ATTEMPT_SECRET_BYTES - 1] ^= 1;
    attempt_claim claim = claim_of(0);
    claim.secret = wrong;
    cr_expect(eq(int, attempt_register(&a, &claim, 0), KD_ERR_INVALID));
    for (size_t n = 0; n < ATTEMPT_SECRET_BYTES; n++) {
        claim = claim_of(0);
        claim.secret_bytes = n;
        cr_expect(eq(int, attempt_register(&a, &claim, 0), KD_ERR_INVALID));
    }
    cr_expect(eq(u32, a.n_registered, 0));
}

Test(attempt, refuses_ranks_of_other_attempts_and_worlds)
{
    attempt_claim wrong[5];
    for (int i = 0; i < 5; i++) {
        wrong[i] = claim_of(0);
    }
    wrong[0].job_id = JOB + 1;
    wrong[1].attempt = NUMBER - 1;
    wrong[2].rank = N_RANKS;
    wrong[3].world_size = N_RANKS + 1;
    wrong[4].rank = UINT32_MAX;
    for (int i = 0; i < 5; i++) {
        cr_expect(eq(int, attempt_register(&a, &wrong[i], 0), KD_ERR_INVALID), "claim %d", i);
    }
    cr_expect(eq(u32, a.n_registered, 0));
}

Test(attempt, refuses_a_second_process_as_a_live_rank)
{
    cr_assert(eq(int, say_hello(0, 0), KD_OK));
    attempt_claim claim = claim_of(0);
    claim.pid = 999;
    cr_expect(eq(int, attempt_register(&a, &claim, 400), KD_ERR_STATE));
    cr_expect(eq(u64, a.ranks[0].pid, 100));
}

Test(attempt, takes_a_rank_back_that_reconnects)
{
    all_up(0);
    attempt_disconnect(&a, 1);
    cr_expect(eq(u32, a.n_connected, 2));
    cr_assert(eq(int, say_hello(1, 900), KD_OK));
    cr_expect(eq(u32, a.n_connected, 3));
    cr_assert(eq(int, say_hello(1, 901), KD_OK)); /* before its old connection was seen to break */
    cr_expect(eq(u32, a.n_connected, 3));
    cr_expect(eq(u32, a.n_registered, 3));
}

Test(attempt, ranks_that_never_come_end_it)
{
    cr_assert(eq(int, say_hello(0, 0), KD_OK));
    expect_next(1000, ATTEMPT_DO_NOTHING);
    expect_next(1001, ATTEMPT_DO_TERMINATE);
    cr_expect(eq(int, (int)end_with(143, 1002), JOB_EV_LOST));
    cr_expect(eq(str, reason, "attempt 2: 1 of 3 ranks said hello within 1 s"));
}

/* Unknown never means dead. */
Test(attempt, silence_alone_never_ends_it)
{
    uint32_t rank;
    a.limits.hang_ms = 0;
    all_up(0);
    all_leave();
    for (uint64_t now_ms = 0; now_ms < 100000000; now_ms += 1000000) {
        expect_next(now_ms, ATTEMPT_DO_NOTHING);
    }
    cr_expect(attempt_find_silent(&a, 100000000, &rank));
    cr_expect(eq(int, (int)a.state, ATTEMPT_WORKING));
}

Test(attempt, each_silence_is_told_once)
{
    uint32_t rank;
    all_up(0);
    cr_expect(not(attempt_find_silent(&a, 500, &rank)));
    attempt_heartbeat(&a, 0, 0, 0, 501);
    attempt_heartbeat(&a, 2, 0, 0, 501);
    cr_assert(attempt_find_silent(&a, 501, &rank));
    cr_expect(eq(u32, rank, 1));
    cr_expect(not(attempt_find_silent(&a, 600, &rank)));
    attempt_heartbeat(&a, 1, 0, 0, 700);
    attempt_heartbeat(&a, 0, 0, 0, 1201);
    attempt_heartbeat(&a, 2, 0, 0, 1201);
    cr_assert(attempt_find_silent(&a, 1201, &rank));
    cr_expect(eq(u32, rank, 1));
}

Test(attempt, heartbeats_without_steps_are_a_hang)
{
    all_up(0);
    attempt_heartbeat(&a, 0, 11, 0, 2000);
    for (uint64_t now_ms = 2000; now_ms <= 7000; now_ms += 100) {
        attempt_heartbeat(&a, 0, 11, 0, now_ms);
        expect_next(now_ms, ATTEMPT_DO_NOTHING);
    }
    expect_next(7001, ATTEMPT_DO_TERMINATE);
    expect_next(7401, ATTEMPT_DO_NOTHING);
    expect_next(7402, ATTEMPT_DO_KILL);
    expect_next(7403, ATTEMPT_DO_NOTHING);
    expect_next(7803, ATTEMPT_DO_KILL);
    cr_expect(eq(int, (int)end_with(137, 7900), JOB_EV_LOST));
    cr_expect(eq(str, reason, "attempt 2 hung: no progress after step 11 within 5 s"));
}

Test(attempt, work_of_any_rank_is_progress_though_no_step_ends)
{
    all_up(0);
    for (uint64_t now_ms = 1000; now_ms <= 20000; now_ms += 1000) {
        attempt_heartbeat(&a, 2, 0, now_ms, now_ms);
        expect_next(now_ms, ATTEMPT_DO_NOTHING);
    }
    expect_next(25000, ATTEMPT_DO_NOTHING);
    expect_next(25001, ATTEMPT_DO_TERMINATE);
}

Test(attempt, a_rank_that_only_comes_back_makes_no_progress)
{
    all_up(0);
    attempt_heartbeat(&a, 1, 0, 77, 0);
    for (uint64_t now_ms = 1000; now_ms <= 5000; now_ms += 1000) {
        attempt_disconnect(&a, 1);
        cr_assert(eq(int, say_hello(1, now_ms), KD_OK));
        attempt_heartbeat(&a, 1, 0, 77, now_ms);
        expect_next(now_ms, ATTEMPT_DO_NOTHING);
    }
    expect_next(5001, ATTEMPT_DO_TERMINATE);
}

Test(attempt, an_evaluation_is_progress)
{
    all_up(0);
    attempt_progress(&a, 4000);
    expect_next(9000, ATTEMPT_DO_NOTHING);
    expect_next(9001, ATTEMPT_DO_TERMINATE);
}

Test(attempt, a_stop_is_ordered_then_signalled_then_forced)
{
    all_up(0);
    attempt_stop(&a, 100);
    expect_next(100, ATTEMPT_DO_ORDER_STOP);
    attempt_stop(&a, 200); /* once is enough */
    expect_next(3100, ATTEMPT_DO_NOTHING);
    expect_next(3101, ATTEMPT_DO_TERMINATE);
    expect_next(3502, ATTEMPT_DO_KILL);
    cr_expect(eq(int, (int)end_with(137, 3600), JOB_EV_STOPPED));
    cr_expect(eq(str, reason, ""));
}

Test(attempt, ranks_that_never_met_are_not_asked_to_save)
{
    attempt_stop(&a, 100);
    expect_next(100, ATTEMPT_DO_TERMINATE);
    cr_expect(eq(int, (int)end_with(143, 200), JOB_EV_STOPPED));
}

Test(attempt, is_over_only_when_a_sweep_finds_nothing)
{
    all_up(0);
    all_leave();
    attempt_launcher_gone(&a, 137, 100);
    expect_next(100, ATTEMPT_DO_SWEEP);
    attempt_swept(&a, 2, 100);
    expect_next(199, ATTEMPT_DO_NOTHING);
    expect_next(200, ATTEMPT_DO_SWEEP);
    attempt_swept(&a, 0, 200);
    expect_next(200, ATTEMPT_DO_END);
}

Test(attempt, a_rank_that_is_heard_keeps_it_from_being_over)
{
    all_up(0);
    attempt_launcher_gone(&a, 137, 100);
    expect_next(299, ATTEMPT_DO_NOTHING);
    expect_next(300, ATTEMPT_DO_SWEEP);
    attempt_swept(&a, 0, 300); /* on another host, say */
    cr_expect(eq(int, (int)a.state, ATTEMPT_SWEEPING));
    expect_next(600, ATTEMPT_DO_SWEEP);
    attempt_swept(&a, 0, 600); /* silent by now */
    expect_next(600, ATTEMPT_DO_END);
}

Test(attempt, completed_and_a_clean_exit_is_success)
{
    all_up(0);
    attempt_finished(&a, ATTEMPT_COMPLETED);
    cr_expect(eq(int, (int)end_with(0, 100), JOB_EV_FINISHED));
}

Test(attempt, completed_is_success_though_nobody_saw_the_exit)
{
    all_up(0);
    attempt_finished(&a, ATTEMPT_COMPLETED);
    cr_expect(eq(int, (int)end_with(ATTEMPT_EXIT_UNKNOWN, 100), JOB_EV_FINISHED));
}

Test(attempt, completed_is_success_whatever_the_launcher_says_then)
{
    all_up(0);
    attempt_finished(&a, ATTEMPT_COMPLETED);
    attempt_fault(&a, "MPI_Finalize failed", true);
    cr_expect(eq(int, (int)end_with(1, 100), JOB_EV_FINISHED));
    cr_expect(eq(str, reason, ""));
}

Test(attempt, a_bad_exit_without_a_last_word_is_the_reason_of_a_loss)
{
    all_up(0);
    cr_expect(eq(int, (int)end_with(1, 100), JOB_EV_LOST));
    cr_expect(eq(str, reason, "attempt 2 ended with exit code 1"));
}

Test(attempt, a_clean_exit_without_a_last_word_is_a_loss)
{
    all_up(0);
    cr_expect(eq(int, (int)end_with(0, 100), JOB_EV_LOST));
}

Test(attempt, a_stop_that_nobody_ordered_is_not_a_failure)
{
    all_up(0);
    attempt_finished(&a, ATTEMPT_STOPPED);
    cr_expect(eq(int, (int)end_with(3, 100), JOB_EV_STOPPED));
}

Test(attempt, a_permanent_fault_is_the_reason_whoever_spoke_first)
{
    all_up(0);
    attempt_fault(&a, "rank 1 lost its peer", false);
    attempt_fault(&a, "vocabularies differ: 256 and 300", true);
    attempt_fault(&a, "aborted", true);
    cr_expect(eq(int, (int)end_with(65, 100), JOB_EV_FAULT));
    cr_expect(eq(str, reason, "vocabularies differ: 256 and 300"));
}

Test(attempt, a_host_that_cannot_launch_is_not_the_fault_of_the_job)
{
    all_up(0);
    attempt_unprepared(&a, KD_ERR_IO, "no space left on device");
    cr_expect(eq(int, (int)end_with(0, 100), JOB_EV_LOST));
    cr_expect(eq(str, reason, "no space left on device"));
}

Test(attempt, files_that_do_not_suit_end_the_job)
{
    all_up(0);
    attempt_unprepared(&a, KD_ERR_INVALID, "data.files.0: found an empty file");
    cr_expect(eq(int, (int)end_with(0, 100), JOB_EV_FAULT));
}

Test(attempt, a_passing_fault_is_the_reason_of_a_loss)
{
    all_up(0);
    attempt_fault(&a, "no space left on device", false);
    attempt_fault(&a, "aborted", false);
    cr_expect(eq(int, (int)end_with(74, 100), JOB_EV_LOST));
    cr_expect(eq(str, reason, "no space left on device"));
}

Test(attempt, a_long_fault_is_cut)
{
    char text[3 * ATTEMPT_TEXT_BYTES];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    all_up(0);
    attempt_fault(&a, text, true);
    cr_expect(eq(int, (int)end_with(65, 100), JOB_EV_FAULT));
    cr_expect(eq(sz, strlen(reason), ATTEMPT_TEXT_BYTES - 1));
}

Test(attempt, an_adopted_one_waits_for_its_ranks_as_long_as_a_hang_takes)
{
    attempt_release(&a);
    cr_assert(eq(int, attempt_init(&a, JOB, NUMBER, N_RANKS, &limits, 0), KD_OK));
    attempt_adopt(&a, 0);
    expect_next(5000, ATTEMPT_DO_NOTHING);
    expect_next(5001, ATTEMPT_DO_TERMINATE);
}

Test(attempt, nobody_joins_one_that_is_over)
{
    (void)end_with(1, 100);
    cr_expect(eq(int, say_hello(0, 200), KD_ERR_STATE));
}
