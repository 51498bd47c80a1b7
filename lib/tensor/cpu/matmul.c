/*
 * matmul.c - oneDNN behind a table. Its primitives are made for one shape at a time at a thousand times
 * the cost of a call, and it chooses its way by the processor: where it would read operands badly, or
 * cannot multiply bf16, panel.c does.
 */
#include "tensor/cpu/matmul.h"

#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/panel.h"
#include "tensor/product_table.h"

typedef struct entry {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c; /* told where the data lies before each run */
    dnnl_memory_t pad;     /* the scratchpad, or NULL: it needs none   */
} entry;

/* Prepared products: entry i is that of the table's place i. */
typedef struct prepared {
    kd_product_table table;
    entry entries[KD_PRODUCTS_MAX];
} prepared;

struct kd_matmul_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    kd_panels panels;   /* for bf16 where the processor multiplies f32 only */
    prepared *products; /* taken at the first one */
    void *pad;          /* scratchpad of whichever runs */
    size_t pad_bytes;
    int64_t n_made;
    bool widens;   /* operands of bf16, since the processor has no product of them */
    bool repacks;  /* see is_read_badly() */
    bool prepares; /* products are made, not run */
};

/* What the processor has, as far as oneDNN may use it. */
static bool multiplies_bf16, has_avx512;

static kd_status dnnl_fault(const char *what, dnnl_status_t status, const kd_product_key *key)
{
    return kd_fail(status == dnnl_out_of_memory ? KD_ERR_NOMEM : KD_ERR_IO,
                   "oneDNN: cannot %s the %s product (%lld x %lld) (%lld x %lld): status %d", what,
                   kd_dtype_name((kd_dtype)key->dtype_ab), (long long)key->m, (long long)key->k,
                   (long long)key->k, (long long)key->n, (int)status);
}

kd_status kd_matmul_cache_create(kd_convert_fn *convert, kd_matmul_cache **cache_out)
{
    kd_matmul_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a cache of products");
    }
    cache->panels.convert = convert;
    cache->widens = !kd_cpu_multiplies_bf16();
    cache->repacks = !has_avx512; /* which the line before asked for */
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
    (void)dnnl_memory_destroy(e->pad);
}

void kd_matmul_cache_destroy(kd_matmul_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    for (int i = 0; cache->products != NULL && i < cache->products->table.n_used; i++) {
        entry_release(&cache->products->entries[i]);
    }
    free(cache->products);
    kd_cpu_pages_free(cache->pad);
    kd_panels_release(&cache->panels);
    (void)dnnl_stream_destroy(cache->stream);
    (void)dnnl_engine_destroy(cache->engine);
    free(cache);
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
    status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (status != dnnl_success) {
        goto err_attr;
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

/* The cache's scratchpad grows to what this primitive asks for; pad_out stays NULL if that is nothing. */
static dnnl_status_t
make_pad(kd_matmul_cache *cache, const_dnnl_primitive_desc_t pd, dnnl_memory_t *pad_out)
{
    const dnnl_memory_desc_t *desc = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    const size_t size_bytes = desc == NULL ? 0 : dnnl_memory_desc_get_size(desc);
    if (size_bytes > cache->pad_bytes) {
        void *pad = kd_cpu_pages(size_bytes, true);
        if (pad == NULL) {
            return dnnl_out_of_memory;
        }
        kd_cpu_pages_free(cache->pad);
        cache->pad = pad;
        cache->pad_bytes = size_bytes;
    }
    return size_bytes == 0 ? dnnl_success
                           : dnnl_memory_create(pad_out, desc, cache->engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t make_primitive(kd_matmul_cache *cache,
                                    const kd_product_key *key,
                                    const dnnl_memory_desc_t desc[3],
                                    entry *e)
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
        status = make_pad(cache, pd, &e->pad);
        if (status == dnnl_success) {
            status = dnnl_primitive_create(&e->primitive, pd);
        }
        (void)dnnl_primitive_desc_destroy(pd);
    }
    (void)dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t entry_fill(kd_matmul_cache *cache, const kd_product_key *key, entry *entry_out)
{
    dnnl_memory_desc_t desc[3];
    entry made = {NULL};
    dnnl_memory_t *const memory[] = {&made.a, &made.b, &made.c};
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
        status = dnnl_memory_create(memory[i], &desc[i], cache->engine, DNNL_MEMORY_NONE);
    }
    if (status == dnnl_success) {
        status = make_primitive(cache, key, desc, &made);
    }
    if (status == dnnl_success) {
        *entry_out = made;
    } else {
        entry_release(&made);
    }
    return status;
}

static kd_status lookup(kd_matmul_cache *cache, const kd_product_key *key, entry **entry_out)
{
    if (cache->products == NULL) {
        cache->products = calloc(1, sizeof *cache->products);
        if (cache->products == NULL) {
            return kd_fail(KD_ERR_NOMEM, "no memory for a table of products");
        }
    }
    prepared *products = cache->products;
    int place = kd_product_table_find(&products->table, key);
    if (place < 0) {
        entry made;
        bool evicted;
        const dnnl_status_t status = entry_fill(cache, key, &made);
        if (status != dnnl_success) {
            return dnnl_fault("prepare", status, key);
        }
        place = kd_product_table_add(&products->table, key, &evicted);
        if (evicted) {
            entry_release(&products->entries[place]);
        }
        products->entries[place] = made;
        cache->n_made++;
    }
    *entry_out = &products->entries[place];
    return KD_OK;
}

static dnnl_status_t run(const kd_matmul_cache *cache, const entry *e, const kd_product *p)
{
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a},
                                    {DNNL_ARG_WEIGHTS, e->b},
                                    {DNNL_ARG_DST, e->c},
                                    {DNNL_ARG_SCRATCHPAD, e->pad}};
    dnnl_status_t status = dnnl_memory_set_data_handle(e->a, p->a.data);
    if (status == dnnl_success) {
        status = dnnl_memory_set_data_handle(e->b, p->b.data);
    }
    if (status == dnnl_success) {
        status = dnnl_memory_set_data_handle(e->c, p->c.data);
    }
    if (status == dnnl_success && e->pad != NULL) {
        status = dnnl_memory_set_data_handle(e->pad, cache->pad);
    }
    if (status == dnnl_success) {
        const int n_args = e->pad == NULL ? 3 : 4;
        status = dnnl_primitive_execute(e->primitive, cache->stream, n_args, args);
    }
    return status == dnnl_success ? dnnl_stream_wait(cache->stream) : status;
}

