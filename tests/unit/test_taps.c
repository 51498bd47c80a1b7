#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/support/tap_run.h"

enum { ALL_POINTS = (1 << KD_TAP_COUNT) - 1 };

/* ---- what is offered, and when ---- */

typedef struct offers {
    char text[2048]; /* "point layer", backward ones in capitals */
    int64_t n_wrong;
} offers;

static int64_t columns_of(const kd_model_config *c, kd_tap_point point)
{
    switch (point) {
    case KD_TAP_HIDDEN:
    case KD_TAP_EXPERT_IN:
    case KD_TAP_EXPERT_OUT:
        return c->hidden_size;
    case KD_TAP_ROUTER:
        return c->n_experts;
    case KD_TAP_KEY:
    case KD_TAP_VALUE:
        return c->n_kv_heads * c->head_dim;
    case KD_TAP_COUNT:
        break;
    }
    return 0;
}

static bool has_route(kd_tap_point point)
{
    return point == KD_TAP_ROUTER || point == KD_TAP_EXPERT_IN || point == KD_TAP_EXPERT_OUT;
}

static void note(void *user, const kd_tap *tap)
{
    static const char *const names[2][KD_TAP_COUNT] = {{"h", "r", "i", "o", "k", "v"},
                                                       {"H", "R", "I", "O", "K", "V"}};
    offers *o = user;
    const bool backward = tap->gradient.data != NULL;
    char item[16];

    (void)snprintf(item, sizeof item, "%s%d ", names[backward][tap->point], (int)tap->layer);
    strncat(o->text, item, sizeof o->text - strlen(o->text) - 1);
    o->n_wrong += tap->value.data == NULL || (tap->route != NULL) != has_route(tap->point);
    o->n_wrong += tap->again || tap->batch->n_batch != TAP_BATCH;
}

static void expect_offers(const kd_model_type *type, const char *wanted)
{
    tap_run run = tap_run_start(type, KD_F32, KD_PARAMS_TRAIN, true);
    offers o = {0};

    tap_run_listen(&run, ALL_POINTS, NULL, &o, note);
    tap_run_forward_backward(&run);
    cr_expect_str_eq(o.text, wanted);
    cr_expect_eq(o.n_wrong, 0);
    tap_run_finish(&run);
}

Test(taps, are_offered_in_the_order_of_the_pass)
{
    expect_offers(&kd_model_mixtral, "k0 v0 r0 i0 o0 h0 k1 v1 r1 i1 o1 h1 "
                                     "H1 O1 I1 R1 V1 K1 H0 O0 I0 R0 V0 K0 ");
}

Test(taps, of_a_dense_model_have_no_experts)
{
    expect_offers(&kd_model_llama, "k0 v0 h0 k1 v1 h1 H1 V1 K1 H0 V0 K0 ");
}

static void count_layer(void *user, const kd_tap *tap)
{
    int64_t *n = user;
    *n += tap->gradient.data == NULL;
}

/* Losses over routers divide by the one and hear the other. */
Test(taps, of_routers_are_as_many_as_the_shape_has_sparse_layers)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        tap_run run = tap_run_start(kd_model_type_at(i), KD_F32, KD_PARAMS_TRAIN, true);
        int64_t n = 0;
        tap_run_listen(&run, KD_TAP_BIT(KD_TAP_ROUTER), NULL, &n, count_layer);
        tap_run_forward_backward(&run);
        cr_expect_eq(n, kd_model_config_sparse_layers(&run.model.params->config), "%s",
                     kd_model_type_at(i)->name);
        tap_run_finish(&run);
    }
}

Test(taps, are_offered_only_where_someone_listens)
{
    tap_run run = tap_run_start(&kd_model_mixtral, KD_F32, KD_PARAMS_TRAIN, true);
    const bool last[] = {false, true}, first[] = {true, false};
    offers a = {0}, b = {0};
    const kd_listener listeners[] = {
        {.points = KD_TAP_BIT(KD_TAP_KEY) | KD_TAP_BIT(KD_TAP_ROUTER),
         .layers = last,
         .user = &a,
         .at = note},
        {.points = KD_TAP_BIT(KD_TAP_HIDDEN), .layers = first, .user = &b, .at = note},
    };

    cr_assert_eq(kd_decoder_listen(run.decoder, listeners, 2), KD_OK);
    tap_run_forward_backward(&run);
    cr_expect_str_eq(a.text, "k1 r1 R1 K1 ");
    cr_expect_str_eq(b.text, "h0 H0 ");
    cr_assert_eq(kd_decoder_listen(run.decoder, NULL, 0), KD_OK);
    tap_run_forward_backward(&run);
    cr_expect_str_eq(a.text, "k1 r1 R1 K1 ");
    tap_run_finish(&run);
}

