/* Every allocation of the CPU back end fails in turn; linked with --wrap=calloc and --wrap=mmap. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tensor/ops.h"

static int n_left = -1; /* allocations until one fails; negative: none does */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

static int n_mapped;

static bool fails_now(void)
{
    return n_left >= 0 && n_left-- == 0;
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    n_mapped++;
    return fails_now() ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

Test(ops_memory, creation_fails_whole_at_every_allocation)
{
    int n_failures = 0;
    kd_fault_quiet(1);
    for (int n = 0;; n++) {
        kd_backend *be = NULL;
        n_left = n;
        const kd_status st = kd_backend_create_cpu(KD_BF16, 3, &be);
        const bool failed = n_left < 0;
        n_left = -1;
        if (!failed) {
            cr_assert_eq(st, KD_OK);
            kd_backend_destroy(be);
            break;
        }
        cr_assert_eq(st, KD_ERR_NOMEM, "allocation %d", n);
        cr_assert_null(be);
        n_failures++;
    }
    cr_expect_geq(n_failures, 5, "the back end, its lanes and three caches");
}

static float x[64], y[64];
static uint16_t halves[64];

static void square(kd_backend *be, int64_t n)
{
    be->ops->linear(be, kd_tensor_2d(y, KD_F32, n, n), kd_tensor_2d(x, KD_F32, n, n),
                    kd_tensor_2d(x, KD_F32, n, n));
}

Test(ops_memory, a_product_without_memory_is_a_lasting_fault)
{
    kd_backend *be = NULL;
    kd_fault_quiet(1);
    cr_assert_eq(kd_backend_create_cpu(KD_F32, 1, &be), KD_OK);
    n_left = 0;
    y[0] = 7.0f;
    square(be, 8);
    n_left = -1;
    square(be, 8);
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    cr_expect_eq(y[0], 7.0f, "neither the product that failed nor the next wrote");
    kd_backend_destroy(be);
}

Test(ops_memory, a_widened_product_without_memory_is_a_lasting_fault)
{
    kd_backend *be = NULL;
    kd_fault_quiet(1);
    cr_assert_eq(setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1), 0); /* before oneDNN looks at the CPU */
    cr_assert_eq(kd_backend_create_cpu(KD_BF16, 1, &be), KD_OK);
    n_left = 0;
    y[0] = 7.0f;
    const kd_tensor operand = kd_tensor_2d(halves, KD_BF16, 8, 8);
    be->ops->linear(be, kd_tensor_2d(y, KD_F32, 8, 8), operand, operand);
    n_left = -1;
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    cr_expect_eq(y[0], 7.0f);
    kd_backend_destroy(be);
}

Test(ops_memory, pages_that_are_refused_are_reported)
{
    kd_backend *be = NULL;
    kd_fault_quiet(1);
    cr_assert_eq(kd_backend_create_cpu(KD_F32, 1, &be), KD_OK);
    n_left = 0;
    cr_expect_null(be->ops->alloc(be, KD_MEMORY_DEVICE, 100));
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    n_left = 0;
    be->ops->bias_backward(be, kd_tensor_1d(y, KD_F32, 8), kd_tensor_2d(x, KD_F32, 8, 8), true);
    n_left = -1;
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM, "scratch memory is asked for on the queue");
    kd_backend_destroy(be);
}

static void *take_pages(void *user, size_t size_bytes)
{
    (void)user;
    return kd_cpu_pages_tried(size_bytes, true);
}

static void give_pages(void *user, void *memory)
{
    (void)user;
    kd_cpu_pages_free(memory);
}

Test(ops_memory, scratch_that_could_have_become_one_block_is_no_fault)
{
    kd_scratch scratch = {.source = {take_pages, give_pages, NULL}};
    cr_assert_not_null(kd_scratch_take(&scratch, 100));
    cr_assert_not_null(kd_scratch_take(&scratch, 1 << 20));
    kd_fault_recall("what was amiss before");
    n_left = 0;
    kd_scratch_rewind(&scratch, 0);
    cr_expect_eq(n_left, -1, "it asked");
    cr_expect_str_eq(kd_fault_text(), "what was amiss before");
    cr_expect_not_null(kd_scratch_take(&scratch, 1 << 20));
    kd_scratch_rewind(&scratch, 0);
    kd_fault_quiet(1);
    cr_expect_null(kd_scratch_take(&scratch, SIZE_MAX / 2));
    cr_expect_str_neq(kd_fault_text(), "what was amiss before");
    kd_scratch_release(&scratch);
}

