/* kernels.cu - the choice between kernels, once for each back end: no operation reads the environment. */
#include "tensor/cuda/kernels.h"

#include <cstring>

#include "base/log.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/proven.h"

struct row {
    int first, last; /* capabilities */
    bool fast;
};

#define KD_CUDA_ROW(name, first, last, fast, sources, tests) {first, last, fast},
static const row rows[] = {KD_CUDA_KERNELS_EACH(KD_CUDA_ROW)};

struct proof {
    kd_cuda_kernel kernel;
    int capability;
};

/* With an end, for there may be none. */
#define KD_CUDA_PROOF(name, capability) {KD_CUDA_KERNEL_##name, capability},
static const proof proofs[] = {KD_CUDA_PROVEN_EACH(KD_CUDA_PROOF){KD_CUDA_KERNELS, 0}};

static bool is_proven(int kernel, int capability)
{
    bool found = false;

    for (const proof *p = proofs; p->kernel != KD_CUDA_KERNELS; p++) {
        found = found || (p->kernel == kernel && p->capability == capability);
    }
    return found;
}

kd_status kd_cuda_choose(int capability, const char *wish, kd_cuda_choice *choice_out)
{
    const bool is_auto = wish == nullptr || strcmp(wish, "auto") == 0;
    const bool all = wish != nullptr && strcmp(wish, "fast") == 0;
    kd_cuda_choice choice = {};

    if (!is_auto && !all && strcmp(wish, "plain") != 0) {
        return kd_fail(KD_ERR_ARG, "KD_CUDA_KERNELS: found \"%s\", expected auto, plain or fast",
                       wish);
    }
    for (int i = 0; i < KD_CUDA_KERNELS; i++) {
        const bool runs = rows[i].first <= capability && capability <= rows[i].last;
        const bool proven = is_proven(i, capability);
        choice.uses[i] = !rows[i].fast || (runs && (all || (is_auto && proven)));
        choice.n_unproven += choice.uses[i] && !proven ? 1 : 0;
    }
    *choice_out = choice;
    return KD_OK;
}

int64_t kd_cuda_runs(const kd_backend *be, kd_cuda_kernel kernel)
{
    return reinterpret_cast<const kd_cuda *>(be)->n_runs[kernel];
}
