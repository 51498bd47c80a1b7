/* What the CPU back end makes while it runs: products, and threads. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tensor/cpu/cpu.h"
#include "tensor/product_table.h"
#include "tests/support/attention_case.h"
#include "tests/support/ops_check.h"

static kd_product_key key_number(int64_t n)
{
    return (kd_product_key){.m = n, .n = 7, .k = n * n};
}

Test(ops_products, a_full_table_gives_up_what_was_used_least_recently)
{
    kd_product_table *table = calloc(1, sizeof *table);
    bool evicted = false;
    cr_assert_not_null(table);
    for (int64_t n = 0; n < KD_PRODUCTS_MAX; n++) {
        const kd_product_key key = key_number(n);
        cr_assert_eq(kd_product_table_find(table, &key), -1);
        cr_assert_eq(kd_product_table_add(table, &key, &evicted), n);
        cr_assert_not(evicted);
    }
    const kd_product_key first = key_number(0), second = key_number(1), fresh = key_number(-1);
    cr_expect_eq(kd_product_table_find(table, &first), 0, "which is now the newest");
    cr_expect_eq(kd_product_table_add(table, &fresh, &evicted), 1);
    cr_expect(evicted);
    cr_expect_eq(kd_product_table_find(table, &second), -1);
    cr_expect_eq(kd_product_table_find(table, &fresh), 1);
    cr_expect_eq(kd_product_table_find(table, &first), 0);
    free(table);
}

/* Twice round through more products than a table holds: each takes the place of one still needed. */
Test(ops_products, a_table_that_is_too_small_still_finds_what_it_has)
{
    kd_product_table *table = calloc(1, sizeof *table);
    cr_assert_not_null(table);
    for (int64_t round = 0; round < 2; round++) {
        for (int64_t n = 0; n < 3 * KD_PRODUCTS_MAX; n++) {
            const kd_product_key key = key_number(n);
            bool evicted;
            cr_assert_eq(kd_product_table_find(table, &key), -1);
            const int place = kd_product_table_add(table, &key, &evicted);
            cr_assert_eq(kd_product_table_find(table, &key), place);
        }
    }
    cr_expect_eq(table->n_used, KD_PRODUCTS_MAX);
    free(table);
}

enum { E = 4, O = 48, K = 80, TILE = 32, ROWS = 1152 };

/* Segments of any sizes in tiles, keyed by the pass. */
static void set_offsets(int32_t offset[E + 1], int pass)
{
    int32_t at = 0;
    for (int e = 0; e < E; e++) {
        offset[e] = at;
        at += TILE * ((pass * 7 + e * 5) % (ROWS / TILE / E + 1));
    }
    offset[E] = at;
}

