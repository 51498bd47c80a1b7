#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message/fields.h"
#include "tests/support/temporary.h"
#include "tests/unit/job_fixture.h"

TestSuite(job, .init = be_quiet);

Test(job, sets_apply_in_order_over_the_file)
{
    const char *const sets[] = {"training.steps=5", "training.steps=6", "name=x"};
    Kd__Job *job = parse(sets, 3);
    cr_expect(eq(u64, job->training->steps, 6));
    cr_expect(eq(str, job->name, "x"));
    destroy(job);
}

Test(job, a_mistake_in_file_or_set_gives_no_job)
{
    Kd__Job *job = NULL;
    const char *const bad[] = {"training.stps=5"};
    cr_expect(eq(int, kd_job_parse("naem: x", 7, "j.yaml", NULL, 0, &job), KD_ERR_INVALID));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "j.yaml:1:1: naem: no such field; did you mean \"name\"?"));
    cr_expect(eq(int, kd_job_parse("name: x", 7, "j.yaml", bad, 1, &job), KD_ERR_INVALID));
    cr_expect(strncmp(kd_fault_text(), "--set: training.stps: no such field", 35) == 0);
    cr_expect(job == NULL);
}

Test(job, relative_paths_are_below_the_base_folder)
{
    const char *const sets[] = {"output=out", "data.files=[a.txt, /b.txt]", "student.checkpoint=s",
                                "teachers.0.checkpoint=t/m"};
    Kd__Job *job = parse(sets, 4);
    cr_assert(eq(int, kd_job_resolve_paths(job, "/home/x"), KD_OK));
    cr_expect(eq(str, job->output, "/home/x/out"));
    cr_expect(eq(str, job->data->files[0], "/home/x/a.txt"));
    cr_expect(eq(str, job->data->files[1], "/b.txt"));
    cr_expect(eq(str, job->student->checkpoint, "/home/x/s"));
    cr_expect(eq(str, job->teachers[0]->checkpoint, "/home/x/t/m"));
    destroy(job);

    Kd__Job empty = KD__JOB__INIT;
    cr_expect(eq(int, kd_job_resolve_paths(&empty, "/home/x"), KD_OK), "nothing there is fine");
}

static void expect_path(const char *found, const char *below_folder)
{
    cr_expect(eq(str, (char *)found, (char *)temporary_path("%s", below_folder)));
}

Test(job, paths_are_below_the_folder_of_who_names_them)
{
    const char *const sets[] = {"data.files.2=d.txt", "student.checkpoint=s/final"};
    Kd__Job *job = NULL;
    temporary_enter();
    cr_assert(mkdir("jobs", 0700) == 0);
    temporary_write("jobs/job.yaml", "output: out\ndata: {files: [a.txt, /b.txt, c.txt]}\n");
    cr_assert(eq(int, kd_job_read("jobs/job.yaml", sets, 2, &job), KD_OK), "%s", kd_fault_text());
    expect_path(job->output, "jobs/out");
    expect_path(job->data->files[0], "jobs/a.txt");
    cr_expect(eq(str, job->data->files[1], "/b.txt"));
    expect_path(job->data->files[2], "d.txt");
    expect_path(job->student->checkpoint, "s/final");
    destroy(job);

    cr_assert(chdir("jobs") == 0);
    cr_assert(eq(int, kd_job_read("job.yaml", NULL, 0, &job), KD_OK));
    expect_path(job->output, "jobs/out");
    destroy(job);
    temporary_leave();
}

Test(job, a_file_that_cannot_be_read_and_a_bad_set_give_no_job)
{
    const char *const bad[] = {"training.stps=5"};
    Kd__Job *job = NULL;
    temporary_enter();
    temporary_write("job.yaml", "output: out\n");
    cr_expect(eq(int, kd_job_read("none.yaml", NULL, 0, &job), KD_ERR_NOT_FOUND));
    cr_expect(eq(int, kd_job_read("job.yaml", bad, 1, &job), KD_ERR_INVALID));
    cr_expect(job == NULL);
    temporary_leave();
}

