/*
 * Why a file of our own: config.json is for other tools, which drop what they do not know, and
 * tokenizer.json does not say what was held out.
 */
#include "format/lineage.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "shape/json_file.h"

enum { VERSION = 1, FILE_BYTES_MAX = 1 << 16 };

/* JSON numbers hold 53 bits for most readers: hashes go as text. */
static json_t *hash_text(uint64_t hash)
{
    char text[17];
    (void)snprintf(text, sizeof text, "%016" PRIx64, hash);
    return json_string(text);
}

static json_t *describe(const kd_lineage *l)
{
    const kd_lineage_split *s = &l->split;
    json_t *root = json_pack("{s:i, s:{s:s, s:o}}", "version", VERSION, "tokenizer", "name",
                             l->tokenizer, "hash", hash_text(l->tokenizer_hash));
    if (root != NULL && l->has_split) {
        json_t *split =
            json_pack("{s:o, s:f, s:I, s:o, s:o}", "seed", hash_text(s->seed), "held_out",
                      s->held_out, "sequence_length", (json_int_t)s->sequence_length, "train",
                      hash_text(s->train_hash), "test", hash_text(s->test_hash));
        if (json_object_set_new(root, "split", split) != 0) {
            json_decref(root);
            return NULL;
        }
    }
    return root;
}

kd_status kd_lineage_write(const char *folder, const kd_lineage *lineage)
{
    char *path = kd_path_join(folder, KD_LINEAGE_NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    json_t *root = describe(lineage);
    const kd_status st = kd_json_file_write(path, root);
    json_decref(root);
    free(path);
    return st;
}

static kd_status read_tokenizer(const char *path, const json_t *object, kd_lineage *l)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    if (name == NULL || name[0] == '\0' || strlen(name) >= sizeof l->tokenizer) {
        return kd_json_field_fail(path, "tokenizer.name", "a name of 1 to 63 bytes");
    }
    (void)snprintf(l->tokenizer, sizeof l->tokenizer, "%s", name);
    return kd_json_field_hex(path, object, "hash", &l->tokenizer_hash);
}

static kd_status read_split(const char *path, const json_t *object, kd_lineage_split *s)
{
    const json_t *held_out = json_object_get(object, "held_out");
    const json_t *length = json_object_get(object, "sequence_length");
    if (!json_is_number(held_out)) {
        return kd_json_field_fail(path, "split.held_out", "a number");
    }
    if (!json_is_integer(length) || json_integer_value(length) < 1) {
        return kd_json_field_fail(path, "split.sequence_length", "a whole number of at least 1");
    }
    s->held_out = json_number_value(held_out);
    s->sequence_length = (uint64_t)json_integer_value(length);
    kd_status st = kd_json_field_hex(path, object, "seed", &s->seed);
    if (!st) {
        st = kd_json_field_hex(path, object, "train", &s->train_hash);
    }
    return st ? st : kd_json_field_hex(path, object, "test", &s->test_hash);
}

static kd_status read_fields(const char *path, const json_t *root, kd_lineage *lineage_out)
{
    kd_lineage l = {0};
    if (json_integer_value(json_object_get(root, "version")) != VERSION) {
        return kd_json_field_fail(path, "version", "1");
    }
    kd_status st = read_tokenizer(path, json_object_get(root, "tokenizer"), &l);
    const json_t *split = json_object_get(root, "split");
    if (!st && split != NULL) {
        l.has_split = true;
        st = read_split(path, split, &l.split);
    }
    if (!st) {
        *lineage_out = l;
    }
    return st;
}

kd_status kd_lineage_read(const char *folder, kd_lineage *lineage_out, bool *found_out)
{
    json_t *root;
    char *path = kd_path_join(folder, KD_LINEAGE_NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    const bool found = kd_file_exists(path);
    kd_status st = found ? kd_json_file_read(path, FILE_BYTES_MAX, &root) : KD_OK;
    if (found && !st) {
        st = read_fields(path, root, lineage_out);
        json_decref(root);
    }
    free(path);
    if (!st) {
        *found_out = found;
    }
    return st;
}
