/* What of a student is on the disk: the model, and the state of its training, as libkd.so writes them. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/small_student.h"
#include "tests/support/temporary.h"

TestSuite(kd_checkpoint, .init = temporary_enter, .fini = temporary_leave);

Test(kd_checkpoint, a_saved_student_is_loaded_as_it_was)
{
    kd_student *student = small_student(SMALL(2));
    int32_t tokens[N], labels[N];
    kd_scores wanted, found;
    (void)small_train(student, 20);
    small_text(tokens, labels, 3);
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &wanted), KD_OK);
    cr_expect_eq(wanted.n_tokens, N);
    cr_expect_float_eq(wanted.perplexity, exp(wanted.loss), 1e-9);
    cr_assert_eq(kd_student_save(student, "saved"), KD_OK);
    kd_student_destroy(student);

    student = small_student(DATA F32 "student: {init: checkpoint, checkpoint: saved}\n");
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &found), KD_OK);
    cr_expect_eq(found.loss, wanted.loss);
    cr_expect_eq(found.accuracy, wanted.accuracy);
    cr_expect_eq(kd_student_steps(student), 0);
    kd_student_destroy(student);
}

Test(kd_checkpoint, a_folder_with_other_files_is_not_replaced)
{
    kd_student *student = small_student(SMALL(2));
    kd_set_quiet(true);
    temporary_write("thesis.txt", "three years");
    cr_expect_eq(kd_student_save(student, temporary_folder()), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "it holds \"thesis.txt\""), "%s", kd_error_text());
    FILE *file = fopen("thesis.txt", "r");
    cr_assert_not_null(file);
    (void)fclose(file);
    cr_expect_eq(kd_student_save(student, "saved"), KD_OK);
    cr_expect_eq(kd_student_save(student, "saved"), KD_OK, "its own is");
    kd_student_destroy(student);
}

/* As the folder that a job of a daemon leaves. */
static void expect_named(const char *path, const char *text)
{
    char found[64] = "";
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    cr_expect_eq(fread(found, 1, sizeof found - 1, file), strlen(text));
    cr_assert_eq(fclose(file), 0);
    cr_expect_str_eq(found, text, "%s", path);
}

Test(kd_checkpoint, a_student_of_a_folder_keeps_its_tokenizer_and_split)
{
    static const char lineage[] = "{\"version\": 1, \"tokenizer\": ...}\n";
    kd_student *student = small_student(SMALL(2));
    cr_assert_eq(kd_student_save(student, "start"), KD_OK);
    kd_student_destroy(student);
    cr_assert_neq(access("start/tokenizer.json", F_OK), 0, "a random one has none");
    temporary_write("start/distilld.json", lineage);
    temporary_write("start/tokenizer.json", "{}");
    temporary_write("start/tokenizer.model", "");

    student = small_student(DATA F32 "student: {init: checkpoint, checkpoint: start}\n");
    cr_assert_eq(rename("start", "gone"), 0);
    cr_assert_eq(kd_student_save(student, "saved"), KD_OK);
    cr_assert_eq(kd_student_save(student, "saved"), KD_OK, "what is kept is its own too");
    expect_named("saved/distilld.json", lineage);
    expect_named("saved/tokenizer.json", "{}");
    expect_named("saved/tokenizer.model", "");
    cr_expect_neq(access("saved/merges.txt", F_OK), 0);
    kd_student_destroy(student);
}

/* What auto came to here is part of the job: a processor that comes to the other is told. */
Test(kd_checkpoint, a_checkpoint_keeps_the_dtype_that_auto_came_to)
{
    static const char *const jobs[] = {DATA MODEL "training: {" TRAINING ", dtype: f32}\n",
                                       DATA MODEL "training: {" TRAINING ", dtype: bf16}\n"};
    int n_refused = 0;
    kd_student *student = small_student(DATA MODEL "training: {" TRAINING "}\n");
    (void)small_train(student, 1);
    cr_assert_eq(kd_student_checkpoint(student, "state"), KD_OK);
    cr_expect_eq(kd_student_resume(student, "state"), KD_OK, "%s", kd_error_text());
    kd_student_destroy(student);
    kd_set_quiet(true);
    for (int i = 0; i < 2; i++) {
        student = small_student(jobs[i]);
        if (kd_student_resume(student, "state")) {
            n_refused++;
            cr_expect_not_null(strstr(kd_error_text(), "training.dtype: found "), "%s",
                               kd_error_text());
        }
        kd_student_destroy(student);
    }
    cr_expect_eq(n_refused, 1);
}

/* Of the checkpoints of step 6 below two folders. */
static void expect_same_file(const char *folder, const char *other, const char *name)
{
    cr_expect(temporary_same(temporary_path("%s/step-000000000006/%s", folder, name),
                             temporary_path("%s/step-000000000006/%s", other, name)),
              "%s differs", name);
}

Test(kd_checkpoint, training_goes_on_from_a_checkpoint_exactly)
{
    (void)small_teacher();
    kd_student *straight = small_student(SMALL(2)), *resumed = small_student(SMALL(2));
    cr_assert_eq(kd_student_attach_teacher(straight, "teacher"), KD_OK);
    cr_assert_eq(kd_student_attach_teacher(resumed, "teacher"), KD_OK);
    (void)small_train(straight, 3);
    cr_assert_eq(kd_student_checkpoint(straight, "state"), KD_OK);
    (void)small_train(resumed, 1);
    cr_assert_eq(kd_student_resume(resumed, "state"), KD_OK, "%s", kd_error_text());
    cr_expect_eq(kd_student_steps(resumed), 3);
    const kd_losses wanted = small_train(straight, 3), found = small_train(resumed, 3);
    cr_expect_eq(found.total, wanted.total);
    cr_expect_eq(found.gradient_norm, wanted.gradient_norm);
    cr_assert_eq(kd_student_checkpoint(straight, "a"), KD_OK);
    cr_assert_eq(kd_student_checkpoint(resumed, "b"), KD_OK);
    expect_same_file("a", "b", "train.safetensors");
    expect_same_file("a", "b", "model.safetensors");
    expect_same_file("a", "b", "state.json");
    cr_expect_eq(kd_student_resume(resumed, "nothing"), KD_ERR_NOT_FOUND);
    kd_student_destroy(straight);
    kd_student_destroy(resumed);
}

