#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/log.h"
#include "message/fields.h"
#include "message/path.h"
#include "message/reflect.h"
#include "proto/job.pb-c.h"

static void be_quiet(void)
{
    kd_fault_quiet(1);
}

TestSuite(path, .init = be_quiet);

static ProtobufCMessage *empty_job(void)
{
    ProtobufCMessage *job = kd_message_create(&kd__job__descriptor);
    cr_assert(job != NULL);
    return job;
}

static void set(ProtobufCMessage *job, const char *path, const char *value)
{
    cr_assert(eq(int, kd_path_set(job, path, value, NULL), KD_OK), "%s: %s", path, kd_fault_text());
}

static void expect_value(const ProtobufCMessage *job, const char *path, const char *expected)
{
    kd_text text = {0};
    cr_assert(eq(int, kd_path_get(job, path, &text), KD_OK), "%s: %s", path, kd_fault_text());
    cr_expect(eq(str, text.data != NULL ? text.data : "", (char *)expected), "%s", path);
    kd_text_release(&text);
}

Test(path, what_was_set_is_got_as_text_that_sets_the_same)
{
    static const struct {
        const char *path, *value;
    } fields[] = {
        {"name", "\"two words\""},
        {"output", "/out"},
        {"seed", "18446744073709551615"},
        {"data.files", "[/a, \"/b c\"]"},
        {"data.format", "jsonl"},
        {"student.model.tied_embeddings", "true"},
        {"teachers.0.checkpoint", "/m"},
        {"objective.kd.weight", "0.5"},
        {"objective.kd.temperature.points.0", "{\"step\":0,\"value\":4}"},
        {"objective.kd.temperature.points.1.value", "1.5"},
        {"training.learning_rate", "0.0003"},
    };

    ProtobufCMessage *job = empty_job(), *again = empty_job();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        set(job, fields[i].path, fields[i].value);
        expect_value(job, fields[i].path, fields[i].value);
        kd_text text = {0};
        cr_assert(eq(int, kd_path_get(job, fields[i].path, &text), KD_OK));
        set(again, fields[i].path, text.data);
        kd_text_release(&text);
    }
    cr_expect(kd_message_equal(job, again));
    expect_value(job, "data.files.1", "\"/b c\"");
    expect_value(job, "objective.kd.temperature.points",
                 "[{\"step\":0,\"value\":4}, {\"value\":1.5}]");
    kd_message_destroy(job);
    kd_message_destroy(again);
}

Test(path, what_is_absent_reads_as_its_default_or_as_nothing)
{
    ProtobufCMessage *job = empty_job();
    expect_value(job, "training.batch_size", "16");
    expect_value(job, "training.decay", "cosine");
    expect_value(job, "data.text_field", "text");
    expect_value(job, "training.steps", "");
    expect_value(job, "objective.kd.weight", "");
    expect_value(job, "data.files", "[]");
    cr_expect(job->descriptor == &kd__job__descriptor && ((Kd__Job *)job)->training == NULL,
              "reading makes nothing");
    kd_text text = {0};
    cr_expect(eq(int, kd_path_get(job, "teachers.0", &text), KD_ERR_NOT_FOUND));
    cr_expect(eq(str, (char *)kd_fault_text(), "teachers.0: found 0 elements, expected more"));
    kd_text_release(&text);
    kd_message_destroy(job);
}

#define NO_NAME "found a path with nothing before or behind a dot, expected a field's name"

Test(path, a_mistake_names_the_path_and_changes_nothing)
{
    static const struct {
        const char *path, *value, *mistake;
    } cases[] = {
        {"training.stpes", "5", "training.stpes: no such field; did you mean \"steps\"?"},
        {"training.steps", "many", "training.steps: expected a whole number, found \"many\""},
        {"training.steps.x", "1", "training.steps: has no fields, so no \"x\""},
        {"teachers.x", "a", "teachers: found \"x\", expected an index from 0 to 0"},
        {"", "a", NO_NAME},
        {".training.steps", "1", NO_NAME},
        {"training..steps", "1", "training: " NO_NAME},
        {"training.", "1", "training: " NO_NAME},
    };

    ProtobufCMessage *job = empty_job(), *before = empty_job();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(eq(int, kd_path_set(job, cases[i].path, cases[i].value, NULL), KD_ERR_INVALID));
        cr_expect(eq(str, (char *)kd_fault_text(), (char *)cases[i].mistake));
        cr_expect(kd_message_equal(job, before));
    }
    cr_expect(eq(int, kd_path_set(job, "seed", "\"x", NULL), KD_ERR_PROTO));
    cr_expect(eq(int, kd_path_set(job, "seed", "x", "student"), KD_ERR_INVALID));
    cr_expect(
        eq(str, (char *)kd_fault_text(), "student: seed: expected a whole number, found \"x\""));
    kd_message_destroy(job);
    kd_message_destroy(before);
}

Test(path, a_type_tells_what_a_path_leads_to)
{
    kd_path_place place = {0};
    cr_assert(eq(int, kd_path_find(&kd__job__descriptor, "teachers.checkpoint", &place), KD_OK));
    cr_expect(place.type == &kd__teacher__descriptor);
    cr_expect(eq(str, (char *)place.field->name, "checkpoint"));
    cr_assert(eq(int, kd_path_find(&kd__job__descriptor, "teachers.7.checkpoint", &place), KD_OK));
    cr_expect(place.type == &kd__teacher__descriptor);
    cr_assert(eq(int, kd_path_find(&kd__job__descriptor, "teachers.7", &place), KD_OK));
    cr_expect(place.has_index && place.index == 7);
    cr_expect(eq(uint, place.flags & KD_FIELD_LIVE, 0));
    static const char live[] = "objective.kd.temperature.points.0.value"; /* its Schedule is */
    cr_assert(eq(int, kd_path_find(&kd__job__descriptor, live, &place), KD_OK));
    cr_expect(eq(uint, place.flags, KD_FIELD_LIVE | KD_FIELD_REQUIRED | KD_FIELD_TAUGHT));

    cr_expect(eq(int, kd_path_find(&kd__job__descriptor, "trianing", &place), KD_ERR_INVALID));
    cr_expect(
        eq(str, (char *)kd_fault_text(), "trianing: no such field; did you mean \"training\"?"));
    cr_expect(
        eq(int, kd_path_find(&kd__job__descriptor, "training.stesp", &place), KD_ERR_INVALID));
    cr_expect(
        eq(str, (char *)kd_fault_text(), "training.stesp: no such field; did you mean \"steps\"?"));
    cr_expect(eq(int, kd_path_find(&kd__job__descriptor, "seed.x", &place), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(), "seed: has no fields, so no \"x\""));
    cr_expect(eq(int, kd_path_find(&kd__job__descriptor, "training.", &place), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(), "training: " NO_NAME));
}
