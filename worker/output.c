/*
 * output.c - what a person finds in the folder and what the daemon is told come from the same numbers, in
 * one call each. Tables are opened with their first row: only that knows the losses.
 */
#include "worker/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "format/manifest.h"
#include "message/yaml.h"
#include "train/checkpoint.h"
#include "worker/lineage.h"
#include "worker/step_parts.h"

#define LOG_EVERY_S 10.0

/* The descriptor stays open as long as the process: that is what holds the lock. */
static kd_status lock_file(const char *path)
{
    const struct timespec nap = {.tv_nsec = 50000000};
    const uint64_t start_ns = kd_clock_monotonic_ns();
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        return kd_file_fail("open", path);
    }
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        const int cause = errno;
        const uint64_t waited_ms = (kd_clock_monotonic_ns() - start_ns) / 1000000;
        if (cause == EWOULDBLOCK && waited_ms < OUTPUT_LOCK_TIMEOUT_MS) {
            (void)nanosleep(&nap, NULL);
        } else if (cause != EINTR) {
            (void)close(fd);
            return cause == EWOULDBLOCK
                       ? kd_fail(KD_ERR_STATE, "%s: another run writes into this folder", path)
                       : kd_fail(kd_status_of_errno(cause), "cannot lock %s: %s", path,
                                 strerror(cause));
        }
    }
    return KD_OK;
}

kd_status output_lock(const Kd__Job *job)
{
    kd_status st = kd_folder_make(job->output);
    if (st) {
        return st;
    }
    char *path = kd_path_join(job->output, ".lock");
    st = path == NULL ? KD_ERR_NOMEM : lock_file(path);
    free(path);
    return st;
}

