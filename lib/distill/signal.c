#include "distill/signal.h"

#include "base/log.h"

static const char *kind_name(kd_signal_kind kind)
{
    static const char *const names[] = {
        [KD_SIGNAL_LOGITS] = "logits",
        [KD_SIGNAL_HIDDEN] = "hidden",
    };
    _Static_assert(sizeof names / sizeof *names == KD_SIGNAL_KIND_COUNT, "name every kind");
    KD_CHECK((unsigned)kind < KD_SIGNAL_KIND_COUNT);
    return names[kind];
}

const kd_signal *kd_signal_plan_find(const kd_signal_plan *plan, kd_signal_kind kind, int64_t layer)
{
    for (int i = 0; i < plan->n_signals; i++) {
        if (plan->signals[i].kind == kind && plan->signals[i].layer == layer) {
            return &plan->signals[i];
        }
    }
    return NULL;
}

kd_status kd_signal_plan_add(kd_signal_plan *plan,
                             kd_signal_kind kind,
                             int64_t layer,
                             kd_dtype dtype,
                             int64_t rows,
                             int64_t columns)
{
    KD_CHECK(rows > 0 && columns > 0);
    const kd_signal *present = kd_signal_plan_find(plan, kind, layer);
    if (present != NULL) {
        KD_CHECK(present->dtype == dtype && present->rows == rows && present->columns == columns);
        return KD_OK;
    }
    if (plan->n_signals == KD_SIGNALS_MAX) {
        return kd_fail(KD_ERR_NOMEM, "no room for signal %s of layer %lld: a plan holds %d",
                       kind_name(kind), (long long)layer, KD_SIGNALS_MAX);
    }
    kd_arena arena = {.used = plan->message_bytes};
    const size_t size_bytes = (size_t)rows * (size_t)columns * kd_dtype_bytes(dtype);
    plan->signals[plan->n_signals++] = (kd_signal){
        .kind = kind,
        .layer = layer,
        .dtype = dtype,
        .rows = rows,
        .columns = columns,
        .offset_bytes = arena.used,
        .size_bytes = size_bytes,
    };
    (void)kd_arena_carve(&arena, size_bytes);
    plan->message_bytes = arena.used;
    return KD_OK;
}

kd_tensor kd_signal_view(const kd_signal *signal, void *message, int64_t rows)
{
    KD_CHECK(rows > 0 && rows <= signal->rows);
    return kd_tensor_2d((uint8_t *)message + signal->offset_bytes, signal->dtype, rows,
                        signal->columns);
}
