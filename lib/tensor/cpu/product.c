/*
 * One product on all threads: it is cut into one part for each, and every part is a product of one
 * thread. oneDNN's own teams have as many threads as it likes for a shape, and a team of another size
 * makes libgomp end and create threads at each product.
 */
#include "tensor/cpu/cpu.h"

/* Rows or columns by which parts differ: whole cache lines. */
#define STEP 16

/* Multiplications of a part that are worth a thread. */
#define GRAIN ((int64_t)1 << 19)

typedef struct cut {
    kd_backend *be;
    kd_product whole;
    int64_t n_rows, n_columns; /* of c */
    bool by_rows;              /* else by columns */
} cut;

/* Rows and columns, whatever the tensor's dimensions. */
static kd_tensor flat(kd_tensor t)
{
    kd_tensor matrix = kd_tensor_2d(t.data, t.dtype, kd_tensor_rows(t), kd_tensor_columns(t));
    matrix.row_stride = t.row_stride;
    return matrix;
}

static kd_tensor slice(kd_tensor t, bool rows, int64_t first, int64_t n)
{
    return rows ? kd_tensor_slice_rows(t, first, n) : kd_tensor_slice_columns(t, first, n);
}

/* Steps [begin, end) of c's rows or columns, with what they need of one operand. */
static void multiply_part(const void *args, int lane, int64_t begin, int64_t end)
{
    const cut *w = args;
    const int64_t size = w->by_rows ? w->n_rows : w->n_columns;
    const int64_t first = begin * STEP, n = (end * STEP < size ? end * STEP : size) - first;
    kd_product part = w->whole;
    part.c = slice(part.c, w->by_rows, first, n);
    if (w->by_rows) {
        part.a = slice(part.a, !part.trans_a, first, n);
    } else {
        part.b = slice(part.b, part.trans_b, first, n);
    }
    const kd_cpu *cpu = (const kd_cpu *)w->be;
    kd_matmul_cache *cache = cpu->lane[lane];
    kd_backend_keep_fault(w->be, cpu->prepares ? kd_matmul_prepare(cache, &part)
                                               : kd_matmul(cache, &part));
}

void kd_cpu_product(kd_backend *be, const kd_product *product)
{
    cut w = {.be = be, .whole = *product};
    w.whole.a = flat(product->a);
    w.whole.b = flat(product->b);
    w.whole.c = flat(product->c);
    w.n_rows = w.whole.c.dims[0];
    w.n_columns = w.whole.c.dims[1];
    w.by_rows = w.n_rows >= w.n_columns; /* the operand that all parts need is then the smaller */
    const int64_t depth = w.whole.a.dims[product->trans_a ? 0 : 1];
    const int64_t size = w.by_rows ? w.n_rows : w.n_columns;
    const int64_t others = w.by_rows ? w.n_columns : w.n_rows;
    const int64_t step_size = STEP * others * depth;
    if (be->fault == KD_OK && size > 0 && others > 0) {
        (void)kd_prepare_rows(be, (size + STEP - 1) / STEP, GRAIN / (step_size + 1) + 1,
                              multiply_part, &w);
    }
}
