/*
 * level.c - levels of one kind of processor are nested, so that ranks which have the i-th have those before
 * it: the highest that all have is found by counting, and its name tells kinds apart. A GPU has one kind of
 * kernels, its own.
 */
#include "worker/level.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tensor/ops.h"

#define KEY "cpu_level=" /* which names a GPU's kind too */

/* Of the student ranks. */
typedef struct level_counts {
    int64_t n_ranks;
    int64_t n_recorded;           /* have what the checkpoint was made with */
    int64_t n[KD_CPU_LEVELS_MAX]; /* have the i-th                          */
} level_counts;

bool level_owns(const char *line)
{
    return strncmp(line, KEY, strlen(KEY)) == 0;
}

void level_write(const worker *w, kd_text *lines)
{
    kd_text_printf(lines, KEY "%s\n", w->kernels);
}

/* What the checkpoint was made with; "" if it does not say. */
static void read_recorded(const char *lines, char name_out[LEVEL_NAME_BYTES])
{
    const char *line = lines;
    *name_out = '\0';
    while (line != NULL && !level_owns(line)) {
        line = strchr(line, '\n');
        line += line != NULL;
    }
    if (line != NULL) {
        const char *name = line + strlen(KEY);
        (void)snprintf(name_out, LEVEL_NAME_BYTES, "%.*s", (int)strcspn(name, "\n"), name);
    }
}

bool level_is_of_cuda(const worker *w)
{
    return w->job->student->resources->device == KD__RESOURCES__DEVICE__CUDA;
}

static const char *own_kind(const worker *w, char name_out[KD_CUDA_KIND_BYTES])
{
    kd_cuda_kind(
        kd_device_turn(kd_cuda_device_count(), w->devices.avoided, kd_world_local_rank(w->world)),
        name_out);
    return name_out;
}

/* Whether this rank's device has kernels of that name. */
static bool has(const worker *w, const char *name)
{
    char kind[KD_CUDA_KIND_BYTES];
    return level_is_of_cuda(w) ? strcmp(own_kind(w, kind), name) == 0 : kd_cpu_has_level(name);
}

static kd_status count(worker *w, const char *recorded, level_counts *counts)
{
    if (kd_world_role(w->world) == KD_ROLE_STUDENT) {
        counts->n_ranks = 1;
        counts->n_recorded = has(w, recorded) ? 1 : 0;
        for (int i = 0; i < KD_CPU_LEVELS_MAX && kd_cpu_level_name(i) != NULL; i++) {
            counts->n[i] = kd_cpu_has_level(kd_cpu_level_name(i)) ? 1 : 0;
        }
    }
    return kd_world_sum(w->world, &counts->n_ranks, sizeof *counts / sizeof counts->n_ranks);
}

/* The leader's choice; "" if there is none, which creating a back end explains. */
static const char *choose(const worker *w,
                          const level_counts *counts,
                          const char *recorded,
                          char kind[KD_CUDA_KIND_BYTES])
{
    const char *name = "";
    if (*recorded != '\0' && counts->n_recorded == counts->n_ranks) {
        return recorded;
    }
    for (int i = 0; i < KD_CPU_LEVELS_MAX && counts->n[i] == counts->n_ranks; i++) {
        name = kd_cpu_level_name(i);
    }
    if (level_is_of_cuda(w)) {
        name = own_kind(w, kind);
    }
    if (*recorded != '\0') {
        kd_log(
            KD_LOG_WARN,
            "the checkpoint was made with kernels of level %s, which not all student ranks have: "
            "goes on with %s, and not to the bit as it would have",
            recorded, name);
    }
    return name;
}

/* All ranks: the leader's word, which every student must have. */
static kd_status take(worker *w, const char *mine)
{
    char *name = NULL;
    kd_status st = kd_world_share_text(w->world, mine, &name);
    if (st) {
        return st;
    }
    (void)snprintf(w->kernels, sizeof w->kernels, "%s", name);
    if (*name != '\0' && kd_world_role(w->world) == KD_ROLE_STUDENT && !has(w, name)) {
        st = kd_fail(KD_ERR_INVALID,
                     "student.resources: found devices of unlike kinds: the leader's kernels of "
                     "level %s are not to be had here",
                     name);
    }
    free(name);
    return kd_world_agree(w->world, st);
}

kd_status level_settle(worker *w, const char *made_with)
{
    level_counts counts = {0};
    char recorded[LEVEL_NAME_BYTES], kind[KD_CUDA_KIND_BYTES];
    read_recorded(made_with, recorded);
    const kd_status st = count(w, recorded, &counts);
    if (st) {
        return st;
    }
    return take(w, kd_world_is_leader(w->world) ? choose(w, &counts, recorded, kind) : NULL);
}
