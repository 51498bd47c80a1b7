/*
 * balance.c - balance and z: what keeps a router from favouring few experts and its logits from
 * growing. Both listen to the router of every layer that has one, and are means over those layers.
 */
#include "distill/loss.h"

static kd_router_loss router_loss_at(const kd_tap *tap)
{
    return (kd_router_loss){.logits = tap->value, .d_logits = tap->gradient, .route = tap->route};
}

static void balance_at(const kd_layer_loss *loss, const kd_tap *tap)
{
    kd_router_loss args = router_loss_at(tap);
    args.balance_scale = (float)loss->scale;
    args.balance_sum = loss->sum;
    loss->be->ops->router_loss(loss->be, &args);
}

static void z_at(const kd_layer_loss *loss, const kd_tap *tap)
{
    kd_router_loss args = router_loss_at(tap);
    args.z_scale = (float)loss->scale;
    args.z_sum = loss->sum;
    loss->be->ops->router_loss(loss->be, &args);
}

static int64_t sparse_layers(const kd_model_config *student)
{
    return student->n_experts > 0 ? student->n_layers : 0;
}

const kd_loss_kind kd_loss_balance = {
    .name = "balance",
    .sum = KD_SUM_BALANCE,
    .count = kd_rows_all,
    .points = KD_TAP_BIT(KD_TAP_ROUTER),
    .layers = sparse_layers,
    .at = balance_at,
};

const kd_loss_kind kd_loss_z = {
    .name = "z",
    .sum = KD_SUM_Z,
    .count = kd_rows_all,
    .points = KD_TAP_BIT(KD_TAP_ROUTER),
    .layers = sparse_layers,
    .at = z_at,
};
