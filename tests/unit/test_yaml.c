#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/reflect.h"
#include "message/yaml.h"
#include "proto/control.pb-c.h"
#include "tests/support/fault.h"

static void be_quiet(void)
{
    kd_fault_quiet(1);
}

TestSuite(yaml, .init = be_quiet);
TestSuite(yaml_set, .init = be_quiet);

static Kd__Job *parse(const char *text)
{
    ProtobufCMessage *message = NULL;
    cr_assert(eq(int, kd_yaml_parse(text, strlen(text), "job.yaml", &kd__job__descriptor, &message),
                 KD_OK),
              "%s", kd_fault_text());
    return (Kd__Job *)message;
}

static void expect_mistake(const char *text, const char *mistake)
{
    ProtobufCMessage *message = NULL;
    cr_expect(eq(int, kd_yaml_parse(text, strlen(text), "job.yaml", &kd__job__descriptor, &message),
                 KD_ERR_INVALID),
              "%s", text);
    cr_expect(eq(str, (char *)kd_fault_text(), (char *)mistake));
    cr_expect(message == NULL);
}

static const char example[] = "name: first # of many\n"
                              "output: /out/first\n"
                              "seed: 18446744073709551615\n"
                              "after: ['1', 2]\n"
                              "data:\n"
                              "  files: [/a.txt, \"/b \\u00e4.txt\"]\n"
                              "  format: jsonl\n"
                              "  held_out: 1e-1\n"
                              "student:\n"
                              "  model: {hidden_size: 64, tied_embeddings: true}\n"
                              "teachers:\n"
                              "  - checkpoint: /m\n"
                              "    transport: hidden\n"
                              "objective:\n"
                              "  kd:\n"
                              "    weight: 0.7\n"
                              "    temperature:\n"
                              "      kind: step\n"
                              "      points:\n"
                              "        - {step: 0, value: 8}\n"
                              "        - {step: 100, value: 1.5}\n"
                              "evaluation:\n"
                              "training:\n"
                              "  steps: 200\n"
                              "  dtype: ~\n";

Test(yaml, every_kind_of_value_is_read)
{
    Kd__Job *job = parse(example);
    cr_expect(eq(str, job->name, "first"));
    cr_expect(job->has_seed && job->seed == UINT64_MAX);
    cr_assert(eq(sz, job->n_after, 2));
    cr_expect(eq(str, job->after[1], "2"));
    cr_assert(eq(sz, job->data->n_files, 2));
    cr_expect(eq(str, job->data->files[1], "/b \xc3\xa4.txt"));
    cr_expect(eq(int, job->data->format, KD__DATA__FORMAT__JSONL));
    cr_expect(eq(dbl, job->data->held_out, 0.1));
    cr_expect(job->student->model->has_tied_embeddings && job->student->model->tied_embeddings);
    cr_expect(eq(int, job->teachers[0]->transport, KD__TEACHER__TRANSPORT__HIDDEN));
    cr_expect(job->objective->kd->weight->has_value);
    cr_expect(eq(dbl, job->objective->kd->weight->value, 0.7));
    cr_assert(eq(sz, job->objective->kd->temperature->n_points, 2));
    cr_expect(eq(dbl, job->objective->kd->temperature->points[1]->value, 1.5));
    cr_expect(job->evaluation == NULL, "nothing after the colon leaves a field out");
    cr_expect(not(job->training->has_dtype));
    kd_message_destroy(&job->base);
}

Test(yaml, an_empty_text_is_an_empty_message)
{
    const char *const texts[] = {"", "# only a comment\n", "---\n", "{}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Kd__Job *job = parse(texts[i]);
        cr_expect(eq(sz, protobuf_c_message_get_packed_size(&job->base), 0));
        kd_message_destroy(&job->base);
    }
}

Test(yaml, printed_text_parses_to_an_equal_message)
{
    Kd__Job *job = parse(example);
    kd_text text = {0};
    kd_yaml_print(&text, &job->base);
    Kd__Job *again = parse(text.data);
    cr_expect(kd_message_equal(&job->base, &again->base), "%s", text.data);
    cr_expect(strstr(text.data, "    weight: 0.7\n") != NULL, "a bare value stays one");
    cr_expect(strstr(text.data, "  - checkpoint: /m\n    transport: hidden\n") != NULL);
    kd_text_release(&text);
    kd_message_destroy(&job->base);
    kd_message_destroy(&again->base);
}

