# Tests of operations, in files of this folder.
# What every back end must pass.
set(KD_OPS_TESTS test_ops_matmul.c test_ops_experts.c test_ops_norm.c test_ops_head_turn.c test_ops_elementwise.c
    test_ops_attention.c test_ops_window.c
    test_ops_router.c test_ops_combine.c test_ops_vocab_loss.c test_ops_vocab_chunks.c
    test_ops_vocab_edge.c test_ops_adamw.c test_ops_accumulate.c test_ops_transfer.c test_ops_marks.c test_ops_device.c
    ../support/ops_check.c ../support/back_end.c ../support/product_check.c
    ../support/vocab_case.c ../support/attention_case.c ../support/experts_case.c ../support/side.c
    ../support/device_runs.c ../support/device_runs_rows.c ../support/device_runs_heads.c
    ../support/device_runs_experts.c ../support/device_runs_loss.c)
# What is the CUDA back end's own.
set(KD_OPS_CUDA_TESTS test_ops_cuda_products.c test_ops_cuda_experts.c test_ops_cuda_vocab.c
    test_ops_cuda_regions.c test_ops_cuda_attention.c)
