#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/temporary.h"
#include "tests/support/tiny_train.h"
#include "train/checkpoint.h"

enum { HASH = 0x1234 };

TestSuite(checkpoint, .init = temporary_enter, .fini = temporary_leave);

static kd_status save(tiny_train *t, uint64_t step)
{
    const kd_checkpoint_state state = {.step = step, .job_hash = HASH};
    return kd_checkpoint_save(temporary_folder(), kd_trainer_optimizer(t->trainer), &state, NULL);
}

/* Step 1 makes no update: it has no label, and balance no weight there. */
static void run_steps(tiny_train *t, uint64_t from, uint64_t to)
{
    for (uint64_t step = from; step < to; step++) {
        tiny_batch batch = tiny_batch_create(step);
        for (int i = 0; step == 1 && i < TINY_ROWS; i++) {
            batch.labels[i] = -100;
        }
        const kd_batch whole = tiny_batch_whole(&batch);
        kd_step_result result;
        cr_assert_eq(tiny_train_step(t, step, &whole, 1, &result), KD_OK);
        cr_expect_eq(result.updated, step != 1);
    }
}

static tiny_train *start(const kd_model_type *type, kd_dtype compute)
{
    tiny_settings settings;
    tiny_points room, balance_room;
    tiny_settings_init(&settings);
    settings.objective.balance_weight =
        tiny_schedule(&balance_room, KD__SCHEDULE__KIND__STEP, 0, 0.0, 2, 0.01);
    settings.objective.temperature =
        tiny_schedule(&room, KD__SCHEDULE__KIND__LINEAR, 0, 4.0, 6, 1.0);
    settings.training.has_warmup_steps = 1;
    settings.training.warmup_steps = 2;
    return tiny_train_create(type, compute, &settings);
}

static void expect_exact_resume(const kd_model_type *type, kd_dtype compute)
{
    kd_checkpoint_state found, loaded;
    char *path;
    tiny_train *straight = start(type, compute);
    run_steps(straight, 0, 6);
    cr_assert_eq(save(straight, 6), KD_OK);
    cr_assert_eq(rename(temporary_path("step-000000000006"), temporary_path("straight")), 0);

    tiny_train *first = start(type, compute);
    run_steps(first, 0, 3);
    cr_assert_eq(save(first, 3), KD_OK);
    tiny_train_destroy(first);

    tiny_train *second = start(type, compute);
    run_steps(second, 0, 1); /* whatever it holds is replaced */
    cr_assert_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &found), KD_OK);
    cr_assert_not_null(path);
    cr_expect_eq(found.step, 3);
    cr_assert_eq(kd_checkpoint_load(path, kd_trainer_optimizer(second->trainer), HASH, &loaded),
                 KD_OK);
    cr_expect_eq(loaded.step, 3);
    cr_expect_eq(loaded.job_hash, HASH);
    run_steps(second, loaded.step, 6);
    cr_assert_eq(save(second, 6), KD_OK);
    const char *const files[] = {"model.safetensors", "train.safetensors", "config.json",
                                 "state.json", "manifest.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        cr_expect(temporary_same(temporary_path("straight/%s", files[i]),
                                 temporary_path("step-000000000006/%s", files[i])),
                  "%s differs", files[i]);
    }
    free(path);
    tiny_train_destroy(second);
    tiny_train_destroy(straight);
}

Test(checkpoint, a_resumed_run_ends_in_the_same_bytes_in_f32)
{
    expect_exact_resume(&kd_model_mixtral, KD_F32);
}

Test(checkpoint, a_resumed_run_ends_in_the_same_bytes_in_bf16)
{
    expect_exact_resume(&kd_model_qwen2_moe, KD_BF16);
}

Test(checkpoint, the_host_waits_once_for_all_tensors)
{
    kd_checkpoint_state state;
    late_queue queue;
    tiny_train *t = start(&kd_model_mixtral, KD_BF16);
    cr_assert_eq(save(t, 1), KD_OK);
    late_queue_take(&queue, t->be);
    cr_assert_eq(kd_checkpoint_load(temporary_path("step-000000000001"),
                                    kd_trainer_optimizer(t->trainer), HASH, &state),
                 KD_OK);
    late_queue_give_back(&queue);
    cr_expect_eq(queue.n_waits, 1, "%d", queue.n_waits);
    kd_checkpoint_state_release(&state);
    tiny_train_destroy(t);
}

