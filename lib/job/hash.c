/*
 * A field is left out where it is what it would be had the job not given it. For defaults that
 * depend on other fields that is looked up in a copy of the job that was completed without them.
 */
#include "job/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "job/job.h"
#include "message/check.h"
#include "message/fields.h"
#include "message/reflect.h"
#include "message/scalar.h"

static const char version[] = "v1\n";

/* The lines so far, in the order of fields. */
typedef struct canon {
    kd_text lines;
    kd_text path; /* of the message that is looked at */
    bool failed;
} canon;

static size_t push(canon *c, const char *part)
{
    const size_t size = c->path.size;
    kd_text_add(&c->path, size > 0 ? "." : "");
    kd_text_add(&c->path, part);
    return size;
}

static void pop(canon *c, size_t size)
{
    if (c->path.size > size) {
        c->path.size = size;
        c->path.data[size] = '\0';
    }
}

static void add_line(canon *c, const char *value)
{
    kd_text_printf(&c->lines, "%s=%s\n", c->path.data != NULL ? c->path.data : "", value);
}

/* Without what has a default that other fields decide. */
static void forget_computed(ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned f = 0; f < type->n_fields; f++) {
        const ProtobufCFieldDescriptor *field = &type->fields[f];
        const kd_field_facts *facts = kd_field_facts_of(type, field);
        if (facts != NULL && facts->computed_default != NULL) {
            kd_message_clear(message, field);
        } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            for (size_t i = 0; i < kd_message_count(message, field); i++) {
                forget_computed(*(ProtobufCMessage **)kd_message_at(message, field, i));
            }
        }
    }
}

/* The job as it would be with computed defaults alone. */
static Kd__Job *copy_with_defaults(const Kd__Job *job)
{
    ProtobufCMessage *copy = kd_message_copy(&job->base);
    if (copy == NULL) {
        return NULL;
    }
    forget_computed(copy);
    if (kd_job_complete((Kd__Job *)copy)) {
        kd_message_destroy(copy);
        return NULL;
    }
    return (Kd__Job *)copy;
}

/* Whether a message of this field is there in every completed parent, so that it says nothing. */
static bool is_always_there(canon *c, const ProtobufCMessageDescriptor *parent, unsigned field)
{
    ProtobufCMessage *least = kd_message_create(parent);
    const bool filled = least != NULL && kd_message_fill(least) == KD_OK;
    const bool there = filled && kd_message_count(least, &parent->fields[field]) > 0;
    c->failed |= !filled;
    kd_message_destroy(least);
    return there;
}

static bool
is_same_scalar(const ProtobufCFieldDescriptor *field, const void *element, const void *other)
{
    kd_text a = {0}, b = {0};
    kd_scalar_add(&a, field, element);
    kd_scalar_add(&b, field, other);
    const bool same = a.data != NULL && b.data != NULL && strcmp(a.data, b.data) == 0;
    kd_text_release(&a);
    kd_text_release(&b);
    return same;
}

static bool is_proto_default(const ProtobufCFieldDescriptor *field, const void *element)
{
    if (field->default_value == NULL) {
        return false;
    }
    const void *word = field->default_value;
    return is_same_scalar(field, element,
                          field->type == PROTOBUF_C_TYPE_STRING ? &word : field->default_value);
}

static void add_scalar(canon *c, const ProtobufCFieldDescriptor *field, const void *element)
{
    kd_text value = {0};
    kd_scalar_add(&value, field, element);
    c->failed |= value.failed;
    add_line(c, value.data != NULL ? value.data : "");
    kd_text_release(&value);
}

static void add_message(canon *c, const ProtobufCMessage *message, const ProtobufCMessage *usual);

/* `usual` is what the message would be with defaults alone: the same, or NULL where it is absent. */
static void add_single(canon *c,
                       const ProtobufCMessage *message,
                       const ProtobufCMessage *usual,
                       unsigned f,
                       bool is_computed)
{
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[f];
    const void *element = kd_message_at(message, field, 0);
    const bool has_usual = usual != NULL && kd_message_count(usual, field) > 0;
    const void *other = has_usual ? kd_message_at(usual, field, 0) : NULL;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *sub = *(ProtobufCMessage *const *)element;
        const ProtobufCMessage *sub_usual = has_usual ? *(ProtobufCMessage *const *)other : NULL;
        if (is_computed && sub_usual != NULL && kd_message_equal(sub, sub_usual)) {
            return;
        }
        if (!is_always_there(c, message->descriptor, f)) {
            add_line(c, "{}");
        }
        add_message(c, sub, sub_usual);
    } else if (!is_proto_default(field, element) &&
               !(is_computed && has_usual && is_same_scalar(field, element, other))) {
        add_scalar(c, field, element);
    }
}

