/*
 * ops.h - the table of operations: all that model, loss and training code may ask of a device.
 *
 * Order and errors. Operations are put on the back end's queue and run in that order; they
 * return nothing. The first that fails is logged and kept, later ones do nothing, and
 * kd_backend_wait() returns it. Shapes are our own business: a wrong one is a KD_CHECK. Only transfers
 * run beside them, on a queue of their own.
 *
 * Values. Nobody above this table reads a tensor's values but through `download` after a
 * wait: expert token counts, routing and losses stay in tensors.
 *
 * Precision. "compute" below is the back end's compute dtype, KD_F32 or KD_BF16. The residual
 * stream, master weights, gradients of weights and all sums are f32; products take compute
 * operands and accumulate in f32.
 *
 * Memory. Outputs do not overlap inputs unless the operation says "in place". Operations
 * allocate nothing after they ran once with their largest shapes.
 *
 * Threads: one thread drives a back end.
 */
#ifndef KD_TENSOR_OPS_H
#define KD_TENSOR_OPS_H

#include <stdbool.h>

#include "base/log.h"
#include "base/status.h"
#include "tensor/arguments.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Experts of a layer at most: a check, so that routing works on the stack. */
#define KD_EXPERTS_MAX 1024

/* Of a CPU back end. */
#define KD_THREADS_MAX 1024

/* N * K at most: a check, so that rows of segments are numbered by 32 bits. */
#define KD_ROUTED_ROWS_MAX (INT32_MAX / 2)

typedef struct kd_backend kd_backend;

/* Where memory lies, and who reads it fast. */
typedef enum kd_memory {
    KD_MEMORY_DEVICE, /* what operations read and write                                  */
    KD_MEMORY_HOST,   /* the host's, pinned where there is a device: operations may use it too */
    KD_MEMORY_COUNT,
} kd_memory;

typedef enum kd_device_kind { KD_DEVICE_CPU, KD_DEVICE_CUDA, KD_DEVICE_KIND_COUNT } kd_device_kind;

typedef struct kd_device {
    kd_device_kind kind;
    int number; /* among those of its kind on this host */
    const char *name;
} kd_device;

/* What a back end holds now. */
typedef struct kd_memory_usage {
    size_t held_bytes;     /* that alloc gave and free did not take back, of all kinds           */
    size_t scratch_bytes;  /* its own, for operations while they run: as much as the widest took */
    size_t products_bytes; /* its own, for products that are prepared                            */
} kd_memory_usage;

static inline kd_memory_usage kd_memory_usage_sum(kd_memory_usage a, kd_memory_usage b)
{
    a.held_bytes += b.held_bytes;
    a.scratch_bytes += b.scratch_bytes;
    a.products_bytes += b.products_bytes;
    return a;
}

/* Device memory as other processes of its host name it, see memory_export: bytes, which may be sent. */
typedef struct kd_memory_handle {
    uint64_t size_bytes; /* of all of it */
    unsigned char bytes[120];
} kd_memory_handle;

/* What a back end has put off: operations, and transfers beside them. Each queue runs in its own order. */
typedef enum kd_queue { KD_QUEUE_OPERATIONS, KD_QUEUE_TRANSFERS, KD_QUEUE_COUNT } kd_queue;

/* A place in a queue of a back end, see event_record and transfer; {0} is complete. */
typedef struct kd_event {
    kd_backend *be;
    uint64_t number; /* ascending in that queue */
    kd_queue queue;
} kd_event;

/* Places in a back end's queue whose times are kept, see marks_create; each kind of back end has its own. */
typedef struct kd_marks kd_marks;