static void expect_no_resume(const char *job, const char *teacher, const char *words)
{
    kd_student *student = small_student(job);
    int32_t tokens[N], labels[N];
    kd_scores before, after;
    small_text(tokens, labels, 3);
    cr_assert_eq(kd_student_attach_teacher(student, teacher), KD_OK);
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &before), KD_OK);
    cr_expect_eq(kd_student_resume(student, "state"), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), words), "found: %s", kd_error_text());
    cr_expect_eq(kd_student_steps(student), 0);
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &after), KD_OK);
    cr_expect_eq(after.loss, before.loss);
    kd_student_destroy(student);
}

Test(kd_checkpoint, a_checkpoint_of_another_job_is_refused_by_its_field)
{
    (void)small_teacher();
    kd_student *student = small_student(SMALL(2)), *other = small_student(SMALL(7));
    cr_assert_eq(kd_student_save(other, "other"), KD_OK);
    cr_assert_eq(kd_student_attach_teacher(student, "teacher"), KD_OK);
    (void)small_train(student, 1);
    cr_assert_eq(kd_student_checkpoint(student, "state"), KD_OK);
    kd_set_quiet(true);
    expect_no_resume(SMALL(3), "teacher", "seed: found 3, the checkpoint was made with 2");
    expect_no_resume(DATA "student: {model: {hidden_size: 32, " SHAPE "}}\n" F32 "seed: 2\n",
                     "teacher",
                     "student.model.hidden_size: found 32, the checkpoint was made with 16");
    expect_no_resume(DATA MODEL "training: {" TRAINING ", dtype: f32, beta2: 0.9}\nseed: 2\n",
                     "teacher",
                     "training.beta2: found 0.9, the checkpoint was made with its default");
    expect_no_resume(DATA MODEL "training: {" TRAINING ", dtype: bf16}\nseed: 2\n", "teacher",
                     "training.dtype: found bf16, the checkpoint was made with f32");
    expect_no_resume(SMALL(2), "other", "teachers.0.checkpoint: found content ");
    expect_no_resume(SMALL(2), NULL, "was made by another job: teachers.0.");
    kd_student_destroy(other);
    kd_student_destroy(student);
}

/* What is live, free or a path is another matter. */
Test(kd_checkpoint, a_checkpoint_is_resumed_under_other_live_values_and_paths)
{
    (void)small_teacher();
    kd_student *student = small_student(SMALL(2));
    cr_assert_eq(kd_student_attach_teacher(student, "teacher"), KD_OK);
    (void)small_train(student, 1);
    cr_assert_eq(kd_student_checkpoint(student, "state"), KD_OK);
    kd_student_destroy(student);
    cr_assert_eq(rename("teacher", "moved"), 0);
    student = small_student(SMALL(2) "name: again\noutput: elsewhere\n"
                                     "objective: {hard: {weight: 0.5}, kd: {temperature: 3}}\n"
                                     "teachers: [{checkpoint: moved}]\n");
    cr_expect_eq(kd_student_resume(student, "state"), KD_OK, "%s", kd_error_text());
    cr_expect_eq(kd_student_steps(student), 1);
    kd_student_destroy(student);
}

Test(kd_checkpoint, the_checkpoint_that_a_student_starts_from_is_part_of_it)
{
    static const char job[] = DATA F32 "student: {init: checkpoint, checkpoint: start}\n";
    kd_student *first = small_student(SMALL(2)), *second = small_student(SMALL(3));
    cr_assert_eq(kd_student_save(first, "start"), KD_OK);
    kd_student *student = small_student(job);
    cr_assert_eq(kd_student_checkpoint(student, "state"), KD_OK);
    cr_assert_eq(kd_student_resume(student, "state"), KD_OK, "%s", kd_error_text());
    cr_assert_eq(kd_student_save(second, "start"), KD_OK);
    kd_set_quiet(true);
    expect_no_resume(job, NULL, "student.checkpoint: found content ");
    kd_student_destroy(student);
    kd_student_destroy(second);
    kd_student_destroy(first);
}

/* Of a folder without a seal the two depths read different bytes: no other checkpoint is to blame. */
Test(kd_checkpoint, how_far_a_start_was_read_is_part_of_it_and_told)
{
    static const char edges[] = DATA F32 "student: {init: checkpoint, checkpoint: start}\n",
                      full[] =
                          DATA F32 "student: {init: checkpoint, checkpoint: start, verify: full}\n";
    kd_student *start = small_student(SMALL(2));
    cr_assert_eq(kd_student_save(start, "start"), KD_OK);
    cr_assert_eq(remove("start/manifest.json"), 0);
    kd_student *student = small_student(full);
    cr_assert_eq(kd_student_checkpoint(student, "state"), KD_OK);
    cr_expect_eq(kd_student_resume(student, "state"), KD_OK, "%s", kd_error_text());
    kd_set_quiet(true);
    expect_no_resume(edges, NULL, " of every byte");
    kd_student_destroy(student);
    kd_student_destroy(start);
}