Test(job, complete_fills_in_defaults_that_depend_on_other_fields)
{
    Kd__Job *job = complete(NULL, 0);
    cr_expect(eq(dbl, job->objective->kd->weight->value, 0.7));
    cr_expect(eq(dbl, job->objective->kd->temperature->value, 4.0));
    cr_expect(eq(dbl, job->objective->hard->weight->value, 0.3));
    cr_expect(eq(u32, job->student->model->num_kv_heads, 4));
    cr_expect(eq(u32, job->student->model->head_dim, 16));
    cr_expect(job->student->has_seed && job->student->seed == 3);
    cr_expect(eq(u32, job->training->micro_batch_size, 8));
    cr_expect(not(job->training->has_micro_batch_size));
    cr_expect(job->name == NULL);
    cr_expect(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    destroy(job);
}

/* The number is code's; the words are what `explain` prints. */
Test(job, the_words_for_a_micro_batch_say_the_same_number)
{
    const char *const sets[] = {"training.batch_size=4096"};
    const char *words = kd_field_facts_named("kd.Training", "micro_batch_size")->computed_default;
    Kd__Job *job = complete(sets, 1);
    char said[32];
    (void)snprintf(said, sizeof said, "at most %u", job->training->micro_batch_size);
    cr_expect(strstr(words, said) != NULL, "\"%s\" does not say \"%s\"", words, said);
    destroy(job);
}

Test(job, complete_without_teachers_leaves_hard_targets_alone)
{
    const char *const sets[] = {"teachers=[]"};
    Kd__Job *job = complete(sets, 1);
    cr_expect(eq(dbl, job->objective->kd->weight->value, 0.0));
    cr_expect(eq(dbl, job->objective->hard->weight->value, 1.0));
    cr_expect(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    destroy(job);
}

Test(job, complete_keeps_what_is_given)
{
    const char *const sets[] = {"objective.kd.weight={points: [{step: 1, value: 2}]}",
                                "student.seed=9", "student.model.head_dim=32",
                                "student.model.num_kv_heads=2", "training.micro_batch_size=2"};
    Kd__Job *job = complete(sets, 5);
    cr_expect(eq(sz, job->objective->kd->weight->n_points, 1));
    cr_expect(eq(int, job->objective->kd->weight->kind, KD__SCHEDULE__KIND__LINEAR));
    cr_expect(not(job->objective->kd->weight->has_value));
    cr_expect(eq(u64, job->student->seed, 9));
    cr_expect(eq(u32, job->student->model->head_dim, 32));
    cr_expect(eq(u32, job->student->model->num_kv_heads, 2));
    cr_expect(eq(u32, job->training->micro_batch_size, 2));
    destroy(job);
}

Test(job, completing_twice_is_the_same_as_once)
{
    const char *const checkpoint[] = {"student={init: checkpoint, checkpoint: /s}"};
    for (size_t n_sets = 0; n_sets <= 1; n_sets++) {
        Kd__Job *job = complete(checkpoint, n_sets);
        ProtobufCMessage *once = kd_message_copy(&job->base);
        cr_assert(eq(int, kd_job_complete(job), KD_OK));
        cr_expect(kd_message_equal(&job->base, once));
        kd_message_destroy(once);
        destroy(job);
    }
}

Test(job, micro_batch_size_is_the_largest_divisor_of_a_ranks_share_up_to_8)
{
    static const struct {
        const char *batch, *ranks;
        uint32_t expected;
    } cases[] = {
        {"training.batch_size=16", "student.resources.ranks=1", 8},
        {"training.batch_size=16", "student.resources.ranks=4", 4},
        {"training.batch_size=12", "student.resources.ranks=1", 6},
        {"training.batch_size=7", "student.resources.ranks=1", 7},
        {"training.batch_size=11", "student.resources.ranks=1", 1},
        {"training.batch_size=1", "student.resources.ranks=4", 1},
        {"training.batch_size=0", "student.resources.ranks=0", 1},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const sets[] = {cases[i].batch, cases[i].ranks};
        Kd__Job *job = complete(sets, 2);
        cr_expect(eq(u32, job->training->micro_batch_size, cases[i].expected), "%s %s",
                  cases[i].batch, cases[i].ranks);
        destroy(job);
    }
}

Test(job, a_student_from_a_checkpoint_has_no_shape_of_its_own)
{
    const char *const sets[] = {"student={init: checkpoint, checkpoint: /s}"};
    Kd__Job *job = complete(sets, 1);
    cr_expect(job->student->model == NULL);
    cr_expect(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    destroy(job);
}

Test(job, ranks_and_slots_add_up)
{
    const char *const sets[] = {
        "student.resources={ranks: 2, threads: 3}", "teachers.0.resources={ranks: 3, threads: 4}",
        "teachers.1={checkpoint: /n, resources: {threads: 7}}", "teachers.2.resources.ranks=1"};
    Kd__Job *job = complete(sets, 4);
    cr_expect(eq(u32, kd_job_ranks(job), 6));
    cr_expect(eq(u64, kd_job_slots(job), 2 * 3 + 3 * 4 + 0 * 7 + 1));
    destroy(job);
}