typedef struct kd_ops {
    const char *name; /* "cpu v3": with the level of its kernels; "cuda" */

    /* Zeroed, aligned to KD_ARENA_ALIGN; NULL with a fault reported. Not on the queue. */
    void *(*alloc)(kd_backend *be, kd_memory kind, size_t size_bytes);
    /* Of any kind, and what memory_import gave; NULL is fine. Waits for the queues. */
    void (*free)(kd_backend *be, void *memory);

    /*
     * Device memory that processes of one host share. memory_export names what alloc gave, whole;
     * memory_import, in another process, gives that memory's address there, on whichever device it lies,
     * until free takes it back: before the exporter frees it, or what is read is anything. The sizes of
     * kd_memory_usage count it where it was allocated only. Queues are not ordered by it: what one of
     * them wrote the other sees if it was told so after an event of the first.
     *
     * KD_ERR_NOT_FOUND: there is no such way, as on a CPU, between these devices or processes, and within
     * one process; no line is logged, the back end has no fault, and the fault text says why.
     * KD_ERR_PROTO: the bytes are no handle. Otherwise the back end's fault. Not on the queue.
     */
    kd_status (*memory_export)(kd_backend *be, void *memory, kd_memory_handle *handle_out);
    kd_status (*memory_import)(kd_backend *be, const kd_memory_handle *handle, void **memory_out);

    kd_memory_usage (*memory_usage)(const kd_backend *be);
    kd_status (*wait)(kd_backend *be); /* for both queues */
    void (*destroy)(kd_backend *be);

    /*
     * What is queued between the two may reach the device as one, at the end: a hint, where the same
     * operations on the same shapes come again and again. Anything may be called in between, but what waits,
     * has events or takes memory costs the gain. Regions do not nest; their numbers are those of kd_regions().
     */
    void (*region_begin)(kd_backend *be, int region);
    void (*region_end)(kd_backend *be);

    /*
     * An event is complete once all that was queued before it on its queue is; event_record's is one of
     * operations. event_query never waits; event_wait has operations that are queued on `be` from then on
     * run after the event, which may be one of its transfers or of another back end of this process; a
     * fault of that one before the event becomes a fault of `be`, at the latest at its wait. Neither needs
     * to be given back.
     *
     * Back ends may wait for each other in any order, also from one thread: what is awaited was queued
     * before, and comes to pass whatever is asked of its back end afterwards. Only the thread that drives
     * both, or one that takes turns with the other's, has one wait for the other.
     */
    kd_event (*event_record)(kd_backend *be);
    bool (*event_query)(kd_backend *be, kd_event event);
    void (*event_wait)(kd_backend *be, kd_event event);

    /*
     * Copies bytes within or between memory of both kinds, beside operations: after `after`, which is as
     * event_wait has it, and the transfers before. Operations that are to see what it writes, or to write
     * what it reads, wait for the event it returns.
     */
    kd_event (
        *transfer)(kd_backend *be, void *dst, const void *src, size_t size_bytes, kd_event after);

    /*
     * Times for people: `mark` keeps, as number i of n, when the queue comes to where it is called; again, it
     * is the new time. marks_elapsed never waits: false while one of two is ahead, never marked, or after a
     * fault. marks_create: NULL with a fault reported; not on the queue. marks_destroy: NULL is fine.
     */
    kd_marks *(*marks_create)(kd_backend *be, int n);
    void (*marks_destroy)(kd_backend *be, kd_marks *marks);
    void (*mark)(kd_backend *be, kd_marks *marks, int i);
    bool (*marks_elapsed)(kd_backend *be,
                          const kd_marks *marks,
                          int from,
                          int to,
                          double *seconds_out);

    /* Copies between host memory (packed) and a tensor. upload has read it when it returns; download
     * waits for it. */
    void (*upload)(kd_backend *be, kd_tensor dst, const void *host);
    void (*download)(kd_backend *be, void *host, kd_tensor src);

    void (*zero)(kd_backend *be, kd_tensor t);
    void (*copy)(kd_backend *be,
                 kd_tensor dst,
                 kd_tensor src); /* casts f32 <-> bf16 where dtypes differ */
    void (*add)(kd_backend *be, kd_tensor dst, kd_tensor src); /* dst (f32) += src (f32 or bf16) */

    /*
     * Gradients of parameters are f32 and take `accumulate`: added to what is there, or written. So the
     * first micro-batch of a step clears nothing beforehand.
     */

    /* Products. x (N, K) compute; w (O, K) compute; y (N, O) f32 or compute.
     *   y = x w^T,  dx = dy w,  dw = dy^T x */
    void (*linear)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w);
    void (*linear_backward_x)(kd_backend *be, kd_tensor dx, kd_tensor dy, kd_tensor w);
    void (*linear_backward_w)(kd_backend *be,
                              kd_tensor dw,
                              kd_tensor dy,
                              kd_tensor x,
                              bool accumulate);
    /* y (N, O) compute += b (O) f32, in place; db (O) = column sums of dy (N, O). */
    void (*bias)(kd_backend *be, kd_tensor y, kd_tensor b);
    void (*bias_backward)(kd_backend *be, kd_tensor db, kd_tensor dy, bool accumulate);

    /* The same per expert: rows of segment e with w[e]. x (R, K), w (E, O, K), y (R, O); rows past
     * offset[E] are neither read nor written. The gradient of an expert without rows is 0. */
    void (*experts)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w, const kd_route *route);
    void (*experts_backward_x)(kd_backend *be,
                               kd_tensor dx,
                               kd_tensor dy,
                               kd_tensor w,
                               const kd_route *route);
    void (*experts_backward_w)(kd_backend *be,
                               kd_tensor dw,
                               kd_tensor dy,
                               kd_tensor x,
                               const kd_route *route,
                               bool accumulate);

    /* y (N, C) f32 = table[ids]; table (V, C) compute or f32; ids (N) i32 below V. Also how
     * rows of any matrix are gathered, and added to. Tokens are checked where they come from, in shards
     * and in each batch. An id that is out of range all the same ends a program on the CPU, and is the
     * loss of a device, whose fault names the operation; nothing outside of the table is read. */
    void (*embed)(kd_backend *be, kd_tensor y, kd_tensor table, kd_tensor ids);
    void (*embed_backward)(kd_backend *be,
                           kd_tensor dtable,
                           kd_tensor dy,
                           kd_tensor ids,
                           bool accumulate);

    /* RMSNorm (Zhang and Sennrich 2019): y = w * x / sqrt(mean(x^2) + eps), over the last dimension.
     * sum = x + delta is formed first if delta is given, and normalised in its place.
     *   y compute; x, sum f32 (N, C), sum may be x itself; delta (N, C) f32 or compute, or none; w (C) f32;
     *   rstd (N) f32 or none. */
    void (*norm)(kd_backend *be,
                 kd_tensor y,
                 kd_tensor sum,
                 kd_tensor x,
                 kd_tensor delta,
                 kd_tensor w,
                 kd_tensor rstd,
                 float eps);
    /* dx (N, C) f32 +=, as what joins the residual stream; dw (C) or none; x is what was normalised; dy
     * compute or f32. */
    void (*norm_backward)(kd_backend *be,
                          kd_tensor dx,
                          kd_tensor dw,
                          kd_tensor dy,
                          kd_tensor x,
                          kd_tensor w,
                          kd_tensor rstd,
                          bool accumulate);
    /* RMSNorm of each head's part of a row: y, x (N, heads * D) compute, w (D) f32 for every head, or
     * (heads * D) f32 over the whole row with heads = 1; rstd (N, heads) f32. dx is written; dw or none. */
    void (*head_norm)(kd_backend *be,
                      kd_tensor y,
                      kd_tensor x,
                      kd_tensor w,
                      kd_tensor rstd,
                      int64_t n_heads,
                      float eps);
    void (*head_norm_backward)(kd_backend *be,
                               kd_tensor dx,
                               kd_tensor dw,
                               kd_tensor dy,
                               kd_tensor x,
                               kd_tensor w,
                               kd_tensor rstd,
                               int64_t n_heads,
                               bool accumulate);

    /* Rotary embedding (Su et al. 2021), halves paired as in Hugging Face: in place on x (N, heads * D)
     * compute. inverse turns back: the gradient of the forward turn. */
    void (*rotate)(kd_backend *be, kd_tensor x, const kd_rotation *by, bool inverse);

    /* head_norm, then rotate of y, and the gradient of both, in one pass over the rows: the same bits, for
     * nothing between them is left out. w's size says how many parts of a row are normalised; each has whole
     * heads. What is in dy, the gradient of y, is used up. */
    void (*head_norm_rotate)(kd_backend *be,
                             kd_tensor y,
                             kd_tensor x,
                             kd_tensor w,
                             kd_tensor rstd,
                             float eps,
                             const kd_rotation *by);
    void (*head_norm_rotate_backward)(kd_backend *be,
                                      kd_tensor dx,
                                      kd_tensor dw,
                                      kd_tensor dy,
                                      kd_tensor x,
                                      kd_tensor w,
                                      kd_tensor rstd,
                                      bool accumulate,
                                      const kd_rotation *by);

    /* Causal scaled dot-product attention within each sequence, grouped heads: head h reads k and v of
     * h / (H / G). A row sees no other segment, and of its own what its window holds; rows of padding write
     * zeros, and their lse is undefined. No T x T matrix outlives a block of rows. */
    void (*attention)(kd_backend *be, const kd_attention *a);
    /* Needs q, k, v, out and lse as the forward left them. Writes dq, dk, dv (compute). */
    void (*attention_backward)(kd_backend *be,
                               const kd_attention *a,
                               kd_tensor dq,
                               kd_tensor dk,
                               kd_tensor dv,
                               kd_tensor dout);

    /* SwiGLU (Shazeer 2020): h (N, F) = silu(gu[:, :F]) * gu[:, F:]; all compute. dgu may not be gu. */
    void (*swiglu)(kd_backend *be, kd_tensor h, kd_tensor gu);
    void (*swiglu_backward)(kd_backend *be, kd_tensor dgu, kd_tensor dh, kd_tensor gu);

    /* Fills *route from logits (N, E) f32; the tensors in it are the caller's. */
    void (*route)(kd_backend *be, const kd_route *route, kd_tensor logits);
    /* Writes d_logits (N, E) f32 from d_weights (N, K) f32; none flows through the choice. */
    void (*route_backward)(kd_backend *be,
                           kd_tensor d_logits,
                           kd_tensor d_weights,
                           kd_tensor logits,
                           const kd_route *route);
    void (*router_loss)(kd_backend *be, const kd_router_loss *args);

    /* x (R, C) = rows y[token[r]] of y (N, C), zeros for padding; both compute. */
    void (*dispatch)(kd_backend *be, kd_tensor x, kd_tensor y, const kd_route *route);
    /* dy (N, C) compute = sum over K of dx[position]. */
    void (*dispatch_backward)(kd_backend *be, kd_tensor dy, kd_tensor dx, const kd_route *route);
    /* y (N, C) f32 or compute = sum over K of weights * x[position]; x (R, C) compute. */
    void (*combine)(kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route);
    /* dx (R, C) compute (zeros for padding), d_weights (N, K) f32, from dy (N, C) f32 and the forward's x. */
    void (*combine_backward)(kd_backend *be,
                             kd_tensor dx,
                             kd_tensor d_weights,
                             kd_tensor dy,
                             kd_tensor x,
                             const kd_route *route);
    /* y (N, C) f32 or compute += sigmoid(gate (N, 1) f32) * x (N, C) compute: the shared expert. */
    void (*gated_add)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate);
    void (*gated_add_backward)(kd_backend *be,
                               kd_tensor dx,
                               kd_tensor d_gate,
                               kd_tensor dy,
                               kd_tensor x,
                               kd_tensor gate);

    /*
     * Per row that takes part, with z = hidden lm_head^T (V columns, never there for all rows at once):
     *   kd   = KL(p_T || p_S) over the first n_vocab columns, p_S = softmax(z / T),
     *          p_T = sum w_i softmax(z_i / T) / sum w_i over the teachers of weight > 0 (none: no kd)
     *   hard = cross-entropy of softmax(z) over all V columns with the label
     * A row takes part if it is in `rows` and its label is not ignored. The others cost no product
     * where the back end knows them: a device whose labels the host would have to wait for leaves out
     * what is not in `rows` and gives the rest no weight. There a label that is none of the lm_head's
     * rows makes the sum of hard NaN. Without gradients (d_hidden and d_lm_head
     * none) this is an evaluation.
     *
     * A teacher's logit of -inf (a masked column) is a probability of 0. A row where a teacher of
     * weight > 0 has no other column is counted as empty and makes the sum of kd NaN: a value, which
     * keeps adamw from the weights, and no fault of the back end. Its gradient is undefined. `chunk` is
     * called on the back end's thread between operations and may queue some; what it reads is gone when
     * it returns.
     */
    void (*vocab_loss)(kd_backend *be, const kd_vocab_loss *loss);

    void (*sum_squares)(kd_backend *be, kd_tensor sum, kd_tensor x); /* sum (1) f64 += */
    /* AdamW (Loshchilov and Hutter 2019), decoupled decay, bias-corrected. The device itself clips and
     * looks at the guards: the host need not wait for norms and losses first. */
    void (*adamw)(kd_backend *be, const kd_adamw *args);
} kd_ops;

