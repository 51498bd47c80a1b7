/* Signals at taps: the teacher's messages against what a listener to the same decoder sees. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "distill/teacher.h"
#include "tests/support/tiny_model.h"

enum { N_BATCH = 2, N_TOKENS = 5, N_ROWS = N_BATCH * N_TOKENS, LAYERS = 2, SEED = 7 };

static const kd_tap_point points[] = {KD_TAP_HIDDEN, KD_TAP_ROUTER, KD_TAP_KEY, KD_TAP_VALUE};

enum { N_POINTS = sizeof points / sizeof *points };

/* What a listener saw, as f32. */
typedef struct seen {
    kd_backend *be;
    float *values[KD_TAP_COUNT][LAYERS];
} seen;

static void keep(void *user, const kd_tap *tap)
{
    seen *s = user;
    s->values[tap->point][tap->layer] = tiny_values(s->be, tap->value);
}

static void look(const int32_t *tokens, kd_dtype compute, seen *seen_out)
{
    tiny_model model =
        tiny_model_with_seed(tiny_config(&kd_model_qwen3_moe), compute, KD_PARAMS_INFER, SEED);
    const kd_listener listener = {.points = KD_SIGNAL_TAPS, .user = seen_out, .at = keep};
    kd_decoder *decoder =
        tiny_decoder(&model, (kd_decoder_settings){.max_batch = N_BATCH, .n_tokens = N_TOKENS});
    seen_out->be = model.be;
    cr_assert_eq(kd_decoder_listen(decoder, &listener, 1), KD_OK);
    tiny_forward(decoder, tokens, N_BATCH, N_TOKENS);
    kd_decoder_destroy(decoder);
    tiny_model_destroy(&model);
}

static int64_t columns_at(const kd_model_config *c, kd_tap_point point)
{
    const int64_t heads = c->n_kv_heads * c->head_dim;
    return point == KD_TAP_HIDDEN ? c->hidden_size : point == KD_TAP_ROUTER ? c->n_experts : heads;
}

/* Each point of each layer is read by a loss of its own, so that each is a group. */
static kd_signal_plan plan_of(const kd_model_config *c, kd_dtype dtype)
{
    kd_signal_plan plan = {0};
    for (int p = 0; p < N_POINTS; p++) {
        for (int layer = 0; layer < LAYERS; layer++) {
            const kd_signal signal = {.kind = (kd_signal_kind)(KD_SIGNAL_TAP + points[p]),
                                      .layer = layer,
                                      .dtype = dtype,
                                      .rows = N_ROWS,
                                      .columns = columns_at(c, points[p])};
            cr_assert_eq(kd_signal_plan_add(&plan, &signal, LAYERS * p + layer), KD_OK);
        }
    }
    cr_assert_eq(kd_signal_plan_lay_out(&plan, 1), KD_OK);
    return plan;
}

/* A signal in a message, which is all zeros where the group was not asked for. */
static void expect_signal(kd_backend *be,
                          const kd_signal *signal,
                          void *message,
                          bool wanted,
                          const float *value)
{
    const float rounding = signal->dtype == KD_BF16 ? 0x1p-8f : 0.0f;
    float *found = tiny_values(be, kd_signal_view(signal, message, N_ROWS));
    for (int64_t i = 0; i < N_ROWS * signal->columns; i++) {
        cr_assert_float_eq(found[i], wanted ? value[i] : 0.0f, rounding * fabsf(value[i]),
                           "kind %d, layer %d, element %d: found %g, expected %g",
                           (int)signal->kind, (int)signal->layer, (int)i, (double)found[i],
                           wanted ? (double)value[i] : 0.0);
    }
    free(found);
}

static void expect_messages(kd_dtype compute, kd_dtype travels, uint64_t groups)
{
    const kd_teacher_settings settings = {.max_batch = N_BATCH, .n_tokens = N_TOKENS};
    const kd_model_config config = tiny_config(&kd_model_qwen3_moe);
    tiny_model model = tiny_model_with_seed(config, compute, KD_PARAMS_INFER, SEED);
    kd_signal_plan plan = plan_of(&config, travels);
    const kd_teacher_part part = {&plan, 0, groups};
    int32_t tokens[N_ROWS];
    kd_teacher *teacher;
    seen wanted = {0};

    tiny_tokens(tokens, N_ROWS, config.vocab_size, 3);
    look(tokens, compute, &wanted);
    cr_assert_eq(kd_teacher_create(model.params, &settings, &teacher), KD_OK);
    void *message =
        model.be->ops->alloc(model.be, KD_MEMORY_DEVICE, plan.messages[0].message_bytes);
    const kd_batch batch = {.n_batch = N_BATCH, .n_tokens = N_TOKENS, .tokens = tokens};
    cr_assert_eq(kd_teacher_fill(teacher, &batch, &part, message), KD_OK);
    for (int i = 0; i < plan.n_signals; i++) {
        const kd_signal *s = &plan.signals[i];
        float *value = wanted.values[s->kind - KD_SIGNAL_TAP][s->layer];
        expect_signal(model.be, s, message, (groups >> s->group & 1) != 0, value);
        free(value);
    }
    model.be->ops->free(model.be, message);
    kd_signal_plan_release(&plan);
    kd_teacher_destroy(teacher);
    kd_backend_destroy(model.be);
}

Test(teacher, writes_each_layer_as_a_listener_sees_it)
{
    expect_messages(KD_F32, KD_F32, ~UINT64_C(0));
    expect_messages(KD_BF16, KD_BF16, ~UINT64_C(0));
}

Test(teacher, writes_in_the_dtype_of_the_signal)
{
    expect_messages(KD_F32, KD_BF16, ~UINT64_C(0));
    expect_messages(KD_BF16, KD_F32, ~UINT64_C(0));
}

Test(teacher, writes_only_the_groups_it_is_asked_for)
{
    expect_messages(KD_F32, KD_F32, 0x5a);
}
