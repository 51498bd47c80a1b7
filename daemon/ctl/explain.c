/*
 * explain - what a job can say, from the descriptors and the table of facts alone: no field is named
 * here. The same walk makes the tree, one field's page, JSON and the manual page.
 */
#include <stdio.h>
#include <string.h>

#include "base/json_print.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/ctl/commands.h"
#include "message/fields.h"
#include "message/path.h"
#include "message/reflect.h"
#include "proto/job.pb-c.h"

/* One field as its printers take it. */
typedef struct entry {
    const char *path; /* lists have no index: "teachers.checkpoint" */
    const ProtobufCFieldDescriptor *field;
    const kd_field_facts *facts;
} entry;

typedef void (*printer)(kd_text *out, const entry *e);

static bool is_list(const entry *e)
{
    return e->field->label == PROTOBUF_C_LABEL_REPEATED;
}

static bool is_schedule(const entry *e)
{
    return e->field->type == PROTOBUF_C_TYPE_MESSAGE &&
           kd_message_value_field(e->field->descriptor) != NULL;
}

/* Without an article, as it stands before a range or behind "list of". */
static const char *kind_of(const entry *e)
{
    if ((e->facts->flags & KD_FIELD_PATH) != 0) {
        return "path";
    }
    if (is_schedule(e)) {
        return "number or schedule";
    }
    const char *kind = kd_field_kind(e->field);
    return strncmp(kind, "a ", 2) == 0 ? kind + 2 : kind;
}

/* "text, 1 to 200 bytes", "list of fields {0..1}", "number [0..1]" */
static void add_type(kd_text *out, const entry *e)
{
    const kd_field_facts *facts = e->facts;
    kd_text_printf(out, "%s%s", is_list(e) ? "list of " : "", kind_of(e));
    if (facts->has_range) {
        kd_text_add(out, " ");
        kd_range_add(out, &facts->range);
        kd_text_add(out, e->field->type == PROTOBUF_C_TYPE_STRING ? " bytes" : "");
    }
    if (facts->has_count) {
        kd_text_printf(out, ", %.0f to %.0f of them", facts->count.least, facts->count.most);
    }
}

static void add_default(kd_text *out, const entry *e)
{
    if (e->facts->computed_default != NULL) {
        kd_text_add(out, e->facts->computed_default);
    } else {
        kd_path_add_default(out, e->field);
    }
}

/* ", required", ", default 16", ", live" */
static void add_notes(kd_text *out, const entry *e)
{
    kd_text usual = {0};
    add_default(&usual, e);
    if ((e->facts->flags & KD_FIELD_REQUIRED) != 0) {
        kd_text_add(out, ", required");
    }
    if (usual.data != NULL) {
        kd_text_printf(out, ", default %s", usual.data);
    }
    if ((e->facts->flags & KD_FIELD_LIVE) != 0) {
        kd_text_add(out, ", live");
    }
    kd_text_release(&usual);
}

/* Calls `add` with each word of the field's enum, in lower case, and its meaning or NULL. */
static void each_word(kd_text *out,
                      const entry *e,
                      void (*add)(kd_text *out, const char *word, const char *meaning, bool first))
{
    if (e->field->type != PROTOBUF_C_TYPE_ENUM) {
        return;
    }
    const ProtobufCEnumDescriptor *type = e->field->descriptor;
    for (unsigned i = 0; i < type->n_values; i++) {
        kd_text word = {0};
        kd_enum_add_word(&word, type, type->values[i].value);
        add(out, word.data != NULL ? word.data : "", kd_word_meaning(type, type->values[i].name),
            i == 0);
        kd_text_release(&word);
    }
}

static void add_word_inline(kd_text *out, const char *word, const char *meaning, bool first)
{
    (void)meaning;
    kd_text_printf(out, "%s%s", first ? " (" : ", ", word);
}

static void print_line(kd_text *out, const entry *e)
{
    kd_text_printf(out, "%-36s ", e->path);
    add_type(out, e);
    each_word(out, e, add_word_inline);
    kd_text_add(out, e->field->type == PROTOBUF_C_TYPE_ENUM ? ")" : "");
    add_notes(out, e);
    kd_text_printf(out, " - %s\n", e->facts->meaning);
}

static void add_word_line(kd_text *out, const char *word, const char *meaning, bool first)
{
    (void)first;
    if (meaning != NULL) {
        kd_text_printf(out, "  %-12s %s\n", word, meaning);
    } else {
        kd_text_printf(out, "  %s\n", word);
    }
}

static void print_page(kd_text *out, const entry *e)
{
    kd_text_printf(out, "%s: %s\n", e->path, e->facts->meaning);
    kd_text_add(out, "  ");
    add_type(out, e);
    add_notes(out, e);
    kd_text_add(out, "\n");
    each_word(out, e, add_word_line);
}

static void add_json(kd_text *out, const char *key, const char *value)
{
    kd_text_printf(out, ", \"%s\": ", key);
    if (value != NULL) {
        kd_json_add_string(out, value, strlen(value));
    } else {
        kd_text_add(out, "null");
    }
}

static void add_range_json(kd_text *out, const char *key, bool has, const kd_range *range)
{
    kd_text text = {0};
    if (has) {
        kd_range_add(&text, range);
    }
    add_json(out, key, text.data);
    kd_text_release(&text);
}

static void add_word_json(kd_text *out, const char *word, const char *meaning, bool first)
{
    kd_text_add(out, first ? "{\"word\": " : ", {\"word\": ");
    kd_json_add_string(out, word, strlen(word));
    add_json(out, "meaning", meaning);
    kd_text_add(out, "}");
}