static void add_list(canon *c,
                     const ProtobufCMessage *message,
                     const ProtobufCMessage *usual,
                     const ProtobufCFieldDescriptor *field)
{
    const size_t n = kd_message_count(message, field);
    const size_t n_usual = usual != NULL ? kd_message_count(usual, field) : 0;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE && n > 0) {
        char count[40];
        (void)snprintf(count, sizeof count, "%zu element%s", n, n > 1 ? "s" : "");
        add_line(c, count);
    }
    for (size_t i = 0; i < n; i++) {
        char index[24];
        (void)snprintf(index, sizeof index, "%zu", i);
        const size_t size = push(c, index);
        const void *element = kd_message_at(message, field, i);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            add_message(c, *(ProtobufCMessage *const *)element,
                        i < n_usual ? *(ProtobufCMessage **)kd_message_at(usual, field, i) : NULL);
        } else {
            add_scalar(c, field, element);
        }
        pop(c, size);
    }
}

static bool is_plain_text(const ProtobufCMessage *message)
{
    return ((const Kd__Data *)message)->format == KD__DATA__FORMAT__TEXT;
}

static bool has_no_experts(const ProtobufCMessage *message)
{
    return ((const Kd__Model *)message)->num_experts == 0;
}

static bool keeps_its_rate(const ProtobufCMessage *message)
{
    return ((const Kd__Training *)message)->decay == KD__TRAINING__DECAY__CONSTANT;
}

/* Whether other fields of the message leave this one without a meaning. */
static bool says_nothing(const ProtobufCMessage *message, const char *field)
{
    static const struct {
        const ProtobufCMessageDescriptor *type;
        const char *field;
        bool (*where)(const ProtobufCMessage *message);
    } cases[] = {
        {&kd__data__descriptor, "text_field", is_plain_text},
        {&kd__model__descriptor, "experts_per_token", has_no_experts},
        {&kd__training__descriptor, "final_learning_rate_ratio", keeps_its_rate},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].type == message->descriptor && strcmp(cases[i].field, field) == 0) {
            return cases[i].where(message);
        }
    }
    return false;
}

static void add_message(canon *c, const ProtobufCMessage *message, const ProtobufCMessage *usual)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned f = 0; f < type->n_fields; f++) {
        const ProtobufCFieldDescriptor *field = &type->fields[f];
        const kd_field_facts *facts = kd_field_facts_of(type, field);
        const unsigned left_out = KD_FIELD_LIVE | KD_FIELD_FREE | KD_FIELD_PATH;
        if (kd_message_count(message, field) == 0 ||
            (facts != NULL && (facts->flags & left_out) != 0) ||
            says_nothing(message, field->name)) {
            continue;
        }
        const size_t size = push(c, field->name);
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            add_list(c, message, usual, field);
        } else {
            add_single(c, message, usual, f, facts != NULL && facts->computed_default != NULL);
        }
        pop(c, size);
    }
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Adds the lines in order. The text is cut into them. */
static kd_status add_sorted(char *lines, kd_text *canonical)
{
    size_t n = 0;
    for (const char *at = lines; *at != '\0'; at++) {
        n += *at == '\n';
    }
    char **sorted = calloc(n + 1, sizeof *sorted);
    if (sorted == NULL) {
        return kd_fail(KD_ERR_NOMEM, "job: no memory");
    }
    for (size_t i = 0; i < n; i++) {
        sorted[i] = strsep(&lines, "\n");
    }
    qsort(sorted, n, sizeof *sorted, compare_lines);
    kd_text_add(canonical, version);
    for (size_t i = 0; i < n; i++) {
        kd_text_printf(canonical, "%s\n", sorted[i]);
    }
    free(sorted);
    return canonical->failed ? kd_fail(KD_ERR_NOMEM, "job: no memory") : KD_OK;
}

