#include "train/optimizer.h"

#include <stdlib.h>

#include "base/log.h"

kd_optimizer_settings kd_optimizer_defaults(void)
{
    return (kd_optimizer_settings){
        .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .clip_norm = 1.0};
}

static void lay_out(kd_optimizer *o, kd_arena *arena)
{
    o->m = kd_tensor_carve_1d(arena, KD_F32, o->params->n_elements);
    o->v = kd_tensor_carve_1d(arena, KD_F32, o->params->n_elements);
    o->norm_sq = kd_tensor_carve_1d(arena, KD_F64, 1);
}

kd_status kd_optimizer_create(kd_parameters *params,
                              const kd_optimizer_settings *settings,
                              kd_optimizer **optimizer_out)
{
    KD_CHECK(params->use == KD_PARAMS_TRAIN);
    kd_optimizer *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an optimizer");
    }
    *o = (kd_optimizer){.params = params, .settings = *settings};

    kd_arena arena = {0};
    lay_out(o, &arena);
    o->slab = params->be->ops->alloc(params->be, arena.used);
    if (o->slab == NULL) {
        free(o);
        return KD_ERR_NOMEM;
    }
    kd_arena_init(&arena, o->slab, arena.used);
    lay_out(o, &arena);
    *optimizer_out = o;
    return KD_OK;
}

void kd_optimizer_destroy(kd_optimizer *optimizer)
{
    if (optimizer != NULL) {
        kd_backend *be = optimizer->params->be;
        be->ops->free(be, optimizer->slab);
        free(optimizer);
    }
}

void kd_optimizer_measure(kd_optimizer *o)
{
    kd_backend *be = o->params->be;
    be->ops->zero(be, o->norm_sq);
    be->ops->sum_squares(be, o->norm_sq, o->params->grad);
}

/* Elements [first, end) of a flat f32 slab. */
static kd_tensor range(kd_tensor slab, int64_t first, int64_t end)
{
    return kd_tensor_1d((float *)slab.data + first, KD_F32, end - first);
}

void kd_optimizer_apply(kd_optimizer *o, double learning_rate, uint64_t update)
{
    const kd_parameters *params = o->params;
    const int64_t bounds[] = {0, params->n_matrix, params->n_elements}; /* matrices, vectors */

    for (int part = 0; part < 2; part++) {
        const int64_t first = bounds[part];
        const int64_t end = bounds[part + 1];
        const bool copies = part == 0 && params->compute.dtype != KD_F32;
        if (first == end) {
            continue;
        }
        const kd_adamw args = {
            .param = range(params->master, first, end),
            .grad = range(params->grad, first, end),
            .m = range(o->m, first, end),
            .v = range(o->v, first, end),
            .copy = copies ? params->compute : kd_tensor_none(),
            .norm_sq = o->norm_sq,
            .clip_norm = o->settings.clip_norm,
            .learning_rate = learning_rate,
            .beta1 = o->settings.beta1,
            .beta2 = o->settings.beta2,
            .epsilon = o->settings.epsilon,
            .weight_decay = part == 0 ? o->settings.weight_decay : 0.0,
            .step = update,
        };
        params->be->ops->adamw(params->be, &args);
    }
}
