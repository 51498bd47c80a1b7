#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "distill/schedule.h"
#include "job/job.h"
#include "message/fields.h"
#include "message/path.h"
#include "message/reflect.h"
#include "tensor/ops.h"
#include "tests/support/temporary.h"
#include "tests/unit/small_job.h"
#include "train/dtype.h"
#include "train/initial.h"
#include "worker/batches.h"
#include "worker/options.h"
#include "worker/resolved.h"
#include "worker/teacher.h"

Test(job, reaches_the_libraries)
{
    Kd__Job *job =
        job_of(SMALL "training: {steps: 20, batch_size: 8, micro_batch_size: 2, dtype: f32}\n");
    kd_model_config config;
    cr_assert(eq(int, kd_initial_config(job, &config), KD_OK));
    cr_expect(eq(int, (int)kd_dtype_of_word(job->training->dtype), KD_F32));
    cr_expect(eq(u64, kd_job_micro_batches(job), 4));
    cr_expect(config.type == &kd_model_qwen3_moe);
    cr_expect(eq(int, (int)config.qk_norm, KD_QK_NORM_HEAD));
    cr_expect(eq(i64, config.n_experts, 4));
    cr_expect(eq(i64, config.head_dim, 8));
    kd__job__free_unpacked(job, NULL);
}

/* 1 teacher, 2 students, depth 2: six micro-batches may be under way, a step has four. */
Test(orders, lead_by_what_may_be_under_way)
{
    Kd__Job *job = job_of(SMALL "training: {steps: 20, batch_size: 8, micro_batch_size: 2}\n");
    job->student->resources->ranks = 2;
    job->teachers[0]->resources->ranks = 1;
    cr_expect(eq(int, orders_lead(job), 2));
    job->teachers[0]->resources->ranks = 0;
    cr_expect(eq(int, orders_lead(job), 1));
    kd__job__free_unpacked(job, NULL);
}

Test(batches,
     nothing_held_out_writes_no_test_shard,
     .init = temporary_enter,
     .fini = temporary_leave)
{
    char text[4096] = {0};
    memset(text, 'x', sizeof text - 1);
    temporary_write("text", text);
    Kd__Job *job = job_of(SMALL "training: {steps: 1}\n");
    cr_assert(eq(int, kd_path_set(&job->base, "data.files.0", "text", NULL), KD_OK));
    cr_assert(eq(int, kd_path_set(&job->base, "output", "out", NULL), KD_OK));
    cr_assert(eq(int, batches_pack(job), KD_OK), "%s", kd_fault_text());
    cr_expect(access("out/data/train.shard", F_OK) == 0);
    cr_expect(access("out/data/test.shard", F_OK) != 0);
    job->data->held_out = 0.1;
    cr_assert(eq(int, batches_pack(job), KD_OK), "%s", kd_fault_text());
    cr_expect(access("out/data/test.shard", F_OK) == 0);
    kd__job__free_unpacked(job, NULL);
}

Test(options, are_read_with_and_without_an_equals_sign)
{
    char *argv[] = {"distill-worker", "--job", "a.yaml",          "--set=x=1",
                    "--set",          "y=2",   "--attempt-file=b"};
    options o;
    cr_assert(eq(int, options_parse(7, argv, &o), KD_OK));
    cr_expect(eq(str, (char *)o.job_path, "a.yaml"));
    cr_expect(eq(str, (char *)o.attempt_path, "b"));
    cr_assert(eq(sz, o.n_sets, 2));
    cr_expect(eq(str, (char *)o.sets[0], "x=1"));
    cr_expect(eq(str, (char *)o.sets[1], "y=2"));
}

Test(options, what_is_not_known_is_named)
{
    char *argv[] = {"distill-worker", "--jbo", "a.yaml"};
    options o;
    kd_fault_quiet(1);
    cr_expect(eq(int, options_parse(3, argv, &o), KD_ERR_ARG));
    cr_expect(strstr(kd_fault_text(), "--jbo") != NULL);
    cr_expect(eq(int, options_parse(1, argv, &o), KD_ERR_ARG));
    argv[1] = "--job";
    cr_expect(eq(int, options_parse(2, argv, &o), KD_ERR_ARG));
}

Test(options, a_stop_is_no_fault)
{
    cr_expect(not(options_is_permanent(KD_ERR_STOPPED)));
    cr_expect(eq(int, (int)options_exit_code(KD_ERR_STOPPED), 3));
}

Test(options, only_bad_input_is_permanent)
{
    const kd_status permanent[] = {KD_ERR_INVALID, KD_ERR_PROTO, KD_ERR_NOT_FOUND, KD_ERR_ARG};
    const kd_status passing[] = {KD_ERR_IO, KD_ERR_NOMEM, KD_ERR_STATE};
    for (size_t i = 0; i < 4; i++) {
        cr_expect(options_is_permanent(permanent[i]));
        cr_expect(eq(int, (int)options_exit_code(permanent[i]), 65));
    }
    for (size_t i = 0; i < 3; i++) {
        cr_expect(not(options_is_permanent(passing[i])));
        cr_expect(ge(int, (int)options_exit_code(passing[i]), 70));
    }
}

