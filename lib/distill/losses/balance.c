/*
 * balance.c - balance and z: what keeps a router from favouring few experts and its logits from
 * growing. Both listen to the router's logits of every sparse layer, and are means over real rows
 * and those layers.
 *
 * balance is a product of means over rows, taken per micro-batch: a micro-batch counts by its rows.
 */
#include "distill/loss.h"

static bool has_router(const kd_loss_context *context)
{
    return kd_model_config_sparse_layers(context->student) > 0;
}

/* What the loss is a mean over beside the rows: the layers that offer a router. */
static double n_layers(const kd_loss *loss)
{
    return (double)kd_model_config_sparse_layers(loss->context->student);
}

static float layer_scale(const kd_loss *loss)
{
    return (float)(kd_loss_scale(loss) / n_layers(loss));
}

static void add_to(const kd_loss *loss, const kd_tap *tap, kd_router_loss args)
{
    kd_backend *be = loss->context->be;
    if (tap->gradient.data != NULL) { /* the backward pass */
        args.d_logits = tap->gradient;
        args.logits = tap->value;
        args.route = tap->route;
        args.segments = tap->segments;
        be->ops->router_loss(be, &args);
    }
}

static void add_balance(kd_loss *loss, const kd_tap *tap)
{
    add_to(loss, tap,
           (kd_router_loss){.balance_scale = layer_scale(loss), .balance_sum = loss->sums});
}

static void add_z(kd_loss *loss, const kd_tap *tap)
{
    add_to(loss, tap, (kd_router_loss){.z_scale = layer_scale(loss), .z_sum = loss->sums});
}

static double mean(const kd_loss *loss, const double *sums)
{
    return sums[loss->first_sum] / (double)loss->count / n_layers(loss);
}

const kd_loss_kind kd_loss_balance = {
    .name = "balance",
    .n_sums = 1,
    .points = KD_TAP_BIT(KD_TAP_ROUTER),
    .exists = has_router,
    .count = kd_loss_count_real,
    .at = add_balance,
    .mean = mean,
};

const kd_loss_kind kd_loss_z = {
    .name = "z",
    .n_sums = 1,
    .points = KD_TAP_BIT(KD_TAP_ROUTER),
    .exists = has_router,
    .count = kd_loss_count_real,
    .at = add_z,
    .mean = mean,
};
