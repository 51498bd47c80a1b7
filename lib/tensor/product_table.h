/*
 * product_table.h - which products are prepared: a bounded table from a product's shape to a place.
 *
 * Places are numbered; what stands in them is the owner's. A full table gives up the place that was
 * found least recently. Zeroed memory is an empty table.
 *
 * Threads: one at a time.
 */
#ifndef KD_TENSOR_PRODUCT_TABLE_H
#define KD_TENSOR_PRODUCT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Places of a table. A model asks for a few hundred shapes: rows of experts come in multiples of
 * their tile, keys of attention in steps. */
#define KD_PRODUCTS_MAX 1024

/* Chains of places whose keys have one hash. */
#define KD_PRODUCT_CHAINS 2048

/* All of one type, so that there is no padding and keys compare as bytes. */
typedef struct kd_product_key {
    int64_t m, n, k;
    int64_t stride_a, stride_b, stride_c;
    int64_t dtype_ab, dtype_c;
    int64_t trans_a, trans_b, accumulate;
    int64_t align_a, align_b, align_c; /* bytes, where they matter; else 0 */
} kd_product_key;

/* Numbers of places here are one higher, so that 0 is none. */
typedef struct kd_product_place {
    kd_product_key key;
    int16_t next;         /* in its chain             */
    int16_t newer, older; /* in the order of last use */
} kd_product_place;

typedef struct kd_product_table {
    kd_product_place places[KD_PRODUCTS_MAX];
    int16_t chains[KD_PRODUCT_CHAINS];
    int16_t newest, oldest;
    int16_t n_used; /* places 0 to n_used - 1 */
} kd_product_table;

/* Of a product whose shapes fit, which is checked; no alignments. */
kd_product_key kd_product_key_of(const kd_product *product);

/* The place of that product, now the most recently used; -1 if it has none. */
int kd_product_table_find(kd_product_table *table, const kd_product_key *key);

/* A place for a product that has none. evicted_out: another one held it. */
int kd_product_table_add(kd_product_table *table, const kd_product_key *key, bool *evicted_out);

#ifdef __cplusplus
}
#endif

#endif