/*
 * Every operation by its name, in the order of kd_ops. Declarations, tables and their checks come from
 * this list: a back end that misses one does not compile.
 */
/* clang-format off */
#define KD_OPS_EACH(X)                                                                             \
    X(alloc) X(free) X(memory_export) X(memory_import) X(memory_usage) X(wait) X(destroy)          \
    X(region_begin) X(region_end)                                                                  \
    X(event_record) X(event_query) X(event_wait) X(transfer)                                       \
    X(marks_create) X(marks_destroy) X(mark) X(marks_elapsed)                                      \
    X(upload) X(download)                                                                          \
    X(zero) X(copy) X(add)                                                                         \
    X(linear) X(linear_backward_x) X(linear_backward_w)                                                            \
    X(bias) X(bias_backward)                                                                             \
    X(experts) X(experts_backward_x) X(experts_backward_w)                                                         \
    X(embed) X(embed_backward)                                                                           \
    X(norm) X(norm_backward)                                                                             \
    X(head_norm) X(head_norm_backward)                                                                   \
    X(rotate) X(head_norm_rotate) X(head_norm_rotate_backward)                                     \
    X(attention) X(attention_backward)                                                             \
    X(swiglu) X(swiglu_backward)                                                                   \
    X(route) X(route_backward) X(router_loss)                                                      \
    X(dispatch) X(dispatch_backward)                                                               \
    X(combine) X(combine_backward)                                                                 \
    X(gated_add) X(gated_add_backward)                                                             \
    X(vocab_loss)                                                                                  \
    X(sum_squares) X(adamw)