Test(taps, of_a_model_that_only_infers_are_those_of_the_forward_pass)
{
    tap_run run = tap_run_start(&kd_model_qwen3_moe, KD_F32, KD_PARAMS_INFER, false);
    offers o = {0};

    tap_run_listen(&run, ALL_POINTS, NULL, &o, note);
    tap_run_forward(&run);
    cr_expect_str_eq(o.text, "k0 v0 r0 i0 o0 h0 k1 v1 r1 i1 o1 h1 ");
    cr_expect_eq(o.n_wrong, 0);
    tap_run_finish(&run);
}

/* ---- what the tensors hold ---- */

/* Copies of the values of one layer, by point, forward and backward. */
typedef struct copies {
    kd_backend *be;
    const kd_model_config *config;
    int64_t layer;
    float *values[2][KD_TAP_COUNT];
    float *gradients[KD_TAP_COUNT];
    int64_t rows[KD_TAP_COUNT];

} copies;

static void keep(void *user, const kd_tap *tap)
{
    copies *c = user;
    const bool backward = tap->gradient.data != NULL;
    int32_t offset[5];

    if (tap->layer != c->layer) {
        return;
    }
    cr_expect_eq(kd_tensor_columns(tap->value), columns_of(c->config, tap->point));
    c->values[backward][tap->point] = tiny_values(c->be, tap->value);
    c->rows[tap->point] = kd_tensor_rows(tap->value);
    if (backward) {
        cr_expect_eq(kd_tensor_columns(tap->gradient), columns_of(c->config, tap->point));
        c->gradients[tap->point] = tiny_values(c->be, tap->gradient);
    }
    if (tap->point == KD_TAP_EXPERT_IN || tap->point == KD_TAP_EXPERT_OUT) {
        c->be->ops->download(c->be, offset, tap->route->offset);
        c->rows[tap->point] = offset[4];
    }
}

static void keep_all(copies *c, tap_run *run, int64_t layer)
{
    *c = (copies){.be = run->model.be, .config = &run->model.params->config, .layer = layer};
    tap_run_listen(run, ALL_POINTS, NULL, c, keep);
}

static void release(copies *c)
{
    for (int p = 0; p < KD_TAP_COUNT; p++) {
        free(c->values[0][p]);
        free(c->values[1][p]);
        free(c->gradients[p]);
    }
}

static size_t bytes_of(const copies *c, int point)
{
    return (size_t)(c->rows[point] * columns_of(c->config, (kd_tap_point)point)) * sizeof(float);
}

static void expect_same_values(const kd_model_type *type, kd_dtype compute)
{
    tap_run run = tap_run_start(type, compute, KD_PARAMS_TRAIN, true);
    tap_run infers = tap_run_start(type, compute, KD_PARAMS_INFER, false);

    for (int64_t layer = 0; layer < 2; layer++) {
        copies c, other;
        keep_all(&c, &run, layer);
        keep_all(&other, &infers, layer);
        tap_run_forward_backward(&run);
        tap_run_forward(&infers);
        for (int p = 0; p < KD_TAP_COUNT; p++) {
            if (c.values[0][p] == NULL) {
                continue;
            }
            cr_expect_arr_eq(c.values[0][p], c.values[1][p], bytes_of(&c, p),
                             "%s, point %d: forward and backward differ", type->name, p);
            cr_expect_arr_eq(c.values[0][p], other.values[0][p], bytes_of(&c, p),
                             "%s, point %d: training and inference differ", type->name, p);
        }
        release(&other);
        release(&c);
    }
    tap_run_finish(&infers);
    tap_run_finish(&run);
}

Test(taps, show_the_same_values_forward_and_backward_and_in_inference)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        expect_same_values(kd_model_type_at(t), KD_F32);
        expect_same_values(kd_model_type_at(t), KD_BF16);
    }
}

/* In the first layer a key depends on its token alone, until it is turned by its position. */
Test(taps, keys_are_not_yet_turned)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        tap_run run = tap_run_start(kd_model_type_at(t), KD_F32, KD_PARAMS_TRAIN, true);
        copies c;
        keep_all(&c, &run, 0);
        for (int i = 0; i < TAP_ROWS; i++) {
            run.tokens[i] = 3;
        }
        tap_run_forward_backward(&run);
        const size_t row = (size_t)columns_of(c.config, KD_TAP_KEY);
        for (size_t i = 1; i < TAP_ROWS; i++) {
            cr_expect_arr_eq(c.values[0][KD_TAP_KEY], c.values[0][KD_TAP_KEY] + i * row,
                             row * sizeof(float));
            cr_expect_arr_eq(c.values[1][KD_TAP_KEY], c.values[1][KD_TAP_KEY] + i * row,
                             row * sizeof(float));
        }
        release(&c);
        tap_run_finish(&run);
    }
}

