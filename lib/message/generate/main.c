/*
 * Writes the tables of message/fields.h as C, from the description that protoc makes of .proto
 * files with --descriptor_set_out and --include_source_info. Ends with 1 and a line
 *
 *     job.proto:42: kd.Data.held_out: found "[0..x]", expected a range like [0..1], (0..1] or (0..)
 *
 * for each comment that it cannot read. What it allocates it keeps until it ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "message/generate/comment.h"
#include "message/generate/descriptor.pb-c.h"

/* Tags of google.protobuf's messages in the paths of comments, and values of its enums. */
enum {
    TAG_FILE_TYPE = 4,
    TAG_FILE_ENUM = 5,
    TAG_TYPE_FIELD = 2,
    TAG_TYPE_TYPE = 3,
    TAG_TYPE_ENUM = 4,
    TAG_ENUM_VALUE = 2,
    LABEL_REPEATED = 3,
    TYPE_DOUBLE = 1,
    TYPE_FLOAT = 2,
    TYPE_BOOL = 8,
    TYPE_STRING = 9,
    TYPE_GROUP = 10,
    TYPE_MESSAGE = 11,
    TYPE_BYTES = 12,
    TYPE_ENUM = 14,
    PATH_MAX_PARTS = 16,
    DESCRIPTION_BYTES_MAX = 1 << 24,
};

/* Where the walk is: one element of one file. */
typedef struct walk {
    const Kdgen__FileSet *set;
    const Kdgen__File *file;
    int32_t path[PATH_MAX_PARTS];
    size_t n_path;
    kd_text name; /* "kd.Data.Format" */
} walk;

typedef struct tables {
    kd_field_facts *fields;
    size_t n_fields;
    kd_word_facts *words;
    size_t n_words;
    size_t n_mistakes;
} tables;

static void *grown(void *rows, size_t n, size_t row_bytes)
{
    void *more = realloc(rows, (n + 1) * row_bytes);
    if (more == NULL) {
        (void)fprintf(stderr, "no memory\n");
        exit(1);
    }
    return more;
}

/* Steps into element `index` of the field with this tag; returns the size of the name to go back. */
static size_t enter(walk *w, int32_t tag, size_t index, const char *name)
{
    const size_t size = w->name.size;
    KD_CHECK(w->n_path + 2 <= PATH_MAX_PARTS);
    w->path[w->n_path++] = tag;
    w->path[w->n_path++] = (int32_t)index;
    kd_text_printf(&w->name, size > 0 ? ".%s" : "%s", name);
    return size;
}

static void leave(walk *w, size_t size)
{
    w->n_path -= 2;
    w->name.size = size;
    w->name.data[size] = '\0';
}

static const Kdgen__Source__Location *location(const walk *w)
{
    const Kdgen__Source *source = w->file->source_code_info;
    for (size_t i = 0; source != NULL && i < source->n_location; i++) {
        const Kdgen__Source__Location *l = source->location[i];
        if (l->n_path == w->n_path && !memcmp(l->path, w->path, w->n_path * sizeof *w->path)) {
            return l;
        }
    }
    return NULL;
}

/* The type with this full name (".kd.Schedule") in one of the files; NULL if there is none. */
static const Kdgen__Type *find_type(const walk *w, const char *full_name)
{
    for (size_t f = 0; f < w->set->n_file; f++) {
        const Kdgen__File *file = w->set->file[f];
        const size_t n = strlen(file->package);
        for (size_t i = 0; i < file->n_message_type; i++) {
            const char *name = file->message_type[i]->name;
            if (full_name[0] == '.' && !strncmp(full_name + 1, file->package, n) &&
                full_name[n + 1] == '.' && !strcmp(full_name + n + 2, name)) {
                return file->message_type[i];
            }
        }
    }
    return NULL;
}

static bool is_schedule(const walk *w, const Kdgen__Field *field)
{
    const Kdgen__Type *type = find_type(w, field->type_name);
    return type != NULL && type->n_field > 0 && strcmp(type->field[0]->name, "value") == 0;
}

