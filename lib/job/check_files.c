/*
 * check_files.c - what only a disk can tell. Told apart are what stays wrong (nothing there, no
 * permission), which ends a job, and what may pass (a share that does not answer), which does not.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "job/check_models.h"
#include "job/job.h"

/* A disk or a share that does not answer is not the job's fault; nothing being there is. */
static kd_status fault(const char *field, const char *path, int error, const char *expected)
{
    const kd_status st = error == ENOENT ? KD_ERR_INVALID : kd_status_of_errno(error);
    return kd_fail(st, "%s: %s: %s, expected %s", field, path, strerror(error), expected);
}

static kd_status check_data_file(const char *field, const char *path)
{
    static const char expected[] = "a file that can be read";
    struct stat file;
    if (stat(path, &file) != 0) {
        return fault(field, path, errno, expected);
    }
    if (S_ISDIR(file.st_mode)) {
        return fault(field, path, EISDIR, expected);
    }
    if (!S_ISREG(file.st_mode)) { /* a pipe waits for its writer, and is read once */
        return kd_fail(KD_ERR_INVALID, "%s: %s: found no regular file, expected %s", field, path,
                       expected);
    }
    if (access(path, R_OK) != 0) {
        return fault(field, path, errno, expected);
    }
    if (file.st_size == 0) {
        return kd_fail(KD_ERR_INVALID, "%s: %s: found an empty file, expected text", field, path);
    }
    return KD_OK;
}

/* Its shape is judged with the other models' below. */
static kd_status check_checkpoint(const char *field, const char *path)
{
    struct stat folder;
    if (stat(path, &folder) != 0) {
        return fault(field, path, errno, "a model directory");
    }
    if (!S_ISDIR(folder.st_mode)) {
        return fault(field, path, ENOTDIR, "a model directory");
    }
    return KD_OK;
}

/* Cuts the last part off; "/" stays. */
static void to_parent(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash == path) {
        slash++;
    }
    *slash = '\0';
}

static kd_status check_output(const char *output)
{
    char *path = strdup(output);
    if (path == NULL) {
        return kd_fail(KD_ERR_NOMEM, "output: no memory");
    }
    struct stat found;
    while (stat(path, &found) != 0 && errno == ENOENT && strcmp(path, "/") != 0) {
        to_parent(path);
    }
    kd_status st = KD_OK;
    const bool is_there = stat(path, &found) == 0;
    if (is_there && !S_ISDIR(found.st_mode)) {
        st = kd_fail(KD_ERR_INVALID, "output: %s: found a file, expected a folder", path);
    } else if (!is_there || access(path, W_OK | X_OK) != 0) {
        st = fault("output", path, errno, "a folder that can be written to");
    }
    free(path);
    return st;
}

kd_status kd_job_check_files(const Kd__Job *job)
{
    kd_status st = KD_OK;
    char field[48];
    for (size_t i = 0; i < job->data->n_files && !st; i++) {
        (void)snprintf(field, sizeof field, "data.files.%zu", i);
        st = check_data_file(field, job->data->files[i]);
    }
    if (!st && job->student->checkpoint != NULL) {
        st = check_checkpoint("student.checkpoint", job->student->checkpoint);
    }
    for (size_t i = 0; i < job->n_teachers && !st; i++) {
        (void)snprintf(field, sizeof field, "teachers.%zu.checkpoint", i);
        st = check_checkpoint(field, job->teachers[i]->checkpoint);
    }
    if (!st) {
        st = kd_job_check_models(job);
    }
    return st ? st : check_output(job->output);
}
