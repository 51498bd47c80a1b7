/* cudnn.cu - opens the library, once in a process. Tests have one of the emulator in its place. */
#include "tensor/cuda/cudnn.h"

#include "base/log.h"
#include "tensor/cuda/device.h"

#ifdef __CUDACC__
#include <dlfcn.h>
#endif

template <class F>
static bool
find(F *function_out, void *(*symbol)(void *, const char *), void *library, const char *name)
{
    void *found = symbol(library, name);

    *function_out = reinterpret_cast<F>(found);
    return found != nullptr;
}

bool kd_cudnn_find(kd_cudnn *lib_out, void *(*symbol)(void *, const char *), void *library)
{
    kd_cudnn lib;

    const bool all =
        find(&lib.version, symbol, library, "cudnnGetVersion") &&
        find(&lib.name_of, symbol, library, "cudnnGetErrorString") &&
        find(&lib.create, symbol, library, "cudnnCreate") &&
        find(&lib.destroy, symbol, library, "cudnnDestroy") &&
        find(&lib.set_stream, symbol, library, "cudnnSetStream") &&
        find(&lib.create_descriptor, symbol, library, "cudnnBackendCreateDescriptor") &&
        find(&lib.destroy_descriptor, symbol, library, "cudnnBackendDestroyDescriptor") &&
        find(&lib.set, symbol, library, "cudnnBackendSetAttribute") &&
        find(&lib.get, symbol, library, "cudnnBackendGetAttribute") &&
        find(&lib.finalize, symbol, library, "cudnnBackendFinalize") &&
        find(&lib.execute, symbol, library, "cudnnBackendExecute");
    if (!all || lib.version() < KD_CUDNN_VERSION_MIN) {
        return false;
    }
    *lib_out = lib;
    return true;
}

#ifdef __CUDACC__
/* Never closed: its threads may outlive the last back end. */
static bool open_library(kd_cudnn *lib_out)
{
    void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);

    return library != nullptr && kd_cudnn_find(lib_out, dlsym, library);
}
#else
static void *emulated(void *, const char *name)
{
    return kd_cuda_host_cudnn(name);
}

static bool open_library(kd_cudnn *lib_out)
{
    return kd_cudnn_find(lib_out, emulated, nullptr);
}
#endif

struct opened {
    kd_cudnn lib;
    bool found;

    opened() : lib(), found(open_library(&lib))
    {
        if (found) {
            kd_log(KD_LOG_INFO, "cuDNN %zu", lib.version());
        } else {
            kd_log(KD_LOG_INFO,
                   "found no libcudnn.so.9 of version %d or later: attention has its plain kernels",
                   KD_CUDNN_VERSION_MIN);
        }
    }
};

const kd_cudnn *kd_cudnn_library(void)
{
    static const opened library;

    return library.found ? &library.lib : nullptr;
}
