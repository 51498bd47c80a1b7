# What nvcc compiles for devices and, for tests, the C++ compiler against the emulator.
set(KD_TENSOR_CUDA_SOURCES
    backend.cu kernels.cu memory.cu staging.cu events.cu marks.cu regions.cu
    plain_product.cu matmul.cu linear.cu experts.cu experts_hopper.cu
    elementwise.cu columns.cu embed.cu norm.cu head_norm.cu rotary.cu head_norm_rotate.cu
    attention_block.cu attention.cu attention_backward.cu swiglu.cu
    attention_cudnn.cu attention_graph.cu cudnn_graph.cu cudnn.cu
    router.cu router_loss.cu combine.cu gated_add.cu
    vocab_rows.cu vocab_rows_cluster.cu vocab_loss.cu adamw.cu)
list(TRANSFORM KD_TENSOR_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