static field_kind kind_of(const walk *w, const Kdgen__Field *field)
{
    switch (field->type) {
    case TYPE_DOUBLE:
    case TYPE_FLOAT:
        return FIELD_REAL;
    case TYPE_STRING:
        return FIELD_TEXT;
    case TYPE_MESSAGE:
        return is_schedule(w, field) ? FIELD_SCHEDULE : FIELD_OTHER;
    case TYPE_BOOL:
    case TYPE_GROUP:
    case TYPE_BYTES:
    case TYPE_ENUM:
        return FIELD_OTHER;
    default: /* the ten kinds of whole numbers */
        return FIELD_WHOLE;
    }
}

static void add_field(walk *w, tables *t, const char *type, const Kdgen__Field *field)
{
    const Kdgen__Source__Location *l = location(w);
    const field_place place = {
        .kind = kind_of(w, field),
        .is_list = field->label == LABEL_REPEATED,
        .default_value = field->default_value,
    };
    kd_field_facts facts;
    kd_text mistake = {0};
    if (!comment_read(l != NULL ? l->trailing_comments : NULL, &place, &facts, &mistake)) {
        (void)fprintf(stderr, "%s:%d: %s: %s\n", w->file->name,
                      l != NULL && l->n_span > 0 ? l->span[0] + 1 : 0, w->name.data, mistake.data);
        t->n_mistakes++;
    } else {
        facts.type = strdup(type);
        facts.field = field->name;
        t->fields = grown(t->fields, t->n_fields, sizeof facts);
        t->fields[t->n_fields++] = facts;
    }
    kd_text_release(&mistake);
}

/* Words need no comment; many say all by themselves. */
static void add_enum(walk *w, tables *t, int32_t tag, size_t index, const Kdgen__Enum *e)
{
    const size_t before = enter(w, tag, index, e->name);
    char *type = strdup(w->name.data);
    for (size_t i = 0; i < e->n_value; i++) {
        const size_t size = enter(w, TAG_ENUM_VALUE, i, e->value[i]->name);
        const Kdgen__Source__Location *l = location(w);
        char *meaning = l != NULL ? l->trailing_comments : NULL;
        if (meaning != NULL) {
            meaning += strspn(meaning, " ");
            meaning[strcspn(meaning, "\n")] = '\0';
            t->words = grown(t->words, t->n_words, sizeof *t->words);
            t->words[t->n_words++] = (kd_word_facts){strdup(type), e->value[i]->name, meaning};
        }
        leave(w, size);
    }
    free(type);
    leave(w, before);
}

static void add_type(walk *w, tables *t, int32_t tag, size_t index, const Kdgen__Type *type)
{
    const size_t before = enter(w, tag, index, type->name);
    char *name = strdup(w->name.data);
    for (size_t i = 0; i < type->n_field; i++) {
        const size_t size = enter(w, TAG_TYPE_FIELD, i, type->field[i]->name);
        add_field(w, t, name, type->field[i]);
        leave(w, size);
    }
    for (size_t i = 0; i < type->n_enum_type; i++) {
        add_enum(w, t, TAG_TYPE_ENUM, i, type->enum_type[i]);
    }
    for (size_t i = 0; i < type->n_nested_type; i++) {
        add_type(w, t, TAG_TYPE_TYPE, i, type->nested_type[i]);
    }
    leave(w, before);
    free(name);
}

static void add_file(const Kdgen__FileSet *set, const Kdgen__File *file, tables *t)
{
    walk w = {.set = set, .file = file};
    kd_text_add(&w.name, file->package);
    for (size_t i = 0; i < file->n_message_type; i++) {
        add_type(&w, t, TAG_FILE_TYPE, i, file->message_type[i]);
    }
    for (size_t i = 0; i < file->n_enum_type; i++) {
        add_enum(&w, t, TAG_FILE_ENUM, i, file->enum_type[i]);
    }
    kd_text_release(&w.name);
}

static int compare_fields(const void *a, const void *b)
{
    const kd_field_facts *x = a, *y = b;
    const int order = strcmp(x->type, y->type);
    return order != 0 ? order : strcmp(x->field, y->field);
}

static int compare_words(const void *a, const void *b)
{
    const kd_word_facts *x = a, *y = b;
    const int order = strcmp(x->type, y->type);
    return order != 0 ? order : strcmp(x->word, y->word);
}