kd_status kd_job_canonical(const Kd__Job *job,
                           const kd_job_content *contents,
                           size_t n_contents,
                           kd_text *canonical)
{
    canon c = {0};
    Kd__Job *usual = copy_with_defaults(job);
    if (usual != NULL) {
        add_message(&c, &job->base, &usual->base);
        kd_message_destroy(&usual->base);
    }
    for (size_t i = 0; i < n_contents; i++) {
        kd_text_printf(&c.lines, "%s=content %016" PRIx64 "%s\n", contents[i].path,
                       contents[i].hash, contents[i].is_whole ? " of every byte" : "");
    }
    char nothing[] = "";
    kd_status st = usual == NULL || c.failed || c.lines.failed || c.path.failed
                       ? kd_fail(KD_ERR_NOMEM, "job: no memory")
                       : add_sorted(c.lines.data != NULL ? c.lines.data : nothing, canonical);
    kd_text_release(&c.lines);
    kd_text_release(&c.path);
    return st;
}

uint64_t kd_job_canonical_hash(const char *canonical)
{
    const uint64_t hash = XXH3_64bits(canonical, strlen(canonical));
    return hash != 0 ? hash : 1;
}

/* Bytes of the line's field with its sign; of a line without one, all. */
static size_t key_bytes(const char *line)
{
    const size_t n = strcspn(line, "=\n");
    return line[n] == '=' ? n + 1 : n;
}

/* The order of two lines by their fields; a text that ended comes last. */
static int compare_keys(const char *a, const char *b)
{
    if (*a == '\0' || *b == '\0') {
        return (*a == '\0') - (*b == '\0');
    }
    const size_t n_a = key_bytes(a), n_b = key_bytes(b);
    const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

static const char *next_line(const char *line)
{
    line += strcspn(line, "\n");
    return *line != '\0' ? line + 1 : line;
}

/* "PATH: found X, the checkpoint was made with Y"; a side without the field has it at its default. */
static void tell(kd_text *text, const char *found, const char *made_with, int order)
{
    const char *line = order <= 0 ? found : made_with;
    const size_t n = key_bytes(line);
    const bool has_sign = n > 0 && line[n - 1] == '=';
    kd_text_printf(text, "%.*s: found ", (int)(has_sign ? n - 1 : n), line);
    const char *sides[] = {order <= 0 ? found + n : NULL, order >= 0 ? made_with + n : NULL};
    for (int i = 0; i < 2; i++) {
        kd_text_add(text, i == 1 ? ", the checkpoint was made with " : "");
        if (sides[i] == NULL) {
            kd_text_add(text, "its default");
        } else {
            kd_text_add_bytes(text, sides[i], strcspn(sides[i], "\n"));
        }
    }
}

static bool is_content(const char *line)
{
    static const char word[] = "content ";
    return strncmp(line + key_bytes(line), word, sizeof word - 1) == 0;
}

/* Tells of the first line that differs, among those of contents or among the others. */
static bool
find_difference(const char *found, const char *made_with, bool among_contents, kd_text *difference)
{
    while (*found != '\0' || *made_with != '\0') {
        const int order = compare_keys(found, made_with);
        const size_t n = strcspn(found, "\n");
        const bool differs =
            order != 0 || n != strcspn(made_with, "\n") || memcmp(found, made_with, n) != 0;
        if (differs && is_content(order <= 0 ? found : made_with) == among_contents) {
            tell(difference, found, made_with, order);
            return true;
        }
        found = order <= 0 ? next_line(found) : found;
        made_with = order >= 0 ? next_line(made_with) : made_with;
    }
    return false;
}

bool kd_job_canonical_differs(const char *found, const char *made_with, kd_text *difference)
{
    if (strcmp(found, made_with) == 0) {
        return false;
    }
    const size_t n_found = strcspn(found, "\n"), n_made_with = strcspn(made_with, "\n");
    if (n_found != n_made_with || memcmp(found, made_with, n_found) != 0) {
        kd_text_printf(difference, "job: found its form %.*s, the checkpoint was made with %.*s",
                       (int)n_found, found, (int)n_made_with, made_with);
        return true;
    }
    if (!find_difference(found, made_with, false, difference) &&
        !find_difference(found, made_with, true, difference)) {
        kd_text_add(difference, "job: found another end of its lines");
    }
    return true;
}
