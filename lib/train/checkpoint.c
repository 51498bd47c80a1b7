/*
 * checkpoint.c - a name step-<n> stands for a whole checkpoint or for none: all is written under a hidden
 * name, sealed, and renamed; what is to go is renamed first. So a kill at any moment leaves what the next
 * start can tell apart.
 */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "train/checkpoint_file.h"

/* A name within a checkpoint folder; twelve digits sort as text, more are fine. */
typedef struct checkpoint_name {
    char text[40];
} checkpoint_name;

/* Whole; while it is written or removed; the one that this replaces, where a file system cannot swap. */
typedef enum name_kind { WHOLE, TEMPORARY, ASIDE } name_kind;

static checkpoint_name name_of(uint64_t step, name_kind kind)
{
    static const char *const ends[] = {
        [WHOLE] = "", [TEMPORARY] = ".tmp", [ASIDE] = ".tmp" KD_FOLDER_ASIDE};
    checkpoint_name name;
    const int n = snprintf(name.text, sizeof name.text, "%sstep-%012" PRIu64 "%s",
                           kind == WHOLE ? "" : ".", step, ends[kind]);
    KD_CHECK(n > 0 && (size_t)n < sizeof name.text);
    return name;
}

static bool parse_name(const char *name, name_kind kind, uint64_t *step_out)
{
    const char *digits = strchr(name, '-');
    if (digits == NULL || strlen(name) > 36 || digits[1] < '0' || digits[1] > '9') {
        return false;
    }
    const uint64_t step = strtoull(digits + 1, NULL, 10);
    if (strcmp(name, name_of(step, kind).text) != 0) {
        return false;
    }
    *step_out = step;
    return true;
}

/* Joins, calls and frees: for the files of a checkpoint. */
static kd_status
write_state(const char *folder, const kd_checkpoint_state *state, uint64_t n_updates)
{
    char *path = kd_path_join(folder, KD_CHECKPOINT_STATE_NAME);
    const kd_status st =
        path == NULL ? KD_ERR_NOMEM : kd_checkpoint_state_write(path, state, n_updates);
    free(path);
    return st;
}

static kd_status
read_state(const char *folder, kd_checkpoint_state *state_out, uint64_t *n_updates_out)
{
    char *path = kd_path_join(folder, KD_CHECKPOINT_STATE_NAME);
    const kd_status st =
        path == NULL ? KD_ERR_NOMEM : kd_checkpoint_state_read(path, state_out, n_updates_out);
    free(path);
    return st;
}

static kd_status write_tensors(const char *folder, const kd_optimizer *optimizer)
{
    char *path = kd_path_join(folder, KD_CHECKPOINT_TENSORS_NAME);
    const kd_status st = path == NULL ? KD_ERR_NOMEM : kd_checkpoint_tensors_write(path, optimizer);
    free(path);
    return st;
}

static kd_status read_tensors(const char *folder, kd_optimizer *optimizer)
{
    char *path = kd_path_join(folder, KD_CHECKPOINT_TENSORS_NAME);
    const kd_status st = path == NULL ? KD_ERR_NOMEM : kd_checkpoint_tensors_read(path, optimizer);
    free(path);
    return st;
}

/*
 * Whether the seal holds and the state can be read; if not, that is a warning. But a sound one of
 * another version is no wreck, and one that the disk does not show now may be sound: passed over,
 * it would be lost, since the next save removes what is newer than itself.
 */
static kd_status look_at(const char *path, bool *is_sound_out, kd_checkpoint_state *state_out)
{
    static const char *const needed[] = {KD_CHECKPOINT_STATE_NAME, KD_CHECKPOINT_TENSORS_NAME,
                                         NULL};
    const int quiet = kd_fault_quiet(1);
    uint64_t n_updates;
    kd_status st = kd_manifest_verify(path);
    if (!st) {
        st = kd_manifest_lists(path, needed);
    }
    const bool is_sealed = st == KD_OK;
    if (is_sealed) {
        st = read_state(path, state_out, &n_updates);
    }
    (void)kd_fault_quiet(quiet);
    *is_sound_out = st == KD_OK;
    if (is_sealed && st == KD_ERR_INVALID) {
        return kd_fail(st, "%s", kd_fault_text()); /* aloud */
    }
    if (kd_status_is_of_host(st) || st == KD_ERR_STOPPED) {
        return kd_fail(st, "checkpoint %s: %s", path, kd_fault_text());
    }
    if (st) {
        kd_log(KD_LOG_WARN, "checkpoint %s is passed over: %s", path, kd_fault_text());
    }
    return KD_OK;
}