Test(yaml, strings_that_look_like_something_else_survive_printing)
{
    const char *const strings[] = {"true",
                                   "null",
                                   "~",
                                   "12",
                                   "",
                                   " x ",
                                   "a: b",
                                   "- a",
                                   "#",
                                   "a\nb",
                                   "\x7f\t",
                                   "\"q\" \\",
                                   "é",
                                   "0x1F",
                                   "*a",
                                   "&a",
                                   "!t",
                                   "yes",
                                   "1e3",
                                   "a #b",
                                   "a\xe2\x80\xa9"
                                   "b"};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        Kd__Job *job = parse("");
        job->name = strdup(strings[i]);
        kd_text text = {0};
        kd_yaml_print(&text, &job->base);
        Kd__Job *again = parse(text.data);
        cr_expect(kd_message_equal(&job->base, &again->base), "%s", text.data);
        kd_text_release(&text);
        kd_message_destroy(&job->base);
        kd_message_destroy(&again->base);
    }
}

Test(yaml, every_double_survives_printing)
{
    const double numbers[] = {0.1,
                              1.0 / 3.0,
                              1e-300,
                              5e-324,
                              1.7976931348623157e308,
                              -0.0,
                              INFINITY,
                              123456789012345680.0,
                              -INFINITY};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        Kd__Job *job = parse("data: {held_out: 0}");
        job->data->held_out = numbers[i];
        kd_text text = {0};
        kd_yaml_print(&text, &job->base);
        Kd__Job *again = parse(text.data);
        cr_expect(memcmp(&again->data->held_out, &numbers[i], sizeof(double)) == 0, "%s",
                  text.data);
        kd_text_release(&text);
        kd_message_destroy(&job->base);
        kd_message_destroy(&again->base);
    }
}

Test(yaml, an_empty_message_is_printed_as_one)
{
    Kd__Job *job = parse("student: {}\nteachers: [{}]\n");
    kd_text text = {0};
    kd_yaml_print(&text, &job->base);
    cr_expect(eq(str, text.data, "student: {}\nteachers:\n  - {}\n"));
    kd_text_release(&text);
    kd_message_destroy(&job->base);
}

Test(yaml, a_misspelt_field_is_answered_with_place_path_and_nearest_name)
{
    expect_mistake("name: x\nobjective:\n  kd:\n    wieght: 0.5\n",
                   "job.yaml:4:5: objective.kd.wieght: no such field; did you mean \"weight\"?");
    expect_mistake("quark: 1", "job.yaml:1:1: quark: no such field");
    expect_mistake("teachers:\n- {nmae: a}",
                   "job.yaml:2:4: teachers.0.nmae: no such field; did you mean \"name\"?");
}

Test(yaml, a_wrong_type_says_what_was_expected_and_found)
{
    expect_mistake("training:\n  steps: many",
                   "job.yaml:2:10: training.steps: expected a whole number, found \"many\"");
    expect_mistake("training: {steps: 1.5}",
                   "job.yaml:1:19: training.steps: expected a whole number, found \"1.5\"");
    expect_mistake("training: {steps: 010}",
                   "job.yaml:1:19: training.steps: expected a whole number, found \"010\"");
    expect_mistake("training: {steps: '5'}",
                   "job.yaml:1:19: training.steps: expected a whole number, found \"5\" in quotes");
    expect_mistake("training: {steps: [5]}",
                   "job.yaml:1:19: training.steps: expected a whole number, found a list");
    expect_mistake("training: {learning_rate: 0x10}",
                   "job.yaml:1:27: training.learning_rate: expected a number, found \"0x10\"");
    expect_mistake("training: {learning_rate: 1e999}",
                   "job.yaml:1:27: training.learning_rate: expected a number that fits a double, "
                   "found \"1e999\"");
    expect_mistake("training: 5", "job.yaml:1:11: training: expected fields, found \"5\"");
    expect_mistake("training: [5]", "job.yaml:1:11: training: expected fields, found a list");
    expect_mistake("data: {files: /a}", "job.yaml:1:15: data.files: expected a list, found \"/a\"");
    expect_mistake("data: {files: {a: b}}",
                   "job.yaml:1:15: data.files: expected a list, found fields");
    expect_mistake("data: {files: [/a, ~]}",
                   "job.yaml:1:20: data.files.1: expected text, found \"~\"");
    expect_mistake("name: \"a\\0b\"",
                   "job.yaml:1:7: name: expected text without NUL, found \"a\\x00b\" in quotes");
    expect_mistake("training: {steps: \"\\u009b1\xc3\xa4\"}",
                   "job.yaml:1:19: training.steps: expected a whole number, found "
                   "\"\\xc2\\x9b1\xc3\xa4\" in quotes");
    expect_mistake("student: {model: {tied_embeddings: yes}}",
                   "job.yaml:1:36: student.model.tied_embeddings: expected true or false, found "
                   "\"yes\"");
    expect_mistake("just words", "job.yaml:1:1: expected fields, found \"just words\"");
    expect_mistake("- a", "job.yaml:1:1: expected fields, found a list");
    expect_mistake("[a]: 1", "job.yaml:1:1: expected a field's name, found a list");
}