static void print_string(FILE *out, const char *string)
{
    if (string == NULL) {
        (void)fputs("NULL", out);
        return;
    }
    (void)fputc('"', out);
    for (; *string != '\0'; string++) {
        const char byte = (char)(*string == '\n' ? ' ' : *string);
        (void)fprintf(out, byte == '"' || byte == '\\' ? "\\%c" : "%c", byte);
    }
    (void)fputc('"', out);
}

static void print_range(FILE *out, const kd_range *range)
{
    const double ends[] = {range->least, range->most};
    (void)fputs("{", out);
    for (int i = 0; i < 2; i++) {
        const bool none = ends[i] - ends[i] != 0.0; /* infinite */
        (void)fprintf(out, none ? (i == 0 ? "-INFINITY, " : "INFINITY, ") : "%.17g, ", ends[i]);
    }
    (void)fprintf(out, "%d, %d}", range->least_open, range->most_open);
}

static void print_tables(FILE *out, const tables *t)
{
    (void)fputs("/* Made from the comments of .proto files. */\n"
                "#include <math.h>\n\n#include \"message/fields.h\"\n\n"
                "const kd_field_facts kd_fields_table[] = {\n",
                out);
    for (size_t i = 0; i < t->n_fields; i++) {
        const kd_field_facts *f = &t->fields[i];
        (void)fprintf(out, "    {\"%s\", \"%s\", ", f->type, f->field);
        print_string(out, f->meaning);
        (void)fputs(", ", out);
        print_string(out, f->computed_default);
        (void)fprintf(out, ", %d, %d, ", f->has_range, f->has_count);
        print_range(out, &f->range);
        (void)fputs(", ", out);
        print_range(out, &f->count);
        (void)fprintf(out, ", {%.17g, %.17g}, %u},\n", f->schedule[0], f->schedule[1], f->flags);
    }
    (void)fprintf(out, "};\nconst size_t kd_n_fields = %zu;\n\n", t->n_fields);
    (void)fputs("const kd_word_facts kd_words_table[] = {\n", out);
    for (size_t i = 0; i < t->n_words; i++) {
        (void)fprintf(out, "    {\"%s\", \"%s\", ", t->words[i].type, t->words[i].word);
        print_string(out, t->words[i].meaning);
        (void)fputs("},\n", out);
    }
    (void)fprintf(out, "    {\"\", \"\", \"\"}};\nconst size_t kd_n_words = %zu;\n", t->n_words);
}

static Kdgen__FileSet *read_set(const char *path)
{
    char *bytes;
    size_t size;
    if (kd_file_read(path, DESCRIPTION_BYTES_MAX, &bytes, &size)) {
        return NULL; /* told */
    }
    Kdgen__FileSet *set = kdgen__file_set__unpack(NULL, size, (const uint8_t *)bytes);
    free(bytes);
    if (set == NULL) {
        (void)fprintf(stderr, "%s: no description of .proto files\n", path);
    }
    return set;
}

/* qsort() takes no NULL, be it of nothing. */
static void sort(void *rows, size_t n, size_t size, int (*compare)(const void *a, const void *b))
{
    if (n > 0) {
        qsort(rows, n, size, compare);
    }
}

/* All that is read lives until the program ends, which is at once. */
static const Kdgen__FileSet *set;
static tables t;

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: %s DESCRIPTION TABLE.c\n", argv[0]);
        return 2;
    }
    set = read_set(argv[1]);
    if (set == NULL) {
        return 1;
    }
    for (size_t i = 0; i < set->n_file; i++) {
        add_file(set, set->file[i], &t);
    }
    if (t.n_mistakes > 0) {
        return 1;
    }
    sort(t.fields, t.n_fields, sizeof *t.fields, compare_fields);
    sort(t.words, t.n_words, sizeof *t.words, compare_words);
    FILE *out = fopen(argv[2], "w");
    if (out == NULL) {
        perror(argv[2]);
        return 1;
    }
    print_tables(out, &t);
    if (fclose(out) != 0) {
        perror(argv[2]);
        return 1;
    }
    return 0;
}
