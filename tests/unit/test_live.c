/* Which changes of live values are made, in which steps, and that a resumed run makes them again. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "job/job.h"
#include "message/path.h"
#include "message/reflect.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "tests/unit/small_job.h"
#include "worker/live.h"
#include "worker/live_file.h"

static void
expect_refused(const Kd__Job *job, const char *path, const char *value, const char *text)
{
    kd_fault_quiet(1);
    cr_expect(eq(int, live_check(job, path, value), KD_ERR_INVALID), "%s=%s", path, value);
    cr_expect(strstr(kd_fault_text(), text) != NULL, "%s=%s: %s", path, value, kd_fault_text());
    kd_fault_quiet(0);
}

Test(live, only_live_fields_change_and_only_to_good_values)
{
    Kd__Job *job = job_of(SMALL "training: {steps: 20}\n"
                                "objective: {kd: {weight: {points: [{step: 0, value: 1}]}}}\n");
    const char *const good[][2] = {
        {"objective.kd.weight", "0"},
        {"objective.kd.weight.points.0.value", "0.5"},
        {"objective.kd.temperature", "{kind: step, points: [{step: 3, value: 2}]}"},
        {"objective.hard.weight", "0.1"},
        {"training.learning_rate", "1e-4"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_expect(eq(int, live_check(job, good[i][0], good[i][1]), KD_OK), "%s: %s", good[i][0],
                  kd_fault_text());
    }
    expect_refused(job, "objective.kd.scale_by_t2", "false", "does not change while a job runs");
    expect_refused(job, "training.steps", "30", "does not change while a job runs");
    expect_refused(job, "objective", "{kd: {weight: 1}}", "does not change while a job runs");
    expect_refused(job, "teachers.0.resources.ranks", "2", "does not change while a job runs");
    expect_refused(job, "objective.kd.temperature", "0", "objective.kd.temperature");
    expect_refused(job, "objective.kd.temperature", "hot", "hot");
    expect_refused(job, "objective.kd.tempreature", "1", "did you mean \"temperature\"");
    expect_refused(job, "", "1", "found a path with nothing before or behind a dot");
    kd__job__free_unpacked(job, NULL);
}

/* The run could not take it, once it is recorded. */
Test(live, a_loss_that_the_job_does_not_have_is_not_added)
{
    Kd__Job *job = job_of(SMALL "training: {steps: 20}\n");
    kd_message_destroy(&job->objective->hard->base);
    job->objective->hard = NULL;
    expect_refused(job, "objective.hard.weight", "0.1",
                   "objective.hard: is not in the job: cannot be added while it runs");
    expect_refused(job, "objective.hard.weight.value", "0.1", "objective.hard: is not in the job");
    cr_expect(eq(int, live_check(job, "objective.kd.weight.value", "0.1"), KD_OK), "%s",
              kd_fault_text());
    kd__job__free_unpacked(job, NULL);
}

/* Here, where files can be written, with a schedule of two points. */
static Kd__Job *job_here(void)
{
    Kd__Job *job = job_of(SMALL "training: {steps: 200}\n"
                                "objective: {kd: {temperature: {points: [{step: 0, value: 4}, "
                                "{step: 90, value: 2}]}}}\n");
    cr_assert(eq(int, kd_path_set(&job->base, "output", temporary_folder(), NULL), KD_OK));
    return job;
}

/* As if the link had brought it; true if it is in the lines of the step's order. */
static bool wish(live *l, uint64_t step, const char *path, const char *value)
{
    kd_text lines = {0};
    Kd__RankOrder order = KD__RANK_ORDER__INIT;
    order.path = (char *)path;
    order.value = (char *)value;
    l->held = (Kd__RankOrder *)kd_message_copy(&order.base);
    cr_assert(l->held != NULL);
    const int quiet = kd_fault_quiet(1);
    cr_assert(eq(int, live_collect(l, NULL, step, &lines), KD_OK), "%s", kd_fault_text());
    kd_fault_quiet(quiet);
    const bool made = lines.size > 0;
    cr_expect(l->held == NULL);
    kd_text_release(&lines);
    return made;
}

static void expect_value(live *l, uint64_t step, const char *path, const char *expected)
{
    kd_text value = {0};
    cr_assert(eq(int, live_plan(l, step), KD_OK), "step %d: %s", (int)step, kd_fault_text());
    cr_assert(eq(int, kd_path_get(&l->ahead.job->base, path, &value), KD_OK));
    cr_expect(eq(str, value.data, (char *)expected), "step %d: %s", (int)step, path);
    kd_text_release(&value);
}

static const live_file_owner mine = {.hash = 0xc0ffee, .resumes = true};

#define HEAD "{\"job\":\"0000000000c0ffee\"}\n"

/* What the next attempt finds: the same values in the same steps. */
static void begin_again(const Kd__Job *job, live *l)
{
    char *text = NULL;
    live_close(l);
    cr_assert(eq(int, live_file_read(job->output, &mine, &text), KD_OK), "%s", kd_fault_text());
    cr_assert(eq(int, live_begin(job, text, &mine, l), KD_OK), "%s", kd_fault_text());
    free(text);
}

