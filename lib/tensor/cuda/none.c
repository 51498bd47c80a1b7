/* none.c - in place of the CUDA back end where it is not built: there is no such device. */
#include <stdio.h>

#include "base/log.h"
#include "tensor/ops.h"

kd_status kd_backend_create_cuda(kd_dtype compute, int number, kd_backend **be_out)
{
    (void)compute;
    (void)be_out;
    return kd_fail(KD_ERR_NOT_FOUND, "no CUDA device %d: this program was built without CUDA",
                   number);
}

int kd_cuda_device_count(void)
{
    return 0;
}

void kd_cuda_identity(int number, char text_out[KD_CUDA_IDENTITY_BYTES])
{
    (void)number;
    text_out[0] = '\0';
}

void kd_cuda_kind(int number, char name_out[KD_CUDA_KIND_BYTES])
{
    (void)number;
    (void)snprintf(name_out, KD_CUDA_KIND_BYTES, "none");
}
