/*
 * kernels.h - which of an operation's kernels runs: the plain one, or a fast one that stands beside it.
 *
 * A kernel is proven on a kind of GPU ("sm_90") once its tests have passed there, from its sources as they are
 * now: proven.h has those rows, made by tests/gpu/prove from the results that are kept. KD_CUDA_KERNELS of the
 * environment says which run:
 *   auto   (or unset) a fast kernel where it is proven and its code was compiled, otherwise the plain one
 *   plain  no fast one
 *   fast   each fast one that this kind of GPU can run
 *
 * To add a kernel: a row here, and a branch on kd_cuda_uses() in its operation, which tells kd_cuda_ran().
 */
#ifndef KD_TENSOR_CUDA_KERNELS_H
#define KD_TENSOR_CUDA_KERNELS_H

#include "tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * X(NAME, first, last, fast, sources, tests), a line each, which tests/gpu/prove reads too.
 *   first, last: compute capabilities that can run it, as 10 * major + minor, both included
 *   sources:     files of this folder; the headers that they include count as well
 *   tests:       SUITE/NAME of those that prove it, as globs
 */
/* clang-format off */
#define KD_CUDA_KERNELS_EACH(X)                                                                    \
    X(PRODUCTS, 80, 999, false, "matmul.cu linear.cu plain_product.cu", "ops_matmul/* ops_products/* ops_cuda_products/* ops_device/linear*") \
    X(EXPERTS, 80, 999, false, "experts.cu", "ops_experts/* ops_device/experts*")                  \
    X(EXPERTS_FAST, 90, 90, true, "experts_hopper.cu experts.cu", "ops_experts/* ops_cuda_experts/* ops_device/experts*") \
    X(ATTENTION, 80, 999, false, "attention.cu attention_backward.cu attention_block.cu", "ops_attention/* ops_device/attention*") \
    X(ATTENTION_CUDNN, 80, 109, true, "attention_cudnn.cu attention_graph.cu cudnn_graph.cu cudnn.cu attention_block.cu", "ops_cudnn_attention/* ops_device/attention*") \
    X(VOCABULARY, 80, 999, false, "vocab_loss.cu vocab_rows.cu", "ops_vocab_loss/* ops_device/vocab*") \
    X(VOCABULARY_FAST, 90, 109, true, "vocab_loss.cu vocab_rows.cu vocab_rows_cluster.cu", "ops_vocab_loss/* ops_device/vocab* ops_cuda_vocab/*") \
    X(NORMS, 80, 999, false, "norm.cu head_norm.cu head_norm_rotate.cu", "ops_norm/* ops_head_turn/* ops_device/*norm*")           \
    X(ROUTER, 80, 999, false, "router.cu router_loss.cu", "ops_router/* ops_device/rout*")         \
    X(ROUTED_ROWS, 80, 999, false, "combine.cu gated_add.cu", "ops_combine/* ops_device/dispatch* ops_device/combine* ops_device/gated_add*") \
    X(ELEMENTS, 80, 999, false, "elementwise.cu columns.cu rotary.cu swiglu.cu", "ops_elementwise/* ops_device/rotate* ops_device/swiglu* ops_device/bias* ops_device/add_agrees ops_device/copy* ops_device/zero*") \
    X(EMBEDDING, 80, 999, false, "embed.cu", "ops_device/embed*")          \
    X(GRAPHS, 80, 999, true, "regions.cu", "ops_cuda_regions/*")                                    \
    X(OPTIMIZER, 80, 999, false, "adamw.cu", "ops_adamw/* ops_device/adamw* ops_device/sum*")

/* clang-format on */

typedef enum kd_cuda_kernel {

#define KD_CUDA_KERNEL_NAME(name, first, last, fast, sources, tests) KD_CUDA_KERNEL_##name,
    KD_CUDA_KERNELS_EACH(KD_CUDA_KERNEL_NAME)
#undef KD_CUDA_KERNEL_NAME
        KD_CUDA_KERNELS,
} kd_cuda_kernel;

/* Which run on one device; kd_cuda_uses() of cuda.h asks it. */
typedef struct kd_cuda_choice {
    bool uses[KD_CUDA_KERNELS]; /* plain ones always */
    int n_unproven;             /* of those          */
} kd_cuda_choice;

/*
 * For a device of the given capability (90: sm_90). wish: what KD_CUDA_KERNELS is, or NULL. Pure.
 * KD_ERR_ARG: wish is none of the words above.
 */
kd_status kd_cuda_choose(int capability, const char *wish, kd_cuda_choice *choice_out);

/*
 * How often the back end has queued that fast kernel since it was made; plain ones are not counted. A test of a
 * fast kernel asks for it, since an operation takes the plain one where shapes do not suit the other.
 */
int64_t kd_cuda_runs(const kd_backend *be, kd_cuda_kernel kernel);

#ifdef __cplusplus
}
#endif

#endif
