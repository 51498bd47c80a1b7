#include "tensor/cpu/matmul.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tensor/cpu/widen.h"
#include "tensor/ops.h"

/* All of one type, so that there is no padding and keys compare as bytes. */
typedef struct product_key {
    int64_t m, n, k;
    int64_t stride_a, stride_b, stride_c;
    int64_t dtype_ab, dtype_c;
    int64_t trans_a, trans_b, accumulate;
} product_key;

typedef struct entry {
    product_key key;
    dnnl_primitive_t primitive; /* NULL: a free place */
    dnnl_memory_t a, b, c;      /* told where the data lies before each run */
} entry;

struct kd_matmul_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int n_threads;
    kd_panels panels; /* for bf16 where the processor multiplies f32 only */
    entry *table;     /* open addressing; at most half full */
    size_t n_places;
    size_t n_used;
};

static kd_status dnnl_fault(const char *what, dnnl_status_t status, const product_key *key)
{
    return kd_fail(status == dnnl_out_of_memory ? KD_ERR_NOMEM : KD_ERR_IO,
                   "oneDNN: cannot %s the %s product (%lld x %lld) (%lld x %lld): status %d", what,
                   kd_dtype_name((kd_dtype)key->dtype_ab), (long long)key->m, (long long)key->k,
                   (long long)key->k, (long long)key->n, (int)status);
}

kd_status kd_matmul_cache_create(int n_threads, kd_convert_fn *convert, kd_matmul_cache **cache_out)
{
    kd_matmul_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a cache of products");
    }
    cache->n_threads = n_threads;
    cache->panels = (kd_panels){.convert = convert, .n_threads = n_threads};
    if (dnnl_engine_create(&cache->engine, dnnl_cpu, 0) != dnnl_success) {
        goto err_free;
    }
    if (dnnl_stream_create(&cache->stream, cache->engine, dnnl_stream_default_flags) !=
        dnnl_success) {
        goto err_engine;
    }
    *cache_out = cache;
    return KD_OK;

err_engine:
    (void)dnnl_engine_destroy(cache->engine);
err_free:
    free(cache);
    return kd_fail(KD_ERR_IO, "oneDNN: cannot create an engine for the CPU");
}

static void entry_release(entry *e)
{
    (void)dnnl_primitive_destroy(e->primitive);
    (void)dnnl_memory_destroy(e->a);
    (void)dnnl_memory_destroy(e->b);
    (void)dnnl_memory_destroy(e->c);
}

void kd_matmul_cache_destroy(kd_matmul_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    for (size_t i = 0; i < cache->n_places; i++) {
        if (cache->table[i].primitive != NULL) {
            entry_release(&cache->table[i]);
        }
    }
    free(cache->table);
    kd_panels_release(&cache->panels);
    (void)dnnl_stream_destroy(cache->stream);
    (void)dnnl_engine_destroy(cache->engine);
    free(cache);
}

