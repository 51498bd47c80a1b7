/* What only a disk can tell of a job: its files and the models it names. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "tests/unit/job_fixture.h"

static void enter_quietly(void)
{
    temporary_enter();
    be_quiet();
}

TestSuite(job_files, .init = enter_quietly, .fini = temporary_leave);

/* config.json of the teacher in the folder m: a llama that fits the least job, but for one field. */
static void write_teacher(const char *name, const char *value)
{
    const char *const fields[][2] = {
        {"model_type", "\"llama\""},  {"vocab_size", "256"},
        {"hidden_size", "64"},        {"num_hidden_layers", "3"},
        {"num_attention_heads", "4"}, {"rms_norm_eps", "1e-5"},
        {"intermediate_size", "80"},  {"max_position_embeddings", "256"},
        {"rope_scaling", "null"},     {"use_sliding_window", "false"},
        {"mlp_only_layers", "[]"},    {"decoder_sparse_step", "1"},
        {"hidden_act", "\"silu\""},
    };
    kd_text text = {0};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const bool is_it = name != NULL && strcmp(name, fields[i][0]) == 0;
        kd_text_printf(&text, "%s\"%s\": %s", i == 0 ? "{" : ", ", fields[i][0],
                       is_it ? value : fields[i][1]);
    }
    kd_text_add(&text, "}");
    temporary_write("m/config.json", text.data);
    kd_text_release(&text);
}

/* A job whose files are all there. */
static Kd__Job *job_with_files(void)
{
    char sets[3][96];
    const char *const pointers[] = {sets[0], sets[1], sets[2]}, *folder = temporary_folder();
    temporary_write("a.txt", "text");
    cr_assert(mkdir("m", 0700) == 0);
    write_teacher(NULL, NULL);
    (void)snprintf(sets[0], sizeof sets[0], "data.files=[%s/a.txt]", folder);
    (void)snprintf(sets[1], sizeof sets[1], "teachers.0.checkpoint=%s/m", folder);
    (void)snprintf(sets[2], sizeof sets[2], "output=%s/new/out", folder);
    return complete(pointers, 3);
}

static void expect_file_mistake(Kd__Job *job, const char *start, const char *end)
{
    cr_expect(eq(int, kd_job_check_files(job), KD_ERR_INVALID));
    cr_expect(strncmp(kd_fault_text(), start, strlen(start)) == 0, "%s", kd_fault_text());
    EXPECT_FAULT(end);
}

Test(job_files, files_that_are_there_pass)
{
    Kd__Job *job = job_with_files();
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "%s", kd_fault_text());
    destroy(job);
}

Test(job_files, each_missing_or_wrong_file_is_named_by_its_field)
{
    Kd__Job *job = job_with_files();
    const char *const text = temporary_path("a.txt");

    replace(&job->output, "/proc/version/out");
    expect_file_mistake(job, "output: ", "folder that can be written to");
    replace(&job->output, text);
    expect_file_mistake(job, "output: ", "found a file, expected a folder");

    replace(&job->teachers[0]->checkpoint, text);
    expect_file_mistake(job, "teachers.0.checkpoint: ", "Not a directory");
    replace(&job->teachers[0]->checkpoint, temporary_folder());
    expect_file_mistake(job, "teachers.0.checkpoint: ", "config.json: No such file");
    replace(&job->teachers[0]->checkpoint, "/nonexistent-folder");
    expect_file_mistake(job, "teachers.0.checkpoint: /nonexistent-folder: No such file",
                        "expected a model directory");
    job->student->checkpoint = strdup("/nonexistent-student");
    expect_file_mistake(job, "student.checkpoint: /nonexistent-student: ", "No such file");

    temporary_write("a.txt", "");
    expect_file_mistake(job, "data.files.0: ", "found an empty file, expected text");
    replace(&job->data->files[0], temporary_folder());
    expect_file_mistake(job, "data.files.0: ", "Is a directory");
    replace(&job->data->files[0], "/nonexistent.txt");
    expect_file_mistake(job, "data.files.0: /nonexistent.txt: No such file", "can be read");

    destroy(job);
}