static void count_chunk(void *user, const kd_vocab_chunk *chunk)
{
    (*(int *)user)++;
    chunk->be->ops->bias_backward(chunk->be, kd_tensor_1d(y, KD_F32, 8),
                                  kd_tensor_2d(x, KD_F32, 8, 8),
                                  true); /* takes scratch memory as well */
}

Test(ops_memory, the_same_work_maps_nothing_the_second_time)
{
    static float hidden[40 * 8], lm_head[30 * 8], d_hidden[40 * 8], d_lm_head[30 * 8];
    double sums[KD_VOCAB_SUMS] = {0};
    int n_chunks = 0, mapped[3];
    kd_backend *be = NULL;
    const kd_vocab_teacher teacher = {.hidden = kd_tensor_2d(hidden, KD_F32, 40, 8),
                                      .lm_head = kd_tensor_2d(lm_head, KD_F32, 30, 8),
                                      .weight = 1.0};
    const kd_vocab_loss loss = {.hidden = kd_tensor_2d(hidden, KD_F32, 40, 8),
                                .lm_head = kd_tensor_2d(lm_head, KD_F32, 30, 8),
                                .sums = kd_tensor_1d(sums, KD_F64, KD_VOCAB_SUMS),
                                .d_hidden = kd_tensor_2d(d_hidden, KD_F32, 40, 8),
                                .d_lm_head = kd_tensor_2d(d_lm_head, KD_F32, 30, 8),
                                .teachers = &teacher,
                                .n_teachers = 1,
                                .n_vocab = 30,
                                .temperature = 1.0f,
                                .kd_scale = 1.0f,
                                .chunk_rows = 32,
                                .chunk = count_chunk,
                                .user = &n_chunks};
    cr_assert_eq(kd_backend_create_cpu(KD_F32, 2, &be), KD_OK);
    for (int i = 0; i < 3; i++) {
        n_mapped = 0;
        square(be, 8);
        be->ops->vocab_loss(be, &loss);
        mapped[i] = n_mapped;
    }
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    cr_expect_eq(n_chunks, 6);
    cr_expect_gt(mapped[0], 0);
    cr_expect_eq(mapped[1] + mapped[2], 0, "found %d and %d", mapped[1], mapped[2]);
    kd_backend_destroy(be);
}

Test(ops_memory, a_loss_without_memory_is_a_fault_or_whole_at_every_allocation)
{
    static float hidden[40 * 8], lm_head[30 * 8], d_lm_head[30 * 8];
    double sums[KD_VOCAB_SUMS] = {0};
    const kd_vocab_loss loss = {.hidden = kd_tensor_2d(hidden, KD_F32, 40, 8),
                                .lm_head = kd_tensor_2d(lm_head, KD_F32, 30, 8),
                                .sums = kd_tensor_1d(sums, KD_F64, KD_VOCAB_SUMS),
                                .d_lm_head = kd_tensor_2d(d_lm_head, KD_F32, 30, 8),
                                .temperature = 1.0f};
    kd_fault_quiet(1);
    for (int n = 0, done = 0; !done; n++) {
        kd_backend *be = NULL;
        cr_assert_eq(kd_backend_create_cpu(KD_F32, 1, &be), KD_OK);
        sums[KD_VOCAB_SUM_ROWS] = 0.0;
        n_left = n;
        be->ops->vocab_loss(be, &loss);
        done = n_left >= 0;
        n_left = -1;
        const kd_status st = kd_backend_wait(be); /* memory to come back to may be refused */
        cr_expect(st == KD_ERR_NOMEM || (st == KD_OK && sums[KD_VOCAB_SUM_ROWS] == 40.0),
                  "allocation %d: %d", n, (int)st);
        cr_expect(n > 0 || st == KD_ERR_NOMEM);
        kd_backend_destroy(be);
    }
}