Test(checkpoint, its_model_is_a_model_folder)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    kd_model_config config;
    run_steps(t, 0, 1);
    cr_assert_eq(save(t, 1), KD_OK);
    cr_assert_eq(kd_model_folder_config(temporary_path("step-000000000001"), &config), KD_OK);
    cr_expect_eq(config.hidden_size, 8);
    tiny_model copy = tiny_model_with_seed(config, KD_F32, KD_PARAMS_TRAIN, 99);
    cr_assert_eq(kd_model_folder_load(temporary_path("step-000000000001"), copy.params), KD_OK);
    float *found = malloc((size_t)copy.params->n_elements * sizeof *found);
    kd_parameters_read(copy.params, 0, found, copy.params->n_elements);
    float *wanted = tiny_train_weights(t);
    cr_expect_arr_eq(found, wanted, (size_t)copy.params->n_elements * sizeof *found);
    free(wanted);
    free(found);
    tiny_model_destroy(&copy);
    tiny_train_destroy(t);
}

/* The step of the newest valid checkpoint, 0 if there is none. */
static uint64_t latest(void)
{
    kd_checkpoint_state state = {.step = 0};
    char *path = NULL;
    kd_log_set_level(KD_LOG_ERROR);
    cr_assert_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &state), KD_OK);
    cr_expect_eq(path != NULL, state.step != 0);
    free(path);
    return state.step;
}

static void flip_byte(const char *path)
{
    const int fd = open(path, O_RDWR);
    uint8_t byte;
    cr_assert_geq(fd, 0);
    cr_assert_eq(pread(fd, &byte, 1, 100), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, 100), 1);
    (void)close(fd);
}

Test(checkpoint, one_whose_manifest_leaves_out_what_is_read_is_passed_over)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 1), KD_OK);
    cr_assert_eq(save(t, 2), KD_OK);
    cr_expect_eq(latest(), 2);
    temporary_write(temporary_path("step-000000000002/manifest.json"),
                    "{\"version\": 1, \"files\": {}}");
    cr_expect_eq(latest(), 1);
    tiny_train_destroy(t);
}

static uint64_t size_of(const char *path)
{
    struct stat info;
    cr_assert_eq(stat(path, &info), 0);
    return (uint64_t)info.st_size;
}

static void expect_known_size(const kd_model_type *type, kd_dtype compute)
{
    tiny_train *t = start(type, compute);
    uint64_t all = 0, model = 0;
    cr_assert_eq(kd_checkpoint_bytes(kd_trainer_optimizer(t->trainer), &all), KD_OK);
    cr_assert_eq(kd_model_folder_weights_bytes(kd_trainer_parameters(t->trainer), compute, &model),
                 KD_OK);
    cr_assert_eq(save(t, 1), KD_OK);
    const uint64_t found = size_of(temporary_path("step-000000000001/model.safetensors"));
    cr_expect_eq(model, found);
    cr_expect_eq(all, found + size_of(temporary_path("step-000000000001/train.safetensors")));
    tiny_train_destroy(t);
}

Test(checkpoint, its_size_is_known_before_it_is_written)
{
    expect_known_size(&kd_model_qwen2_moe, KD_F32);
    expect_known_size(&kd_model_llama, KD_BF16);
}

Test(checkpoint, only_one_whose_manifest_verifies_is_found)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_expect_eq(latest(), 0);
    for (uint64_t step = 1; step <= 5; step++) {
        cr_assert_eq(save(t, step), KD_OK);
    }
    cr_expect_eq(latest(), 5);
    flip_byte(temporary_path("step-000000000005/train.safetensors"));
    cr_expect_eq(latest(), 4);
    cr_assert_eq(truncate(temporary_path("step-000000000004/model.safetensors"), 50), 0);
    cr_expect_eq(latest(), 3);
    cr_assert_eq(unlink(temporary_path("step-000000000003/manifest.json")), 0);
    cr_expect_eq(latest(), 2);
    cr_assert_eq(unlink(temporary_path("step-000000000002/state.json")), 0);
    cr_expect_eq(latest(), 1);
    cr_assert_eq(kd_file_replace(temporary_path("step-000000000001/state.json"), "{}", 2), KD_OK);
    cr_assert_eq(kd_manifest_write(temporary_path("step-000000000001")), KD_OK);
    cr_expect_eq(latest(), 0);
    tiny_train_destroy(t);
}

Test(checkpoint, names_that_are_not_checkpoints_are_passed_over)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 2), KD_OK);
    const char *const names[] = {
        "step-9", "step-000000000009x", "step--00000000009", ".step-000000000009.tmp", "step-",
        "other"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_assert_eq(mkdir(temporary_path("%s", names[i]), 0777), 0);
    }
    cr_expect_eq(latest(), 2);
    tiny_train_destroy(t);
}