/* clang-format on */

struct kd_backend {
    const kd_ops *ops;
    kd_device device;
    kd_dtype compute; /* KD_F32 or KD_BF16 */
    kd_dtype delta;   /* of norm's: compute where bytes cost, KD_F32 where casts do */
    int n_threads;
    int n_regions;       /* numbers that were given */
    int64_t expert_tile; /* segments of experts begin at multiples of it: products see few shapes */
    kd_status fault;     /* the first failure, KD_OK before it */
    char fault_text[KD_FAULT_TEXT_BYTES]; /* its text, whichever thread saw it */
};

/* The first of n numbers for regions of whoever asks; they are his for as long as the back end lives. */
static inline int kd_regions(kd_backend *be, int n)
{
    be->n_regions += n;
    return be->n_regions - n;
}

/* Rows that hold n * k routed tokens in segments: the worst case of rounding up. */
static inline int64_t kd_expert_rows(const kd_backend *be, int64_t n, int64_t k, int64_t n_experts)
{
    const int64_t tile = be->expert_tile;
    return (n * k + n_experts * (tile - 1) + tile - 1) / tile * tile;
}

/*
 * CPU: oneDNN for products, OpenMP over rows. n_threads >= 1. KD_BF16 works on every processor: one
 * that multiplies f32 only gets its operands widened, with one line in the log.
 */
