/*
 * main.c - one rank, from the command line to its exit code.
 *
 *   attempt -> job -> roles -> data -> resume point -> prepare -> connect -> run -> last word
 *
 * Up to `run` the ranks agree after each phase, so that all end with the true reason. In `run` they
 * wait for each other in many places: whoever fails reports its fault and ends them all.
 */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "job/hash.h"
#include "job/job.h"
#include "message/reflect.h"
#include "worker/attempt_file.h"
#include "worker/identity.h"
#include "worker/lineage.h"
#include "worker/options.h"
#include "worker/resolved.h"
#include "worker/roles.h"
#include "worker/student.h"
#include "worker/teacher.h"

#define LAST_WORD_TIMEOUT_MS 30000 /* the outcome is worth waiting for a daemon that restarts */
#define FAULT_TIMEOUT_MS     5000
#define GOODBYE_TIMEOUT_MS   2000

static void on_sigterm(int signal_number)
{
    (void)signal_number;
    kd_progress_stop();
}

/* On the link's thread; MPI belongs to the other one, and mpirun ends the rest. */
static void on_refused(const char *text)
{
    kd_log(KD_LOG_ERROR, "the daemon refused this rank: %s", text);
    _exit(WORKER_EXIT_REFUSED);
}

static void name_log(int rank)
{
    char who[32];
    (void)snprintf(who, sizeof who, "rank %d", rank);
    kd_log_set_who(who);
}

static kd_status open_link(worker *w, const options *o)
{
    Kd__Attempt *attempt = NULL;
    if (o->attempt_path == NULL) {
        return KD_OK;
    }
    kd_status st = attempt_file_read(o->attempt_path, &attempt);
    if (st) {
        return st;
    }
    const rank_link_settings settings = {
        .attempt = attempt,
        .rank = (uint32_t)kd_world_rank(w->world),
        .world_size = (uint32_t)kd_world_size(w->world),
        .on_refused = on_refused,
    };
    devices_avoid(&w->devices, attempt);
    st = rank_link_open(&settings, &w->link);
    kd__attempt__free_unpacked(attempt, NULL);
    return st;
}

static kd_status load_job(worker *w, const options *o)
{
    kd_status st = kd_job_read(o->job_path, o->sets, o->n_sets, &w->job);
    if (!st) {
        st = kd_job_complete(w->job);
    }
    if (!st) {
        st = kd_job_check(w->job, NULL);
    }
    return st;
}

/* Hosts that do not share the output folder may hold shards of other runs, sound but not the same. */
static kd_status check_same_data(worker *w)
{
    uint64_t expected = w->hash; /* the leader's, once it is broadcast */
    kd_status st = kd_world_broadcast(w->world, &expected, (int)sizeof expected);
    if (!st && w->hash != expected) {
        st = kd_fail(KD_ERR_INVALID,
                     "%s: found another job, other tokens or models than the leader: expected one "
                     "folder that all hosts share",
                     w->job->output);
    }
    return kd_world_agree(w->world, st);
}

/* Who this job is, and whether it is the one that made the checkpoint, if there is one. */
static kd_status identify(worker *w, const char *made_by)
{
    kd_status st = identity_write(w->job, &w->batches, &w->identity);
    if (!st) {
        w->hash = kd_job_canonical_hash(w->identity.data);
    }
    st = kd_world_agree(w->world, st);
    if (!st) {
        st = check_same_data(w);
    }
    return st || made_by == NULL ? st : identity_check(w->identity.data, made_by, w->resume.path);
}

/* The leader looks for a checkpoint. */
static kd_status find_resume(worker *w, kd_checkpoint_state *state_out)
{
    const bool leader = kd_world_is_leader(w->world);
    const kd_status st = kd_world_agree(
        w->world, leader ? output_find_resume(w->job, &w->resume, state_out) : KD_OK);
    if (st) {
        return st;
    }
    const kd_status shared = kd_world_broadcast(w->world, &w->resume, (int)sizeof w->resume);
    w->done = w->resume.step;
    return shared;
}

/* The leader locks, packs and looks for a checkpoint; the others wait, then read what it wrote. */
static kd_status prepare_data(worker *w)
{
    const bool leader = kd_world_is_leader(w->world);
    kd_checkpoint_state made = {0}; /* the leader's */
    kd_status st = kd_world_agree(w->world, leader ? output_lock(w->job) : KD_OK);
    if (!st) {
        st = kd_world_agree(w->world, leader ? batches_pack(w->job) : KD_OK);
    }
    if (!st) {
        st = find_resume(w, &made);
    }
    if (!st) {
        st = kd_world_agree(w->world, batches_open(w->job, &w->batches));
    }
    if (!st) {
        st = kd_world_agree(w->world, identify(w, made.job));
    }
    if (!st) {
        st = resolved_settle(w, made.resolved);
    }
    kd_checkpoint_state_release(&made);
    if (!st) {
        st = kd_world_agree(w->world, leader ? lineage_check(w->job, &w->batches) : KD_OK);
    }
    if (!st) {
        const live_file_owner owner = {w->hash, w->resume.path[0] != '\0'};
        st = kd_world_agree(w->world, live_open(w->world, w->job, &owner, &w->live));
    }
    return st;
}

static kd_status begin(worker *w, const options *o)
{
    kd_status st = kd_world_agree(w->world, open_link(w, o));
    if (!st) {
        st = kd_world_agree(w->world, load_job(w, o));
    }
    if (!st) {
        st = roles_assign(w);
    }
    if (!st) {
        st = prepare_data(w);
    }
    return st;
}

