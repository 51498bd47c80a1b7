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
    *state = (kd_checkpoint_state){0};
}

/* One string a line, so that a person can read the file. */
static void print_job(kd_json_printer *p, const char *job)
{
    kd_json_key(p, "job");
    kd_json_begin(p, '[');
    while (*job != '\0') {
        const size_t n = strcspn(job, "\n");
        kd_json_bytes(p, job, n);
        job += n + (job[n] == '\n');
    }
    kd_json_end(p, ']');
}

static void print_dtypes(kd_json_printer *p, const kd_checkpoint_dtypes *dtypes)
{
    kd_json_key(p, "dtype");
    kd_json_string(p, kd_dtype_name(dtypes->student));
    kd_json_key(p, "teacher_dtypes");
    kd_json_begin(p, '[');
    for (int i = 0; i < dtypes->n_teachers; i++) {
        kd_json_string(p, kd_dtype_name(dtypes->teachers[i]));
    }
    kd_json_end(p, ']');
}

kd_status kd_checkpoint_state_write(const char *path, const kd_checkpoint_state *state)
{
    kd_text text = {0};
    kd_json_printer p = {.text = &text, .is_indented = true};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "version");
    kd_json_int(&p, VERSION);
    kd_json_key(&p, "step");
    kd_json_uint(&p, state->step);
    kd_json_key(&p, "job_hash");
    kd_json_hex(&p, state->job_hash);
    if (state->job != NULL) {
        print_job(&p, state->job);
    }
    if (state->dtypes.known) {
        print_dtypes(&p, &state->dtypes);
    }
    kd_json_end(&p, '}');
    const kd_status st = text.failed ? kd_fail(KD_ERR_NOMEM, "no memory to write %s", path)
                                     : kd_file_replace(path, text.data, text.size);
    kd_text_release(&text);
    return st;
}

static kd_status fail_field(const char *path, const char *field, const char *expected)
{
    return kd_fail(KD_ERR_PROTO, "%s: field \"%s\" is missing or wrong: expected %s", path, field,
                   expected);
}

static kd_status
read_count(const char *path, const json_t *root, const char *field, uint64_t *count_out)
{
    const json_t *value = json_object_get(root, field);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return fail_field(path, field, "a number of at least 0");
    }
    *count_out = (uint64_t)json_integer_value(value);
    return KD_OK;
}

static kd_status
read_word(const char *path, const json_t *root, const char *field, uint64_t *word_out)
{
    const char *text = json_string_value(json_object_get(root, field));
    if (text == NULL || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) {
        return fail_field(path, field, "16 hexadecimal digits");
    }
    *word_out = strtoull(text, NULL, 16);
    return KD_OK;
}

/* Not there in a state that was written without a job. */
static kd_status read_job(const char *path, const json_t *root, char **job_out)
{
    const json_t *lines = json_object_get(root, "job");
    kd_text job = {0};
    bool good = lines == NULL || json_array_size(lines) > 0;
    for (size_t i = 0; good && i < json_array_size(lines); i++) {
        const char *line = json_string_value(json_array_get(lines, i));
        good = line != NULL && strchr(line, '\n') == NULL;
        kd_text_printf(&job, "%s\n", good ? line : "");
    }
    kd_status st = good ? KD_OK : fail_field(path, "job", "a list of lines");
    if (!st && job.failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to read %s", path);
    }
    if (st) {
        kd_text_release(&job);
        return st;
    }
    *job_out = job.data;
    return KD_OK;
}

static bool is_dtype(const json_t *value, kd_dtype *dtype_out)
{
    static const kd_dtype both[] = {KD_F32, KD_BF16};
    const char *name = json_string_value(value);
    for (int i = 0; name != NULL && i < 2; i++) {
        if (strcmp(name, kd_dtype_name(both[i])) == 0) {
            *dtype_out = both[i];
            return true;
        }
    }
    return false;
}

/* Both fields, or none: a state that was written without a job. */
static kd_status read_dtypes(const char *path, const json_t *root, kd_checkpoint_dtypes *dtypes_out)
{
    const json_t *student = json_object_get(root, "dtype");
    const json_t *teachers = json_object_get(root, "teacher_dtypes");
    kd_checkpoint_dtypes dtypes = {.known = true};
    if (student == NULL && teachers == NULL) {
        return KD_OK;
    }
    if (!is_dtype(student, &dtypes.student)) {
        return fail_field(path, "dtype", "f32 or bf16");
    }
    const size_t n = json_array_size(teachers);
    bool good = json_is_array(teachers) && n <= KD_CHECKPOINT_TEACHERS_MAX;
    for (size_t i = 0; good && i < n; i++) {
        good = is_dtype(json_array_get(teachers, i), &dtypes.teachers[i]);
    }
    if (!good) {
        return fail_field(path, "teacher_dtypes", "a list of f32 or bf16");
    }
    dtypes.n_teachers = (int)n;
    *dtypes_out = dtypes;
    return KD_OK;
}

static kd_status read_fields(const char *path, const json_t *root, kd_checkpoint_state *state_out)
{
    kd_checkpoint_state state = {0};
    uint64_t version = 0;
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
        st = read_word(path, root, "job_hash", &state.job_hash);
    }
    if (!st) {
        st = read_dtypes(path, root, &state.dtypes);
    }
    if (!st) {
        st = read_job(path, root, &state.job);
    }
    if (!st) {
        *state_out = state;
    }
    return st;
}

kd_status kd_checkpoint_state_read(const char *path, kd_checkpoint_state *state_out)
{
    json_t *root;
    kd_status st = kd_json_file_read(path, STATE_BYTES_MAX, &root);
    if (st) {
        return st;
    }
    st = read_fields(path, root, state_out);
    json_decref(root);
    return st;
}
