/* Tokens rather than files: those of a text that was only touched are the same. */
#include "worker/identity.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "job/hash.h"
#include "message/reflect.h"
#include "train/content.h"
#include "worker/resolved.h"

#define PATH_BYTES 48 /* "teachers.N.checkpoint" */

typedef struct contents {
    kd_job_content *list; /* room for the tokens, the student's model and each teacher's */
    char (*paths)[PATH_BYTES];
    size_t n;
} contents;

static kd_status add_model(contents *c, const char *folder, Kd__Verify verify)
{
    const size_t i = c->n++;
    return kd_model_content(c->paths[i], folder, verify, &c->list[i]);
}

static kd_status add_all(contents *c, const Kd__Job *job, const batches *b)
{
    c->list[c->n++] = (kd_job_content){.path = "data.files", .hash = batches_hash(b)};
    kd_status st = KD_OK;
    if (job->student->init == KD__STUDENT__INIT__CHECKPOINT) {
        (void)snprintf(c->paths[c->n], PATH_BYTES, "student.checkpoint");
        st = add_model(c, job->student->checkpoint, job->student->verify);
    }
    for (size_t i = 0; i < job->n_teachers && !st; i++) {
        (void)snprintf(c->paths[c->n], PATH_BYTES, "teachers.%zu.checkpoint", i);
        st = add_model(c, job->teachers[i]->checkpoint, job->teachers[i]->verify);
    }
    return st;
}

/* What is left to be decided is compared by itself (resolved.h). */
static kd_status write_canonical(const Kd__Job *job, const contents *c, kd_text *canonical)
{
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a copy of the job");
    }
    kd_status st = resolved_forget(copy);
    if (!st) {
        st = kd_job_canonical(copy, c->list, c->n, canonical);
    }
    kd_message_destroy(&copy->base);
    return st;
}

kd_status identity_write(const Kd__Job *job, const batches *b, kd_text *identity_out)
{
    const size_t n_max = job->n_teachers + 2;
    contents c = {
        .list = calloc(n_max, sizeof *c.list),
        .paths = calloc(n_max, sizeof *c.paths),
    };
    kd_text canonical = {0};
    kd_status st = c.list != NULL && c.paths != NULL
                       ? add_all(&c, job, b)
                       : kd_fail(KD_ERR_NOMEM, "no memory for what the job names");
    if (!st) {
        st = write_canonical(job, &c, &canonical);
    }
    if (st) {
        kd_text_release(&canonical);
    } else {
        *identity_out = canonical;
    }
    free(c.paths);
    free(c.list);
    return st;
}

kd_status identity_check(const char *identity, const char *made_by, const char *path)
{
    kd_text difference = {0};
    kd_status st = KD_OK;
    if (kd_job_canonical_differs(identity, made_by, &difference)) {
        st = kd_fail(KD_ERR_INVALID,
                     "checkpoint %s belongs to another job: %s; name another output folder, or "
                     "submit the job as it was",
                     path, difference.failed ? "no memory for what differs" : difference.data);
    }
    kd_text_release(&difference);
    return st;
}
