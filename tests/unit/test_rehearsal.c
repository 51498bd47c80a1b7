/* A rehearsal holds what the real run holds, part by part and in all. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdlib.h>

#include "tests/support/tiny_objective.h"
#include "tests/support/tiny_train.h"
#include "train/trainer.h"

typedef kd_status create_fn(kd_dtype compute, int n_threads, kd_backend **be_out);

/* What one kind of run holds at its end. */
typedef struct held {
    kd_memory_usage student, teacher;
    kd_trainer_memory trainer;
    size_t teacher_bytes, message_bytes;
} held;

typedef struct run {
    kd_backend *be, *teacher_be;
    kd_trainer *trainer;
    kd_teacher *teacher;
    kd_channel *channel;
    tiny_batch batch;
} run;

static kd_status next(void *user, uint64_t m, kd_batch *batch_out)
{
    (void)m;
    *batch_out = tiny_batch_whole(&((const run *)user)->batch);
    return KD_OK;
}

static kd_status teach(void *user, uint64_t m, uint64_t groups, void *message)
{
    run *r = user;
    const kd_teacher_part part = {kd_trainer_signals(r->trainer), 0, groups};
    kd_batch batch;
    return next(r, m, &batch) || kd_teacher_fill(r->teacher, &batch, &part, message);
}

static size_t bytes_of(kd_parameters_memory memory)
{
    return memory.weight_bytes + memory.master_bytes + memory.gradient_bytes + memory.stage_bytes;
}

static void make_models(run *r, const kd_model_config *config, Kd__Teacher__Transport transport)
{
    const kd_teacher_settings of_teacher = {.max_batch = TINY_BATCH, .n_tokens = TINY_TOKENS};
    tiny_settings settings;
    tiny_settings_init(&settings);
    const kd_trainer_settings of_trainer = tiny_trainer_settings(&settings);
    kd_parameters *student, *teacher;
    cr_assert(eq(int, kd_parameters_create(r->teacher_be, config, KD_PARAMS_INFER, &teacher), 0));
    cr_assert(eq(int, kd_teacher_create(teacher, &of_teacher, &r->teacher), 0));
    const kd_teacher_view view = {.config = config,
                                  .transport = transport,
                                  .compute = r->teacher_be->compute,
                                  .lm_head = kd_teacher_lm_head(r->teacher)};
    cr_assert(eq(int, kd_parameters_create(r->be, config, KD_PARAMS_TRAIN, &student), 0));
    cr_assert(eq(int, kd_trainer_create(student, &of_trainer, &view, 1, &r->trainer), 0));
}

static void connect(run *r)
{
    const kd_local_settings local = {.plan = &kd_trainer_signals(r->trainer)->messages[0],
                                     .n_steps = 2,
                                     .writer = r->teacher_be,
                                     .reader = r->be,
                                     .produce = teach,
                                     .user = r};
    cr_assert(eq(int, kd_channel_create_local(&local, &r->channel), 0));
}

static void step(run *r)
{
    const kd_reduce alone = kd_reduce_single();
    const kd_source source = {.user = r, .next = next};
    const kd_step_work work = {.source = &source, .stride = 1, .n_batches = 2};
    kd_step_result result;
    cr_assert(eq(int, r->channel->ops->open_step(r->channel, 0, 2, 1), 0));
    cr_assert(eq(int, kd_trainer_step(r->trainer, &work, &r->channel, &alone, &result), 0));
    cr_expect(result.updated);
}

static held hold(create_fn *create,
                 const kd_model_config *config,
                 kd_dtype compute,
                 int n_threads,
                 Kd__Teacher__Transport transport)
{
    run r = {.batch = tiny_batch_create(5)};
    for (int i = 0; i < TINY_ROWS; i++) { /* a rehearsal takes each row for a labelled one */
        r.batch.labels[i] = r.batch.tokens[i];
    }
    cr_assert(eq(int, create(compute, n_threads, &r.be), 0));
    cr_assert(eq(int, create(compute == KD_F32 ? KD_BF16 : KD_F32, n_threads, &r.teacher_be), 0));
    make_models(&r, config, transport);
    connect(&r);
    step(&r);
    const held h = {
        .student = r.be->ops->memory_usage(r.be),
        .teacher = r.teacher_be->ops->memory_usage(r.teacher_be),
        .trainer = kd_trainer_memory_of(r.trainer),
        .teacher_bytes = bytes_of(kd_teacher_parameters_memory(r.teacher)) +
                         kd_teacher_activation_bytes(r.teacher),
        .message_bytes =
            kd_message_plan_slots_bytes(&kd_trainer_signals(r.trainer)->messages[0], 1),
    };
    kd_channel_destroy(r.channel);
    kd_trainer_destroy(r.trainer);
    kd_teacher_destroy(r.teacher);
    cr_expect(eq(sz, r.be->ops->memory_usage(r.be).held_bytes, 0));
    cr_expect(eq(sz, r.teacher_be->ops->memory_usage(r.teacher_be).held_bytes, 0));
    kd_backend_destroy(r.teacher_be);
    kd_backend_destroy(r.be);
    return h;
}

static size_t trainer_bytes(const kd_trainer_memory *m)
{
    return bytes_of(m->parameters) + m->moment_bytes + m->activation_bytes + m->objective_bytes +
           m->label_bytes;
}

/* Nothing is held that is in no part. */
static void expect_parts_to_be_all(const held *h)
{
    cr_expect(eq(sz, trainer_bytes(&h->trainer) + h->message_bytes, h->student.held_bytes));
    cr_expect(eq(sz, h->teacher_bytes, h->teacher.held_bytes));
}

static void expect_same_usage(kd_memory_usage found, kd_memory_usage wanted)
{
    cr_expect(eq(sz, found.held_bytes, wanted.held_bytes));
    cr_expect(eq(sz, found.scratch_bytes, wanted.scratch_bytes));
    cr_expect(eq(sz, found.products_bytes, wanted.products_bytes));
}

static void
expect_agreement(const kd_model_config *config, kd_dtype compute, Kd__Teacher__Transport transport)
{
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        const held wanted = hold(kd_backend_create_cpu, config, compute, n_threads, transport);
        const held found = hold(kd_backend_create_rehearsal, config, compute, n_threads, transport);
        expect_parts_to_be_all(&wanted);
        expect_parts_to_be_all(&found);
        cr_expect(wanted.student.scratch_bytes > 0 && wanted.student.products_bytes > 0);
        cr_expect(wanted.teacher.scratch_bytes > 0 && wanted.teacher.products_bytes > 0);
        expect_same_usage(found.student, wanted.student);
        expect_same_usage(found.teacher, wanted.teacher);
    }
}

Test(rehearsal, every_type_holds_what_its_run_holds)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        const kd_model_config config = tiny_config(kd_model_type_at(i));
        expect_agreement(&config, KD_F32, KD__TEACHER__TRANSPORT__HIDDEN);
        expect_agreement(&config, KD_BF16, KD__TEACHER__TRANSPORT__LOGITS);
    }
}
