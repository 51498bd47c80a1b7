/*
 * checks.h - the shapes and dtypes that operations demand (ops.h), the same for every back end. A wrong one is
 * our own mistake, and so a KD_CHECK. Values of tensors are not looked at: who can reach them does that.
 *
 * Arguments are those of the operation of that name, as far as they matter. Pure.
 */
#ifndef KD_TENSOR_CHECKS_H
#define KD_TENSOR_CHECKS_H

#include "tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

void kd_check_copy(kd_tensor dst, kd_tensor src);
void kd_check_add(kd_tensor dst, kd_tensor src);
void kd_check_bias(kd_tensor y, kd_tensor b);
void kd_check_bias_backward(kd_tensor db, kd_tensor dy);
void kd_check_embed(kd_tensor y, kd_tensor table, kd_tensor ids);
void kd_check_embed_backward(kd_tensor dtable, kd_tensor dy, kd_tensor ids);

void kd_check_norm(const kd_backend *be,
                   kd_tensor y,
                   kd_tensor sum,
                   kd_tensor x,
                   kd_tensor delta,
                   kd_tensor w,
                   kd_tensor rstd);
void kd_check_norm_backward(kd_tensor dx,
                            kd_tensor dw,
                            kd_tensor dy,
                            kd_tensor x,
                            kd_tensor w,
                            kd_tensor rstd);
void kd_check_head_norm(kd_tensor y, kd_tensor x, kd_tensor w, kd_tensor rstd, int64_t n_heads);
void kd_check_head_norm_backward(kd_tensor dx,
                                 kd_tensor dw,
                                 kd_tensor dy,
                                 kd_tensor x,
                                 kd_tensor w,
                                 kd_tensor rstd,
                                 int64_t n_heads);
void kd_check_rotate(kd_tensor x, const kd_rotation *by);
int64_t kd_norm_parts(kd_tensor x, kd_tensor w); /* of a row of x, each as long as w */
void kd_check_head_norm_rotate(kd_tensor y,
                               kd_tensor x,
                               kd_tensor w,
                               kd_tensor rstd,
                               const kd_rotation *by);
void kd_check_head_norm_rotate_backward(kd_tensor dx,
                                        kd_tensor dw,
                                        kd_tensor dy,
                                        kd_tensor x,
                                        kd_tensor w,
                                        kd_tensor rstd,
                                        const kd_rotation *by);
void kd_check_attention(const kd_backend *be, const kd_attention *a);
void kd_check_attention_backward(const kd_backend *be,
                                 const kd_attention *a,
                                 kd_tensor dq,
                                 kd_tensor dk,
                                 kd_tensor dv,
                                 kd_tensor dout);
void kd_check_swiglu(kd_tensor h, kd_tensor gu);
void kd_check_swiglu_backward(kd_tensor dgu, kd_tensor dh, kd_tensor gu);

void kd_check_route(const kd_backend *be, const kd_route *route, kd_tensor logits);
void kd_check_route_backward(const kd_backend *be,
                             kd_tensor d_logits,
                             kd_tensor d_weights,
                             kd_tensor logits,
                             const kd_route *route);
void kd_check_router_loss(const kd_router_loss *loss);
void kd_check_dispatch(kd_tensor x, kd_tensor y, const kd_route *route);
void kd_check_dispatch_backward(kd_tensor dy, kd_tensor dx, const kd_route *route);
void kd_check_combine(const kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route);
void kd_check_combine_backward(kd_tensor dx,
                               kd_tensor d_weights,
                               kd_tensor dy,
                               kd_tensor x,
                               const kd_route *route);
void kd_check_gated_add(const kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate);
void kd_check_gated_add_backward(kd_tensor dx,
                                 kd_tensor d_gate,
                                 kd_tensor dy,
                                 kd_tensor x,
                                 kd_tensor gate);

void kd_check_vocab_loss(const kd_backend *be, const kd_vocab_loss *loss);
void kd_check_sum_squares(kd_tensor sum, kd_tensor x);
void kd_check_adamw(const kd_adamw *args);

#ifdef __cplusplus
}
#endif

#endif
