/* Looks facts up in the generated tables: they are sorted, so by halving. */
#include "message/fields.h"

#include <stdlib.h>
#include <string.h>

/* Both kinds of row begin with these. */
typedef struct key {
    const char *type, *name;
} key;

static int compare(const key *wanted, const char *type, const char *name)
{
    const int order = strcmp(wanted->type, type);
    return order != 0 ? order : strcmp(wanted->name, name);
}

static int compare_field(const void *wanted, const void *row)
{
    const kd_field_facts *facts = row;
    return compare(wanted, facts->type, facts->field);
}

static int compare_word(const void *wanted, const void *row)
{
    const kd_word_facts *facts = row;
    return compare(wanted, facts->type, facts->word);
}

const kd_field_facts *kd_field_facts_named(const char *type, const char *field)
{
    const key wanted = {type, field};
    return bsearch(&wanted, kd_fields_table, kd_n_fields, sizeof *kd_fields_table, compare_field);
}

const kd_field_facts *kd_field_facts_of(const ProtobufCMessageDescriptor *type,
                                        const ProtobufCFieldDescriptor *field)
{
    return kd_field_facts_named(type->name, field->name);
}

const char *kd_word_meaning(const ProtobufCEnumDescriptor *type, const char *word)
{
    const key wanted = {type->name, word};
    const kd_word_facts *facts =
        bsearch(&wanted, kd_words_table, kd_n_words, sizeof *kd_words_table, compare_word);
    return facts != NULL ? facts->meaning : NULL;
}