/* What other tools read. */
static const kd_parameters *exported_model(const kd_optimizer *optimizer)
{
    int g = 0;
    while (g < optimizer->n_groups && !optimizer->groups[g].exported) {
        g++;
    }
    KD_CHECK(g < optimizer->n_groups);
    return optimizer->groups[g].params;
}

kd_status kd_checkpoint_bytes(const kd_optimizer *optimizer, uint64_t *bytes_out)
{
    const kd_parameters *model = exported_model(optimizer);
    uint64_t weights, tensors;
    kd_status st = kd_model_folder_weights_bytes(model, model->be->compute, &weights);
    if (!st) {
        st = kd_checkpoint_tensors_bytes(optimizer, &tensors);
    }
    if (!st) {
        *bytes_out = weights + tensors;
    }
    return st;
}

static kd_status
fill(const char *folder, const kd_optimizer *optimizer, const kd_checkpoint_state *state)
{
    const kd_parameters *model = exported_model(optimizer);
    kd_status st = kd_folder_remove(folder);
    if (!st) {
        st = kd_model_folder_save(folder, model, model->be->compute);
    }
    if (!st) {
        st = write_tensors(folder, optimizer);
    }
    if (!st) {
        st = write_state(folder, state, optimizer->n_updates);
    }
    return st ? st : kd_manifest_write(folder);
}

/* Writes the checkpoint as `temporary` and gives it its name. */
static kd_status write_and_publish(const char *temporary,
                                   const char *path,
                                   const kd_optimizer *optimizer,
                                   const kd_checkpoint_state *state)
{
    kd_status st = fill(temporary, optimizer, state);
    if (!st) {
        st = kd_folder_publish(temporary, path);
    }
    if (st) {
        kd_folder_discard(temporary);
    }
    return st;
}

kd_status kd_checkpoint_save(const char *folder,
                             const kd_optimizer *optimizer,
                             const kd_checkpoint_state *state,
                             char **path_out)
{
    kd_status st = kd_folder_make(folder);
    if (st) {
        return st;
    }
    char *path = kd_path_join(folder, name_of(state->step, WHOLE).text);
    char *temporary = kd_path_join(folder, name_of(state->step, TEMPORARY).text);
    if (path == NULL || temporary == NULL) {
        st = KD_ERR_NOMEM;
    } else {
        st = write_and_publish(temporary, path, optimizer, state);
    }
    free(temporary);
    if (st || path_out == NULL) {
        free(path);
        return st;
    }
    *path_out = path;
    return KD_OK;
}

/* The steps of a folder's checkpoints, and of writes that did not end. */
typedef struct listing {
    uint64_t *steps; /* owned; newest first */
    size_t n;
} listing;

