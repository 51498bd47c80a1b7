/* device_memory.c - what the MPI library says of itself where it can, unless the environment knows better. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/mpi_world.h"

#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

static bool library_takes_it(void)
{
#ifdef MPIX_CUDA_AWARE_SUPPORT
    return MPIX_Query_cuda_support() == 1;
#else
    return false; /* one that does not say takes none for certain */
#endif
}

bool kd_mpi_takes_device_memory(void)
{
    const char *wish = getenv("KD_MPI_DEVICE_MEMORY");
    if (wish == NULL) {
        return library_takes_it();
    }
    const bool yes = strcmp(wish, "yes") == 0;
    if (!yes && strcmp(wish, "no") != 0) {
        kd_log(KD_LOG_WARN, "KD_MPI_DEVICE_MEMORY: found \"%s\", expected yes or no: taken for no",
               wish);
    }
    return yes;
}
