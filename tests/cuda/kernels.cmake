# Kernels that try the emulator, and their tests, as files of this folder: what every GPU runs, and what only sm_90a can.
set(KD_CUDA_TEST_KERNELS kernels/gemm_mma.cu kernels/rmsnorm.cu kernels/router.cu test_device.cu test_kernels.cu)
set(KD_CUDA_TEST_HOPPER kernels/grouped_gemm.cu kernels/soft_loss.cu kernels/units.cu test_kernels_hopper.cu
    test_units.cu)