kd_status
output_find_resume(const Kd__Job *job, resume_point *resume_out, kd_checkpoint_state *state_out)
{
    kd_checkpoint_state state = {0};
    char *path = NULL;
    char *folder = kd_path_join(job->output, "checkpoints");
    if (folder == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st =
        kd_file_exists(folder) ? kd_checkpoint_find_latest(folder, &path, &state) : KD_OK;
    free(folder);
    if (!st && path != NULL && strlen(path) >= sizeof resume_out->path) {
        st = kd_fail(KD_ERR_INVALID, "%s: the path is too long", path);
    }
    if (!st && path != NULL) {
        resume_out->step = state.step;
        memcpy(resume_out->path, path, strlen(path) + 1);
        *state_out = state;
        state = (kd_checkpoint_state){0};
    }
    kd_checkpoint_state_release(&state);
    free(path);
    return st;
}

static kd_status write_job(const Kd__Job *job)
{
    kd_text yaml = {0};
    char *path = kd_path_join(job->output, "job.yaml");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_yaml_print(&yaml, &job->base);
    const kd_status st = yaml.failed ? kd_fail(KD_ERR_NOMEM, "no memory for %s", path)
                                     : kd_file_replace(path, yaml.data, yaml.size);
    kd_text_release(&yaml);
    free(path);
    return st;
}

/* At the start, and not after days of work. */
static kd_status check_final(const Kd__Job *job)
{
    char *path = kd_path_join(job->output, "final");
    const kd_status st = path == NULL ? KD_ERR_NOMEM : kd_manifest_covers(path);
    free(path);
    return st;
}

kd_status output_open(const worker *w, output *out)
{
    kd_status st = check_final(w->job);
    if (!st) {
        st = write_job(w->job);
    }
    if (st) {
        return st;
    }
    char *checkpoints = kd_path_join(w->job->output, "checkpoints");
    if (checkpoints == NULL) {
        return KD_ERR_NOMEM;
    }
    *out = (output){
        .w = w,
        .checkpoints = checkpoints,
        .metrics.fd = -1,
        .evaluations.fd = -1,
        .is_saved = w->resume.path[0] != '\0',
        .saved_step = w->resume.step,
        .is_prune_due = w->resume.path[0] != '\0', /* the last attempt may not have come to it */
    };
    return KD_OK;
}

void output_close(output *out)
{
    csv_close(&out->metrics);
    csv_close(&out->evaluations);
    free(out->checkpoints);
    *out = (output){0};
}

/*
 * The table is opened with its first row, since only that knows the losses. What is kept is of the steps
 * before this attempt: its first row may come much later, or repeat the step of the checkpoint.
 */
static kd_status add_row(const output *out,
                         csv *table,
                         const char *name,
                         const char *header,
                         uint64_t step,
                         kd_text *row)
{
    kd_status st = KD_OK;
    if (header == NULL || row->failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for a row of %s", name);
    } else if (table->path == NULL) {
        char *path = kd_path_join(out->w->job->output, name);
        const uint64_t next = out->w->resume.step + 1;
        st = path == NULL ? KD_ERR_NOMEM : csv_open(table, path, header, step < next ? step : next);
        free(path);
    }
    if (!st) {
        st = csv_add(table, row->data);
    }
    kd_text_release(row);
    return st;
}

static kd_status
write_metrics(output *out, uint64_t step, const kd_step_result *r, const Kd__StepMetrics *metrics)
{
    kd_text header = {0}, row = {0};
    kd_text_add(&header, "step,time,loss");
    kd_text_printf(&row, "%" PRIu64 ",%.3f,%.9g", step, metrics->time, r->loss);
    for (int i = 0; i < r->n_losses; i++) {
        kd_text_printf(&header, ",%s", r->losses[i].name);
        kd_text_add(&row, ",");
        if (r->losses[i].computed) {
            kd_text_printf(&row, "%.9g", r->losses[i].raw);
        }
    }
    kd_text_add(&header, ",learning_rate,gradient_norm,tokens_per_second,stall_share");
    kd_text_printf(&row, ",%.9g,%.9g,%.1f,%.4f", r->learning_rate, r->gradient_norm,
                   metrics->tokens_per_second, metrics->stall_share);
    for (size_t i = 0; i < metrics->n_parts; i++) {
        kd_text_printf(&header, ",%s_ms", metrics->parts[i]->name);
        kd_text_add(&row, ",");
        if (metrics->parts[i]->has_seconds) {
            kd_text_printf(&row, "%.3f", metrics->parts[i]->seconds * 1e3);
        }
    }
    const kd_status st =
        add_row(out, &out->metrics, "metrics.csv", header.failed ? NULL : header.data, step, &row);
    kd_text_release(&header);
    return st;
}

/* What a message of a step borrows. */
typedef struct step_storage {
    Kd__Loss losses[KD_LOSSES_MAX];
    Kd__Loss *pointers[KD_LOSSES_MAX];
    step_parts parts;
} step_storage;

static Kd__StepMetrics
make_metrics(uint64_t step, const kd_step_result *r, double step_s, step_storage *storage)
{
    Kd__Loss *losses = storage->losses;
    Kd__StepMetrics metrics = KD__STEP_METRICS__INIT;
    for (int i = 0; i < r->n_losses; i++) {
        kd__loss__init(&losses[i]);
        losses[i].name = (char *)r->losses[i].name; /* only read */
        losses[i].has_raw = losses[i].has_weighted = r->losses[i].computed;
        losses[i].raw = r->losses[i].raw;
        losses[i].weighted = r->losses[i].weighted;
        storage->pointers[i] = &losses[i];
    }
    metrics.n_losses = (size_t)r->n_losses;
    metrics.losses = storage->pointers;
    step_parts_fill(&storage->parts, &r->times);
    metrics.n_parts = KD_STEP_PARTS;
    metrics.parts = storage->parts.list;
    metrics.has_step = metrics.has_time = metrics.has_loss = metrics.has_learning_rate = 1;
    metrics.has_gradient_norm = metrics.has_tokens_per_second = metrics.has_stall_share = 1;
    metrics.step = step;
    metrics.time = kd_clock_wall_s();
    metrics.loss = r->loss;
    metrics.learning_rate = r->learning_rate;
    metrics.gradient_norm = r->gradient_norm;
    metrics.tokens_per_second = (double)r->n_tokens / step_s;
    metrics.stall_share = r->stall_s / step_s;
    return metrics;
}

static void log_step(output *out, const Kd__StepMetrics *metrics)
{
    const double now_s = kd_clock_monotonic_s();
    const uint64_t n_steps = out->w->job->training->steps;
    if (now_s - out->logged_at_s >= LOG_EVERY_S || metrics->step == n_steps) {
        kd_log(KD_LOG_INFO, "step %" PRIu64 " of %" PRIu64 ": loss %.4f, %.0f tokens/s",
               metrics->step, n_steps, metrics->loss, metrics->tokens_per_second);
        out->logged_at_s = now_s;
    }
}

/* No reason to end where it fails: what was to be saved is saved. */
static void prune(output *out)
{
    const uint32_t keep = out->w->job->checkpoint->keep;
    if (out->is_prune_due && kd_checkpoint_prune(out->checkpoints, out->saved_step,
                                                 keep < INT_MAX ? (int)keep : INT_MAX)) {
        kd_log(KD_LOG_WARN, "old checkpoints are left behind in %s", out->checkpoints);
    }
    out->is_prune_due = false;
}

kd_status output_add_step(output *out, uint64_t step, const kd_step_result *result, double step_s)
{
    prune(out); /* a step was made from what was saved: no loss was out of bounds */
    step_storage storage;
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__StepMetrics metrics = make_metrics(step, result, step_s, &storage);

    message.body_case = KD__RANK_MESSAGE__BODY_STEP;
    message.step = &metrics;
    rank_link_report(out->w->link, &message);
    log_step(out, &metrics);
    return write_metrics(out, step, result, &metrics);
}

kd_status output_add_evaluation(output *out, uint64_t step, const kd_evaluation *evaluation)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__EvaluationReport report = KD__EVALUATION_REPORT__INIT;
    kd_text row = {0};

    kd_log(KD_LOG_INFO, "step %" PRIu64 ": test loss %.4f, accuracy %.4f", step, evaluation->loss,
           evaluation->accuracy);
    report.has_step = report.has_loss = report.has_perplexity = 1;
    report.has_accuracy = report.has_tokens = 1;
    report.step = step;
    report.loss = evaluation->loss;
    report.perplexity = evaluation->perplexity;
    report.accuracy = evaluation->accuracy;
    report.tokens = evaluation->n_tokens;
    message.body_case = KD__RANK_MESSAGE__BODY_EVALUATION;
    message.evaluation = &report;
    rank_link_report(out->w->link, &message);

    kd_text_printf(&row, "%" PRIu64 ",%.9g,%.9g,%.9g,%" PRIu64, step, evaluation->loss,
                   evaluation->perplexity, evaluation->accuracy, evaluation->n_tokens);
    return add_row(out, &out->evaluations, "evaluation.csv", "step,loss,perplexity,accuracy,tokens",
                   step, &row);
}

