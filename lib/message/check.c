/* One walk over a message holds every field against its row of facts; nothing here knows a field. */
#include "message/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "message/fields.h"
#include "message/reflect.h"

#define FOUND_TEXT_BYTES 80 /* of a text that is shown again */

/* A field, where it stands, and what is known of it. */
typedef struct place {
    const ProtobufCMessage *message;
    const ProtobufCFieldDescriptor *field;
    const kd_field_facts *facts; /* NULL: its file has none */
    const kd_range *range;       /* its own, or that of the Schedule it is in; NULL: any number */
    char *path;                  /* KD_PATH_BYTES; the first n_path lead here */
    size_t n_path;
} place;

bool kd_checker_is_full(const kd_checker *c)
{
    return c->n_mistakes >= KD_MISTAKES_MAX;
}

void kd_checker_add(kd_checker *c, const char *path, const char *format, ...)
{
    char what[512];
    if (kd_checker_is_full(c)) {
        return;
    }
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    kd_text_printf(&c->lines, "%s: %s\n", path, what);
    c->n_mistakes++;
}

kd_status kd_checker_end(kd_checker *c, kd_text *mistakes)
{
    kd_status st = KD_OK;
    if (c->n_mistakes > 0) {
        const char *lines = c->lines.data != NULL ? c->lines.data : "no memory\n";
        st = kd_fail(KD_ERR_INVALID, "%.*s", (int)strcspn(lines, "\n"), lines);
        if (mistakes != NULL) {
            kd_text_add(mistakes, lines);
        }
    }
    kd_text_release(&c->lines);
    return st;
}

static void words_of_whole(kd_text *text, const kd_range *range)
{
    if (isfinite(range->most)) {
        kd_text_printf(text, "%.0f to %.0f", range->least, range->most);
    } else {
        kd_text_printf(text, "at least %.0f", range->least);
    }
}

static void words_of_real(kd_text *text, const kd_range *range)
{
    const double least = range->least, most = range->most;
    if (isfinite(least) && isfinite(most) && range->least_open == range->most_open) {
        kd_text_printf(text, range->least_open ? "between %g and %g" : "from %g to %g", least,
                       most);
        return;
    }
    if (isfinite(least)) {
        kd_text_printf(text, range->least_open ? "above %g" : "of at least %g", least);
    }
    if (isfinite(most)) {
        kd_text_printf(text, isfinite(least) ? " and %s %g" : "%s %g",
                       range->most_open ? "below" : "at most", most);
    }
}

void kd_checker_number(kd_checker *c,
                       const char *path,
                       double found,
                       const kd_range *range,
                       bool is_whole)
{
    kd_text words = {0};
    if (!isfinite(found)) {
        kd_checker_add(c, path, "found %g, expected a number that is finite", found);
        c->is_unsound = true;
    } else if (range != NULL && !kd_range_holds(range, found)) {
        if (is_whole) {
            words_of_whole(&words, range);
        } else {
            words_of_real(&words, range);
        }
        kd_checker_add(c, path, "found %.*g, expected %s%s", is_whole ? 20 : 6, found,
                       is_whole ? "" : "a number ", words.data != NULL ? words.data : "another");
    }
    kd_text_release(&words);
}

/*
 * Where a number goes, f32 is what computes with it: there it must not be an end that its range leaves out,
 * an epsilon of 0 say, nor infinite.
 */
static void check_nearest(kd_checker *c, const place *p, double found)
{
    const double nearest = (double)(float)found;
    const kd_range *range = p->range;
    kd_text number = {0}, words = {0};
    kd_text_add_double(&number, found);
    if (!isfinite(nearest)) {
        kd_checker_add(c, p->path, "found %s, expected a number that f32 holds",
                       number.failed ? "one" : number.data);
    } else if (range != NULL && ((range->least_open && nearest <= range->least) ||
                                 (range->most_open && nearest >= range->most))) {
        words_of_real(&words, range);
        kd_checker_add(c, p->path, "found %s, which is %g in f32, expected a number %s",
                       number.failed ? "one" : number.data, nearest,
                       words.data != NULL ? words.data : "within the range");
    }
    kd_text_release(&words);
    kd_text_release(&number);
}

static void check_real(kd_checker *c, const place *p, double found)
{
    if (isfinite(found) && (p->range == NULL || kd_range_holds(p->range, found))) {
        check_nearest(c, p, found);
    } else {
        kd_checker_number(c, p->path, found, p->range, false);
    }
}

