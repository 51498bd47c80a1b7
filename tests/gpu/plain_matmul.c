/*
 * plain_matmul.c - in place of tensor/cpu/matmul.c where oneDNN is missing: one thread's product in plain loops, slow
 * and easy to believe. The back end cuts products over its threads before they come here.
 */
#include <stdlib.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/matmul.h"
#include "tensor/product_table.h"

/* Columns of c at a time, whose sums stay at hand. */
enum { COLUMNS = 64 };

struct kd_matmul_cache {
    bool rehearses;
};

kd_status kd_matmul_cache_create(kd_convert_fn *convert, kd_matmul_cache **cache_out)
{
    (void)convert; /* elements are widened one by one */
    kd_matmul_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a cache of products");
    }
    *cache_out = cache;
    return KD_OK;
}

void kd_matmul_cache_destroy(kd_matmul_cache *cache)
{
    free(cache);
}

void kd_matmul_cache_rehearse(kd_matmul_cache *cache)
{
    cache->rehearses = true;
}

static float element(kd_tensor t, bool trans, int64_t row, int64_t column)
{
    return kd_get(t.data, trans ? column * t.row_stride + row : row * t.row_stride + column,
                  t.dtype);
}

/* Columns [first, first + n) of one row of c, n at most COLUMNS. */
static void multiply_row(const kd_product *p, int64_t depth, int64_t row, int64_t first, int64_t n)
{
    double sums[COLUMNS] = {0};
    for (int64_t k = 0; k < depth; k++) {
        const double x = (double)element(p->a, p->trans_a, row, k);
        for (int64_t j = 0; j < n; j++) {
            sums[j] += x * (double)element(p->b, p->trans_b, k, first + j);
        }
    }
    for (int64_t j = 0; j < n; j++) {
        const int64_t at = row * p->c.row_stride + first + j;
        const float before = p->accumulate ? kd_get(p->c.data, at, p->c.dtype) : 0.0f;
        kd_put(p->c.data, at, p->c.dtype, before + (float)sums[j]);
    }
}

kd_status kd_matmul(kd_matmul_cache *cache, const kd_product *product)
{
    const kd_product_key key = kd_product_key_of(product);
    if (cache->rehearses || key.k == 0) {
        return KD_OK;
    }
    for (int64_t row = 0; row < key.m; row++) {
        for (int64_t first = 0; first < key.n; first += COLUMNS) {
            const int64_t left = key.n - first;
            multiply_row(product, key.k, row, first, left < COLUMNS ? left : COLUMNS);
        }
    }
    return KD_OK;
}

kd_status kd_matmul_prepare(kd_matmul_cache *cache, const kd_product *product)
{
    (void)cache;
    (void)kd_product_key_of(product); /* which checks shapes */
    return KD_OK;
}

size_t kd_matmul_cache_bytes(const kd_matmul_cache *cache)
{
    (void)cache;
    return 0;
}

int64_t kd_matmul_made(const kd_matmul_cache *cache)
{
    (void)cache;
    return 0;
}

bool kd_cpu_multiplies_bf16(void)
{
    return false;
}
