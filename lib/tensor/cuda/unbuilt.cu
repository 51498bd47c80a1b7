/* unbuilt.cu - operations that have no kernel yet: each is a fault. To be gone before this lands. */
#include "tensor/cuda/cuda.h"

static void refuse(kd_backend *be, const char *name)
{
    if (be->fault == KD_OK) {
        kd_backend_keep_fault(be, kd_fail(KD_ERR_STATE, "cuda: %s is not built", name));
    }
}

void kd_cuda_vocab_loss(kd_backend *be, const kd_vocab_loss *) { refuse(be, "vocab_loss"); }