static int64_t made_by_routing(kd_dtype compute, int n_threads)
{
    kd_backend *be = kd_test_backend(compute, n_threads);
    cr_assert_eq(be->expert_tile, TILE);
    cr_assert_eq(kd_expert_rows(be, 1024, 1, E), ROWS);
    const kd_tensor x = kd_test_random(compute, ROWS, K, 1),
                    w = kd_test_random(compute, E * O, K, 2);
    const kd_tensor y = kd_test_zeros(compute, ROWS, O), dx = kd_test_zeros(compute, ROWS, K);
    const kd_tensor dw = kd_test_zeros(KD_F32, E * O, K);
    const kd_tensor w3 = kd_tensor_3d(w.data, compute, E, O, K);
    int32_t offset[E + 1];
    const kd_route route = {.offset = kd_tensor_1d(offset, KD_I32, E + 1)};
    int64_t after_first = 0;
    for (int pass = 0; pass < 12; pass++) {
        set_offsets(offset, pass);
        be->ops->experts(be, y, x, w3, &route);
        be->ops->experts_backward_x(be, dx, y, w3, &route);
        be->ops->experts_backward_w(be, kd_tensor_3d(dw.data, KD_F32, E, O, K), y, x, &route,
                                    pass > 0);
        after_first = pass == 0 ? kd_cpu_products_made(be) : after_first;
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_gt(after_first, 0);
    const int64_t made = kd_cpu_products_made(be) - after_first;
    const kd_tensor all[] = {x, w, y, dx, dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(be);
    return made;
}

Test(ops_products, other_routing_makes_no_product_after_the_first_pass)
{
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        cr_expect_eq(made_by_routing(KD_F32, n_threads), 0, "f32, %d threads", n_threads);
        cr_expect_eq(made_by_routing(KD_BF16, n_threads), 0, "bf16, %d threads", n_threads);
    }
}

/* Preparing reads and writes nothing: guards stand behind the tensors, and sums keep their value. */
Test(ops_products, preparing_leaves_gradients_alone)
{
    kd_backend *be = kd_test_backend(KD_F32, 2);
    const kd_tensor dy = kd_test_random(KD_F32, 64, O, 1), x = kd_test_random(KD_F32, 64, K, 2);
    const kd_tensor dw = kd_test_random(KD_F32, E * O, K, 3),
                    before = kd_test_random(KD_F32, E * O, K, 3);
    const int32_t none[E + 1] = {0};
    const kd_route route = {.offset = kd_tensor_1d((void *)(uintptr_t)none, KD_I32, E + 1)};
    be->ops->experts_backward_w(be, kd_tensor_3d(dw.data, KD_F32, E, O, K), dy, x, &route, true);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_gt(kd_cpu_products_made(be), 0);
    cr_expect_eq(kd_test_nmse(dw, before), 0.0);
    kd_test_free(dy);
    kd_test_free(x);
    kd_test_free(dw);
    kd_test_free(before);
    kd_backend_destroy(be);
}

Test(ops_products, a_long_sequence_makes_no_product_the_second_time)
{
    attention_case f = attention_case_make(KD_F32, 1, (attention_shape){1, 12288, 1, 1, 4});
    attention_case_forward(&f);
    attention_case_backward(&f);
    const int64_t made = kd_cpu_products_made(f.be);
    cr_expect_gt(made, 0);
    attention_case_forward(&f);
    attention_case_backward(&f);
    cr_expect_eq(kd_cpu_products_made(f.be), made);
    attention_case_release(&f);
}

enum { SEGMENTED = 96 };

/* Segments of 1 to 64 rows, others in each pass. */
static void cut_anew(int32_t segments[2 * SEGMENTED], uint32_t *state)
{
    int32_t number = 0, left = 0;
    for (int i = 0; i < 2 * SEGMENTED; i++) {
        if (left-- == 0) {
            *state = *state * 1664525u + 1013904223u;
            left = (int32_t)(*state >> 26);
            number++;
        }
        segments[i] = number;
    }
}

/* Two products forward, five backward, of spans of six padded lengths, whose last rows may be a copy. */
Test(ops_products, segments_of_any_lengths_make_few_products)
{
    enum { PRODUCTS = 7, LENGTHS = SEGMENTED / 16, PLACES = 2 };

    uint32_t state = 7;
    attention_case f = attention_case_make(KD_F32, 1, (attention_shape){2, SEGMENTED, 4, 2, 6});
    f.a.segments = kd_test_zeros(KD_I32, 1, INT64_C(2) * SEGMENTED);
    for (int pass = 0; pass < 40; pass++) {
        cut_anew(kd_test_ints(f.a.segments), &state);
        attention_case_forward(&f);
        attention_case_backward(&f);
    }
    const int64_t made = kd_cpu_products_made(f.be);
    cr_expect_gt(made, 0);
    cr_expect_leq(made, PRODUCTS * LENGTHS * PLACES, "made %d", (int)made);
    attention_case_release(&f);
}

enum { THREADS_MAX = 64 };

/* Ids of this process's threads; they are not used again soon. Returns how many. */
static int thread_ids(long ids_out[THREADS_MAX])
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    cr_assert_not_null(tasks);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        if (task->d_name[0] != '.') {
            cr_assert_lt(n, THREADS_MAX);
            ids_out[n++] = strtol(task->d_name, NULL, 10);
        }
    }
    (void)closedir(tasks);
    return n;
}

/* Products and passes worth one thread, some, and all. */
static void use_all_sizes(kd_backend *be)
{
    static const int64_t sizes[] = {1, 16, 17, 33, 48, 64, 100, 130, 257};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t n = sizes[i];
        const kd_tensor x = kd_test_random(be->compute, n, 300, 1);
        const kd_tensor w = kd_test_random(be->compute, 4 * n, 300, 2);
        const kd_tensor y = kd_test_zeros(KD_F32, n, 4 * n), dw = kd_test_zeros(KD_F32, 4 * n, 300);
        be->ops->linear(be, y, x, w);
        be->ops->linear_backward_w(be, dw, y, x, true);
        be->ops->add(be, y, y);
        kd_test_free(x);
        kd_test_free(w);
        kd_test_free(y);
        kd_test_free(dw);
    }
}

Test(ops_products, one_team_of_threads_does_everything)
{
    kd_backend *be = kd_test_backend(KD_F32, 4);
    long before[THREADS_MAX], after[THREADS_MAX];
    use_all_sizes(be);
    const int n_before = thread_ids(before);
    cr_expect_geq(n_before, 4);
    for (int round = 0; round < 3; round++) {
        use_all_sizes(be);
        cr_assert_eq(thread_ids(after), n_before);
        cr_assert_eq(memcmp(before, after, (size_t)n_before * sizeof *before), 0,
                     "a thread ended and another was created");
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    kd_backend_destroy(be);
}

Test(ops_products, the_program_keeps_its_number_of_threads)
{
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        kd_backend *be = kd_test_backend(KD_F32, n_threads);
        const kd_tensor x = kd_test_random(KD_F32, 3, 17, 1), w = kd_test_random(KD_F32, 5, 17, 2);
        const kd_tensor y = kd_test_zeros(KD_F32, 3, 5);
        omp_set_num_threads(3);
        be->ops->linear(be, y, x, w);
        cr_expect_eq(kd_backend_wait(be), KD_OK);
        cr_expect_eq(omp_get_max_threads(), 3, "found %d", omp_get_max_threads());
        kd_test_free(x);
        kd_test_free(w);
        kd_test_free(y);
        kd_backend_destroy(be);
    }
}