Test(checkpoint, a_folder_that_is_not_there_holds_none)
{
    kd_checkpoint_state state;
    char untouched, *path = &untouched;
    cr_expect_eq(kd_checkpoint_find_latest(temporary_path("none"), &path, &state), KD_OK);
    cr_expect_null(path);
    cr_expect_eq(kd_checkpoint_prune(temporary_path("none"), 1, 1), KD_OK);
}

static void expect_load_refused(const kd_model_type *type, uint64_t job_hash, const char *words)
{
    tiny_train *t = start(type, KD_F32);
    kd_checkpoint_state state = {.step = 77};
    kd_fault_quiet(1);
    cr_expect_eq(kd_checkpoint_load(temporary_path("step-000000000001"),
                                    kd_trainer_optimizer(t->trainer), job_hash, &state),
                 KD_ERR_INVALID);
    EXPECT_FAULT(words);
    cr_expect_eq(state.step, 77);
    tiny_train_destroy(t);
}

Test(checkpoint, one_of_another_job_or_model_is_refused)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 1), KD_OK);
    tiny_train_destroy(t);
    expect_load_refused(&kd_model_mixtral, HASH + 1,
                        "found job hash 0000000000001234, expected 0000000000001235");
    expect_load_refused(&kd_model_llama, HASH, "a checkpoint of another model");
    expect_load_refused(&kd_model_qwen2_moe, HASH, "a checkpoint of another model");
}

static void expect_bad_state(const char *text, kd_status wanted, const char *words)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    kd_checkpoint_state state;
    cr_assert_eq(kd_folder_make(temporary_path("bad")), KD_OK);
    temporary_write(temporary_path("bad/state.json"), text);
    kd_fault_quiet(1);
    cr_expect_eq(
        kd_checkpoint_load(temporary_path("bad"), kd_trainer_optimizer(t->trainer), HASH, &state),
        wanted);
    EXPECT_FAULT(words);
    tiny_train_destroy(t);
}

Test(checkpoint, a_malformed_state_is_refused_by_field)
{
    expect_bad_state("{", KD_ERR_PROTO, "state.json:1:");
    expect_bad_state("[]", KD_ERR_PROTO, "\"version\"");
    expect_bad_state("{\"version\": 1}", KD_ERR_INVALID, "found version 1, expected 2");
    expect_bad_state("{\"version\": 2, \"step\": -1}", KD_ERR_PROTO, "\"step\"");
    expect_bad_state("{\"version\": 2, \"step\": 1, \"job_hash\": \"12\"}", KD_ERR_PROTO,
                     "\"job_hash\"");
    const char *const jobs[] = {"1", "{}", "[]", "[1]", "[\"v1\", \"a\\nb\"]"};
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        char text[200];
        (void)snprintf(text, sizeof text,
                       "{\"version\": 2, \"step\": 1, \"job_hash\": \"0000000000001234\", "
                       "\"job\": %s}",
                       jobs[i]);
        expect_bad_state(text, KD_ERR_PROTO, "\"job\"");
    }
}

/* A program that passed it over would begin anew, and then remove it as one that did not verify. */
Test(checkpoint, a_sound_one_of_another_version_is_refused_not_passed_over)
{
    static const char text[] = "{\"version\": 1, \"step\": 2, \"job_hash\": \"0000000000001234\"}";
    kd_checkpoint_state state = {.step = 77};
    char untouched, *path = &untouched;
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 1), KD_OK);
    cr_assert_eq(save(t, 2), KD_OK);
    cr_assert_eq(
        kd_file_replace(temporary_path("step-000000000002/state.json"), text, strlen(text)), KD_OK);
    cr_assert_eq(kd_manifest_write(temporary_path("step-000000000002")), KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &state), KD_ERR_INVALID);
    EXPECT_FAULT("step-000000000002/state.json: found version 1, expected 2");
    cr_expect_eq(path, &untouched);
    cr_expect_eq(state.step, 77);
    tiny_train_destroy(t);
}

/* The disk may show it the next time; passed over, it would be removed by the next save. */
Test(checkpoint, one_that_cannot_be_read_now_is_not_passed_over)
{
    kd_checkpoint_state state;
    char *path;
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 1), KD_OK);
    cr_assert_eq(save(t, 2), KD_OK);
    const char *model = temporary_path("step-000000000002/model.safetensors");
    cr_assert_eq(unlink(model), 0);
    cr_assert_eq(symlink("/proc/self/mem", model), 0); /* opens; reading fails with EIO */
    kd_fault_quiet(1);
    cr_expect_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &state), KD_ERR_IO);
    EXPECT_FAULT("step-000000000002");
    tiny_train_destroy(t);
}

