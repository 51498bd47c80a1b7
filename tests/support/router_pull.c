#include "tests/support/router_pull.h"

#include "base/log.h"

static void pull_at(void *user, const kd_tap *tap)
{
    router_pull *p = user;

    if (tap->gradient.data == NULL) {
        return;
    }
    p->be->ops->router_loss(
        p->be, &(kd_router_loss){.logits = tap->value,
                                 .d_logits = tap->gradient,
                                 .segments = tap->segments,
                                 .route = tap->route,
                                 .balance_scale = p->balance_scale,
                                 .z_scale = p->z_scale,
                                 .balance_sum = kd_tensor_1d(p->sums.data, KD_F64, 1),
                                 .z_sum = kd_tensor_1d((double *)p->sums.data + 1, KD_F64, 1)});
}

void router_pull_start(router_pull *pull,
                       kd_backend *be,
                       kd_decoder *decoder,
                       double balance_weight,
                       double z_weight,
                       int64_t n_layers)
{
    const kd_listener listener = {.points = KD_TAP_BIT(KD_TAP_ROUTER), .user = pull, .at = pull_at};

    pull->be = be;
    pull->balance_scale = (float)(balance_weight / (double)n_layers);
    pull->z_scale = (float)(z_weight / (double)n_layers);
    pull->sums = kd_tensor_1d(be->ops->alloc(be, KD_MEMORY_DEVICE, 2 * sizeof(double)), KD_F64, 2);
    KD_CHECK(pull->sums.data != NULL && kd_decoder_listen(decoder, &listener, 1) == KD_OK);
}

void router_pull_finish(router_pull *pull)
{
    pull->be->ops->free(pull->be, pull->sums.data);
}