#define LINE(step, path, value)                                                                    \
    "{\"step\":" step ",\"path\":\"" path "\",\"value\":\"" value "\"}\n"

/* A file of an earlier attempt, which came further than its last checkpoint. */
static void begin_with(const Kd__Job *job, const char *lines, live *l)
{
    kd_text file = {0};
    kd_text_printf(&file, HEAD "%s", lines);
    temporary_write(temporary_path("changes.jsonl"), file.data);
    kd_text_release(&file);
    *l = (live){0};
    begin_again(job, l);
}

Test(live,
     a_change_acts_behind_one_recorded_for_a_later_step,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    static const char path[] = "objective.kd.temperature";
    Kd__Job *job = job_here();
    live l;
    begin_with(job, LINE("100", "objective.kd.temperature.points.1.value", "3"), &l);
    cr_expect(wish(&l, 60, path, "5"), "%s", kd_fault_text());
    for (int attempt = 0; attempt < 2; attempt++) {
        expect_value(&l, 60, "objective.kd.temperature.points.1.value", "2");
        expect_value(&l, 99, "objective.kd.temperature.points.1.value", "2");
        expect_value(&l, 100, path, "5");
        begin_again(job, &l);
    }
    live_close(&l);
    kd_message_destroy(&job->base);
}

Test(live, the_newest_wish_for_a_path_holds, .init = temporary_enter, .fini = temporary_leave)
{
    static const char path[] = "objective.hard.weight";
    Kd__Job *job = job_here();
    live l;
    begin_with(job, LINE("100", "objective.hard.weight", "0.5"), &l);
    cr_expect(wish(&l, 60, path, "0.1"));
    cr_expect(wish(&l, 61, path, "0.2"));
    for (int attempt = 0; attempt < 2; attempt++) {
        expect_value(&l, 99, path, "0.3");
        expect_value(&l, 150, path, "0.2");
        begin_again(job, &l);
    }
    live_close(&l);
    kd_message_destroy(&job->base);
}

Test(live,
     a_change_that_a_recorded_one_forbids_is_refused,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    Kd__Job *job = job_here();
    live l;
    begin_with(job, LINE("100", "objective.kd.temperature", "5"), &l);
    cr_expect(not(wish(&l, 60, "objective.kd.temperature.points.1.value", "3")));
    EXPECT_FAULT("objective.kd.temperature.points");
    cr_expect(eq(sz, l.n_changes, 1));
    begin_again(job, &l);
    live_close(&l);
    kd_message_destroy(&job->base);
}

Test(live,
     a_change_that_no_step_is_left_for_is_refused,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    Kd__Job *job = job_here();
    live l;
    begin_with(job, "", &l);
    cr_expect(wish(&l, 199, "objective.hard.weight", "0.1"));
    cr_expect(not(wish(&l, 200, "objective.hard.weight", "0.2")));
    cr_expect(eq(sz, l.n_changes, 1));
    live_close(&l);
    kd_message_destroy(&job->base);
}

Test(live,
     a_change_that_the_file_has_no_room_for_is_refused_alone,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    static const char path[] = "objective.hard.weight";
    static const char line[] = LINE("60", "objective.hard.weight", "0.1");
    Kd__Job *job = job_here();
    live l;
    begin_with(job, "", &l);
    l.file_bytes = LIVE_FILE_BYTES_MAX - strlen(line);
    cr_expect(not(wish(&l, 60, path, "0.15")));
    cr_expect(wish(&l, 60, path, "0.1"));
    cr_expect(eq(sz, l.file_bytes, LIVE_FILE_BYTES_MAX));
    cr_expect(not(wish(&l, 61, path, "0.2")));
    expect_value(&l, 70, path, "0.1");
    begin_again(job, &l);
    expect_value(&l, 70, path, "0.1");
    live_close(&l);
    kd_message_destroy(&job->base);
}

Test(live, a_file_that_the_job_does_not_take_is_refused_by_its_line)
{
    static const struct {
        const char *lines, *text;
    } cases[] = {
        {LINE("7", "objective.hard.weight", "0.1")
             LINE("100", "objective.kd.temperature.points.2.value", "x"),
         "changes.jsonl, line 3: objective.kd.temperature.points.2.value=x: "},
        {LINE("7", "objective.hard.weight", "-1"),
         "changes.jsonl, line 2: objective.hard.weight=-1: objective.hard.weight: found -1"},
        {LINE("7", "objective.kd.temperature", "0") LINE("9", "objective.kd.temperature", "2"),
         "changes.jsonl, line 2: objective.kd.temperature=0: "},
        {LINE("7", "training.learning_rate", ".nan") LINE("8", "training.learning_rate", "1"),
         "changes.jsonl, line 2: training.learning_rate=.nan: "},
        {LINE("7", "objective.hard.weight", "1") LINE("8", "training.steps", "3"),
         "changes.jsonl, line 3: training.steps=3: training.steps: does not change while"},
        {LINE("7", "objective.hard.weight", "1") LINE("6", "objective.hard.weight", "2"),
         "changes.jsonl, line 3: found step 6, expected at least 7"},
        {"{\"step\": 3}\n", "changes.jsonl, line 2: expected a step, a path and a value"},
    };

    Kd__Job *job = job_of(SMALL "training: {steps: 20}\n");
    kd_fault_quiet(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        live l;
        cr_expect(ne(int, live_begin(job, cases[i].lines, &mine, &l), KD_OK));
        EXPECT_FAULT(cases[i].text);
    }
    kd_message_destroy(&job->base);
}

