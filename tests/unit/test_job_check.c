#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message/check.h"
#include "message/path.h"
#include "message/yaml.h"
#include "shape/type.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "tests/unit/job_fixture.h"

TestSuite(job_check, .init = be_quiet);

/* The mistakes of the least job with these changes, one line each. */
static void expect_mistakes(const char *const *sets, size_t n_sets, const char *expected)
{
    Kd__Job *job = complete(sets, n_sets);
    kd_text mistakes = {0};
    cr_expect(eq(int, kd_job_check(job, &mistakes), KD_ERR_INVALID), "%s", sets[0]);
    cr_expect(eq(str, mistakes.data != NULL ? mistakes.data : "", (char *)expected));
    cr_expect(strncmp(kd_fault_text(), expected, strcspn(expected, "\n")) == 0, "first mistake");
    kd_text_release(&mistakes);
    destroy(job);
}

Test(job_check, a_type_that_is_none_is_answered_with_all_there_are)
{
    const char *const sets[] = {"student.model.type=mixtrel"};
    kd_text expected = {0};
    kd_text_add(&expected, "student.model.type: found \"mixtrel\", expected one of ");
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        kd_text_printf(&expected, "%s%s", i > 0 ? ", " : "", kd_model_type_at(i)->name);
    }
    kd_text_add(&expected, "; did you mean \"mixtral\"?\n");
    expect_mistakes(sets, 1, expected.data);
    kd_text_release(&expected);
}

/* A job of these many files whose names have 40 bytes, the last one's `n_last`. */
static Kd__Job *with_files(size_t n_files, size_t n_last)
{
    Kd__Job *job = complete((const char *[]){"name=big"}, 1);
    char **files = calloc(n_files, sizeof *files);
    cr_assert(files != NULL && n_last > 1 && n_last < 400);
    for (size_t i = 0; i < n_files; i++) {
        char name[400];
        memset(name, 'a', sizeof name);
        name[0] = '/';
        name[i + 1 == n_files ? n_last : 40] = '\0';
        files[i] = strdup(name);
    }
    free(job->data->files[0]);
    free(job->data->files);
    job->data->files = files;
    job->data->n_files = n_files;
    return job;
}

static size_t yaml_bytes(const Kd__Job *job)
{
    kd_text yaml = {0};
    kd_yaml_print(&yaml, &job->base);
    cr_assert(not(yaml.failed));
    const size_t size = yaml.size;
    kd_text_release(&yaml);
    return size;
}

Test(job_check, a_job_that_its_ranks_could_not_read_is_refused_by_its_size)
{
    Kd__Job *job = with_files(2, 40);
    const size_t two = yaml_bytes(job);
    destroy(job);
    job = with_files(3, 40);
    const size_t line = yaml_bytes(job) - two;
    destroy(job);
    const size_t n_files = 2 + (KD_YAML_BYTES_MAX - two) / line;
    const size_t n_last = 40 + (KD_YAML_BYTES_MAX - two) % line;

    job = with_files(n_files, n_last);
    cr_expect(eq(sz, yaml_bytes(job), KD_YAML_BYTES_MAX));
    cr_expect(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    free(job->name);
    job->name = NULL;
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID), "it would get a name");
    cr_expect(eq(int, kd_job_check_model(job, NULL), KD_OK), "%s", kd_fault_text());
    destroy(job);
    job = with_files(n_files, n_last + 1);
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    EXPECT_FAULT(
        "job: found 1048577 bytes of YAML with its paths absolute, expected at most 1048576");
    destroy(job);
}

