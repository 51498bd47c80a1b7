/*
 * type.c - looking up a type's row by its name: what sets a type apart is data in its row, and nothing
 * else compares types.
 */
#include "shape/type.h"

#include <string.h>

#include "base/log.h"
#include "base/text.h"

static const kd_model_type *const types[] = {
#define KD_MODEL_TYPE(name) &kd_model_##name,
#include "shape/types/list.h"
#undef KD_MODEL_TYPE
};

enum { N_TYPES = sizeof types / sizeof *types };

size_t kd_model_type_count(void)
{
    return N_TYPES;
}

const kd_model_type *kd_model_type_at(size_t index)
{
    KD_CHECK(index < N_TYPES);
    return types[index];
}

static kd_status fail_unknown(const char *name, const char *field)
{
    const char *names[N_TYPES];
    kd_text known = {0}, hint = {0};

    for (int i = 0; i < N_TYPES; i++) {
        names[i] = types[i]->name;
        kd_text_printf(&known, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    const char *nearest = kd_text_nearest(name, names, N_TYPES);
    if (nearest != NULL) {
        kd_text_printf(&hint, "; did you mean \"%s\"?", nearest);
    }
    const kd_status st = kd_fail(KD_ERR_INVALID, "%s: found \"%.64s\", expected one of %s%s", field,
                                 name, known.data != NULL ? known.data : "the supported ones",
                                 hint.data != NULL ? hint.data : "");
    kd_text_release(&known);
    kd_text_release(&hint);
    return st;
}

kd_status kd_model_type_find(const char *name, const char *field, const kd_model_type **type_out)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        if (strcmp(name, types[i]->name) == 0) {
            *type_out = types[i];
            return KD_OK;
        }
    }
    return fail_unknown(name, field);
}