/* What ranks would find out only once they run. */
Test(job_files, a_checkpoint_that_does_not_fit_is_refused_by_its_config)
{
    static const struct {
        const char *name, *value, *start, *mistake;
    } cases[] = {
        {"model_type", "\"lama\"", "teachers.0.checkpoint: ", "did you mean \"llama\"?"},
        {"hidden_size", "\"wide\"", "teachers.0.checkpoint: ", "m/config.json: \"hidden_size\" is"},
        {"rope_scaling", "{\"rope_type\": \"yarn\"}", "teachers.0.checkpoint: ", "\"yarn\""},
        {"use_sliding_window", "true", "teachers.0.checkpoint: ", "\"use_sliding_window\" is true"},
        {"mlp_only_layers", "[0]", "teachers.0.checkpoint: ", "\"mlp_only_layers\" is [0]"},
        {"decoder_sparse_step", "2", "teachers.0.checkpoint: ", "\"decoder_sparse_step\" is 2"},
        {"hidden_act", "\"gelu\"", "teachers.0.checkpoint: ", "\"hidden_act\" is \"gelu\""},
        {"num_attention_heads", "7", "teachers.0.checkpoint: ", "a divisor of \"hidden_size\""},
        {"vocab_size", "200", "teachers.0.checkpoint: ", "found a vocabulary of 200 tokens"},
        {"vocab_size", "512", "teachers.0.checkpoint: ",
         "the student's vocabulary has 256 tokens and the teacher's 512"},
        {"max_position_embeddings", "100", "data.sequence_length: found 256, expected at most 100",
         "teachers.0.checkpoint"},
        {"model_type", "\"llama\" \"", "teachers.0.checkpoint: ", "m/config.json:1:"},
    };

    Kd__Job *job = job_with_files();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_teacher(cases[i].name, cases[i].value);
        expect_file_mistake(job, cases[i].start, cases[i].mistake);
    }
    write_teacher("vocab_size", "320"); /* padding */
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "%s", kd_fault_text());

    write_teacher("vocab_size", "600");
    job->student->checkpoint = strdup(job->teachers[0]->checkpoint);
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "of one size: %s", kd_fault_text());
    write_teacher("hidden_act", "\"gelu\"");
    expect_file_mistake(job, "student.checkpoint: ", "\"hidden_act\"");
    destroy(job);
}

Test(job_files, a_pipe_is_no_config)
{
    Kd__Job *job = job_with_files();
    cr_assert(unlink("m/config.json") == 0 && mkfifo("m/config.json", 0600) == 0);
    expect_file_mistake(job, "teachers.0.checkpoint: ", "found no regular file");
    destroy(job);
}

Test(job_files, a_pipe_or_a_device_is_no_text)
{
    Kd__Job *job = job_with_files();
    cr_assert(mkfifo("pipe", 0600) == 0);
    replace(&job->data->files[0], temporary_path("pipe"));
    expect_file_mistake(job, "data.files.0: ", "pipe: found no regular file, expected a file that");
    replace(&job->data->files[0], "/dev/null");
    expect_file_mistake(job, "data.files.0: /dev/null: found no regular file", "can be read");
    destroy(job);
}

/* A job is not at fault where its files cannot be read just now. */
Test(job_files, a_disk_that_fails_is_told_from_a_bad_config)
{
    Kd__Job *job = job_with_files();
    cr_assert(unlink("m/config.json") == 0 && symlink("/proc/self/mem", "m/config.json") == 0);
    cr_expect(eq(int, kd_job_check_files(job), KD_ERR_IO), "%s", kd_fault_text());
    EXPECT_FAULT("teachers.0.checkpoint: ");
    destroy(job);
}

/* It is parsed once for an inode and its times. */
Test(job_files, a_config_that_changed_is_read_again)
{
    Kd__Job *job = job_with_files();
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "%s", kd_fault_text());
    write_teacher("vocab_size", "999"); /* as many bytes as before */
    expect_file_mistake(job, "teachers.0.checkpoint: ", "the teacher's 999");
    write_teacher(NULL, NULL);
    cr_expect(eq(int, kd_job_check_files(job), KD_OK), "%s", kd_fault_text());
    destroy(job);
}