#define CHANGE LINE("7", "objective.hard.weight", "0.1")

/* What the file holds for `owner`; the text or NULL. */
static char *read_as(live_file_owner owner)
{
    char *text = NULL;
    kd_fault_quiet(1);
    const kd_status st = live_file_read(temporary_folder(), &owner, &text);
    kd_fault_quiet(0);
    cr_expect(eq(int, st, text != NULL ? KD_OK : KD_ERR_INVALID), "%s", kd_fault_text());
    return text;
}

static void expect_file(const char *name, const char *expected)
{
    char *text = NULL;
    size_t size = 0;
    cr_assert(eq(int, kd_file_read(temporary_path(name), 1 << 20, &text, &size), KD_OK));
    cr_expect(eq(str, text, (char *)expected), "%s", name);
    free(text);
}

Test(live,
     a_byte_0_in_the_file_is_told_by_its_line,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    static const char text[] = HEAD CHANGE "\0" CHANGE, tail[] = HEAD CHANGE "\0\0\0";
    char *found = NULL;
    cr_assert(
        eq(int, kd_file_replace(temporary_path("changes.jsonl"), text, sizeof text - 1), KD_OK));
    kd_fault_quiet(1);
    cr_expect(eq(int, live_file_read(temporary_folder(), &mine, &found), KD_ERR_PROTO));
    EXPECT_FAULT("changes.jsonl, line 3: found a byte 0");
    cr_expect(found == NULL);
    /* At the end it is what a crash left of a line that nobody was told of. */
    cr_assert(
        eq(int, kd_file_replace(temporary_path("changes.jsonl"), tail, sizeof tail - 1), KD_OK));
    cr_assert(eq(int, live_file_read(temporary_folder(), &mine, &found), KD_OK), "%s",
              kd_fault_text());
    cr_expect(eq(str, found, CHANGE));
    free(found);
}

Test(live,
     a_job_that_begins_obeys_no_other_jobs_changes,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    const live_file_owner another = {.hash = 0xbad};
    const char *const files[] = {HEAD CHANGE, CHANGE, "{\"job\":\"0000000000c0ffee\"}, x\n" CHANGE};
    kd_text change = {0};
    kd_text_add(&change, CHANGE);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        temporary_write(temporary_path("changes.jsonl"), files[i]);
        char *text = read_as(another);
        cr_assert(text != NULL);
        cr_expect(eq(str, text, ""));
        free(text);
        expect_file("changes.jsonl.old", files[i]);
        cr_expect(not(kd_file_exists(temporary_path("changes.jsonl"))));
    }
    cr_assert(eq(int, live_file_append(temporary_folder(), &another, &change), KD_OK));
    cr_assert(eq(int, live_file_append(temporary_folder(), &another, &change), KD_OK));
    expect_file("changes.jsonl", "{\"job\":\"0000000000000bad\"}\n" CHANGE CHANGE);
    kd_text_release(&change);
}

Test(live,
     a_job_that_resumes_refuses_another_jobs_changes_and_leaves_them,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    temporary_write(temporary_path("changes.jsonl"), CHANGE);
    cr_expect(read_as(mine) == NULL);
    EXPECT_FAULT("changes.jsonl, line 1: found {\"step\":7");
    EXPECT_FAULT("expected {\"job\":\"0000000000c0ffee\"}: changes of another job");
    expect_file("changes.jsonl", CHANGE);
    temporary_write(temporary_path("changes.jsonl"), HEAD CHANGE "{\"step\":9");
    char *text = read_as(mine);
    cr_assert(text != NULL);
    cr_expect(eq(str, text, CHANGE));
    free(text);
    expect_file("changes.jsonl", HEAD CHANGE);
}

Test(live,
     a_file_that_is_none_is_told_from_a_disk_that_fails,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    char *text = NULL;
    kd_text change = {0};
    kd_text_add(&change, CHANGE);
    cr_assert(eq(int, kd_folder_make("changes.jsonl"), KD_OK));
    kd_fault_quiet(1);
    cr_expect(eq(int, live_file_append(temporary_folder(), &mine, &change), KD_ERR_INVALID));
    EXPECT_FAULT("changes.jsonl: Is a directory");
    cr_expect(eq(int, live_file_read(temporary_folder(), &mine, &text), KD_ERR_INVALID));
    kd_text_release(&change);
}
