/* step_run.c - the models of a case, and one step of them. */
#include "tests/gpu/step.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/rng.h"
#include "shape/count.h"
#include "tensor/cpu/vec_math.h"

/* Numbers that are drawn: a prime, so that no two rows are the same. */
enum { PERIOD = 65521 };

static kd_tensor part_of(kd_tensor t, int64_t first, int64_t n)
{
    return kd_tensor_1d((char *)t.data + (size_t)first * kd_dtype_bytes(t.dtype), t.dtype, n);
}

void step_draw(kd_backend *be, kd_tensor t, float deviation)
{
    const int64_t n = kd_tensor_elements(t);
    const kd_tensor flat = kd_tensor_1d(t.data, t.dtype, n);
    int64_t done = n < PERIOD ? n : PERIOD;
    uint32_t *values = malloc((size_t)done * sizeof *values);
    KD_CHECK(values != NULL);
    for (int64_t i = 0; i < done; i++) {
        kd_put(values, i, t.dtype, deviation * (float)kd_rng_normal(7, (uint64_t)i));
    }
    be->ops->upload(be, part_of(flat, 0, done), values);
    free(values);
    for (; done < n; done *= 2) { /* what is there is written again behind itself */
        const int64_t more = done < n - done ? done : n - done;
        be->ops->copy(be, part_of(flat, done, more), part_of(flat, 0, more));
    }
}

/* Matrices of deviation 0.02, vectors of 1; on the device, since a host would draw billions of numbers for minutes. */
static kd_status fill(kd_parameters *p)
{
    static float ones[PERIOD];
    const kd_tensor matrices =
        part_of(p->master.data != NULL ? p->master : p->compute, 0, p->n_matrix);
    step_draw(p->be, matrices, 0.02f);
    if (p->compute.data != matrices.data) {
        p->be->ops->copy(p->be, p->compute, matrices);
    }
    for (int64_t i = 0; i < PERIOD; i++) {
        ones[i] = 1.0f;
    }
    for (int64_t at = p->n_matrix; at < p->n_elements; at += PERIOD) {
        const int64_t left = p->n_elements - at;
        kd_parameters_write(p, at, ones, left < PERIOD ? left : PERIOD);
    }
    return kd_backend_wait(p->be);
}

static kd_status make_parameters(kd_backend *be,
                                 const kd_model_config *config,
                                 kd_parameter_use use,
                                 kd_parameters **params_out)
{
    kd_parameters *params = NULL;
    kd_status st = kd_parameters_create(be, config, use, &params);
    if (!st) {
        st = fill(params);
    }
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    *params_out = params;
    return KD_OK;
}

static kd_status next_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    const step_run *run = user;
    (void)m; /* each the same */
    *batch_out = (kd_batch){.n_batch = run->what->n_batch,
                            .n_tokens = run->what->n_tokens,
                            .tokens = run->tokens,
                            .labels = run->labels};
    return KD_OK;
}

static const kd_signal_plan *plan_of(const step_run *run)
{
    return run->trainer != NULL ? kd_trainer_signals(run->trainer) : &run->plan;
}

static kd_status teach(void *user, uint64_t m, uint64_t groups, void *message)
{
    step_run *run = user;
    const kd_teacher_part part = {plan_of(run), 0, groups};
    kd_batch batch;
    const kd_status st = next_batch(run, m, &batch);
    return st ? st : kd_teacher_fill(run->teacher_model, &batch, &part, message);
}

static kd_status make_teacher(step_run *run)
{
    const kd_teacher_settings settings = {.max_batch = run->what->n_batch,
                                          .n_tokens = run->what->n_tokens};
    kd_parameters *params = NULL;
    kd_status st = kd_backend_create_cuda(KD_BF16, 0, &run->teacher_be);
    if (!st) {
        st = make_parameters(run->teacher_be, &run->teacher, KD_PARAMS_INFER, &params);
    }
    return st ? st : kd_teacher_create(params, &settings, &run->teacher_model);
}

/* Of a teacher that is alone: what a student of its own shape would have it send. */
static kd_status make_message(step_run *run)
{
    const kd_teacher_view view = {.config = &run->teacher, .compute = KD_BF16};
    const kd_status st = kd_objective_plan(&run->objective.message, &run->teacher, &view, 1,
                                           run->what->n_batch * run->what->n_tokens, &run->plan);
    return st ? st
              : kd_backend_place(run->teacher_be, KD_MEMORY_DEVICE,
                                 run->plan.messages[0].message_bytes + KD_ARENA_ALIGN,
                                 &run->message, "signals");
}

static kd_status make_student(step_run *run)
{
    const bool taught = run->teacher_model != NULL;
    Kd__Training training = KD__TRAINING__INIT;
    const kd_trainer_settings settings = {.objective = &run->objective.message,
                                          .training = &training,
                                          .max_batch = run->what->n_batch,
                                          .n_tokens = run->what->n_tokens};
    const kd_teacher_view view = {.config = &run->teacher,
                                  .compute = KD_BF16,
                                  .lm_head = taught ? kd_teacher_lm_head(run->teacher_model)
                                                    : kd_tensor_none()};
    kd_parameters *params = NULL;
    training.has_decay = 1;
    training.decay = KD__TRAINING__DECAY__CONSTANT;
    kd_status st = kd_backend_create_cuda(KD_BF16, 0, &run->student_be);
    if (!st) {
        st = make_parameters(run->student_be, &run->student, KD_PARAMS_TRAIN, &params);
    }
    return st ? st : kd_trainer_create(params, &settings, &view, taught ? 1 : 0, &run->trainer);
}