static int newest_first(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

static kd_status add_step(listing *list, uint64_t step, const char *folder)
{
    uint64_t *steps = realloc(list->steps, (list->n + 1) * sizeof *steps);
    if (steps == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to list %s", folder);
    }
    steps[list->n++] = step;
    list->steps = steps;
    return KD_OK;
}

/* A folder that is not there holds none. */
static kd_status list_steps(const char *folder, name_kind kind, listing *list_out)
{
    listing list = {0};
    kd_status st = KD_OK;
    DIR *dir = opendir(folder);
    if (dir == NULL && errno != ENOENT) {
        return kd_file_fail("open", folder);
    }
    if (dir == NULL) {
        *list_out = list;
        return KD_OK;
    }
    while (!st) {
        uint64_t step;
        errno = 0;
        const struct dirent *item = readdir(dir);
        if (item == NULL) {
            st = errno == 0 ? KD_OK : kd_file_fail("list", folder);
            break;
        }
        if (parse_name(item->d_name, kind, &step)) {
            st = add_step(&list, step, folder);
        }
    }
    (void)closedir(dir);
    if (st) {
        free(list.steps);
        return st;
    }
    if (list.n > 0) {
        qsort(list.steps, list.n, sizeof *list.steps, newest_first);
    }
    *list_out = list;
    return KD_OK;
}

kd_status
kd_checkpoint_find_latest(const char *folder, char **path_out, kd_checkpoint_state *state_out)
{
    listing list = {0};
    kd_checkpoint_state state;
    char *path = NULL;
    kd_status st = list_steps(folder, WHOLE, &list);
    if (st) {
        return st;
    }
    for (size_t i = 0; !st && path == NULL && i < list.n; i++) {
        bool is_sound = false;
        path = kd_path_join(folder, name_of(list.steps[i], WHOLE).text);
        st = path == NULL ? KD_ERR_NOMEM : look_at(path, &is_sound, &state);
        if (!is_sound) {
            free(path);
            path = NULL;
        }
    }
    free(list.steps);
    if (st) {
        return st;
    }
    if (path != NULL) {
        *state_out = state;
    }
    *path_out = path;
    return KD_OK;
}

kd_status kd_checkpoint_load(const char *path,
                             kd_optimizer *optimizer,
                             uint64_t job_hash,
                             kd_checkpoint_state *state_out)
{
    kd_checkpoint_state state = {0};
    uint64_t n_updates = 0;
    kd_status st = read_state(path, &state, &n_updates);
    if (!st && state.job_hash != job_hash) {
        st = kd_fail(KD_ERR_INVALID,
                     "checkpoint %s belongs to another job or other text: found job hash "
                     "%016" PRIx64 ", expected %016" PRIx64 "; name another output folder, or "
                     "submit the job as it was",
                     path, state.job_hash, job_hash);
    }
    if (!st) {
        st = read_tensors(path, optimizer);
    }
    if (st) {
        kd_checkpoint_state_release(&state);
        return st;
    }
    optimizer->n_updates = n_updates;
    *state_out = state;
    return KD_OK;
}

/* Renamed first, so that a name step-<n> stands for a whole checkpoint or for none. */
static kd_status remove_step(const char *folder, uint64_t step, name_kind kind)
{
    char *path = kd_path_join(folder, name_of(step, WHOLE).text);
    char *hidden = kd_path_join(folder, name_of(step, kind == WHOLE ? TEMPORARY : kind).text);
    kd_status st = path == NULL || hidden == NULL ? KD_ERR_NOMEM : KD_OK;

    if (!st && kind == WHOLE) {
        st = kd_folder_remove(hidden);
        if (!st && rename(path, hidden) != 0) {
            st = kd_file_fail("rename", path);
        }
    }
    if (!st) {
        st = kd_folder_remove(hidden);
    }
    free(hidden);
    free(path);
    return st;
}

/* Of writes that did not end. */
static kd_status remove_leftovers(const char *folder, name_kind kind)
{
    listing list = {0};
    kd_status st = list_steps(folder, kind, &list);
    for (size_t i = 0; !st && i < list.n; i++) {
        st = remove_step(folder, list.steps[i], kind);
    }
    free(list.steps);
    return st;
}

kd_status kd_checkpoint_prune(const char *folder, uint64_t step, int keep)
{
    KD_CHECK(keep >= 1);
    listing list = {0};
    kd_status st = list_steps(folder, WHOLE, &list);
    if (st) {
        return st;
    }
    int kept = 0;
    for (size_t i = 0; !st && i < list.n; i++) {
        if (list.steps[i] <= step && kept < keep) {
            kept++;
        } else {
            st = remove_step(folder, list.steps[i], WHOLE);
        }
    }
    free(list.steps);
    if (!st) {
        st = remove_leftovers(folder, TEMPORARY);
    }
    return st ? st : remove_leftovers(folder, ASIDE);
}