/* The number of updates that a checkpoint with this state has its optimizer go on from, or UINT64_MAX. */
static uint64_t updates_of(tiny_train *t, const char *text)
{
    kd_checkpoint_state state;
    kd_optimizer *optimizer = kd_trainer_optimizer(t->trainer);
    const char *path = temporary_path("step-000000000003");
    cr_assert_eq(
        kd_file_replace(temporary_path("step-000000000003/state.json"), text, strlen(text)), KD_OK);
    cr_assert_eq(kd_manifest_write(path), KD_OK);
    optimizer->n_updates = 77;
    kd_fault_quiet(1);
    const kd_status st = kd_checkpoint_load(path, optimizer, HASH, &state);
    kd_fault_quiet(0);
    cr_expect_eq(st == KD_OK, optimizer->n_updates != 77);
    return st ? UINT64_MAX : optimizer->n_updates;
}

#define STATE(updates)                                                                             \
    "{\"version\": 2, \"step\": 3, " updates "\"job_hash\": \"0000000000001234\"}"

Test(checkpoint, it_knows_how_many_of_its_steps_made_an_update)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    run_steps(t, 0, 3);
    cr_expect_eq(kd_trainer_optimizer(t->trainer)->n_updates, 2);
    cr_assert_eq(save(t, 3), KD_OK);
    cr_expect_eq(updates_of(t, STATE("\"updates\": 2, ")), 2);
    cr_expect_eq(updates_of(t, STATE("")), 3, "written when every step was taken for one");
    cr_expect_eq(updates_of(t, STATE("\"updates\": 4, ")), UINT64_MAX);
    EXPECT_FAULT("field \"updates\" is missing or wrong");
    tiny_train_destroy(t);
}

static void expect_same_text(const char *found, const char *wanted)
{
    cr_assert_eq(found != NULL, wanted != NULL);
    cr_expect(found == NULL || strcmp(found, wanted) == 0, "found %s",
              found != NULL ? found : "none");
}

Test(checkpoint, the_job_that_made_it_and_what_was_decided_come_back)
{
    const char *const jobs[] = {"v1\nseed=3\ndata.text_field=\"a\\nb\"\n", "v1\n", NULL};
    const char *const decided[] = {"training.dtype=f32\n", NULL, NULL};
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    for (uint64_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        const kd_checkpoint_state state = {.step = i + 1,
                                           .job = (char *)jobs[i], /* both only read */
                                           .resolved = (char *)decided[i]};
        kd_checkpoint_state found;
        char *path;
        cr_assert_eq(
            kd_checkpoint_save(temporary_folder(), kd_trainer_optimizer(t->trainer), &state, NULL),
            KD_OK);
        cr_assert_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &found), KD_OK);
        expect_same_text(found.job, jobs[i]);
        expect_same_text(found.resolved, decided[i]);
        kd_checkpoint_state_release(&found);
        free(path);
    }
    tiny_train_destroy(t);
}

Test(checkpoint, prune_keeps_the_newest_up_to_the_step)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    for (uint64_t step = 1; step <= 5; step++) {
        cr_assert_eq(save(t, step), KD_OK);
    }
    cr_assert_eq(mkdir(temporary_path(".step-000000000009.tmp"), 0777), 0);
    cr_assert_eq(mkdir(temporary_path(".step-000000000008.tmp.old"), 0777), 0);
    cr_assert_eq(mkdir(temporary_path("mine"), 0777), 0);
    cr_assert_eq(kd_checkpoint_prune(temporary_folder(), 4, 2), KD_OK);
    cr_expect_not(kd_file_exists(temporary_path("step-000000000001")));
    cr_expect_not(kd_file_exists(temporary_path("step-000000000002")));
    cr_expect(kd_file_exists(temporary_path("step-000000000003")));
    cr_expect(kd_file_exists(temporary_path("step-000000000004")));
    cr_expect_not(kd_file_exists(temporary_path("step-000000000005")));
    cr_expect_not(kd_file_exists(temporary_path(".step-000000000009.tmp")));
    cr_expect_not(kd_file_exists(temporary_path(".step-000000000008.tmp.old")));
    cr_expect(kd_file_exists(temporary_path("mine")));
    tiny_train_destroy(t);
}

