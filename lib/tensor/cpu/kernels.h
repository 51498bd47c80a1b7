/* kernels.h - the operations of the CPU back end, as ops.h states them. */
#ifndef KD_TENSOR_CPU_KERNELS_H
#define KD_TENSOR_CPU_KERNELS_H

#include "tensor/ops.h"

/* elementwise.c */
void kd_cpu_upload(kd_backend *be, kd_tensor dst, const void *host);
void kd_cpu_download(kd_backend *be, void *host, kd_tensor src);
void kd_cpu_zero(kd_backend *be, kd_tensor t);
void kd_cpu_copy(kd_backend *be, kd_tensor dst, kd_tensor src);
void kd_cpu_add(kd_backend *be, kd_tensor dst, kd_tensor src);
void kd_cpu_bias(kd_backend *be, kd_tensor y, kd_tensor b);
void kd_cpu_bias_db(kd_backend *be, kd_tensor db, kd_tensor dy);

/* linear.c */
void kd_cpu_linear(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w);
void kd_cpu_linear_dx(kd_backend *be, kd_tensor dx, kd_tensor dy, kd_tensor w);
void kd_cpu_linear_dw(kd_backend *be, kd_tensor dw, kd_tensor dy, kd_tensor x);

/* experts.c */
void kd_cpu_experts(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w, const kd_route *route);
void kd_cpu_experts_dx(kd_backend *be,
                       kd_tensor dx,
                       kd_tensor dy,
                       kd_tensor w,
                       const kd_route *route);
void kd_cpu_experts_dw(kd_backend *be,
                       kd_tensor dw,
                       kd_tensor dy,
                       kd_tensor x,
                       const kd_route *route);

/* embed.c */
void kd_cpu_embed(kd_backend *be, kd_tensor y, kd_tensor table, kd_tensor ids);
void kd_cpu_embed_dw(kd_backend *be, kd_tensor dtable, kd_tensor dy, kd_tensor ids);

/* norm.c */
void kd_cpu_norm(kd_backend *be,
                 kd_tensor y,
                 kd_tensor sum,
                 kd_tensor x,
                 kd_tensor delta,
                 kd_tensor w,
                 kd_tensor rstd,
                 float eps);
void kd_cpu_norm_dx(kd_backend *be,
                    kd_tensor dx,
                    kd_tensor dw,
                    kd_tensor dy,
                    kd_tensor x,
                    kd_tensor w,
                    kd_tensor rstd);

/* head_norm.c */
void kd_cpu_head_norm(kd_backend *be,
                      kd_tensor y,
                      kd_tensor x,
                      kd_tensor w,
                      kd_tensor rstd,
                      int64_t n_heads,
                      float eps);
void kd_cpu_head_norm_dx(kd_backend *be,
                         kd_tensor dx,
                         kd_tensor dw,
                         kd_tensor dy,
                         kd_tensor x,
                         kd_tensor w,
                         kd_tensor rstd,
                         int64_t n_heads);

/* rotary.c */
void kd_cpu_rotate(kd_backend *be, kd_tensor x, int64_t n_heads, kd_tensor table, bool inverse);

/* attention.c, attention_backward.c */
void kd_cpu_attention(kd_backend *be, const kd_attention *a);
void kd_cpu_attention_backward(kd_backend *be,
                               const kd_attention *a,
                               kd_tensor dq,
                               kd_tensor dk,
                               kd_tensor dv,
                               kd_tensor dout);

/* swiglu.c */
void kd_cpu_swiglu(kd_backend *be, kd_tensor h, kd_tensor gu);
void kd_cpu_swiglu_backward(kd_backend *be, kd_tensor dgu, kd_tensor dh, kd_tensor gu);

/* router.c */
void kd_cpu_route(kd_backend *be, const kd_route *route, kd_tensor logits);
void kd_cpu_route_backward(kd_backend *be,
                           kd_tensor d_logits,
                           kd_tensor d_weights,
                           kd_tensor logits,
                           const kd_route *route,
                           float balance_weight,
                           float z_weight,
                           kd_tensor sums);

/* combine.c */
void kd_cpu_dispatch(kd_backend *be, kd_tensor x, kd_tensor y, const kd_route *route);
void kd_cpu_dispatch_backward(kd_backend *be, kd_tensor dy, kd_tensor dx, const kd_route *route);
void kd_cpu_combine(kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route);
void kd_cpu_combine_backward(kd_backend *be,
                             kd_tensor dx,
                             kd_tensor d_weights,
                             kd_tensor dy,
                             kd_tensor x,
                             const kd_route *route);

/* gated_add.c */
void kd_cpu_gated_add(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate);
void kd_cpu_gated_add_backward(kd_backend *be,
                               kd_tensor dx,
                               kd_tensor d_gate,
                               kd_tensor dy,
                               kd_tensor x,
                               kd_tensor gate);

/* vocab_loss.c */
void kd_cpu_vocab_loss(kd_backend *be, const kd_vocab_rows *rows);

/* adamw.c */
void kd_cpu_sum_squares(kd_backend *be, kd_tensor sum, kd_tensor x);
void kd_cpu_adamw(kd_backend *be, const kd_adamw *args);

#endif
