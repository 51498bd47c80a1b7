/*
 * checkpoint_state.c - small, and for people too: the job stands in it line by line, so that a refusal can
 * name the field that differs. An unknown version is refused, not guessed at.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_print.h"
#include "base/log.h"
#include "shape/json_file.h"
#include "train/checkpoint_file.h"

enum { VERSION = 2, STATE_BYTES_MAX = 1 << 20 };

void kd_checkpoint_state_release(kd_checkpoint_state *state)
{
    free(state->job);
    free(state->resolved);
    *state = (kd_checkpoint_state){0};
}

/* One string a line, so that a person can read the file. */
static void print_lines(kd_json_printer *p, const char *key, const char *text)
{
    if (text == NULL) {
        return;
    }
    kd_json_key(p, key);
    kd_json_begin(p, '[');
    while (*text != '\0') {
        const size_t n = strcspn(text, "\n");
        kd_json_bytes(p, text, n);
        text += n + (text[n] == '\n');
    }
    kd_json_end(p, ']');
}

kd_status
kd_checkpoint_state_write(const char *path, const kd_checkpoint_state *state, uint64_t n_updates)
{
    kd_text text = {0};
    kd_json_printer p = {.text = &text, .is_indented = true};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "version");
    kd_json_int(&p, VERSION);
    kd_json_key(&p, "step");
    kd_json_uint(&p, state->step);
    kd_json_key(&p, "updates");
    kd_json_uint(&p, n_updates);
    kd_json_key(&p, "job_hash");
    kd_json_hex(&p, state->job_hash);
    print_lines(&p, "job", state->job);
    print_lines(&p, "resolved", state->resolved);
    kd_json_end(&p, '}');
    const kd_status st = text.failed ? kd_fail(KD_ERR_NOMEM, "no memory to write %s", path)
                                     : kd_file_replace(path, text.data, text.size);
    kd_text_release(&text);
    return st;
}

static kd_status
read_count(const char *path, const json_t *root, const char *field, uint64_t *count_out)
{
    const json_t *value = json_object_get(root, field);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return kd_json_field_fail(path, field, "a number of at least 0");
    }
    *count_out = (uint64_t)json_integer_value(value);
    return KD_OK;
}

/* Not there in a state that was written without a job. */
static kd_status
read_lines(const char *path, const json_t *root, const char *field, char **text_out)
{
    const json_t *lines = json_object_get(root, field);
    kd_text text = {0};
    bool good = lines == NULL || json_array_size(lines) > 0;
    for (size_t i = 0; good && i < json_array_size(lines); i++) {
        const char *line = json_string_value(json_array_get(lines, i));
        good = line != NULL && strchr(line, '\n') == NULL;
        kd_text_printf(&text, "%s\n", good ? line : "");
    }
    kd_status st = good ? KD_OK : kd_json_field_fail(path, field, "a list of lines");
    if (!st && text.failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to read %s", path);
    }
    if (st) {
        kd_text_release(&text);
        return st;
    }
    *text_out = text.data;
    return KD_OK;
}

/* Of a state that was written before steps without an update were told from others: all of them. */
static kd_status
read_updates(const char *path, const json_t *root, uint64_t n_steps, uint64_t *n_updates_out)
{
    uint64_t n_updates = n_steps;
    kd_status st = KD_OK;
    if (json_object_get(root, "updates") != NULL) {
        st = read_count(path, root, "updates", &n_updates);
    }
    if (!st && n_updates > n_steps) {
        st = kd_json_field_fail(path, "updates", "at most those of all steps");
    }
    if (!st) {
        *n_updates_out = n_updates;
    }
    return st;
}

static kd_status read_fields(const char *path,
                             const json_t *root,
                             kd_checkpoint_state *state_out,
                             uint64_t *n_updates_out)
{
    kd_checkpoint_state state = {0};
    uint64_t version = 0, n_updates = 0;
    kd_status st = read_count(path, root, "version", &version);
    if (!st && version != VERSION) {
        st =
            kd_fail(KD_ERR_INVALID,
                    "%s: found version %" PRIu64 ", expected %d; go on with the program that wrote "
                    "it, or name another output folder",
                    path, version, VERSION);
    }
    if (!st) {
        st = read_count(path, root, "step", &state.step);
    }
    if (!st) {
        st = read_updates(path, root, state.step, &n_updates);
    }
    if (!st) {
        st = kd_json_field_hex(path, root, "job_hash", &state.job_hash);
    }
    if (!st) {
        st = read_lines(path, root, "job", &state.job);
    }
    if (!st) {
        st = read_lines(path, root, "resolved", &state.resolved);
    }
    if (st) {
        kd_checkpoint_state_release(&state);
        return st;
    }
    *state_out = state;
    *n_updates_out = n_updates;
    return KD_OK;
}

kd_status
kd_checkpoint_state_read(const char *path, kd_checkpoint_state *state_out, uint64_t *n_updates_out)
{
    json_t *root;
    kd_status st = kd_json_file_read(path, STATE_BYTES_MAX, &root);
    if (st) {
        return st;
    }
    st = read_fields(path, root, state_out, n_updates_out);
    json_decref(root);
    return st;
}
