/* Memory first, then what others wait in: a rank without memory would leave them there for ever. */
#include "worker/roles.h"

#include <stdlib.h>

#include "base/log.h"

static kd_status assign(worker *w, int *replicas)
{
    const Kd__Job *job = w->job;
    for (size_t i = 0; i < job->n_teachers; i++) {
        replicas[i] = (int)job->teachers[i]->resources->ranks;
    }
    return kd_world_assign(w->world, (int)job->student->resources->ranks, (int)job->n_teachers,
                           replicas);
}

kd_status roles_assign(worker *w)
{
    const size_t n = w->job->n_teachers;
    int *replicas = calloc(n + 1, sizeof *replicas);
    kd_status st = kd_world_agree(
        w->world,
        replicas == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for %zu teachers", n) : KD_OK);
    if (!st) {
        KD_CHECK(replicas != NULL); /* or the ranks had not agreed */
        st = assign(w, replicas);
    }
    free(replicas);
    return st;
}