static kd_status join(step_run *run)
{
    const kd_local_settings settings = {.plan = &kd_trainer_signals(run->trainer)->messages[0],
                                        .n_steps = 1,
                                        .writer = run->teacher_be,
                                        .reader = run->student_be,
                                        .produce = teach,
                                        .user = run};
    return kd_channel_create_local(&settings, &run->channel);
}

static kd_status make_tokens(step_run *run)
{
    const size_t n = (size_t)(run->what->n_batch * run->what->n_tokens);
    const kd_model_config *model = run->what->student != NULL ? &run->student : &run->teacher;
    run->tokens = malloc(2 * n * sizeof *run->tokens);
    if (run->tokens == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for tokens");
    }
    run->labels = run->tokens + n;
    for (size_t i = 0; i < 2 * n; i++) {
        run->tokens[i] = (int32_t)(kd_rng_u64(1, i) % (uint64_t)model->vocab_size);
    }
    return KD_OK;
}

kd_status step_run_begin(step_run *run, const step_case *what, int64_t n_layers)
{
    kd_status st = KD_OK;
    *run = (step_run){.what = what, .n_layers = n_layers};
    tiny_objective_init(&run->objective, 0.7, 0.3, 4.0);
    if (what->student != NULL) {
        run->student = *what->student;
        run->student.n_layers = what->teacher == NULL ? n_layers : run->student.n_layers;
    }
    if (what->teacher != NULL) {
        run->teacher = *what->teacher;
        run->teacher.n_layers = n_layers;
        st = make_teacher(run);
    } else {
        run->objective.message.kd = NULL;
    }
    if (!st) {
        st = make_tokens(run);
    }
    if (!st) {
        st = what->student != NULL ? make_student(run) : make_message(run);
    }
    if (!st && what->student != NULL && what->teacher != NULL) {
        st = join(run);
    }
    return st;
}

void step_run_end(step_run *run)
{
    kd_channel_destroy(run->channel);
    kd_trainer_destroy(run->trainer);
    kd_teacher_destroy(run->teacher_model);
    if (run->message != NULL) {
        run->teacher_be->ops->free(run->teacher_be, run->message);
    }
    kd_signal_plan_release(&run->plan);
    kd_backend_destroy(run->student_be);
    kd_backend_destroy(run->teacher_be);
    free(run->tokens);
    *run = (step_run){0};
}

static kd_status train_once(step_run *run, kd_step_times *times_out)
{
    const uint64_t n = (uint64_t)run->what->n_micro, first = run->n_steps * n;
    const kd_source source = {.user = run, .next = next_batch};
    const kd_step_work work = {.step = run->n_steps,
                               .source = &source,
                               .first_m = first,
                               .stride = 1,
                               .n_batches = run->what->n_micro};
    const kd_reduce alone = kd_reduce_single();
    kd_step_result result;
    kd_status st = KD_OK;
    if (run->channel != NULL) {
        st = run->channel->ops->open_step(run->channel, first, first + n,
                                          kd_signal_plan_mask(plan_of(run), 0, ~UINT64_C(0)));
    }
    if (!st) {
        st = kd_trainer_step(run->trainer, &work, run->channel != NULL ? &run->channel : NULL,
                             &alone, &result);
    }
    if (!st) {
        st = kd_backend_wait(run->student_be);
    }
    if (!st) {
        run->n_steps++;
        *times_out = result.times;
    }
    return st;
}

kd_status step_run_once(step_run *run, kd_step_times *times_out)
{
    if (run->trainer != NULL) {
        return train_once(run, times_out);
    }
    *times_out = kd_step_times_none();
    const kd_status st =
        teach(run, 0, kd_signal_plan_mask(plan_of(run), 0, ~UINT64_C(0)), run->message);
    return st ? st : kd_backend_wait(run->teacher_be);
}

/* Of a token, forward: scores and values of (T + 1) / 2 tokens on average. */
static double forward_flops(const kd_model_config *c, int64_t n_tokens)
{
    return kd_model_config_forward_flops(c) +
           2.0 * (double)(c->n_layers * c->n_heads) * (double)c->head_dim * (double)(n_tokens + 1);
}

double step_run_flops(const step_run *run)
{
    const step_case *what = run->what;
    double each = 0.0;
    if (what->teacher != NULL) {
        each += forward_flops(&run->teacher, what->n_tokens);
    }
    if (what->student != NULL) {
        each += (1.0 + KD_BACKWARD_OVER_FORWARD) * forward_flops(&run->student, what->n_tokens);
    } else { /* which forms no logits, but sends what they are made of */
        each -= kd_model_config_vocabulary_flops(&run->teacher);
    }
    return each * (double)(what->n_batch * what->n_tokens * what->n_micro);
}