static void report_checkpoint(const output *out, uint64_t step, char *path)
{
    Kd__RankMessage message = KD__RANK_MESSAGE__INIT;
    Kd__CheckpointReport report = KD__CHECKPOINT_REPORT__INIT;
    report.has_step = 1;
    report.step = step;
    report.path = path;
    message.body_case = KD__RANK_MESSAGE__BODY_CHECKPOINT;
    message.checkpoint = &report;
    rank_link_report(out->w->link, &message);
}

kd_status output_save_checkpoint(output *out, kd_trainer *trainer, uint64_t step)
{
    const kd_checkpoint_state state = {.step = step,
                                       .job_hash = out->w->hash,
                                       .job = out->w->identity.data,
                                       .resolved = out->w->resolved.data};
    char *path = NULL;
    if (out->is_saved && out->saved_step == step) {
        return KD_OK;
    }
    kd_status st =
        kd_checkpoint_save(out->checkpoints, kd_trainer_optimizer(trainer), &state, &path);
    if (st) {
        return st;
    }
    out->is_saved = true;
    out->saved_step = step;
    kd_log(KD_LOG_INFO, "saved %s", path);
    report_checkpoint(out, step, path);
    free(path);
    out->is_prune_due = true;
    return KD_OK;
}

kd_status output_save_final(output *out, kd_trainer *trainer)
{
    lineage_files files = {.job = out->w->job, .batches = &out->w->batches};
    char *path = kd_path_join(out->w->job->output, "final");
    const kd_status st = path == NULL ? KD_ERR_NOMEM
                                      : kd_model_export(path, kd_trainer_parameters(trainer),
                                                        lineage_add_files, &files);
    free(path);
    if (!st) {
        prune(out);
    }
    return st;
}