static void check_enum(kd_checker *c, const place *p, int found)
{
    const ProtobufCEnumDescriptor *type = p->field->descriptor;
    if (protobuf_c_enum_descriptor_get_value(type, found) == NULL) {
        kd_checker_add(c, p->path, "found %d, expected one of the %u known values", found,
                       type->n_values);
        c->is_unsound = true;
    }
}

static bool has_flag(const place *p, unsigned flag)
{
    return p->facts != NULL && (p->facts->flags & flag) != 0;
}

/* The first words of a meaning name the thing: "a field's name, of the text in a JSON line". */
static void check_length(kd_checker *c, const place *p, size_t found)
{
    const kd_range *range = &p->facts->range;
    const char *meaning = p->facts->meaning;
    if (found == 0) {
        kd_checker_add(c, p->path, "found nothing, expected %.*s", (int)strcspn(meaning, ",;:("),
                       meaning);
    } else if (range->least <= 1.0) {
        kd_checker_add(c, p->path, "found %zu bytes, expected at most %.0f", found, range->most);
    } else {
        kd_checker_add(c, p->path, "found %zu bytes, expected %.0f to %.0f", found, range->least,
                       range->most);
    }
}

/* Nothing that prints a message can keep other bytes: the ranks would be handed another path. */
static void check_bytes(kd_checker *c, const place *p, const char *found, size_t n)
{
    const size_t at = kd_utf8_span(found);
    if (at < n) {
        kd_checker_add(c, p->path, "found 0x%02x at byte %zu, expected UTF-8",
                       (unsigned)(unsigned char)found[at], at);
    }
}

static void check_text(kd_checker *c, const place *p, const char *found)
{
    const size_t n = strlen(found);
    check_bytes(c, p, found, n);
    if (n == 0 && has_flag(p, KD_FIELD_REQUIRED)) {
        kd_checker_add(c, p->path, "found nothing, expected %s: it is required",
                       has_flag(p, KD_FIELD_PATH) ? "a path" : "text");
    } else if (n > 0 && has_flag(p, KD_FIELD_PATH) && found[0] != '/') {
        kd_checker_add(c, p->path, "found \"%.*s\", expected an absolute path", FOUND_TEXT_BYTES,
                       found);
    }
    if (p->facts != NULL && p->facts->has_range && !kd_range_holds(&p->facts->range, (double)n)) {
        check_length(c, p, n);
    }
}

static void check_fields(kd_checker *c,
                         const ProtobufCMessage *message,
                         const kd_range *outer,
                         char *path,
                         size_t n_path);

static void check_element(kd_checker *c, const place *p, const void *element)
{
    switch (p->field->type) {
    case PROTOBUF_C_TYPE_MESSAGE: /* only a Schedule has a range, for all that is in it */
        check_fields(c, *(ProtobufCMessage *const *)element, p->range, p->path, p->n_path);
        break;
    case PROTOBUF_C_TYPE_STRING:
        check_text(c, p, *(const char *const *)element);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        check_enum(c, p, *(const int *)element);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        check_real(c, p, *(const double *)element);
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        check_real(c, p, (double)*(const float *)element);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        kd_checker_number(c, p->path, *(const uint32_t *)element, p->range, true);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        kd_checker_number(c, p->path, (double)*(const uint64_t *)element, p->range, true);
        break;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        kd_checker_number(c, p->path, *(const int32_t *)element, p->range, true);
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        kd_checker_number(c, p->path, (double)*(const int64_t *)element, p->range, true);
        break;
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_BYTES:
        break;
    }
}

static void check_absent(kd_checker *c, const place *p)
{
    if (!has_flag(p, KD_FIELD_REQUIRED)) {
        return;
    }
    if (p->field->label == PROTOBUF_C_LABEL_REPEATED) {
        kd_checker_add(c, p->path, "found %s, expected at least one: it is required",
                       has_flag(p, KD_FIELD_PATH) ? "no file" : "nothing");
    } else if (p->field->type == PROTOBUF_C_TYPE_STRING) {
        check_text(c, p, "");
    } else {
        const bool is_word =
            p->field->type == PROTOBUF_C_TYPE_ENUM || p->field->type == PROTOBUF_C_TYPE_BOOL;
        kd_checker_add(c, p->path, "found nothing, expected %s: it is required",
                       p->field->type == PROTOBUF_C_TYPE_MESSAGE ? "fields"
                       : is_word                                 ? "a word"
                                                                 : "a number");
    }
}

static void check_count(kd_checker *c, const place *p, size_t n)
{
    if (p->facts == NULL || !p->facts->has_count || kd_range_holds(&p->facts->count, (double)n) ||
        (n == 0 && has_flag(p, KD_FIELD_REQUIRED))) { /* told as absent */
        return;
    }
    const kd_range *count = &p->facts->count;
    if (count->least == 0.0) {
        kd_checker_add(c, p->path, "found %zu, expected at most %.0f", n, count->most);
    } else {
        kd_checker_number(c, p->path, (double)n, count, true);
    }
}