KD_MUST_USE kd_status kd_backend_create_cpu(kd_dtype compute, int n_threads, kd_backend **be_out);

/*
 * The same with kernels of one level; NULL: the highest that is to be had. Two levels differ in rounding,
 * so ranks that must come to the same bits agree on one. KD_ERR_ARG: that one is not to be had.
 */
KD_MUST_USE kd_status kd_backend_create_cpu_at(kd_dtype compute,
                                               int n_threads,
                                               const char *level,
                                               kd_backend **be_out);

/* The levels of this kind of processor, lowest first: "v2", "v3", ...; NULL from the last on. Any thread. */
#define KD_CPU_LEVELS_MAX 8 /* of one kind of processor */
const char *kd_cpu_level_name(int i);

/* Whether this processor has it, and KD_CPU_LEVEL leaves it. Any thread. */
bool kd_cpu_has_level(const char *name);

/*
 * The same back end, but no loop over a tensor runs: what alloc gives is address space, which reads as zeros
 * and costs nothing until it is touched, and an operation takes the scratch memory and prepares the products
 * that it would need. So whatever is built and run on it has the memory_usage that it would have, in no time;
 * downloads give zeros.
 */
KD_MUST_USE kd_status kd_backend_create_rehearsal(kd_dtype compute,
                                                  int n_threads,
                                                  kd_backend **be_out);