/* Arrays of the engine have as many places as a job may ask for. */
Test(settings, what_a_job_may_have_fits_the_engine)
{
    cr_expect(eq(dbl, kd_field_facts_named("kd.Model", "num_experts")->range.most, KD_EXPERTS_MAX));
}

Test(dtype, auto_follows_the_ranks)
{
    cr_expect(eq(int, kd_dtype_choose(KD__DTYPE__AUTO, 3, 3), KD__DTYPE__BF16));
    cr_expect(eq(int, kd_dtype_choose(KD__DTYPE__AUTO, 3, 2), KD__DTYPE__F32));
    cr_expect(eq(int, kd_dtype_choose(KD__DTYPE__BF16, 3, 0), KD__DTYPE__BF16));
    cr_expect(eq(int, kd_dtype_choose(KD__DTYPE__F32, 3, 3), KD__DTYPE__F32));
}

static const char open_job[] = SMALL "training: {steps: 20, batch_size: 8}\n";

Test(device, ranks_take_those_that_are_left_in_turn)
{
    static const struct {
        uint64_t avoided;
        int taken[5]; /* of 3 devices, by ranks 0 to 4 */
    } rows[] = {
        {0, {0, 1, 2, 0, 1}},      {1, {1, 2, 1, 2, 1}}, {2, {0, 2, 0, 2, 0}}, {5, {1, 1, 1, 1, 1}},
        {7, {-1, -1, -1, -1, -1}}, {8, {0, 1, 2, 0, 1}}, /* one that is not there */
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int rank = 0; rank < 5; rank++) {
            cr_expect_eq(kd_device_turn(3, rows[i].avoided, rank), rows[i].taken[rank],
                         "row %zu, rank %d", i, rank);
        }
    }
    cr_expect_eq(kd_device_turn(0, 0, 0), -1);
    cr_expect_eq(kd_device_turn(66, UINT64_MAX, 3), 65);
}

Test(resolved, what_was_decided_wins_over_what_this_run_would_come_to)
{
    static const char made_with[] = "training.dtype=bf16\ntraining.micro_batch_size=2\n"
                                    "teachers.0.dtype=f32\nteachers.0.transport=hidden\n";
    static const char with_level[] = "cpu_level=v3\ntraining.dtype=bf16\n"; /* which is no field */
    Kd__Job *job = job_of(open_job);
    kd_text lines = {0};
    cr_expect(eq(u32, job->training->micro_batch_size, 8));
    cr_assert(eq(int, resolved_take(job, made_with), KD_OK));
    cr_expect(eq(int, (int)kd_dtype_of_word(job->training->dtype), KD_BF16));
    cr_expect(eq(int, (int)kd_dtype_of_word(job->teachers[0]->dtype), KD_F32));
    cr_expect(eq(u64, kd_job_micro_batches(job), 4));
    cr_assert(eq(int, resolved_write(job, &lines), KD_OK));
    cr_expect(eq(str, lines.data, (char *)made_with));
    cr_assert(eq(int, resolved_take(job, made_with), KD_OK), "the words that hold are no others");
    cr_assert(eq(int, resolved_take(job, with_level), KD_OK), "%s", kd_fault_text());
    cr_assert(eq(int, resolved_forget(job), KD_OK));
    cr_expect(not(job->training->has_micro_batch_size));
    cr_expect(not(job->teachers[0]->has_transport));
    kd_text_release(&lines);
    kd_message_destroy(&job->base);
}

Test(resolved, another_wish_is_refused_by_its_field)
{
    static const struct {
        const char *made_with, *text;
    } cases[] = {
        {"teachers.0.transport=logits\n",
         "teachers.0.transport: found hidden, the checkpoint was made with logits"},
        {"training.micro_batch_size=5\n",
         "student.resources.ranks: found 1, but the checkpoint was made with micro-batches of 5"},
        {"training.micro_batch_size=0\n",
         "the checkpoint: training.micro_batch_size: found 0, expected 1 to 1048576"},
        {"training.dtype=f16\n", "training.dtype"},
        {"training.dtype\n", "expected PATH=VALUE"},
    };

    kd_fault_quiet(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Kd__Job *job = job_of(open_job);
        cr_expect(eq(int, resolved_take(job, cases[i].made_with), KD_ERR_INVALID));
        cr_expect(strstr(kd_fault_text(), cases[i].text) != NULL, "%s", kd_fault_text());
        kd_message_destroy(&job->base);
    }
}