Test(job_check, each_rule_names_path_found_and_expected)
{
    static const struct {
        const char *set, *mistake;
    } cases[] = {
        {"output=", "output: found nothing, expected a path: it is required\n"},
        {"output=''", "output: found nothing, expected a path: it is required\n"},
        {"output=here", "output: found \"here\", expected an absolute path\n"},
        {"output=/", "output: found \"/\", expected a folder of the job's own\n"},
        {"output=//.", "output: found \"//.\", expected a folder of the job's own\n"},
        {"after=[first]", "after.0: found \"first\", expected the id of a job, a whole number\n"},
        {"data.files=", "data.files: found no file, expected at least one: it is required\n"},
        {"data.files=[a]", "data.files.0: found \"a\", expected an absolute path\n"},
        {"data.text_field=''", "data.text_field: found nothing, expected a field's name\n"},
        {"data.sequence_length=7", "data.sequence_length: found 7, expected 8 to 131072\n"},
        {"data.sequence_length=131073",
         "data.sequence_length: found 131073, expected 8 to 131072\n"},
        {"data.held_out=0.51", "data.held_out: found 0.51, expected a number from 0 to 0.5\n"},
        {"data.held_out=-0.1", "data.held_out: found -0.1, expected a number from 0 to 0.5\n"},
        {"data.held_out=.nan", "data.held_out: found nan, expected a number that is finite\n"},
        {"student.model.vocab_size=255",
         "student.model.vocab_size: found 255, expected 256 to 1048576\n"},
        {"student.model.hidden_size=",
         "student.model.hidden_size: found nothing, expected a number: it is required\n"},
        {"student.model.num_layers=0", "student.model.num_layers: found 0, expected 1 to 1024\n"},
        {"student.model.num_heads=",
         "student.model.num_heads: found nothing, expected a number: it is required\n"},
        {"student.model.intermediate_size=",
         "student.model.intermediate_size: found nothing, expected a number: it is required\n"},
        {"student.model.hidden_size=66",
         "student.model.head_dim: found nothing, expected a number: "
         "hidden_size (66) is no multiple of num_heads (4)\n"},
        {"student.model.hidden_size=300000",
         "student.model.hidden_size: found 300000, expected 1 to 262144\n"
         "student.model.head_dim: found 75000, expected 2 to 1024\n"},
        {"student.model.num_kv_heads=3",
         "student.model.num_kv_heads: found 3, expected a divisor of num_heads (4)\n"},
        {"student.model.head_dim=15", "student.model.head_dim: found 15, expected an even number: "
                                      "rotary embedding turns pairs\n"},
        {"student.model.num_experts=",
         "student.model.num_experts: found 0, expected at least 1 in type mixtral\n"},
        {"student.model.num_experts=1025",
         "student.model.num_experts: found 1025, expected 0 to 1024\n"},
        {"student.model.type=llama",
         "student.model.num_experts: found 4, expected 0 in type llama\n"},
        {"student.model.experts_per_token=5",
         "student.model.experts_per_token: found 5, expected 1 to 4\n"},
        {"student.model.shared_expert_size=8",
         "student.model.shared_expert_size: found 8, expected 0 in type mixtral\n"},
        {"student.model.type=qwen2_moe",
         "student.model.shared_expert_size: found 0, expected at least 1 in type qwen2_moe\n"},
        {"student.model={type: olmoe, hidden_size: 64, num_layers: 2, num_heads: 4, head_dim: 8, "
         "intermediate_size: 8, num_experts: 4}",
         "student.model.num_heads: found 4 of head_dim 8, 32 together, expected hidden_size (64) "
         "in "
         "type olmoe\n"},
        {"student.model.rope_theta=0",
         "student.model.rope_theta: found 0, expected a number above 0\n"},
        {"student.model.norm_eps=0",
         "student.model.norm_eps: found 0, expected a number above 0\n"},
        {"student.checkpoint=/s", "student.checkpoint: found a path, expected none with init: "
                                  "random; did you mean init: checkpoint?\n"},
        {"student={init: checkpoint}",
         "student.checkpoint: found nothing, expected a path: it is required\n"},
        {"student={init: checkpoint, checkpoint: /s, model: {hidden_size: 8}}",
         "student.model: found a shape, expected none: with init: checkpoint the checkpoint has "
         "it\n"},
        {"teachers=[{checkpoint: /a}, {checkpoint: /b}]",
         "teachers: found 2, expected at most 1\n"},
        {"teachers=[{name: t}]",
         "teachers.0.checkpoint: found nothing, expected a path: it is required\n"},
        {"teachers.0.name=''", "teachers.0.name: found nothing, expected a name\n"},
        {"objective.kd.weight=-1",
         "objective.kd.weight: found -1, expected a number of at least 0\n"},
        {"objective.kd.temperature=0.0009",
         "objective.kd.temperature: found 0.0009, expected a number of at least 0.001\n"},
        {"objective.hard.weight={}", "objective.hard.weight: found neither a value nor points, "
                                     "expected one of them\n"},
        {"objective.hard.weight={value: 1, points: [{step: 1, value: 1}]}",
         "objective.hard.weight: found both a value and points, expected one of them\n"},
        {"objective.hard.weight={points: [{step: 5, value: 1}, {step: 5, value: 2}]}",
         "objective.hard.weight.points.1.step: found 5, expected more than the step before (5)\n"},
        {"objective.hard.weight={points: [{value: 5}]}",
         "objective.hard.weight.points.0.step: found nothing, expected a number: it is required\n"},
        {"objective.hard.weight={points: [{step: 5}]}",
         "objective.hard.weight.points.0.value: found nothing, expected a number: it is "
         "required\n"},
        {"objective.kd.temperature={points: [{step: 5, value: 0}]}",
         "objective.kd.temperature.points.0.value: found 0, expected a number of at least 0.001\n"},
        {"objective={kd: {weight: 0}, hard: {weight: 0}}",
         "objective: found only weights of 0, expected a loss to train on\n"},
        {"objective={kd: {weight: 0}, hard: {weight: {points: [{step: 0, value: 0}, "
         "{step: 9, value: 0}]}}}",
         "objective: found only weights of 0, expected a loss to train on\n"},
        {"objective.hard.weight=1e300",
         "objective.hard.weight: found 1e+300, expected a number that f32 holds\n"},
        {"training.epsilon=1e-300", "training.epsilon: found 1e-300, which is 0 in f32, expected a "
                                    "number above 0\n"},
        {"training.beta1=0.9999999999999", "training.beta1: found 0.9999999999999, which is 1 in "
                                           "f32, expected a number between 0 and 1\n"},
        {"training.beta2=1e-300", "training.beta2: found 1e-300, which is 0 in f32, expected a "
                                  "number between 0 and 1\n"},
        {"student.model.norm_eps=1e-300", "student.model.norm_eps: found 1e-300, which is 0 in "
                                          "f32, expected a number above 0\n"},
        {"objective.balance.weight=-1",
         "objective.balance.weight: found -1, expected a number of at least 0\n"},
        {"objective.z.weight=-1",
         "objective.z.weight: found -1, expected a number of at least 0\n"},
        {"training.steps=", "training.steps: found nothing, expected a number: it is required\n"},
        {"training.steps=0", "training.steps: found 0, expected 1 to 1000000000000\n"},
        {"training.warmup_steps=101", "training.warmup_steps: found 101, expected 0 to 100\n"},
        {"training.learning_rate=0",
         "training.learning_rate: found 0, expected a number above 0\n"},
        {"training.final_learning_rate_ratio=1.5",
         "training.final_learning_rate_ratio: found 1.5, expected a number from 0 to 1\n"},
        {"training.weight_decay=-1",
         "training.weight_decay: found -1, expected a number of at least 0\n"},
        {"training.beta1=1", "training.beta1: found 1, expected a number between 0 and 1\n"},
        {"training.beta2=0", "training.beta2: found 0, expected a number between 0 and 1\n"},
        {"training.epsilon=0", "training.epsilon: found 0, expected a number above 0\n"},
        {"training.clip_norm=-1",
         "training.clip_norm: found -1, expected a number of at least 0\n"},
        {"training.micro_batch_size=0",
         "training.micro_batch_size: found 0, expected 1 to 1048576\n"},
        {"training.micro_batch_size=5", "training.batch_size: found 16, expected a multiple of "
                                        "student ranks * micro_batch_size (5)\n"},
        {"training.batch_size=0", "training.batch_size: found 0, expected 1 to 1048576\n"},
        {"student.resources.ranks=0", "student.resources.ranks: found 0, expected 1 to 4096\n"},
        {"student.resources.threads=0", "student.resources.threads: found 0, expected 1 to 1024\n"},
        {"teachers.0.resources.ranks=4097",
         "teachers.0.resources.ranks: found 4097, expected 0 to 4096\n"},
        {"teachers.0.resources.threads=0",
         "teachers.0.resources.threads: found 0, expected 1 to 1024\n"},
        {"teachers.0.stream_depth=65", "teachers.0.stream_depth: found 65, expected 1 to 64\n"},
        {"limits.max_restarts=1001", "limits.max_restarts: found 1001, expected 0 to 1000\n"},
        {"limits.hang_timeout_seconds=0",
         "limits.hang_timeout_seconds: found 0, expected 1 to 604800\n"},
        {"checkpoint.keep=0", "checkpoint.keep: found 0, expected 1 to 1000\n"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_mistakes(&cases[i].set, 1, cases[i].mistake);
    }
}

Test(job_check, what_needs_a_teacher_is_refused_without_one)
{
    const char *const weight[] = {"teachers=[]", "objective.kd.weight=0.7"};
    expect_mistakes(weight, 2,
                    "objective.kd.weight: found a weight, expected none or 0: the job "
                    "has no teachers\n");
}

/* The same mistakes, but for those about files, and about what is there when the job runs. */
Test(job_check, a_model_without_a_run_needs_no_files_and_no_teacher)
{
    const char *sets[] = {"output=",
                          "data.files=",
                          "teachers=",
                          "objective.kd.weight=1",
                          "objective.hard.weight=0",
                          "training.micro_batch_size=5"}; /* the last one has fewer */
    const char *wrong[] = {"output=", "data.files=[a]", "training.batch_size=0",
                           "objective.hard.weight=-1"};
    Kd__Job *job = complete(sets, 6);
    cr_expect(eq(int, kd_job_check_model(job, NULL), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    destroy(job);

    kd_text mistakes = {0};
    job = complete(wrong, 4);
    cr_expect(eq(int, kd_job_check_model(job, &mistakes), KD_ERR_INVALID));
    cr_expect(eq(str, mistakes.data,
                 "objective.hard.weight: found -1, expected a number of at least 0\n"
                 "training.batch_size: found 0, expected 1 to 1048576\n"));
    kd_text_release(&mistakes);
    destroy(job);
}

Test(job_check, batch_size_must_divide_over_ranks)
{
    const char *const sets[] = {"training.batch_size=10", "student.resources.ranks=2",
                                "training.micro_batch_size=2"};
    expect_mistakes(sets, 3,
                    "training.batch_size: found 10, expected a multiple of student ranks "
                    "* micro_batch_size (4)\n");
}

Test(job_check, a_schedule_has_at_most_as_many_points_as_the_engine_keeps)
{
    kd_text set = {0};
    kd_text_add(&set, "objective.hard.weight={points: [");
    for (int i = 0; i < 33; i++) {
        kd_text_printf(&set, "{step: %d, value: 1},", i);
    }
    kd_text_add(&set, "]}");
    const char *const sets[] = {set.data};
    expect_mistakes(sets, 1, "objective.hard.weight.points: found 33, expected at most 32\n");
    kd_text_release(&set);
}

/* As a peer can send it: a byte or two for each element. */
static void make_long(Kd__Job *job, const char *path, size_t n)
{
    kd_path_place place;
    cr_assert(eq(int, kd_path_find(&kd__job__descriptor, path, &place), KD_OK));
    for (size_t i = 0; i < n; i++) {
        char *text = strdup("x");
        ProtobufCMessage *message = place.field->type == PROTOBUF_C_TYPE_MESSAGE
                                        ? kd_message_create(place.field->descriptor)
                                        : NULL;
        const void *element = message != NULL ? (const void *)&message : &text;
        ProtobufCMessage *in = place.type == &kd__job__descriptor ? &job->base : &job->data->base;
        cr_assert(kd_message_add_element(in, place.field, element) != NULL);
        if (message != NULL) {
            free(text);
        }
    }
}

Test(job_check, a_list_that_is_too_long_is_refused_before_its_elements_cost_anything)
{
    static const struct {
        const char *path;
        size_t n;
        const char *mistake;
    } cases[] = {
        {"teachers", 20000, "teachers: found 20001, expected at most 1"},
        {"data.files", 65536, "data.files: found 65537, expected 1 to 65536"},
        {"after", 20000, "after: found 20000, expected at most 1000"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Kd__Job *job = parse(NULL, 0);
        make_long(job, cases[i].path, cases[i].n);
        cr_expect(eq(int, kd_job_check_lengths(job), KD_ERR_INVALID));
        cr_expect(eq(str, (char *)kd_fault_text(), (char *)cases[i].mistake));
        cr_expect(job->objective == NULL && job->teachers[0]->resources == NULL, "nothing is made");

        kd_text mistakes = {0};
        cr_assert(eq(int, kd_job_complete(job), KD_OK));
        cr_expect(eq(int, kd_job_check(job, &mistakes), KD_ERR_INVALID));
        cr_expect(eq(sz, strcspn(mistakes.data, "\n"), strlen(cases[i].mistake)));
        cr_expect(strncmp(mistakes.data, cases[i].mistake, strlen(cases[i].mistake)) == 0, "%s",
                  mistakes.data);
        cr_expect(lt(sz, mistakes.size, 8192), "no line for each element");
        kd_text_release(&mistakes);
        destroy(job);
    }
    Kd__Job *fine = parse(NULL, 0);
    cr_expect(eq(int, kd_job_check_lengths(fine), KD_OK), "what is absent is no list's matter");
    destroy(fine);
}

Test(job_check, a_list_within_a_list_is_held_to_its_length)
{
    Kd__Job *job = complete(NULL, 0);
    Kd__Schedule *temperature = job->objective->kd->temperature;
    const ProtobufCFieldDescriptor *points =
        kd_message_field(temperature->base.descriptor, "points");
    for (int i = 0; i < 33; i++) {
        ProtobufCMessage *point = kd_message_create(points->descriptor);
        cr_assert(kd_message_add_element(&temperature->base, points, &point) != NULL);
    }
    cr_expect(eq(int, kd_job_check_lengths(job), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "objective.kd.temperature.points: found 33, expected at most 32"));
    destroy(job);
}

Test(job_check, no_more_than_a_hundred_mistakes_are_told)
{
    Kd__Job *job = complete(NULL, 0);
    make_long(job, "data.files", 500); /* not one of them absolute */
    kd_text mistakes = {0};
    cr_expect(eq(int, kd_job_check(job, &mistakes), KD_ERR_INVALID));
    size_t n_lines = 0;
    for (const char *at = mistakes.data; *at != '\0'; at++) {
        n_lines += *at == '\n';
    }
    cr_expect(eq(sz, n_lines, KD_MISTAKES_MAX));
    kd_text_release(&mistakes);
    destroy(job);
}

Test(job_check, all_mistakes_are_told_at_once)
{
    const char *const sets[] = {"output=", "training.steps=0", "checkpoint.keep=0"};
    expect_mistakes(sets, 3,
                    "output: found nothing, expected a path: it is required\n"
                    "training.steps: found 0, expected 1 to 1000000000000\n"
                    "checkpoint.keep: found 0, expected 1 to 1000\n");
}

Test(job_check, an_enum_value_that_only_a_peer_can_send_is_refused)
{
    Kd__Job *job = complete(NULL, 0);
    job->objective->kd->temperature->kind = (Kd__Schedule__Kind)77;
    job->objective->kd->temperature->has_kind = 1;
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "objective.kd.temperature.kind: found 77, expected one of the 3 known values"));
    destroy(job);
}

Test(job_check, fields_that_only_a_later_version_knows_are_refused)
{
    /* Field 127 of training. */
    Kd__Job *job = kd__job__unpack(NULL, 5, (const uint8_t *)"\x4a\x03\xf8\x07\x01");
    cr_assert(job != NULL);
    cr_expect(kd_message_has_unknown(&job->base));
    cr_assert(eq(int, kd_job_complete(job), KD_OK));
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "job: found fields that this version of the program does not know"));
    destroy(job);
}

