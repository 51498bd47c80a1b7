/*
 * facts.h - what the comment of a field says: a row of the table that fields.h looks up.
 *
 * The grammar of comments stands in proto/job.proto. No protobuf here, since the program that makes
 * the table is built from this before there are messages.
 */
#ifndef KD_MESSAGE_FACTS_H
#define KD_MESSAGE_FACTS_H

#include <stdbool.h>

#include "base/text.h"

/* Infinite where there is no limit; an end belongs to it unless it is open. */
typedef struct kd_range {
    double least, most;
    bool least_open, most_open;
} kd_range;

typedef enum kd_field_flags {
    KD_FIELD_REQUIRED = 1,   /* nothing works without it */
    KD_FIELD_LIVE = 2,       /* may change while the job runs */
    KD_FIELD_PATH = 4,       /* names a file or a folder */
    KD_FIELD_FREE = 8,       /* no checkpoint depends on it */
    KD_FIELD_ASKED = 16,     /* a message that is there only where the job has it */
    KD_FIELD_TAUGHT = 32,    /* a loss that reads what a teacher gives */
    KD_FIELD_AUXILIARY = 64, /* a loss that is no reason to train by itself */
} kd_field_flags;

typedef struct kd_field_facts {
    const char *type;    /* of the message it is in: "kd.Training" */
    const char *field;   /* its name in there */
    const char *meaning; /* in words, with its unit */
    const char *
        computed_default; /* in words, where it depends on other fields, or is a Schedule's; or NULL */
    bool has_range, has_count;
    kd_range range;     /* of a number; of a text's length in bytes; of each value of a Schedule */
    kd_range count;     /* of the elements of a list */
    double schedule[2]; /* of a Schedule that is left out: without a teacher, and with one */
    unsigned flags;     /* a sum of kd_field_flags */
} kd_field_facts;

typedef struct kd_word_facts {
    const char *type; /* of the enum: "kd.Data.Format" */
    const char *word; /* as in the proto: "JSONL" */
    const char *meaning;
} kd_word_facts;

/* Whether `number` is finite and within the range. */
bool kd_range_holds(const kd_range *range, double number);

/* Adds it as a .proto file writes it: "[1..64]", "(0..1]", "[0..)". */
void kd_range_add(kd_text *text, const kd_range *range);

#endif
