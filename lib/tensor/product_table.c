/*
 * product_table.c - a hash table with an order of use in fixed memory: it is asked before each product, so
 * a hit must cost next to nothing, and a job that goes on for weeks must not grow it.
 */
#include "tensor/product_table.h"

#include <stddef.h>
#include <string.h>

_Static_assert(KD_PRODUCTS_MAX < INT16_MAX, "places are numbered by 16 bits");

static kd_product_place *place_of(kd_product_table *table, int number)
{
    return &table->places[number - 1];
}

static int16_t *chain_of(kd_product_table *table, const kd_product_key *key)
{
    int64_t words[sizeof *key / sizeof(int64_t)];
    memcpy(words, key, sizeof words);
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        hash = (hash ^ (uint64_t)words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return &table->chains[hash % KD_PRODUCT_CHAINS];
}

static void unlink_use(kd_product_table *table, int16_t number)
{
    const kd_product_place *place = place_of(table, number);
    *(place->newer == 0 ? &table->newest : &place_of(table, place->newer)->older) = place->older;
    *(place->older == 0 ? &table->oldest : &place_of(table, place->older)->newer) = place->newer;
}

static void link_newest(kd_product_table *table, int16_t number)
{
    kd_product_place *place = place_of(table, number);
    place->newer = 0;
    place->older = table->newest;
    *(table->newest == 0 ? &table->oldest : &place_of(table, table->newest)->newer) = number;
    table->newest = number;
}

static void unlink_chain(kd_product_table *table, int16_t number)
{
    int16_t *at = chain_of(table, &place_of(table, number)->key);
    while (*at != number) {
        at = &place_of(table, *at)->next;
    }
    *at = place_of(table, number)->next;
}

kd_product_key kd_product_key_of(const kd_product *p)
{
    const kd_product_key key = {
        .m = kd_tensor_rows(p->c),
        .n = kd_tensor_columns(p->c),
        .k = p->trans_a ? kd_tensor_rows(p->a) : kd_tensor_columns(p->a),
        .stride_a = p->a.row_stride,
        .stride_b = p->b.row_stride,
        .stride_c = p->c.row_stride,
        .dtype_ab = p->a.dtype,
        .dtype_c = p->c.dtype,
        .trans_a = p->trans_a,
        .trans_b = p->trans_b,
        .accumulate = p->accumulate,
    };
    KD_CHECK((p->trans_a ? kd_tensor_columns(p->a) : kd_tensor_rows(p->a)) == key.m);
    KD_CHECK((p->trans_b ? kd_tensor_columns(p->b) : kd_tensor_rows(p->b)) == key.k);
    KD_CHECK((p->trans_b ? kd_tensor_rows(p->b) : kd_tensor_columns(p->b)) == key.n);
    KD_CHECK(p->a.dtype == p->b.dtype && (p->c.dtype == p->a.dtype || p->c.dtype == KD_F32));
    KD_CHECK(p->a.dtype == KD_F32 || p->a.dtype == KD_BF16);
    return key;
}

int kd_product_table_find(kd_product_table *table, const kd_product_key *key)
{
    int16_t number = *chain_of(table, key);
    while (number != 0 && memcmp(&place_of(table, number)->key, key, sizeof *key) != 0) {
        number = place_of(table, number)->next;
    }
    if (number != 0 && number != table->newest) {
        unlink_use(table, number);
        link_newest(table, number);
    }
    return number - 1;
}

int kd_product_table_add(kd_product_table *table, const kd_product_key *key, bool *evicted_out)
{
    const bool evicts = table->n_used == KD_PRODUCTS_MAX;
    const int16_t number = (int16_t)(evicts ? table->oldest : ++table->n_used);
    if (evicts) {
        unlink_chain(table, number);
        unlink_use(table, number);
    }
    int16_t *chain = chain_of(table, key);
    kd_product_place *place = place_of(table, number);
    place->key = *key;
    place->next = *chain;
    *chain = number;
    link_newest(table, number);
    *evicted_out = evicts;
    return number - 1;
}
