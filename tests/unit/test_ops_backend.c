#include <criterion/criterion.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tests/support/ops_check.h"

Test(ops_backend, memory_of_every_kind_is_zero_and_aligned)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    for (int kind = 0; kind < KD_MEMORY_COUNT; kind++) {
        unsigned char *memory = be->ops->alloc(be, (kd_memory)kind, 1000);
        cr_assert_not_null(memory);
        cr_expect_eq((uintptr_t)memory % KD_ARENA_ALIGN, 0);
        for (int i = 0; i < 1000; i++) {
            cr_assert_eq(memory[i], 0);
        }
        memset(memory, 1, 1000);
        be->ops->free(be, memory);
    }
    be->ops->free(be, NULL);
    kd_backend_destroy(be);
}

Test(ops_backend, a_host_declines_to_share_memory_and_has_no_fault)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_memory_handle handle = {.size_bytes = 7};
    void *memory = be->ops->alloc(be, KD_MEMORY_DEVICE, 64), *imported = NULL;
    cr_expect_eq(be->ops->memory_export(be, memory, &handle), KD_ERR_NOT_FOUND);
    cr_expect(strstr(kd_fault_text(), "alone") != NULL, "%s", kd_fault_text());
    cr_expect_eq(be->ops->memory_import(be, &handle, &imported), KD_ERR_NOT_FOUND);
    cr_expect(handle.size_bytes == 7 && imported == NULL, "outputs are untouched");
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    be->ops->free(be, memory);
    kd_backend_destroy(be);
}

Test(ops_backend, an_event_is_complete_once_what_was_queued_before_is)
{
    kd_backend *be = kd_test_backend(KD_F32, 1), *other = kd_test_backend(KD_F32, 1);
    const kd_tensor x = kd_test_random(KD_F32, 3, 17, 1), y = kd_test_zeros(KD_F32, 3, 17);
    cr_expect(be->ops->event_query(be, (kd_event){0}), "no event is complete");
    be->ops->copy(be, y, x);
    const kd_event copied = be->ops->event_record(be);
    other->ops->event_wait(other, copied);
    other->ops->add(other, y, x); /* only after the copy */
    const kd_event added = other->ops->event_record(other), later = other->ops->event_record(other);
    cr_expect_gt(later.number, added.number);
    cr_expect_eq(kd_backend_wait(other), KD_OK);
    cr_expect(other->ops->event_query(other, added));
    cr_expect(be->ops->event_query(be, copied));
    cr_expect_float_eq(kd_test_get(y, 2, 16), 2.0 * kd_test_get(x, 2, 16), 1e-6);
    kd_test_free(x);
    kd_test_free(y);
    kd_backend_destroy(other);
    kd_backend_destroy(be);
}

/* As a product in the second lane would fail: on a thread of the team. */
static void fail_in_second_lane(const void *args, int lane, int64_t begin, int64_t end)
{
    (void)begin;
    (void)end;
    if (lane == 1) {
        kd_fault_quiet(1);
        kd_backend_keep_fault((kd_backend *)(uintptr_t)args,
                              kd_fail(KD_ERR_NOMEM, "no memory here"));
    }
}

Test(ops_backend, a_fault_keeps_its_text_from_one_back_end_to_another)
{
    kd_backend *teacher = kd_test_backend(KD_F32, 2), *student = kd_test_backend(KD_F32, 1);
    (void)kd_parallel_rows(teacher, 2, 1, fail_in_second_lane, teacher);
    cr_expect_str_eq(kd_fault_text(), "", "another thread's");
    student->ops->event_wait(student, teacher->ops->event_record(teacher));
    kd_fault_recall("something else");
    cr_expect_eq(kd_backend_wait(student), KD_ERR_NOMEM);
    cr_expect_str_eq(kd_fault_text(), "no memory here");
    kd_backend_destroy(student);
    kd_backend_destroy(teacher);
}

Test(ops_backend, a_drained_queue_leaves_the_last_fault_what_it_is)
{
    kd_backend *be = kd_test_backend(KD_F32, 2);
    (void)kd_parallel_rows(be, 2, 1, fail_in_second_lane, be);
    kd_fault_recall("why it all ends");
    kd_backend_drain(be);
    cr_expect_str_eq(kd_fault_text(), "why it all ends");
    cr_expect_eq(kd_backend_tell_fault(be), KD_ERR_NOMEM);
    cr_expect_str_eq(kd_fault_text(), "no memory here");
    kd_backend_destroy(be);
}

Test(ops_backend, it_says_what_device_it_drives_and_how_segments_are_cut)
{
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    cr_expect_eq(be->device.kind, KD_DEVICE_CPU);
    cr_expect_str_eq(be->device.name, "cpu");
    const int64_t tile = be->expert_tile;
    cr_assert_gt(tile, 0);
    cr_expect_eq(kd_expert_rows(be, 1, 1, 1), tile);
    cr_expect_eq(kd_expert_rows(be, tile, 2, 1), 3 * tile, "the worst case, whatever the number");
    cr_expect_geq(kd_expert_rows(be, 1, 8, 8), 8 * tile, "each of eight begins a segment");
    kd_backend_destroy(be);
}

static void *fail_elsewhere(void *be)
{
    (void)kd_fault_quiet(1);
    kd_backend_keep_fault(be, kd_fail(KD_ERR_IO, "lane 1 has no product"));
    return NULL;
}

Test(ops_backend, the_reason_of_a_fault_reaches_who_waits_from_any_thread)
{
    kd_backend *be = kd_test_backend(KD_F32, 2);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, fail_elsewhere, be), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    (void)kd_fault_quiet(1);
    kd_backend_keep_fault(be, kd_fail(KD_ERR_NOMEM, "a later one"));
    cr_expect_eq(kd_backend_wait(be), KD_ERR_IO);
    cr_expect_str_eq(kd_fault_text(), "lane 1 has no product");
    kd_backend_destroy(be);
}

Test(ops_backend, a_rehearsal_reads_and_writes_nothing_and_counts_all)
{
    kd_backend *be;
    const float ones[] = {1, 1, 1, 1};
    float found[] = {2, 2, 2, 2};
    cr_assert_eq(kd_backend_create_rehearsal(KD_F32, 3, &be), KD_OK);
    void *huge = be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)1 << 42);
    cr_assert_not_null(huge);
    cr_expect_eq(be->ops->memory_usage(be).held_bytes, (size_t)1 << 42);
    const kd_tensor t = kd_tensor_1d(huge, KD_F32, 4);
    be->ops->upload(be, t, ones);
    be->ops->download(be, found, t);
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    for (int i = 0; i < 4; i++) {
        cr_expect_eq(found[i], 0.0f);
    }
    be->ops->free(be, huge);
    cr_expect_eq(be->ops->memory_usage(be).held_bytes, 0);
    kd_backend_destroy(be);
}

Test(ops_backend, scratch_that_no_machine_has_is_a_lasting_fault)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    float one = 7.0f;
    const int64_t t = (int64_t)1 << 45; /* never touched: the scratch memory is asked for first */
    const kd_tensor row = kd_tensor_2d(&one, KD_F32, t, 2);
    const kd_attention a = {.q = row,
                            .k = row,
                            .v = row,
                            .out = row,
                            .n_batch = 1,
                            .n_tokens = t,
                            .n_heads = 1,
                            .n_kv_heads = 1,
                            .head_dim = 2};
    be->ops->attention(be, &a);
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    be->ops->zero(be, kd_tensor_1d(&one, KD_F32, 1));
    cr_expect_eq(one, 7.0f, "operations after a fault do nothing");
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    kd_backend_destroy(be);
}