Test(taps, keys_of_a_smaller_batch_are_kept_too)
{
    tap_run run = tap_run_start(&kd_model_olmoe, KD_F32, KD_PARAMS_TRAIN, true);
    copies whole, part;

    keep_all(&whole, &run, 1);
    tap_run_forward_backward(&run);
    keep_all(&part, &run, 1);
    tiny_forward(run.decoder, run.tokens, 1, TAP_TOKENS);
    kd_decoder_backward(run.decoder, kd_tensor_slice_rows(run.d_hidden, 0, TAP_TOKENS));
    cr_expect_eq(part.rows[KD_TAP_KEY], TAP_TOKENS);
    cr_expect_arr_eq(part.values[1][KD_TAP_KEY], part.values[0][KD_TAP_KEY],
                     bytes_of(&part, KD_TAP_KEY));
    cr_expect_arr_eq(part.values[1][KD_TAP_KEY], whole.values[1][KD_TAP_KEY],
                     bytes_of(&part, KD_TAP_KEY));
    release(&part);
    release(&whole);
    tap_run_finish(&run);
}

static void look(void *user, const kd_tap *tap)
{
    kd_backend *be = user;
    free(tiny_values(be, tap->value));
    if (tap->gradient.data != NULL) {
        free(tiny_values(be, tap->gradient));
    }
}

static void expect_no_changed_bit(const kd_model_type *type, kd_dtype compute)
{
    float *hidden[2], *grads[2];
    size_t n_hidden = 0, n_grads = 0;

    for (int listened = 0; listened < 2; listened++) {
        tap_run run = tap_run_start(type, compute, KD_PARAMS_TRAIN, true);
        kd_backend *be = run.model.be;
        const kd_tensor grad = run.model.params->grad;
        float *direction_of_hidden = tiny_values(be, run.d_hidden);
        n_hidden = (size_t)kd_tensor_elements(run.d_hidden);
        n_grads = (size_t)kd_tensor_elements(grad);
        for (size_t i = 0; i < n_hidden; i++) {
            direction_of_hidden[i] = (float)kd_rng_normal(kd_rng_key(2, "bits"), i);
        }
        be->ops->upload(be, run.d_hidden, direction_of_hidden);
        if (listened) {
            tap_run_listen(&run, ALL_POINTS, NULL, be, look);
        }
        tap_run_forward_backward(&run);
        hidden[listened] = tiny_values(be, kd_decoder_hidden(run.decoder));
        grads[listened] = tiny_values(be, grad);
        free(direction_of_hidden);
        tap_run_finish(&run);
    }
    cr_expect_arr_eq(hidden[0], hidden[1], n_hidden * sizeof(float));
    cr_expect_arr_eq(grads[0], grads[1], n_grads * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(hidden[i]);
        free(grads[i]);
    }
}

Test(taps, a_listener_that_changes_nothing_changes_no_bit)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        expect_no_changed_bit(kd_model_type_at(t), KD_F32);
        expect_no_changed_bit(kd_model_type_at(t), KD_BF16);
    }
}

/* ---- frozen weights ---- */

static float *gradient_at_first_hidden(const kd_model_type *type, kd_parameter_use use)
{
    tap_run run = tap_run_start(type, KD_F32, use, true);
    const size_t n = (size_t)kd_tensor_elements(run.d_hidden);
    kd_backend *be = run.model.be;
    float *values = tiny_values(be, run.d_hidden);
    copies c;

    for (size_t i = 0; i < n; i++) {
        values[i] = (float)kd_rng_normal(kd_rng_key(2, "frozen"), i);
    }
    be->ops->upload(be, run.d_hidden, values);
    keep_all(&c, &run, 0);
    tap_run_forward_backward(&run);
    memcpy(values, c.gradients[KD_TAP_HIDDEN], n * sizeof *values);
    release(&c);
    tap_run_finish(&run);
    return values;
}

static void check_frozen(const kd_model_type *type)
{
    tap_run run = tap_run_start(type, KD_F32, KD_PARAMS_INFER, true);
    const int64_t n = run.model.params->n_elements;
    const size_t bytes = (size_t)n * sizeof(float);
    float *before = malloc(bytes), *after = malloc(bytes);
    float *wanted = gradient_at_first_hidden(type, KD_PARAMS_TRAIN);
    float *found = gradient_at_first_hidden(type, KD_PARAMS_INFER);

    cr_expect_arr_eq(found, wanted, (size_t)kd_tensor_elements(run.d_hidden) * sizeof *found);
    cr_expect_null(run.model.params->grad.data);
    cr_expect_null(run.model.params->master.data);
    kd_parameters_read(run.model.params, 0, before, n);
    tap_run_forward_backward(&run);
    kd_parameters_read(run.model.params, 0, after, n);
    cr_expect_arr_eq(after, before, bytes);
    free(found);
    free(wanted);
    free(after);
    free(before);
    tap_run_finish(&run);
}

Test(taps, a_frozen_model_passes_the_same_gradient_and_has_none_of_its_own)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        check_frozen(kd_model_type_at(t));
    }
}
