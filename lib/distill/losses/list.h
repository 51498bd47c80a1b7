/*
 * list.h - every loss, in the order of reports: KD_LOSS(name) is the row kd_loss_<name> of a file beside
 * this one. No include guard: who includes it says what a line becomes.
 */
KD_LOSS(soft_target)
KD_LOSS(hard_target)
KD_LOSS(balance)
KD_LOSS(z)
