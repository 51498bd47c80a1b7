/*
 * read.c - a job as a person gives it. What stands in a file is about the file's surroundings, and what is
 * typed behind --set about the typist's: each is made absolute before the next can mix with it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "job/job.h"
#include "message/yaml.h"

static kd_status resolve_below_file(Kd__Job *job, const char *path)
{
    char *folder = kd_path_holder(path);
    if (folder == NULL) {
        return KD_ERR_NOMEM;
    }
    char *absolute = realpath(folder, NULL);
    kd_status st = absolute != NULL ? kd_job_resolve_paths(job, absolute)
                                    : kd_fail(kd_status_of_errno(errno), "cannot resolve %s: %s",
                                              folder, strerror(errno));
    free(absolute);
    free(folder);
    return st;
}

static kd_status resolve_here(Kd__Job *job)
{
    char *here = getcwd(NULL, 0);
    kd_status st = here != NULL
                       ? kd_job_resolve_paths(job, here)
                       : kd_fail(KD_ERR_IO, "cannot tell the current folder: %s", strerror(errno));
    free(here);
    return st;
}

static kd_status apply(Kd__Job *job, const char *const *sets, size_t n_sets)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < n_sets && !st; i++) {
        st = kd_yaml_set(&job->base, sets[i]);
    }
    return !st && n_sets > 0 ? resolve_here(job) : st;
}

kd_status kd_job_read(const char *path, const char *const *sets, size_t n_sets, Kd__Job **job_out)
{
    char *text = NULL;
    size_t size = 0;
    Kd__Job *job = NULL;
    kd_status st = kd_file_read(path, KD_YAML_BYTES_MAX, &text, &size);
    if (st) {
        return st;
    }
    st = kd_job_parse(text, size, path, NULL, 0, &job);
    free(text);
    if (st) {
        return st;
    }
    st = resolve_below_file(job, path);
    if (!st) {
        st = apply(job, sets, n_sets);
    }
    if (st) {
        kd__job__free_unpacked(job, NULL);
        return st;
    }
    *job_out = job;
    return KD_OK;
}

static kd_status check(Kd__Job *job, kd_text *mistakes)
{
    kd_status st = kd_job_complete(job);
    if (!st) {
        st = kd_job_check(job, mistakes);
    }
    return st ? st : kd_job_check_files(job);
}

kd_status kd_job_read_checked(const char *path,
                              const char *const *sets,
                              size_t n_sets,
                              Kd__Job **job_out,
                              kd_text *mistakes)
{
    Kd__Job *job = NULL;
    kd_status st = kd_job_read(path, sets, n_sets, &job);
    if (!st) {
        st = check(job, mistakes);
    }
    if (!st) {
        *job_out = job;
        return KD_OK;
    }
    if (mistakes->size == 0) {
        kd_text_printf(mistakes, "%s\n", kd_fault_text());
    }
    if (job != NULL) {
        kd__job__free_unpacked(job, NULL);
    }
    return st;
}
