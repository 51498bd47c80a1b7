/*
 * balance.c - balance and z: what keeps a router from favouring few experts and its logits from
 * growing.
 *
 * Both are made of the router's logits, which only the decoder sees: their gradients enter inside
 * kd_decoder_backward() by the weights of kd_decoder_settings, and their sums over rows come from
 * kd_decoder_router_sums(). Here they only get their names and places.
 */
#include "distill/loss.h"

const kd_loss_kind kd_loss_balance = {
    .name = "balance",
    .sum = KD_SUM_BALANCE,
    .constant_weight = true,
    .count = kd_rows_all,
};

const kd_loss_kind kd_loss_z = {
    .name = "z",
    .sum = KD_SUM_Z,
    .constant_weight = true,
    .count = kd_rows_all,
};
