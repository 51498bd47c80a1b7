/*
 * optimizer.c - one pass of AdamW over the matrices of each trained group, and one over its vectors, which
 * never decay. Slabs are flat, so it knows neither layers nor names.
 */
#include "train/optimizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static void lay_out(kd_optimizer *o, kd_arena *arena)
{
    o->norm_sq = kd_tensor_carve_1d(arena, KD_F64, o->n_groups);
    for (int g = 0; g < o->n_groups; g++) {
        if (kd_group_trained(&o->groups[g])) {
            const int64_t n = o->groups[g].params->n_elements;
            o->moments[g].m = kd_tensor_carve_1d(arena, KD_F32, n);
            o->moments[g].v = kd_tensor_carve_1d(arena, KD_F32, n);
        }
    }
}

static int64_t n_trained(const kd_optimizer *o)
{
    int64_t n = 0;
    for (int g = 0; g < o->n_groups; g++) {
        n += kd_group_trained(&o->groups[g]) ? o->groups[g].params->n_elements : 0;
    }
    return n;
}

kd_status kd_optimizer_create(const kd_group *groups,
                              int n,
                              const Kd__Training *training,
                              kd_optimizer **optimizer_out)
{
    KD_CHECK(n >= 1 && n <= KD_GROUPS_MAX);
    kd_optimizer *o = calloc(1, sizeof *o);
    if (o == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an optimizer");
    }
    o->be = o->stage.be = groups[0].params->be;
    o->training = training;
    o->n_groups = n;
    memcpy(o->groups, groups, (size_t)n * sizeof *groups);

    kd_arena arena = {0};
    lay_out(o, &arena);
    const kd_status st = kd_backend_place(o->be, KD_MEMORY_DEVICE, arena.used, &o->slab,
                                          "moments of %lld parameters", (long long)n_trained(o));
    if (st) {
        free(o);
        return st;
    }
    o->slab_bytes = arena.used;
    kd_arena_init(&arena, o->slab, o->slab_bytes);
    lay_out(o, &arena);
    *optimizer_out = o;
    return KD_OK;
}

void kd_optimizer_destroy(kd_optimizer *optimizer)
{
    if (optimizer != NULL) {
        optimizer->be->ops->free(optimizer->be, optimizer->slab);
        kd_reduce_stage_release(&optimizer->stage);
        free(optimizer);
    }
}

void kd_optimizer_clear(kd_optimizer *o)
{
    for (int g = 0; g < o->n_groups; g++) {
        kd_parameters_clear_grad(o->groups[g].params);
    }
}

void kd_optimizer_settle(kd_optimizer *o)
{
    for (int g = 0; g < o->n_groups; g++) {
        kd_parameters_settle_grad(o->groups[g].params);
    }
}

/* Elements [first, end) of a flat f32 slab. */
static kd_tensor range(kd_tensor slab, int64_t first, int64_t end)
{
    return kd_tensor_1d((float *)slab.data + first, KD_F32, end - first);
}

/* What the ranks cannot sum where it is goes through memory where they can. */
static kd_status reduce_group(kd_optimizer *o, const kd_reduce *reduce, kd_tensor grad)
{
    if (o->be->device.kind != KD_DEVICE_CPU && !reduce->takes_device) {
        return kd_reduce_staged(&o->stage, reduce, grad);
    }
    const kd_status st = kd_backend_wait(o->be);
    return st ? st : reduce->sum_f32(reduce->user, grad.data, kd_tensor_elements(grad));
}

kd_status kd_optimizer_reduce(kd_optimizer *o, const kd_reduce *reduce)
{
    if (reduce->n_ranks == 1) {
        return KD_OK;
    }
    kd_status st = KD_OK;
    for (int g = 0; !st && g < o->n_groups; g++) {
        const kd_parameters *params = o->groups[g].params;
        if (kd_group_trained(&o->groups[g])) {
            st = reduce_group(o, reduce, params->grad);
        }
    }
    return st;
}

static kd_tensor norm_sq_of(const kd_optimizer *o, int group)
{
    return kd_tensor_1d((double *)o->norm_sq.data + group, KD_F64, 1);
}

void kd_optimizer_measure(kd_optimizer *o)
{
    o->be->ops->zero(o->be, o->norm_sq);
    for (int g = 0; g < o->n_groups; g++) {
        if (kd_group_trained(&o->groups[g])) {
            o->be->ops->sum_squares(o->be, norm_sq_of(o, g), o->groups[g].params->grad);
        }
    }
}

/* Elements [first, end) of a group: all its matrices, or all its vectors. */
static void apply_range(kd_optimizer *o, int g, int64_t first, int64_t end, kd_adamw args)
{
    const kd_parameters *params = o->groups[g].params;

    if (first == end) {
        return;
    }
    args.param = range(params->master, first, end);
    args.grad = range(params->grad, first, end);
    args.m = range(o->moments[g].m, first, end);
    args.v = range(o->moments[g].v, first, end);
    o->be->ops->adamw(o->be, &args);
}

static void apply_group(kd_optimizer *o, int g, double learning_rate, kd_tensor sums)
{
    const kd_group *group = &o->groups[g];
    const kd_parameters *params = group->params;
    const kd_tensor guards[] = {o->norm_sq, sums};
    kd_adamw args = {
        .copy = params->compute.dtype != KD_F32 ? params->compute : kd_tensor_none(),
        .norm_sq = norm_sq_of(o, g),
        .guards = guards,
        .n_guards = sums.data != NULL ? 2 : 1,
        .clip_norm = group->clip_norm,
        .learning_rate = learning_rate * group->rate,
        .beta1 = o->training->beta1,
        .beta2 = o->training->beta2,
        .epsilon = o->training->epsilon,
        .weight_decay = group->decay ? o->training->weight_decay : 0.0,
        .step = o->n_updates + 1,
    };

    apply_range(o, g, 0, params->n_matrix, args);
    args.copy = kd_tensor_none();
    args.weight_decay = 0.0;
    apply_range(o, g, params->n_matrix, params->n_elements, args);
}

void kd_optimizer_apply(kd_optimizer *o, double learning_rate, kd_tensor sums)
{
    for (int g = 0; g < o->n_groups; g++) {
        if (kd_group_trained(&o->groups[g])) {
            apply_group(o, g, learning_rate, sums);
        }
    }
}

void kd_optimizer_count_update(kd_optimizer *o)
{
    o->n_updates++;
}