static bool has_isa(dnnl_cpu_isa_t isa)
{
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

static void ask_for_kind(void)
{
    const kd_product_key key = {
        .m = 32,
        .n = 32,
        .k = 32,
        .stride_a = 32,
        .stride_b = 32,
        .stride_c = 32,
        .dtype_ab = KD_BF16,
        .dtype_c = KD_F32,
    };
    kd_matmul_cache cache = {0}; /* an engine is all that making a product needs */
    entry probe;
    has_avx512 = has_isa(dnnl_cpu_isa_avx512_core);
    /* AVX-512 without its bf16 instructions has such products, slower than widened ones. */
    const bool emulates = has_avx512 && !has_isa(dnnl_cpu_isa_avx512_core_bf16);
    if (emulates || dnnl_engine_create(&cache.engine, dnnl_cpu, 0) != dnnl_success) {
        return;
    }
    multiplies_bf16 = entry_fill(&cache, &key, &probe) == dnnl_success;
    if (multiplies_bf16) {
        entry_release(&probe);
    }
    kd_cpu_pages_free(cache.pad);
    (void)dnnl_engine_destroy(cache.engine);
}

bool kd_cpu_multiplies_bf16(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    KD_CHECK(pthread_once(&once, ask_for_kind) == 0);
    return multiplies_bf16;
}

/*
 * Whether oneDNN would read an operand of f32 across rows that share cache sets. Below AVX-512 it packs
 * operands only where 1 / m + 1 / n is under 0.0038, and products of fewer than 64 are not worth it.
 */
static bool is_read_badly(const kd_product_key *key, bool across_rows, int64_t stride)
{
    const int64_t worth = 64;
    return across_rows && kd_stride_is_bad(stride) && key->dtype_ab == KD_F32 && key->m >= worth &&
           key->n >= worth && key->k >= worth &&
           1.0 / (double)key->m + 1.0 / (double)key->n >= 0.0038;
}

static kd_status
multiply(kd_matmul_cache *cache, const kd_product_key *key, const kd_product *product)
{
    entry *e = NULL;
    const kd_status st = lookup(cache, key, &e);
    if (st || cache->prepares) {
        return st;
    }
    const dnnl_status_t status = run(cache, e, product);
    return status == dnnl_success ? KD_OK : dnnl_fault("run", status, key);
}

kd_status kd_matmul(kd_matmul_cache *cache, const kd_product *product)
{
    const kd_product_key key = kd_product_key_of(product);
    if (key.m == 0 || key.n == 0 || key.k == 0) {
        return KD_OK;
    }
    const bool widens = cache->widens && key.dtype_ab == KD_BF16;
    const bool copy_a = cache->repacks && is_read_badly(&key, key.trans_a != 0, key.stride_a);
    const bool copy_b = cache->repacks && is_read_badly(&key, key.trans_b == 0, key.stride_b);
    if (widens || copy_a || copy_b) {
        return kd_matmul_by_panels(&cache->panels, cache, product, copy_a, copy_b);
    }
    /* oneDNN asks OpenMP how many threads it has, both when it plans and when it runs. The answer is
     * the calling thread's own, and outside a team that is the program's: it is given back. */
    const int n_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const kd_status st = multiply(cache, &key, product);
    omp_set_num_threads(n_threads);
    return st;
}

kd_status kd_matmul_prepare(kd_matmul_cache *cache, const kd_product *product)
{
    const bool rehearses = cache->prepares;
    cache->prepares = cache->panels.prepares = true;
    const kd_status st = kd_matmul(cache, product);
    cache->prepares = cache->panels.prepares = rehearses;
    return st;
}

void kd_matmul_cache_rehearse(kd_matmul_cache *cache)
{
    cache->prepares = cache->panels.prepares = true;
}

size_t kd_matmul_cache_bytes(const kd_matmul_cache *cache)
{
    return cache->pad_bytes + kd_panels_bytes(&cache->panels) +
           (cache->products != NULL ? sizeof *cache->products : 0);
}

int64_t kd_matmul_made(const kd_matmul_cache *cache)
{
    return cache->n_made;
}