Test(yaml, a_number_out_of_range_says_the_range)
{
    expect_mistake("data: {sequence_length: 4294967296}",
                   "job.yaml:1:25: data.sequence_length: expected a whole number from 0 to "
                   "4294967295, found 4294967296");
    expect_mistake("data: {sequence_length: -1}",
                   "job.yaml:1:25: data.sequence_length: expected a whole number from 0 to "
                   "4294967295, found -1");
    expect_mistake("seed: 18446744073709551616",
                   "job.yaml:1:7: seed: expected a whole number from 0 to 18446744073709551615, "
                   "found 18446744073709551616");
}

Test(yaml, a_bad_enum_word_lists_the_good_ones)
{
    expect_mistake("data: {format: csv}",
                   "job.yaml:1:16: data.format: expected one of text, jsonl; found \"csv\"");
    expect_mistake("data: {format: TEXT}",
                   "job.yaml:1:16: data.format: expected one of text, jsonl; found \"TEXT\"");
    expect_mistake("data: {tokenizer: word}",
                   "job.yaml:1:19: data.tokenizer: expected byte; found \"word\"");
}

Test(yaml, a_field_given_twice_is_refused)
{
    expect_mistake("seed: 1\nname: x\nseed: 2\n", "job.yaml:3:1: seed: given twice");
    expect_mistake("seed: ~\nseed: 2\n", "job.yaml:2:1: seed: given twice");
}

Test(yaml, anchors_aliases_and_tags_are_refused)
{
    expect_mistake("name: &a x", "job.yaml:1:7: name: anchors and aliases are not supported");
    expect_mistake("name: *a", "job.yaml:1:7: name: anchors and aliases are not supported");
    expect_mistake("data: &a {}", "job.yaml:1:7: data: anchors and aliases are not supported");
    expect_mistake("data: {files: &a []}",
                   "job.yaml:1:15: data.files: anchors and aliases are not supported");
    expect_mistake("name: !!str x", "job.yaml:1:7: name: tags are not supported");
    expect_mistake("data: !x {}", "job.yaml:1:7: data: tags are not supported");
}

Test(yaml, a_second_document_is_refused)
{
    expect_mistake("name: a\n---\nname: b\n", "job.yaml:2:1: a second document, expected one");
}

Test(yaml, text_that_is_no_yaml_names_the_place)
{
    const char *const texts[] = {"after: [1", "name: \"x", "\tname: x", "name: x\n  seed: 1", "@"};
    ProtobufCMessage *message = NULL;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_expect(eq(int,
                     kd_yaml_parse(texts[i], strlen(texts[i]), "job.yaml", &kd__job__descriptor,
                                   &message),
                     KD_ERR_PROTO),
                  "%s: %s", texts[i], kd_fault_text());
        cr_expect(strncmp(kd_fault_text(), "job.yaml:", 9) == 0, "%s", kd_fault_text());
        EXPECT_FAULT(": no valid YAML: ");
    }
    cr_expect(message == NULL);
}

Test(yaml, bytes_that_are_no_utf8_are_refused)
{
    ProtobufCMessage *message = NULL;
    cr_expect(
        eq(int, kd_yaml_parse("name: \xff", 7, "j", &kd__job__descriptor, &message), KD_ERR_PROTO));
    EXPECT_FAULT("j: no valid YAML: ");
}

Test(yaml, a_text_above_the_limit_is_refused)
{
    char *text = calloc(KD_YAML_BYTES_MAX + 1, 1);
    ProtobufCMessage *message = NULL;
    memset(text, '#', KD_YAML_BYTES_MAX + 1);
    cr_expect(eq(int,
                 kd_yaml_parse(text, KD_YAML_BYTES_MAX + 1, "big", &kd__job__descriptor, &message),
                 KD_ERR_INVALID));
    cr_expect(
        eq(str, (char *)kd_fault_text(), "big: found 1048577 bytes, expected at most 1048576"));
    cr_assert(eq(int, kd_yaml_parse(text, KD_YAML_BYTES_MAX, "big", &kd__job__descriptor, &message),
                 KD_OK));
    kd_message_destroy(message);
    free(text);
}

Test(yaml, deep_nesting_is_refused_at_once)
{
    char *text = malloc(KD_YAML_BYTES_MAX);
    ProtobufCMessage *message = NULL;
    memset(text, '[', KD_YAML_BYTES_MAX);
    cr_expect(ne(int,
                 kd_yaml_parse(text, KD_YAML_BYTES_MAX, "deep", &kd__job__descriptor, &message),
                 KD_OK));
    memset(text, '{', KD_YAML_BYTES_MAX);
    cr_expect(ne(int,
                 kd_yaml_parse(text, KD_YAML_BYTES_MAX, "deep", &kd__job__descriptor, &message),
                 KD_OK));
    free(text);
}

