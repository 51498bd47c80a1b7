/*
 * teacher.c - a decoder without gradients whose values go into messages: those of its layers at the
 * taps, while the one buffer that all layers share still holds them, the others after the pass.
 */
#include "distill/teacher.h"

#include <stdlib.h>

#include "base/log.h"
#include "format/model_folder.h"
#include "model/logits.h"

struct kd_teacher {
    kd_parameters *params; /* owned */
    kd_decoder *decoder;   /* owned */
    int64_t max_batch, n_tokens;

    /* Of the pass under way, for the taps; NULL: none of its signals is wanted. */
    const kd_teacher_part *part;
    void *message;
};

/* Where a signal goes, or none if it is not of the part. */
static kd_tensor
place_of(const kd_teacher_part *part, const kd_signal *signal, void *message, int64_t n_rows)
{
    const bool wanted = signal != NULL && signal->teacher == part->teacher &&
                        (part->groups >> signal->group & 1) != 0;
    return wanted ? kd_signal_view(signal, message, n_rows) : kd_tensor_none();
}

static void write_tap(void *user, const kd_tap *tap)
{
    const kd_teacher *teacher = user;
    const kd_teacher_part *part = teacher->part;
    if (part == NULL) {
        return;
    }
    const kd_signal *signal = kd_signal_plan_find(
        part->plan, part->teacher, (kd_signal_kind)(KD_SIGNAL_TAP + tap->point), tap->layer);
    const kd_tensor place = place_of(part, signal, teacher->message, kd_tensor_rows(tap->value));
    if (place.data != NULL) {
        kd_backend *be = teacher->params->be;
        be->ops->copy(be, place, tap->value);
    }
}

static kd_status create_decoder(kd_teacher *teacher, const kd_teacher_settings *settings)
{
    const kd_decoder_settings decoder_settings = {.max_batch = settings->max_batch,
                                                  .n_tokens = settings->n_tokens,
                                                  .on_block = settings->on_block,
                                                  .user = settings->user};
    const kd_listener listener = {.points = KD_SIGNAL_TAPS, .user = teacher, .at = write_tap};
    kd_status st = kd_decoder_create(teacher->params, &decoder_settings, &teacher->decoder);
    if (!st) {
        st = kd_decoder_listen(teacher->decoder, &listener, 1);
    }
    return st;
}

kd_status kd_teacher_create(kd_parameters *params,
                            const kd_teacher_settings *settings,
                            kd_teacher **teacher_out)
{
    kd_status st;
    kd_teacher *teacher = calloc(1, sizeof *teacher);
    if (teacher == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for a teacher");
        goto err_params;
    }
    *teacher = (kd_teacher){
        .params = params, .max_batch = settings->max_batch, .n_tokens = settings->n_tokens};
    st = create_decoder(teacher, settings);
    if (st) {
        goto err_teacher;
    }
    *teacher_out = teacher;
    return KD_OK;

err_teacher:
    kd_decoder_destroy(teacher->decoder);
    free(teacher);
err_params:
    kd_parameters_destroy(params);
    return st;
}

kd_status kd_teacher_load(kd_backend *be,
                          const char *folder,
                          const kd_teacher_settings *settings,
                          kd_teacher **teacher_out)
{
    kd_model_config config;
    kd_parameters *params;
    kd_status st = kd_model_folder_config(folder, &config);
    if (!st) {
        st = kd_parameters_create(be, &config, KD_PARAMS_INFER, &params);
    }
    if (st) {
        return st;
    }
    st = kd_model_folder_load(folder, params);
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    return kd_teacher_create(params, settings, teacher_out);
}

void kd_teacher_destroy(kd_teacher *teacher)
{
    if (teacher != NULL) {
        kd_decoder_destroy(teacher->decoder);
        kd_parameters_destroy(teacher->params);
        free(teacher);
    }
}

kd_parameters_memory kd_teacher_parameters_memory(const kd_teacher *teacher)
{
    return kd_parameters_memory_of(teacher->params);
}

size_t kd_teacher_activation_bytes(const kd_teacher *teacher)
{
    return kd_decoder_bytes(teacher->decoder);
}

const kd_model_config *kd_teacher_config(const kd_teacher *teacher)
{
    return &teacher->params->config;
}

kd_tensor kd_teacher_lm_head(const kd_teacher *teacher)
{
    return kd_decoder_lm_head(teacher->decoder);
}

/* What is known only after the pass. */
static void write_last(const kd_teacher *teacher, const kd_signal *signal, kd_tensor place)
{
    kd_backend *be = teacher->params->be;
    const kd_tensor hidden = kd_decoder_hidden(teacher->decoder);
    if (signal->kind == KD_SIGNAL_LOGITS) { /* straight there: the teacher keeps none of its own */
        be->ops->linear(be, place, hidden, kd_teacher_lm_head(teacher));
    } else if (signal->kind == KD_SIGNAL_HIDDEN) {
        be->ops->copy(be, place, hidden);
    }
}

static kd_status check_batch(const kd_teacher *teacher, const kd_batch *batch)
{
    const int64_t n_vocab = teacher->params->config.vocab_size, n_tokens = batch->n_tokens;
    KD_CHECK(batch->n_batch > 0 && batch->n_batch <= teacher->max_batch);
    KD_CHECK(n_tokens == teacher->n_tokens);
    for (int64_t i = 0; i < batch->n_batch * n_tokens; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= n_vocab) {
            return kd_fail(KD_ERR_INVALID,
                           "teacher, token %lld of sequence %llu: found %d, expected 0 to %lld",
                           (long long)(i % n_tokens),
                           (unsigned long long)batch->first + (uint64_t)(i / n_tokens),
                           batch->tokens[i], (long long)n_vocab - 1);
        }
    }
    return KD_OK;
}

kd_status kd_teacher_fill(kd_teacher *teacher,
                          const kd_batch *batch,
                          const kd_teacher_part *part,
                          void *message)
{
    const int64_t n_rows = batch->n_batch * batch->n_tokens;
    const kd_status st = check_batch(teacher, batch);
    if (st) {
        return st;
    }
    if (part->groups == 0) {
        return KD_OK;
    }
    teacher->part = part;
    teacher->message = message;
    kd_decoder_forward(teacher->decoder, batch);
    teacher->part = NULL;
    for (int i = 0; i < part->plan->n_signals; i++) {
        const kd_signal *signal = &part->plan->signals[i];
        const kd_tensor place = place_of(part, signal, message, n_rows);
        if (place.data != NULL) {
            write_last(teacher, signal, place);
        }
    }
    return KD_OK;
}

kd_status kd_teacher_logits(kd_teacher *teacher, const kd_batch *batch, float *logits_out)
{
    const kd_status st = check_batch(teacher, batch);
    if (st) {
        return st;
    }
    kd_decoder_forward(teacher->decoder, batch);
    return kd_logits_download(teacher->params->be, kd_decoder_hidden(teacher->decoder),
                              kd_teacher_lm_head(teacher), logits_out);
}