Test(checkpoint, saving_a_step_again_replaces_it)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    char *path;
    const kd_checkpoint_state state = {.step = 1, .job_hash = HASH};
    cr_assert_eq(save(t, 1), KD_OK);
    flip_byte(temporary_path("step-000000000001/train.safetensors"));
    cr_expect_eq(latest(), 0);
    cr_assert_eq(
        kd_checkpoint_save(temporary_folder(), kd_trainer_optimizer(t->trainer), &state, &path),
        KD_OK);
    cr_expect_str_eq(path, temporary_path("step-000000000001"));
    cr_expect_eq(latest(), 1);
    cr_expect_not(kd_file_exists(temporary_path(".step-000000000001.tmp")));
    free(path);
    tiny_train_destroy(t);
}

/* Writes past this many bytes of a file fail as on a full disk, with another errno. */
static void limit_files(rlim_t bytes)
{
    const struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(checkpoint, a_full_disk_leaves_nothing_half_written)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    cr_assert_eq(save(t, 1), KD_OK);
    kd_fault_quiet(1);
    const rlim_t limits[] = {0, 100, 5000, 20000}; /* the last: in the moments */
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        limit_files(limits[i]);
        const kd_status st = save(t, 2), same = save(t, 1);
        const kd_status exported =
            kd_model_export(temporary_path("final"), kd_trainer_parameters(t->trainer), NULL, NULL);
        limit_files(RLIM_INFINITY);
        cr_expect_eq(st, KD_ERR_IO);
        cr_expect_eq(same, KD_ERR_IO);
        cr_expect_eq(exported, i < 3 ? KD_ERR_IO : KD_OK);
        EXPECT_FAULT(temporary_folder());
        cr_expect_not(kd_file_exists(temporary_path("step-000000000002")));
        cr_expect_not(kd_file_exists(temporary_path(".step-000000000002.tmp")));
        cr_expect_not(kd_file_exists(temporary_path(".final.tmp")));
        cr_expect_eq(latest(), 1);
        kd_fault_quiet(1);
    }
    tiny_train_destroy(t);
}

/* A NaN in a weight or a moment, as a last update may leave one that no loss has shown. */
Test(checkpoint, weights_and_moments_that_are_no_numbers_are_not_saved)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    kd_optimizer *optimizer = kd_trainer_optimizer(t->trainer);
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_tensor moments[] = {optimizer->moments[0].m, optimizer->moments[0].v};
    cr_assert_eq(save(t, 1), KD_OK);
    kd_fault_quiet(1);
    for (int i = 0; i < 2; i++) {
        float *moment = tiny_values(t->be, moments[i]);
        const float before = moment[3];
        moment[3] = INFINITY;
        tiny_write(t->be, moments[i], moment);
        cr_expect_eq(save(t, 2), KD_ERR_INVALID);
        EXPECT_FAULT(i == 0 ? "tensor \"m." : "tensor \"v.");
        cr_expect_eq(save(t, 1), KD_ERR_INVALID);
        moment[3] = before;
        tiny_write(t->be, moments[i], moment);
        free(moment);
    }
    kd_parameters_write(params, 3, &(float){NAN}, 1);
    cr_expect_eq(save(t, 2), KD_ERR_INVALID);
    EXPECT_FAULT(".step-000000000002.tmp/model.safetensors: element ");
    EXPECT_FAULT(".weight\" is not a number");
    cr_expect_eq(kd_model_export(temporary_path("final"), params, NULL, NULL), KD_ERR_INVALID);
    cr_expect_not(kd_file_exists(temporary_path("final")));
    cr_expect_not(kd_file_exists(temporary_path("step-000000000002")));
    cr_expect_not(kd_file_exists(temporary_path(".step-000000000002.tmp")));
    cr_expect_eq(latest(), 1, "what was there still is");
    tiny_train_destroy(t);
}

Test(checkpoint, a_file_in_the_place_of_a_checkpoint_is_named_and_left)
{
    tiny_train *t = start(&kd_model_mixtral, KD_F32);
    temporary_write(temporary_path("step-000000000002"), "mine");
    kd_fault_quiet(1);
    cr_expect_eq(save(t, 2), KD_ERR_INVALID);
    EXPECT_FAULT("step-000000000002: found a file, expected a folder or nothing");
    cr_expect_not(kd_file_exists(temporary_path(".step-000000000002.tmp")));
    cr_expect_eq(unlink(temporary_path("step-000000000002")), 0);
    tiny_train_destroy(t);
}
