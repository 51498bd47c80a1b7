/*
 * Panels instead of whole operands: the f32 copy of a language model's head would be as large as the
 * model. A panel of 512 x 512 is multiplied with 512 columns, so filling it costs a few hundredths of
 * the product, and it is still in the cache when the product reads it.
 */
#include "tensor/cpu/panel.h"

#include <stdlib.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"

/* Elements of a panel. */
#define N_PANEL ((size_t)KD_PANEL_SIDE * KD_PANEL_STRIDE)
#define N_ALL   (3 * N_PANEL)

/* Part of a stored matrix. */
typedef struct region {
    int64_t row, column, n_rows, n_columns;
} region;

/* An operand and the panel that holds one region of it. */
typedef struct operand {
    kd_tensor stored;
    float *panel; /* NULL: read where it lies   */
    region held;  /* no rows: nothing yet       */
} operand;

void kd_panels_release(kd_panels *panels)
{
    free(panels->memory);
    panels->memory = NULL;
}

size_t kd_panels_bytes(const kd_panels *panels)
{
    return panels->memory != NULL ? N_ALL * sizeof(float) : 0;
}

static kd_status panels_take(kd_panels *panels)
{
    if (panels->memory == NULL) {
        panels->memory = calloc(N_ALL, sizeof(float));
    }
    return panels->memory == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for panels of a product")
                                  : KD_OK;
}

static kd_tensor region_of(kd_tensor t, region r)
{
    kd_tensor part = kd_tensor_2d(kd_row(t, r.row), t.dtype, r.n_rows, r.n_columns);
    part.data = (char *)part.data + (size_t)r.column * kd_dtype_bytes(t.dtype);
    part.row_stride = t.row_stride;
    return part;
}

static void convert(const kd_panels *panels, kd_tensor dst, kd_tensor src)
{
    for (int64_t row = 0; row < dst.dims[0] && !panels->prepares; row++) {
        panels->convert(kd_row(dst, row), dst.dtype, kd_row(src, row), src.dtype, dst.dims[1]);
    }
}

static kd_tensor panel_of(float *memory, region r)
{
    kd_tensor panel = kd_tensor_2d(memory, KD_F32, r.n_rows, r.n_columns);
    panel.row_stride = (r.n_columns + 15) / 16 * 16;
    panel.row_stride += kd_stride_is_bad(panel.row_stride) ? 16 : 0;
    return panel;
}

/* That region in f32, copied unless the panel holds it already. */
static kd_tensor take(const kd_panels *panels, operand *o, region r)
{
    if (o->panel == NULL) {
        return region_of(o->stored, r);
    }
    const kd_tensor panel = panel_of(o->panel, r);
    const region *held = &o->held;
    if (held->row != r.row || held->column != r.column || held->n_rows != r.n_rows ||
        held->n_columns != r.n_columns) {
        convert(panels, panel, region_of(o->stored, r));
        o->held = r;
    }
    return panel;
}

/* Equal parts of at most a panel's side, so that few shapes of products are seen. */
static int64_t part_of(int64_t n)
{
    const int64_t n_parts = (n + KD_PANEL_SIDE - 1) / KD_PANEL_SIDE;
    const int64_t part = (n + n_parts - 1) / n_parts;
    return (part + 15) / 16 * 16;
}

static region turned(region r, bool trans)
{
    return trans ? (region){r.column, r.row, r.n_columns, r.n_rows} : r;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* One region of c, over all of the depth. */
static kd_status multiply(const kd_panels *panels,
                          kd_matmul_cache *cache,
                          const kd_product *p,
                          operand ab[2],
                          region r)
{
    const int64_t depth = p->trans_a ? kd_tensor_rows(p->a) : kd_tensor_columns(p->a);
    const int64_t step = part_of(depth);
    const kd_tensor c = region_of(p->c, r);
    const bool rounds = c.dtype == KD_BF16;
    float *sums = panels->memory + 2 * N_PANEL;
    const kd_tensor sum = rounds ? panel_of(sums, r) : c;
    if (rounds && p->accumulate) {
        convert(panels, sum, c);
    }
    for (int64_t k = 0; k < depth; k += step) {
        const int64_t n_k = least(step, depth - k);
        const region ra = turned((region){r.row, k, r.n_rows, n_k}, p->trans_a);
        const region rb = turned((region){k, r.column, n_k, r.n_columns}, p->trans_b);
        const kd_product part = {
            .c = sum,
            .a = take(panels, &ab[0], ra),
            .b = take(panels, &ab[1], rb),
            .trans_a = p->trans_a,
            .trans_b = p->trans_b,
            .accumulate = p->accumulate || k > 0,
        };
        const kd_status st = kd_matmul(cache, &part);
        if (st) {
            return st;
        }
    }
    if (rounds) {
        convert(panels, c, sum);
    }
    return KD_OK;
}

kd_status kd_matmul_by_panels(kd_panels *panels,
                              kd_matmul_cache *cache,
                              const kd_product *product,
                              bool copy_a,
                              bool copy_b)
{
    kd_status st = panels_take(panels);
    if (st) {
        return st;
    }
    const bool widens = product->a.dtype == KD_BF16;
    const int64_t n_rows = kd_tensor_rows(product->c), n_columns = kd_tensor_columns(product->c);
    const int64_t row_step = part_of(n_rows), column_step = part_of(n_columns);
    operand ab[2] = {
        {.stored = product->a, .panel = widens || copy_a ? panels->memory : NULL},
        {.stored = product->b, .panel = widens || copy_b ? panels->memory + N_PANEL : NULL}};
    for (int64_t row = 0; row < n_rows && !st; row += row_step) {
        for (int64_t column = 0; column < n_columns && !st; column += column_step) {
            const region r = {row, column, least(row_step, n_rows - row),
                              least(column_step, n_columns - column)};
            st = multiply(panels, cache, product, ab, r);
        }
    }
    return st;
}