static void print_json(kd_text *out, const entry *e)
{
    const unsigned flags = e->facts->flags;
    kd_text usual = {0};
    add_default(&usual, e);
    kd_text_add(out, out->size > 1 ? ",\n {\"path\": " : "{\"path\": ");
    kd_json_add_string(out, e->path, strlen(e->path));
    add_json(out, "type", kind_of(e));
    kd_text_printf(out, ", \"list\": %s", is_list(e) ? "true" : "false");
    add_range_json(out, "range", e->facts->has_range, &e->facts->range);
    add_range_json(out, "count", e->facts->has_count, &e->facts->count);
    add_json(out, "default", usual.data);
    kd_text_printf(out, ", \"required\": %s, \"live\": %s, \"words\": [",
                   (flags & KD_FIELD_REQUIRED) != 0 ? "true" : "false",
                   (flags & KD_FIELD_LIVE) != 0 ? "true" : "false");
    each_word(out, e, add_word_json);
    kd_text_add(out, "]");
    add_json(out, "meaning", e->facts->meaning);
    kd_text_add(out, "}");
    kd_text_release(&usual);
}

/* Text that troff must not read as its own: a backslash, a dash, a dot or an apostrophe in front. */
static void add_roff(kd_text *out, const char *text)
{
    kd_text_add(out, text[0] == '.' || text[0] == '\'' ? "\\&" : "");
    for (; *text != '\0'; text++) {
        kd_text_add(out, *text == '-' ? "\\" : "");
        kd_text_add_bytes(out, text, 1);
        kd_text_add(out, *text == '\\' ? "e" : "");
    }
}

static void add_word_roff(kd_text *out, const char *word, const char *meaning, bool first)
{
    kd_text_printf(out, "%s\\fI%s\\fR", first ? ".br\n" : ", ", word);
    if (meaning != NULL) {
        kd_text_add(out, " (");
        add_roff(out, meaning);
        kd_text_add(out, ")");
    }
}

static void print_roff(kd_text *out, const entry *e)
{
    kd_text type = {0};
    add_type(&type, e);
    add_notes(&type, e);
    kd_text_printf(out, ".TP\n.B %s\n", e->path);
    add_roff(out, e->facts->meaning);
    kd_text_add(out, "\n.br\n");
    add_roff(out, type.data != NULL ? type.data : "");
    kd_text_add(out, "\n");
    each_word(out, e, add_word_roff);
    kd_text_add(out, e->field->type == PROTOBUF_C_TYPE_ENUM ? "\n" : "");
    kd_text_release(&type);
}

/* All fields below a type, whose path is there; those of a Schedule only where it is asked for. */
static void walk(kd_text *out, const ProtobufCMessageDescriptor *type, kd_text *path, printer print)
{
    const size_t size = path->size;
    for (unsigned i = 0; i < type->n_fields && !path->failed; i++) {
        kd_text_printf(path, "%s%s", size > 0 ? "." : "", type->fields[i].name);
        const entry e = {path->data, &type->fields[i], kd_field_facts_of(type, &type->fields[i])};
        KD_CHECK(e.facts != NULL); /* the build makes them of every field */
        print(out, &e);
        if (e.field->type == PROTOBUF_C_TYPE_MESSAGE && !is_schedule(&e)) {
            walk(out, e.field->descriptor, path, print);
        }
        path->size = size;
        path->data[size] = '\0';
    }
}

/* All fields below a type that is reached by `path`. */
static void
print_below(kd_text *out, const ProtobufCMessageDescriptor *type, const char *path, printer print)
{
    kd_text text = {0};
    kd_text_add(&text, path);
    walk(out, type, &text, print);
    out->failed |= text.failed;
    kd_text_release(&text);
}

/* The field itself, and what is below it. */
static ctl_exit explain_path(kd_text *out, const char *path, bool json)
{
    kd_path_place place;
    if (kd_path_find(&kd__job__descriptor, path, &place)) {
        (void)fprintf(stderr, "distillctl: %s\n", kd_fault_text());
        return CTL_INVALID;
    }
    const entry e = {path, place.field, kd_field_facts_of(place.type, place.field)};
    (json ? print_json : print_page)(out, &e);
    if (place.field->type == PROTOBUF_C_TYPE_MESSAGE) {
        print_below(out, place.field->descriptor, path, json ? print_json : print_line);
    }
    return CTL_OK;
}

static void print_manual(kd_text *out)
{
    kd_text_add(out,
                ".TH DISTILL\\-JOB 5 \"\" \"distilld " KD_VERSION "\"\n"
                ".SH NAME\ndistill\\-job \\- the fields of a distillation job\n"
                ".SH DESCRIPTION\n"
                "A job file is YAML. Every field may be left out unless it is required. Field "
                "names joined by dots are a field's path, its name in\n"
                ".BR \"distillctl \\-\\-set\" ,\nin errors and in the C API; elements of a list "
                "have their number, from 0, in between. Round brackets leave the end of a "
                "range out.\n.SH FIELDS\n");
    print_below(out, &kd__job__descriptor, "", print_roff);
    kd_text_add(out, ".SH SEE ALSO\n.BR distillctl (1)\n");
}

ctl_exit ctl_explain(const ctl_options *options)
{
    kd_text out = {0};
    ctl_exit result = CTL_OK;
    kd_text_add(&out, options->json ? "[" : "");
    if (options->man) {
        print_manual(&out);
    } else if (options->argument != NULL) {
        result = explain_path(&out, options->argument, options->json);
    } else {
        print_below(&out, &kd__job__descriptor, "", options->json ? print_json : print_line);
    }
    kd_text_add(&out, options->json ? "]\n" : "");
    if (result == CTL_OK && !out.failed) {
        (void)fputs(out.data, stdout);
    }
    result = out.failed ? CTL_INTERNAL : result;
    kd_text_release(&out);
    return result;
}
