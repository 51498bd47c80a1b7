/*
 * comment.h - one field's trailing comment as facts. The grammar stands in proto/job.proto.
 *
 * Private to the generator, which runs while the project is built.
 */
#ifndef KD_MESSAGE_GENERATE_COMMENT_H
#define KD_MESSAGE_GENERATE_COMMENT_H

#include <stdbool.h>

#include "base/text.h"
#include "message/facts.h"

/* What a fact may stand at. */
typedef enum field_kind {
    FIELD_WHOLE, /* a whole number */
    FIELD_REAL,
    FIELD_TEXT,
    FIELD_SCHEDULE, /* a message that may be written as a bare number */
    FIELD_OTHER,    /* a message, an enum, a boolean, bytes */
} field_kind;

typedef struct field_place {
    field_kind kind;
    bool is_list;
    const char *default_value; /* of the proto, or NULL */
} field_place;

/*
 * Reads `comment` (NULL: there is none) into facts_out, whose texts are malloc'ed or NULL. False:
 * `mistake` got "found X, expected Y".
 */
bool comment_read(const char *comment,
                  const field_place *place,
                  kd_field_facts *facts_out,
                  kd_text *mistake);

#endif
