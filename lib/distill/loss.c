#include "distill/loss.h"

#include <string.h>

#include "base/log.h"
#include "base/text.h"

static const kd_loss_kind *const kinds[KD_LOSS_COUNT] = {
    [KD_LOSS_KD] = &kd_loss_soft_target,
    [KD_LOSS_HARD] = &kd_loss_hard_target,
    [KD_LOSS_BALANCE] = &kd_loss_balance,
    [KD_LOSS_Z] = &kd_loss_z,
};

const kd_loss_kind *kd_loss_get(kd_loss_id id)
{
    KD_CHECK((unsigned)id < KD_LOSS_COUNT && kinds[id] != NULL);
    return kinds[id];
}

int64_t kd_rows_labelled(const int32_t *labels, int64_t n_rows)
{
    int64_t n = 0;
    if (labels == NULL) {
        return n_rows;
    }
    for (int64_t i = 0; i < n_rows; i++) {
        n += labels[i] != KD_LABEL_IGNORED;
    }
    return n;
}

int64_t kd_rows_all(const int32_t *labels, int64_t n_rows)
{
    (void)labels;
    return n_rows;
}

static kd_status unknown(const char *name)
{
    const char *names[KD_LOSS_COUNT];
    kd_text all = {0};
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        names[i] = kd_loss_get((kd_loss_id)i)->name;
        kd_text_printf(&all, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    const char *nearest = kd_text_nearest(name, names, KD_LOSS_COUNT);
    const kd_status st =
        nearest != NULL
            ? kd_fail(KD_ERR_NOT_FOUND, "there is no loss '%s'; did you mean '%s'?", name, nearest)
            : kd_fail(KD_ERR_NOT_FOUND, "there is no loss '%s': expected one of %s", name,
                      all.failed ? "kd, hard, ..." : all.data);
    kd_text_release(&all);
    return st;
}

kd_status kd_loss_find(const char *name, kd_loss_id *id_out)
{
    for (int i = 0; i < KD_LOSS_COUNT; i++) {
        if (strcmp(kd_loss_get((kd_loss_id)i)->name, name) == 0) {
            *id_out = (kd_loss_id)i;
            return KD_OK;
        }
    }
    return unknown(name);
}
