/*
 * cudnn.h - what is used of cuDNN's graph interface, and the library as a program finds it when it runs.
 *
 * The library is not linked: it is opened by name (libcudnn.so.9) once in a process, so that a program starts
 * where there is none, and is built without its headers. So the constants stand here, under names of our own
 * and with the library's values, which are part of its binary interface.
 *
 * A status is 0, or a number whose thousands are its kind.
 *
 * Threads: any.
 */
#ifndef KD_TENSOR_CUDA_CUDNN_H
#define KD_TENSOR_CUDA_CUDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The oldest whose engines were seen to take the graphs that are built here. */
#define KD_CUDNN_VERSION_MIN 91900

enum {
    KD_CUDNN_SUCCESS = 0,
    KD_CUDNN_NOT_INITIALIZED = 1000, /* or a part of the library is missing */
    KD_CUDNN_BAD_PARAM = 2000,
    KD_CUDNN_NOT_SUPPORTED = 3000,
    KD_CUDNN_INTERNAL_ERROR = 4000,
    KD_CUDNN_NOT_COMPILED = 4001,
    KD_CUDNN_NO_HOST_MEMORY = 4003,
    KD_CUDNN_NO_DEVICE_MEMORY = 4004,
    KD_CUDNN_EXECUTION_FAILED = 5000,
};

/* Descriptors. */
enum {
    KD_CUDNN_POINTWISE = 0,
    KD_CUDNN_ENGINE = 2,
    KD_CUDNN_CONFIG = 3,
    KD_CUDNN_HEURISTIC = 4,
    KD_CUDNN_PLAN = 5,
    KD_CUDNN_OPERATION_POINTWISE = 13,
    KD_CUDNN_GRAPH = 15,
    KD_CUDNN_PACK = 16,
    KD_CUDNN_TENSOR = 17,
    KD_CUDNN_MATMUL = 18,
    KD_CUDNN_OPERATION_MATMUL = 19,
    KD_CUDNN_REDUCTION = 21,
    KD_CUDNN_OPERATION_REDUCTION = 22,
    KD_CUDNN_OPERATION_RESHAPE = 31,
    KD_CUDNN_DEVICE = 38,
};

/* Types of attributes. */
enum {
    KD_CUDNN_IS_HANDLE = 0,
    KD_CUDNN_IS_DTYPE = 1,
    KD_CUDNN_IS_BOOL = 2,
    KD_CUDNN_IS_INT64 = 3,
    KD_CUDNN_IS_POINTER = 6,
    KD_CUDNN_IS_HEURISTIC_MODE = 8,
    KD_CUDNN_IS_NUMERICAL_NOTE = 11,
    KD_CUDNN_IS_POINTWISE_MODE = 14,
    KD_CUDNN_IS_DESCRIPTOR = 15,
    KD_CUDNN_IS_REDUCTION_MODE = 18,
    KD_CUDNN_IS_CHAR = 24,
};