/*
 * CUDA: device `number` of this process, for the thread that makes it. KD_ERR_NOT_FOUND: there is none, or
 * this program was built without CUDA.
 */
KD_MUST_USE kd_status kd_backend_create_cuda(kd_dtype compute, int number, kd_backend **be_out);

/* CUDA devices that this process sees and kernels are compiled for; 0 also where there is no driver. At most so
 * many are used: sets of them are the bits of 64. */
#define KD_CUDA_DEVICES_MAX 64
int kd_cuda_device_count(void);

/* What that device is known by on every host, whatever its number in a process: its UUID in hex; "" where
 * it cannot be told. */
#define KD_CUDA_IDENTITY_BYTES 40
void kd_cuda_identity(int number, char text_out[KD_CUDA_IDENTITY_BYTES]);

/* The kind of kernels that a device of this process runs, such as "sm_90": of two kinds sums may differ in
 * rounding. */
#define KD_CUDA_KIND_BYTES 16
void kd_cuda_kind(int number, char name_out[KD_CUDA_KIND_BYTES]);

/* Whether this processor (as ONEDNN_MAX_CPU_ISA limits it) multiplies bf16 faster than f32: the one
 * place that says so. AVX-512 that emulates such products counts as lacking them. Any thread. */
bool kd_cpu_multiplies_bf16(void);

/* Whether everything queued before the event is done; never waits. */
static inline bool kd_event_is_past(kd_event event)
{
    return event.be == NULL || event.be->ops->event_query(event.be, event);
}

/* Waits on the host until everything queued before the event is done. */
void kd_event_sync(kd_event event);

/* Both accept NULL or work once everything queued is done. */
void kd_backend_destroy(kd_backend *be);
KD_MUST_USE kd_status kd_backend_wait(kd_backend *be);

/*
 * alloc, of memory for `what` (as printf() has it), which a fault's text then begins with: "moments of 70
 * parameters: no memory for ...". KD_ERR_NOMEM, or the back end's fault where it has one.
 */
KD_MUST_USE kd_status kd_backend_place(kd_backend *be,
                                       kd_memory kind,
                                       size_t size_bytes,
                                       void **memory_out,
                                       const char *what,
                                       ...) __attribute__((format(printf, 5, 6)));

/* Keeps the first fault, with this thread's last text. Any thread; for back ends themselves. */
void kd_backend_keep_fault(kd_backend *be, kd_status st);

/* KD_ERR_NOT_FOUND, with why this cannot be had as this thread's last fault text; logs nothing. For back ends
 * themselves. */
KD_MUST_USE kd_status kd_backend_decline(const kd_backend *be, const char *why);

/* The fault that is kept, with its text as this thread's last; KD_OK if there is none so far. Waits for
 * nothing. */
KD_MUST_USE kd_status kd_backend_tell_fault(const kd_backend *be);

/* Waits before what queued work reads or writes is freed; this thread's last fault stays what it is. */
void kd_backend_drain(kd_backend *be);

#ifdef __cplusplus
}
#endif

#endif