static void expect_set(Kd__Job *job, const char *assignment)
{
    cr_assert(eq(int, kd_yaml_set(&job->base, assignment), KD_OK), "%s: %s", assignment,
              kd_fault_text());
}

Test(yaml_set, sets_numbers_words_lists_and_whole_messages)
{
    Kd__Job *job = parse("seed: 1");
    expect_set(job, "training.steps=200");
    expect_set(job, "data.files=[/a, /b]");
    expect_set(job, "data.format=jsonl");
    expect_set(job, "student.model={hidden_size: 64, num_layers: 2}");
    expect_set(job, "name=a = b");
    expect_set(job, "seed=");
    cr_expect(eq(u64, job->training->steps, 200));
    cr_expect(eq(str, job->data->files[1], "/b"));
    cr_expect(eq(int, job->data->format, KD__DATA__FORMAT__JSONL));
    cr_expect(eq(u32, job->student->model->num_layers, 2));
    cr_expect(eq(str, job->name, "a = b"));
    cr_expect(not(job->has_seed), "nothing behind = leaves the field out");
    kd_message_destroy(&job->base);
}

Test(yaml_set, indexes_reach_append_and_replace)
{
    Kd__Job *job = parse("data: {files: [/a, /b]}");
    expect_set(job, "teachers.0.checkpoint=/m");
    expect_set(job, "teachers.0.transport=logits");
    expect_set(job, "data.files.2=/c");
    expect_set(job, "data.files.0=/z");
    cr_assert(eq(sz, job->n_teachers, 1));
    cr_expect(eq(str, job->teachers[0]->checkpoint, "/m"));
    cr_expect(eq(int, job->teachers[0]->transport, KD__TEACHER__TRANSPORT__LOGITS));
    cr_assert(eq(sz, job->data->n_files, 3));
    cr_expect(eq(str, job->data->files[0], "/z"));
    cr_expect(eq(str, job->data->files[1], "/b"));
    cr_expect(eq(str, job->data->files[2], "/c"));
    kd_message_destroy(&job->base);
}

Test(yaml_set, a_bare_value_replaces_a_schedule)
{
    Kd__Job *job = parse("objective: {kd: {weight: {points: [{step: 1, value: 2}]}}}");
    expect_set(job, "objective.kd.weight=0.5");
    cr_expect(eq(sz, job->objective->kd->weight->n_points, 0));
    cr_expect(eq(dbl, job->objective->kd->weight->value, 0.5));
    expect_set(job, "objective.kd.weight.kind=cosine");
    cr_expect(eq(dbl, job->objective->kd->weight->value, 0.5));
    kd_message_destroy(&job->base);
}

Test(yaml_set, a_mistake_names_the_path_and_changes_nothing)
{
    static const struct {
        const char *assignment, *mistake;
    } cases[] = {
        {"training.stpes=5", "--set: training.stpes: no such field; did you mean \"steps\"?"},
        {"training.steps=many", "--set: training.steps: expected a whole number, found \"many\""},
        {"training.steps.x=1", "--set: training.steps: has no fields, so no \"x\""},
        {"teachers.1.name=a", "--set: teachers: found \"1\", expected an index from 0 to 0"},
        {"teachers.x=a", "--set: teachers: found \"x\", expected an index from 0 to 0"},
        {"teachers.0={nmae: x}", "--set: teachers.0.nmae: no such field; did you mean \"name\"?"},
        {"data.files.0=", "--set: data.files.0: expected a value, found nothing"},
        {"training={steps: 1, steps: 2}", "--set: training.steps: given twice"},
        {"seed", "--set: found \"seed\", expected PATH=VALUE"},
        {"=5", "--set: found \"=5\", expected PATH=VALUE"},
        {".seed=5", "--set: found a path with nothing before or behind a dot, expected"},
        {"seed=1\n---\n2", "--set: seed: a second document, expected one"},
    };

    Kd__Job *job = parse("name: kept\ntraining: {steps: 7}");
    ProtobufCMessage *before = kd_message_copy(&job->base);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(eq(int, kd_yaml_set(&job->base, cases[i].assignment), KD_ERR_INVALID));
        cr_expect(strncmp(kd_fault_text(), cases[i].mistake, strlen(cases[i].mistake)) == 0, "%s",
                  kd_fault_text());
        cr_expect(kd_message_equal(&job->base, before));
    }
    cr_expect(eq(int, kd_yaml_set(&job->base, "seed=[1"), KD_ERR_INVALID));
    cr_expect(eq(int, kd_yaml_set(&job->base, "name=\"x"), KD_ERR_PROTO));
    kd_message_destroy(before);
    kd_message_destroy(&job->base);
}