static void append(place *p, const char *dot, const char *part)
{
    const size_t room = KD_PATH_BYTES - p->n_path;
    const int n = snprintf(p->path + p->n_path, room, "%s%s", dot, part);
    KD_CHECK(n >= 0 && (size_t)n < room);
    p->n_path += (size_t)n;
}

static bool is_left_out(const kd_checker *c, const char *path)
{
    const char *const *at = c->left_out;
    while (at != NULL && *at != NULL && strcmp(*at, path) != 0) {
        at++;
    }
    return at != NULL && *at != NULL;
}

static bool is_too_long(const place *p, size_t n)
{
    return p->facts != NULL && p->facts->has_count && (double)n > p->facts->count.most;
}

typedef void (*element_check)(kd_checker *c, const place *p, const void *element);

/* `check` gets a place whose path has the element's number. */
static void check_elements(kd_checker *c, const place *p, size_t n, element_check check)
{
    for (size_t i = 0; i < n && !kd_checker_is_full(c); i++) {
        place element = *p;
        if (p->field->label == PROTOBUF_C_LABEL_REPEATED) {
            char index[24];
            (void)snprintf(index, sizeof index, "%zu", i);
            append(&element, ".", index);
        }
        check(c, &element, kd_message_at(p->message, p->field, i));
        p->path[p->n_path] = '\0';
    }
}

static void check_field(kd_checker *c, place p, const kd_range *outer)
{
    const size_t n = kd_message_count(p.message, p.field);
    const bool is_bare = outer != NULL && p.field == kd_message_value_field(p.message->descriptor);
    p.facts = kd_field_facts_of(p.message->descriptor, p.field);
    p.range = outer != NULL && p.field->type == PROTOBUF_C_TYPE_DOUBLE ? outer
              : p.facts != NULL && p.facts->has_range                  ? &p.facts->range
                                                                       : outer;
    if (!is_bare) { /* a Schedule's constant goes by the Schedule's name */
        append(&p, p.n_path > 0 ? "." : "", p.field->name);
    }
    if (is_left_out(c, p.path)) {
        return;
    }
    check_count(c, &p, n);
    if (n == 0) {
        check_absent(c, &p);
    }
    if (!is_too_long(&p, n)) {
        check_elements(c, &p, n, check_element);
    }
}

/* `path` has room for KD_PATH_BYTES; its first n_path bytes lead to the message. */
static void check_fields(kd_checker *c,
                         const ProtobufCMessage *message,
                         const kd_range *outer,
                         char *path,
                         size_t n_path)
{
    for (unsigned i = 0; i < message->descriptor->n_fields && !kd_checker_is_full(c); i++) {
        const place p = {
            .message = message,
            .field = &message->descriptor->fields[i],
            .path = path,
            .n_path = n_path,
        };
        check_field(c, p, outer);
        path[n_path] = '\0';
    }
}

void kd_checker_message(kd_checker *c, const ProtobufCMessage *message)
{
    char path[KD_PATH_BYTES] = "";
    check_fields(c, message, NULL, path, 0);
}

static void check_lengths(kd_checker *c, const ProtobufCMessage *m, char *path, size_t n_path);

static void check_lengths_below(kd_checker *c, const place *p, const void *element)
{
    check_lengths(c, *(ProtobufCMessage *const *)element, p->path, p->n_path);
}

/* As check_fields(), for counts alone. */
static void check_lengths(kd_checker *c, const ProtobufCMessage *m, char *path, size_t n_path)
{
    const ProtobufCMessageDescriptor *type = m->descriptor;
    for (unsigned f = 0; f < type->n_fields && !kd_checker_is_full(c); f++) {
        place p = {.message = m, .field = &type->fields[f], .path = path, .n_path = n_path};
        const size_t n = kd_message_count(m, p.field);
        p.facts = kd_field_facts_of(type, p.field);
        append(&p, n_path > 0 ? "." : "", p.field->name);
        if (is_too_long(&p, n)) {
            check_count(c, &p, n);
        } else if (p.field->type == PROTOBUF_C_TYPE_MESSAGE) {
            check_elements(c, &p, n, check_lengths_below);
        }
        path[n_path] = '\0';
    }
}

void kd_checker_lengths(kd_checker *c, const ProtobufCMessage *message)
{
    char path[KD_PATH_BYTES] = "";
    check_lengths(c, message, path, 0);
}