/* Attributes: of what, and which. */
enum {
    KD_CUDNN_POINTWISE_MODE = 0,
    KD_CUDNN_POINTWISE_PRECISION = 1,
    KD_CUDNN_POINTWISE_AXIS = 9,
    KD_CUDNN_HEURISTIC_MODE = 200,
    KD_CUDNN_HEURISTIC_GRAPH = 201,
    KD_CUDNN_HEURISTIC_RESULTS = 202,
    KD_CUDNN_HEURISTIC_DEVICE = 204,
    KD_CUDNN_CONFIG_ENGINE = 300,
    KD_CUDNN_PLAN_HANDLE = 400,
    KD_CUDNN_PLAN_CONFIG = 401,
    KD_CUDNN_PLAN_WORKSPACE_BYTES = 402,
    KD_CUDNN_POINTWISE_OF = 750,
    KD_CUDNN_POINTWISE_X = 751,
    KD_CUDNN_POINTWISE_B = 752,
    KD_CUDNN_POINTWISE_Y = 753,
    KD_CUDNN_POINTWISE_T = 758,
    KD_CUDNN_GRAPH_HANDLE = 800,
    KD_CUDNN_GRAPH_OPERATIONS = 801,
    KD_CUDNN_TENSOR_ALIGNMENT = 900,
    KD_CUDNN_TENSOR_DTYPE = 901,
    KD_CUDNN_TENSOR_DIMENSIONS = 902,
    KD_CUDNN_TENSOR_STRIDES = 903,
    KD_CUDNN_TENSOR_UID = 906,
    KD_CUDNN_TENSOR_IS_VIRTUAL = 907,
    KD_CUDNN_TENSOR_IS_BY_VALUE = 908,
    KD_CUDNN_PACK_UIDS = 1000,
    KD_CUDNN_PACK_POINTERS = 1001,
    KD_CUDNN_PACK_WORKSPACE = 1003,
    KD_CUDNN_ENGINE_NUMERICAL_NOTES = 1303,
    KD_CUDNN_MATMUL_PRECISION = 1500,
    KD_CUDNN_MATMUL_A = 1520,
    KD_CUDNN_MATMUL_B = 1521,
    KD_CUDNN_MATMUL_C = 1522,
    KD_CUDNN_MATMUL_OF = 1523,
    KD_CUDNN_REDUCTION_MODE = 1600,
    KD_CUDNN_REDUCTION_PRECISION = 1601,
    KD_CUDNN_REDUCTION_X = 1610,
    KD_CUDNN_REDUCTION_Y = 1611,
    KD_CUDNN_REDUCTION_OF = 1612,
    KD_CUDNN_RESHAPE_X = 2200,
    KD_CUDNN_RESHAPE_Y = 2201,
    KD_CUDNN_DEVICE_JSON = 2702,
};

/* Values: types of elements, pointwise modes, modes of reductions, and the rest. */
enum {
    KD_CUDNN_F32 = 0,
    KD_CUDNN_I32 = 4,
    KD_CUDNN_BF16 = 9,
    KD_CUDNN_BOOL = 11,
};

enum {
    KD_CUDNN_ADD = 0,
    KD_CUDNN_MUL = 1,
    KD_CUDNN_DIV = 6,
    KD_CUDNN_SUB = 9,
    KD_CUDNN_EXP = 13,
    KD_CUDNN_LOG = 15,
    KD_CUDNN_GREATER_OR_EQUAL = 303, /* x >= b                   */
    KD_CUDNN_GEN_INDEX = 501,        /* the place along an axis  */
    KD_CUDNN_SELECT = 601,           /* x where t is true, else b */
};

enum { KD_CUDNN_SUM = 0, KD_CUDNN_MAX = 3 };

enum { KD_CUDNN_HEURISTIC_A = 3 };

enum { KD_CUDNN_NOTE_NONDETERMINISTIC = 4 };

/* The library's functions. Descriptors, handles, streams are its pointers. */
typedef struct kd_cudnn {
    size_t (*version)(void);
    const char *(*name_of)(int status);
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*create_descriptor)(int type, void **descriptor);
    int (*destroy_descriptor)(void *descriptor);
    int (*set)(void *descriptor, int attribute, int type, int64_t n, const void *values);
    int (*get)(const void *descriptor,
               int attribute,
               int type,
               int64_t room,
               int64_t *n_out,
               void *values);
    int (*finalize)(void *descriptor);
    int (*execute)(void *handle, void *plan, void *pack);
} kd_cudnn;

/* Fills them from a library that symbol() looks in. False: one is missing, or the library is too old. */
bool kd_cudnn_find(kd_cudnn *lib_out,
                   void *(*symbol)(void *library, const char *name),
                   void *library);

/* The library of this process; NULL: there is none, which is said once. */
const kd_cudnn *kd_cudnn_library(void);

#ifdef __cplusplus
}
#endif

#endif