static size_t key_hash(const product_key *key)
{
    int64_t words[sizeof *key / sizeof(int64_t)];
    memcpy(words, key, sizeof words);
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        hash = (hash ^ (uint64_t)words[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return (size_t)hash;
}

/* The place of the key, or the free one where it belongs. */
static entry *find_place(entry *table, size_t n_places, const product_key *key)
{
    size_t at = key_hash(key) & (n_places - 1);
    while (table[at].primitive != NULL && memcmp(&table[at].key, key, sizeof *key) != 0) {
        at = (at + 1) & (n_places - 1);
    }
    return &table[at];
}

static kd_status table_grow(kd_matmul_cache *cache)
{
    const size_t n_places = cache->n_places == 0 ? 256 : 2 * cache->n_places;
    entry *table = calloc(n_places, sizeof *table);
    if (table == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a table of %zu products", n_places);
    }
    for (size_t i = 0; i < cache->n_places; i++) {
        if (cache->table[i].primitive != NULL) {
            *find_place(table, n_places, &cache->table[i].key) = cache->table[i];
        }
    }
    free(cache->table);
    cache->table = table;
    cache->n_places = n_places;
    return KD_OK;
}

/* A plain (rows, columns) matrix, or its transpose as a view. */
static dnnl_status_t describe(dnnl_memory_desc_t *desc,
                              int64_t rows,
                              int64_t columns,
                              int64_t stride,
                              bool trans,
                              bool bf16)
{
    const dnnl_dims_t dims = {rows, columns};
    const dnnl_dims_t strides = {trans ? 1 : stride, trans ? stride : 1};
    return dnnl_memory_desc_init_by_strides(desc, 2, dims, bf16 ? dnnl_bf16 : dnnl_f32, strides);
}

static dnnl_status_t make_attr(bool accumulate, dnnl_primitive_attr_t *attr_out)
{
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t ops;
    dnnl_status_t status = dnnl_primitive_attr_create(&attr);
    if (status != dnnl_success) {
        return status;
    }
    if (accumulate) {
        status = dnnl_post_ops_create(&ops);
        if (status != dnnl_success) {
            goto err_attr;
        }
        status = dnnl_post_ops_append_sum(ops, 1.0f);
        if (status == dnnl_success) {
            status = dnnl_primitive_attr_set_post_ops(attr, ops);
        }
        (void)dnnl_post_ops_destroy(ops);
        if (status != dnnl_success) {
            goto err_attr;
        }
    }
    *attr_out = attr;
    return dnnl_success;

err_attr:
    (void)dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t make_primitive(kd_matmul_cache *cache,
                                    const product_key *key,
                                    const dnnl_memory_desc_t desc[3],
                                    dnnl_primitive_t *primitive_out)
{
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, &desc[0], &desc[1], NULL, &desc[2]);
    if (status == dnnl_success) {
        status = make_attr(key->accumulate != 0, &attr);
    }
    if (status != dnnl_success) {
        return status;
    }
    status = dnnl_primitive_desc_create(&pd, &matmul, attr, cache->engine, NULL);
    if (status == dnnl_success) {
        status = dnnl_primitive_create(primitive_out, pd);
        (void)dnnl_primitive_desc_destroy(pd);
    }
    (void)dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t entry_fill(kd_matmul_cache *cache, const product_key *key, entry *entry_out)
{
    dnnl_memory_desc_t desc[3];
    dnnl_memory_t memory[3] = {NULL, NULL, NULL};
    dnnl_primitive_t primitive = NULL;
    const bool bf16_ab = key->dtype_ab == KD_BF16;
    dnnl_status_t status =
        describe(&desc[0], key->m, key->k, key->stride_a, key->trans_a != 0, bf16_ab);
    if (status == dnnl_success) {
        status = describe(&desc[1], key->k, key->n, key->stride_b, key->trans_b != 0, bf16_ab);
    }
    if (status == dnnl_success) {
        status = describe(&desc[2], key->m, key->n, key->stride_c, false, key->dtype_c == KD_BF16);
    }
    for (int i = 0; i < 3 && status == dnnl_success; i++) {
        status = dnnl_memory_create(&memory[i], &desc[i], cache->engine, DNNL_MEMORY_NONE);
    }
    if (status == dnnl_success) {
        status = make_primitive(cache, key, desc, &primitive);
    }
    const entry made = {*key, primitive, memory[0], memory[1], memory[2]};
    if (status == dnnl_success) {
        *entry_out = made;
    } else {
        for (int i = 0; i < 3; i++) {
            (void)dnnl_memory_destroy(memory[i]);
        }
    }
    return status;
}

static kd_status lookup(kd_matmul_cache *cache, const product_key *key, entry **entry_out)
{
    if (cache->n_places > 0) {
        entry *known = find_place(cache->table, cache->n_places, key);
        if (known->primitive != NULL) {
            *entry_out = known;
            return KD_OK;
        }
    }
    if (2 * (cache->n_used + 1) > cache->n_places) {
        const kd_status st = table_grow(cache);
        if (st) {
            return st;
        }
    }
    entry *place = find_place(cache->table, cache->n_places, key);
    const dnnl_status_t status = entry_fill(cache, key, place);
    if (status != dnnl_success) {
        return dnnl_fault("prepare", status, key);
    }
    cache->n_used++;
    *entry_out = place;
    return KD_OK;
}

static product_key key_of(const kd_product *p)
{
    const product_key key = {
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

static dnnl_status_t run(const kd_matmul_cache *cache, const entry *e, const kd_product *p)
{
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}};
    dnnl_status_t status = dnnl_memory_set_data_handle(e->a, p->a.data);
    if (status == dnnl_success) {
        status = dnnl_memory_set_data_handle(e->b, p->b.data);
    }
    if (status == dnnl_success) {
        status = dnnl_memory_set_data_handle(e->c, p->c.data);
    }
    if (status == dnnl_success) {
        status = dnnl_primitive_execute(e->primitive, cache->stream, 3, args);
    }
    return status == dnnl_success ? dnnl_stream_wait(cache->stream) : status;
}

static bool multiplies_bf16;

/* AVX-512 without its bf16 instructions has products of bf16, slower than widened ones. */
static bool emulates_bf16(void)
{
    const int isa = (int)dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core &&
           (isa & dnnl_cpu_isa_avx512_core_bf16) != dnnl_cpu_isa_avx512_core_bf16;
}

static void ask_for_bf16(void)
{
    const product_key key = {
        .m = 32,
        .n = 32,
        .k = 32,
        .stride_a = 32,
        .stride_b = 32,
        .stride_c = 32,
        .dtype_ab = KD_BF16,
        .dtype_c = KD_F32,
    };
    kd_matmul_cache cache = {.n_threads = 1}; /* an engine is all that making a product needs */
    entry probe;
    if (emulates_bf16() || dnnl_engine_create(&cache.engine, dnnl_cpu, 0) != dnnl_success) {
        return;
    }
    multiplies_bf16 = entry_fill(&cache, &key, &probe) == dnnl_success;
    if (multiplies_bf16) {
        entry_release(&probe);
    }
    (void)dnnl_engine_destroy(cache.engine);
}

bool kd_cpu_multiplies_bf16(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    KD_CHECK(pthread_once(&once, ask_for_bf16) == 0);
    return multiplies_bf16;
}

kd_status kd_matmul(kd_matmul_cache *cache, const kd_product *product)
{
    const product_key key = key_of(product);
    if (key.m == 0 || key.n == 0 || key.k == 0) {
        return KD_OK;
    }
    if (key.dtype_ab == KD_BF16 && !kd_cpu_multiplies_bf16()) {
        return kd_matmul_widened(&cache->panels, cache, product);
    }
    /* oneDNN asks OpenMP how many threads it has, both when it plans and when it runs. */
    omp_set_num_threads(cache->n_threads);
    entry *e = NULL;
    const kd_status st = lookup(cache, &key, &e);
    if (st) {
        return st;
    }
    const dnnl_status_t status = run(cache, e, product);
    return status == dnnl_success ? KD_OK : dnnl_fault("run", status, &key);
}