static void report_fault(worker *w, kd_status st)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__FaultReport report = KD__FAULT_REPORT__INIT;
    report.text = (char *)kd_fault_text(); /* only read */
    report.has_permanent = 1;
    report.permanent = options_is_permanent(st);
    message.body_case = KD__RANK_MESSAGE__BODY_FAULT;
    message.fault = &report;
    rank_link_report(w->link, &message);
}

static void report_finished(worker *w, worker_outcome outcome)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__FinishedReport report = KD__FINISHED_REPORT__INIT;
    report.has_outcome = report.has_step = 1;
    report.outcome = outcome == WORKER_COMPLETED ? KD__FINISHED_REPORT__OUTCOME__COMPLETED
                                                 : KD__FINISHED_REPORT__OUTCOME__STOPPED;
    report.step = w->done;
    message.body_case = KD__RANK_MESSAGE__BODY_FINISHED;
    message.finished = &report;
    rank_link_report(w->link, &message);
}

/* A fault in the middle of the work: the others cannot know, and would wait for ever. */
KD_NORETURN static void end_everything(worker *w, kd_status st)
{
    devices_tell_failed(&w->devices, w->link);
    report_fault(w, st);
    rank_link_close(w->link, FAULT_TIMEOUT_MS);
    (void)MPI_Abort(MPI_COMM_WORLD, (int)options_exit_code(st));
    _exit((int)options_exit_code(st)); /* MPI_Abort is not declared never to return */
}

/* While this rank's back ends live. */
static kd_status agree_prepared(worker *w, kd_status mine)
{
    if (mine) {
        devices_tell_failed(&w->devices, w->link);
    }
    return kd_world_agree(w->world, mine);
}

static kd_status be_student(worker *w, worker_outcome *outcome_out)
{
    student_rank rank;
    kd_status st = agree_prepared(w, student_rank_prepare(w, &rank));
    if (!st) {
        st = student_rank_connect(&rank);
        if (!st) {
            st = student_rank_run(&rank, outcome_out);
        }
        if (st) {
            end_everything(w, st);
        }
        st = kd_world_agree(w->world, KD_OK); /* teachers sleep here while students finish */
    }
    student_rank_release(&rank);
    return st;
}

static kd_status be_teacher(worker *w, worker_outcome *outcome_out)
{
    teacher_rank rank;
    kd_status st = agree_prepared(w, teacher_rank_prepare(w, &rank));
    if (!st) {
        st = teacher_rank_connect(&rank);
        if (!st) {
            st = teacher_rank_run(&rank, outcome_out);
        }
        if (st) {
            end_everything(w, st);
        }
        st = kd_world_agree(w->world, KD_OK); /* teachers sleep here while students finish */
    }
    teacher_rank_release(&rank);
    return st;
}

static kd_status work(worker *w, const options *o, worker_outcome *outcome_out)
{
    const kd_status st = begin(w, o);
    if (st) {
        return st;
    }
    return kd_world_role(w->world) == KD_ROLE_STUDENT ? be_student(w, outcome_out)
                                                      : be_teacher(w, outcome_out);
}

/* Every rank comes here with the same status. */
static void say_last_word(worker *w, kd_status st, worker_outcome outcome)
{
    if (!kd_world_is_leader(w->world)) {
        rank_link_close(w->link, GOODBYE_TIMEOUT_MS);
        return;
    }
    if (st) {
        report_fault(w, st);
    } else {
        report_finished(w, outcome);
    }
    rank_link_close(w->link, st ? FAULT_TIMEOUT_MS : LAST_WORD_TIMEOUT_MS);
}

static worker_exit run(const options *o)
{
    worker w = {0};
    worker_outcome outcome = WORKER_COMPLETED;
    kd_status st = kd_world_create(&w.world);
    if (st) {
        return options_exit_code(st);
    }
    name_log(kd_world_rank(w.world));
    st = work(&w, o, &outcome);
    if (st == KD_ERR_STOPPED) { /* while it packed or loaded: nothing is there to be saved */
        outcome = WORKER_STOPPED;
        st = KD_OK;
    }
    say_last_word(&w, st, outcome);
    live_close(&w.live);
    batches_close(&w.batches);
    kd_text_release(&w.identity);
    kd_text_release(&w.resolved);
    if (w.job != NULL) {
        kd_message_destroy(&w.job->base);
    }
    kd_world_destroy(w.world);
    if (st) {
        return options_exit_code(st);
    }
    return outcome == WORKER_STOPPED ? WORKER_EXIT_STOPPED : WORKER_EXIT_DONE;
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = on_sigterm, .sa_flags = SA_RESTART};
    int provided = MPI_THREAD_SINGLE;
    options o;

    kd_log_set_who("distill-worker");
    if (options_parse(argc, argv, &o)) {
        return WORKER_EXIT_USAGE;
    }
    if (o.help) {
        return fputs(options_help(), stdout) < 0 ? WORKER_EXIT_IO : WORKER_EXIT_DONE;
    }
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
        provided < MPI_THREAD_FUNNELED) {
        kd_log(KD_LOG_ERROR, "MPI offers no MPI_THREAD_FUNNELED");
        return WORKER_EXIT_INTERNAL;
    }
    (void)sigaction(SIGTERM, &action, NULL); /* after MPI, which may set handlers of its own */
    const worker_exit code = run(&o);
    (void)MPI_Finalize();
    return code;
}
