/* Every allocation of lib/model fails in turn; linked with --wrap of malloc, calloc and mmap. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "model/probe.h"
#include "tests/support/tiny_model.h"

static int n_left = -1; /* allocations until one fails; negative: none does */

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

static bool fails_now(void)
{
    return n_left >= 0 && n_left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return fails_now() ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

enum { BATCH = 2, TOKENS = 5 };

typedef struct scene {
    tiny_model model;
    kd_decoder *decoder;
    int n_heard; /* by the listener that is there before */
} scene;

static kd_decoder_settings settings(void)
{
    return (kd_decoder_settings){.max_batch = BATCH, .n_tokens = TOKENS, .train = true};
}

static void hear(void *user, const kd_tap *tap)
{
    (void)tap;
    ++*(int *)user;
}

/* Runs an attempt with each allocation failing in turn until none does; returns how many did. */
static int fail_each(scene *s, kd_status (*attempt)(scene *s), void (*after_failure)(scene *s))
{
    int n_failures = 0;

    kd_fault_quiet(1);
    for (int n = 0;; n++) {
        n_left = n;
        const kd_status st = attempt(s);
        const bool failed = n_left < 0;
        n_left = -1;
        if (!failed) {
            cr_assert_eq(st, KD_OK);
            break;
        }
        cr_assert_eq(st, KD_ERR_NOMEM, "allocation %d", n);
        if (after_failure != NULL) {
            after_failure(s);
        }
        n_failures++;
    }
    kd_fault_quiet(0);
    return n_failures;
}

static scene start(void)
{
    scene s = {.model = tiny_model_create(tiny_config(&kd_model_mixtral), KD_F32, KD_PARAMS_TRAIN)};
    s.decoder = tiny_decoder(&s.model, settings());
    return s;
}

static void finish(scene *s)
{
    kd_decoder_destroy(s->decoder);
    tiny_model_destroy(&s->model);
}

static kd_status make_parameters(scene *s)
{
    const kd_model_config config = tiny_config(&kd_model_mixtral);
    kd_parameters *params = NULL;
    const kd_status st = kd_parameters_create(s->model.be, &config, KD_PARAMS_TRAIN, &params);
    kd_parameters_destroy(params);
    return st;
}

static kd_status make_decoder(scene *s)
{
    const kd_decoder_settings with = settings();
    kd_decoder *decoder = NULL;
    const kd_status st = kd_decoder_create(s->model.params, &with, &decoder);
    kd_decoder_destroy(decoder);
    return st;
}

static kd_status make_probe(scene *s)
{
    kd_probe *probe = NULL;
    const kd_status st = kd_probe_create(s->decoder, 3, 2, &probe);
    kd_probe_destroy(probe);
    return st;
}

Test(model_memory, creation_fails_whole_at_every_allocation)
{
    scene s = start();
    cr_expect_geq(fail_each(&s, make_parameters, NULL), 4, "two tables, their struct, the slab");
    cr_expect_geq(fail_each(&s, make_decoder, NULL), 7, "its struct, layers, taps, slab, rope");
    cr_expect_geq(fail_each(&s, make_probe, NULL), 5, "its struct, slab and host copies");
    finish(&s);
}

static kd_status listen_to_keys(scene *s)
{
    static int nobody;
    const kd_listener listener = {.points = KD_TAP_BIT(KD_TAP_KEY), .user = &nobody, .at = hear};
    return kd_decoder_listen(s->decoder, &listener, 1);
}

/* The one before listens at four values of a forward pass and a backward pass. */
static void expect_the_old_listener(scene *s)
{
    const int32_t tokens[BATCH * TOKENS] = {1, 2, 3};
    const int64_t width = s->model.params->config.hidden_size;
    void *zeros = s->model.be->ops->alloc(s->model.be, KD_MEMORY_DEVICE,
                                          (size_t)(BATCH * TOKENS * width) * 4);

    s->n_heard = 0;
    tiny_forward(s->decoder, tokens, BATCH, TOKENS);
    kd_decoder_backward(s->decoder, kd_tensor_2d(zeros, KD_F32, BATCH * TOKENS, width));
    cr_expect_eq(s->n_heard, 4);
    s->model.be->ops->free(s->model.be, zeros);
}

Test(model_memory, where_it_lacks_those_who_listened_before_still_do)
{
    scene s = start();
    const kd_listener before = {.points = KD_TAP_BIT(KD_TAP_VALUE), .user = &s.n_heard, .at = hear};

    cr_assert_eq(kd_decoder_listen(s.decoder, &before, 1), KD_OK);
    cr_expect_geq(fail_each(&s, listen_to_keys, expect_the_old_listener), 3,
                  "the list, the points, the keys");
    s.n_heard = 0;
    tiny_forward(s.decoder, (const int32_t[BATCH * TOKENS]){1}, BATCH, TOKENS);
    cr_expect_eq(s.n_heard, 0);
    finish(&s);
}