Test(job_check, an_empty_job_that_a_peer_sent_is_refused_not_crashed_on)
{
    ProtobufCMessage *message = kd_message_create(&kd__job__descriptor);
    Kd__Job *job = (Kd__Job *)message;
    cr_assert(eq(int, kd_job_complete(job), KD_OK));
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    destroy(job);
}

Test(job_check, a_name_that_would_steer_a_terminal_is_refused)
{
    expect_mistakes((const char *[]){"name=\"a\\e[31mb\""}, 1,
                    "name: found a control character at byte 1, expected none\n");
    expect_mistakes((const char *[]){"name=\"two\\nlines\""}, 1,
                    "name: found a control character at byte 3, expected none\n");
    expect_mistakes((const char *[]){"name=\"a\\u009b31mb\""}, 1, /* as ESC [ */
                    "name: found a control character at byte 1, expected none\n");
}

/* What is printed of it would be another path: the ranks would look elsewhere than the check did. */
Test(job_check, a_text_that_is_not_utf_8_is_refused_by_path_and_byte)
{
    Kd__Job *job = complete(NULL, 0);
    replace(&job->data->files[0], "/d\xff/a.txt");
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    cr_expect(
        eq(str, (char *)kd_fault_text(), "data.files.0: found 0xff at byte 2, expected UTF-8"));
    replace(&job->data->files[0], "/d\xc3\xa4/a.txt");
    cr_expect(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    replace(&job->output, "/out\xc3");
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(), "output: found 0xc3 at byte 4, expected UTF-8"));
    destroy(job);
}

Test(job_check, a_long_name_is_refused)
{
    Kd__Job *job = complete(NULL, 0);
    job->name = malloc(202);
    memset(job->name, 'n', 201);
    job->name[201] = '\0';
    cr_expect(eq(int, kd_job_check(job, NULL), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(), "name: found 201 bytes, expected at most 200"));
    destroy(job);
}
