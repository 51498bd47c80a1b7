/*
 * test_backend.cu - what the CUDA back end owes to the runtime rather than to its table: the right device, the
 * limits of copies and launches, and errors that are told once.
 */
#include "harness.h"

#include "tensor/cuda/kernels.h"
#include "tensor/cuda/proven.h"
#include "tensor/ops.h"

static kd_backend *create(int number)
{
    kd_backend *be = nullptr;
    if (kd_backend_create_cuda(KD_F32, number, &be))
        abort();
    return be;
}

/* Memory of n floats on the back end's device, which free() takes back. */
static kd_tensor take(kd_backend *be, int64_t rows, int64_t columns)
{
    void *memory = be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)(rows * columns) * sizeof(float));
    if (!memory)
        abort();
    return kd_tensor_2d(memory, KD_F32, rows, columns);
}

/* y = x + x by operations that copy, launch and multiply. */
static void expect_sums(kd_backend *be, const char *what)
{
    const std::vector<float> x = {1, 2, 3, 4}, unit = {1, 0, 0, 1};
    std::vector<float> got(4);
    const kd_tensor a = take(be, 2, 2), b = take(be, 2, 2), c = take(be, 2, 2);
    be->ops->upload(be, a, x.data());
    be->ops->upload(be, b, unit.data());
    be->ops->linear(be, c, a, b);
    be->ops->add(be, c, a);
    be->ops->download(be, got.data(), c);
    KD_EXPECT(kd_backend_wait(be) == KD_OK, what);
    for (size_t i = 0; i < got.size(); i++)
        KD_EXPECT(got[i] == 2 * x[i], std::string(what) + " " + std::to_string(got[i]));
    for (kd_tensor t : {a, b, c})
        be->ops->free(be, t.data);
}

KD_TEST(backend, two_devices_are_driven_by_one_thread)
{
    kd_backend *first = create(0), *second = create(1);
    int device = -1;
    expect_sums(first, "on device 0");
    expect_sums(second, "on device 1");
    expect_sums(first, "on device 0 again");
    KD_EXPECT(!cudaSetDevice(1), "set");
    expect_sums(first, "whatever the thread's device is");
    KD_EXPECT(!cudaGetDevice(&device) && device == 1, "which stays as it was");
    kd_backend_destroy(first);
    kd_backend_destroy(second);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

KD_TEST(backend, memory_lies_on_the_back_ends_device)
{
    kd_backend *first = create(0), *second = create(1);
    cudaPointerAttributes where;
    for (kd_backend *be : {first, second}) {
        const kd_tensor t = take(be, 1, 1);
        KD_EXPECT(!cudaPointerGetAttributes(&where, t.data), "attributes");
        KD_EXPECT(where.device == be->device.number, std::to_string(where.device));
        be->ops->free(be, t.data);
    }
    kd_backend_destroy(first);
    kd_backend_destroy(second);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

KD_TEST(backend, an_event_of_one_device_holds_back_another)
{
    kd_backend *first = create(0), *second = create(1);
    const std::vector<float> seven = {7};
    float got = 0;
    const kd_tensor from = take(first, 1, 1), to = take(second, 1, 1);
    first->ops->upload(first, from, seven.data());
    second->ops->event_wait(second, first->ops->event_record(first));
    second->ops->copy(second, to, from);
    second->ops->download(second, &got, to);
    KD_EXPECT(kd_backend_wait(second) == KD_OK && got == 7, std::to_string(got));
    first->ops->free(first, from.data);
    second->ops->free(second, to.data);
    kd_backend_destroy(first);
    kd_backend_destroy(second);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

/* x grows by 1 on one device and is then copied to the other, where it does the same, and so on; events are
 * awaited that the rings no longer hold. */
static void play_ping_pong(unsigned seed)
{
    enum { ROUNDS = 50 };

    kd_backend *be[2] = {create(0), create(1)};
    const float start[2] = {0, 1};
    float got = 0;
    kd_tensor x[2], one[2];
    kd_cuda_host_set_seed(seed);
    for (int i = 0; i < 2; i++) {
        x[i] = take(be[i], 1, 1);
        one[i] = take(be[i], 1, 1);
        be[i]->ops->upload(be[i], x[i], &start[0]);
        be[i]->ops->upload(be[i], one[i], &start[1]);
    }
    const kd_event early = be[0]->ops->event_record(be[0]);
    for (int round = 0; round < ROUNDS; round++) {
        const int turn = round % 2;
        be[turn]->ops->add(be[turn], x[turn], one[turn]);
        const kd_event added = be[turn]->ops->event_record(be[turn]);
        be[1 - turn]->ops->event_wait(be[1 - turn], early);
        be[1 - turn]->ops->event_wait(be[1 - turn], added);
        be[1 - turn]->ops->copy(be[1 - turn], x[1 - turn], x[turn]);
        be[turn]->ops->event_wait(be[turn], be[1 - turn]->ops->event_record(be[1 - turn]));
        be[turn]->ops->event_record(be[turn]);
    }
    be[0]->ops->download(be[0], &got, x[0]);
    KD_EXPECT(got == ROUNDS, std::to_string(got));
    for (int i = 0; i < 2; i++) {
        KD_EXPECT(kd_backend_wait(be[i]) == KD_OK, kd_fault_text());
        be[i]->ops->free(be[i], x[i].data);
        be[i]->ops->free(be[i], one[i].data);
        kd_backend_destroy(be[i]);
    }
    kd_cuda_host_set_seed(0);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

KD_TEST(backend, two_that_wait_for_each_other_both_end)
{
    for (unsigned seed = 0; seed < 2; seed++)
        play_ping_pong(seed);
}

/* The runtime takes no stride of 2 GiB, even of one row. */
KD_TEST(backend, one_row_is_copied_whatever_its_stride)
{
    kd_backend *be = create(0);
    const std::vector<float> x = {1, 2, 3};
    std::vector<float> got(3);
    kd_tensor a = take(be, 1, 3), b = take(be, 1, 3);
    a.row_stride = b.row_stride = int64_t(1) << 30;
    be->ops->upload(be, a, x.data());
    be->ops->copy(be, b, a);
    be->ops->download(be, got.data(), b);
    KD_EXPECT(kd_backend_wait(be) == KD_OK && got == x, "up, across and down");
    be->ops->free(be, a.data);
    be->ops->free(be, b.data);
    kd_backend_destroy(be);
}

/* What a kernel declares itself counts among the 48 KiB that nobody need ask for. */
KD_TEST(backend, a_norm_may_fill_shared_memory)
{
    kd_backend *be = create(0);
    for (int64_t columns = 12288 - 64; columns <= 12288 + 64; columns += 32) {
        const kd_tensor x = take(be, 1, columns), dx = take(be, 1, columns),
                        w = take(be, 1, columns), dw = take(be, 1, columns), rstd = take(be, 1, 1);
        be->ops->norm_backward(be, dx, dw, x, x, w, rstd, false);
        KD_EXPECT(kd_backend_wait(be) == KD_OK, std::to_string(columns));
        for (kd_tensor t : {x, dx, w, dw, rstd})
            be->ops->free(be, t.data);
    }
    kd_backend_destroy(be);
}

KD_TEST(backend, an_event_that_is_not_past_leaves_no_error)
{
    kd_backend *be = create(0);
    const kd_tensor t = take(be, 64, 64);
    bool waited = false;
    for (int i = 0; i < 3; i++)
        be->ops->zero(be, t);
    const kd_event event = be->ops->event_record(be);
    while (!be->ops->event_query(be, event)) {
        waited = true;
        KD_EXPECT(cudaGetLastError() == cudaSuccess, "after a question");
    }
    KD_EXPECT(waited, "or nothing was asked");
    be->ops->free(be, t.data);
    kd_backend_destroy(be);
}

KD_TEST(backend, a_mark_that_is_ahead_is_not_waited_for)
{
    kd_backend *be = create(0);
    const kd_tensor t = take(be, 64, 64);
    kd_marks *marks = be->ops->marks_create(be, 2);
    double s = -1;
    int n_asked = 0;
    be->ops->mark(be, marks, 0);
    for (int i = 0; i < 3; i++)
        be->ops->zero(be, t);
    be->ops->mark(be, marks, 1);
    while (!be->ops->marks_elapsed(be, marks, 0, 1, &s)) {
        n_asked++;
        KD_EXPECT(s == -1 && cudaGetLastError() == cudaSuccess, "after a question");
    }
    KD_EXPECT(n_asked > 0, "or it was waited for");
    KD_EXPECT(s >= 0 && s < 600, std::to_string(s));
    be->ops->marks_destroy(be, marks);
    be->ops->free(be, t.data);
    kd_backend_destroy(be);
}

#ifndef __CUDACC__
/* Late as the device is, it has not run one that nobody asked for: what it copies is still to be changed. */
KD_TEST(backend, operations_wait_for_no_transfer_unasked)
{
    kd_backend *be = create(0);
    const kd_tensor a = take(be, 1, 1), b = take(be, 1, 1);
    float *host = (float *)be->ops->alloc(be, KD_MEMORY_HOST, sizeof(float)), got = 0;
    *host = 1;
    const kd_event up = be->ops->transfer(be, a.data, host, sizeof(float), {});
    be->ops->add(be, b, b);
    be->ops->download(be, &got, b);
    *host = 2;
    be->ops->event_wait(be, up);
    be->ops->download(be, &got, a);
    KD_EXPECT(got == 2, std::to_string(got));
    be->ops->free(be, a.data);
    be->ops->free(be, b.data);
    be->ops->free(be, host);
    kd_backend_destroy(be);
}

/* An id that the table does not have ends the kernel, and with it the device. */
static void fail(kd_backend *be, kd_tensor table, kd_tensor ids, kd_tensor y)
{
    const int32_t wrong = 5;
    be->ops->upload(be, ids, &wrong);
    be->ops->embed(be, y, table, ids);
}

/* Expects the fault of `first`, which only its device knows yet, at the wait of who waits for it. */
static void expect_passed_on(int number, const char *text)
{
    kd_backend *first = create(0), *second = create(number);
    const kd_tensor table = take(first, 2, 4), y = take(first, 1, 4), to = take(second, 1, 4);
    const kd_tensor ids = kd_tensor_1d(take(first, 1, 1).data, KD_I32, 1);
    const int quiet = kd_fault_quiet(1);
    fail(first, table, ids, y);
    second->ops->event_wait(second, first->ops->event_record(first));
    second->ops->zero(second, to);
    KD_EXPECT(first->fault == KD_OK && second->fault == KD_OK, "nobody knows");
    KD_EXPECT(kd_backend_wait(second) == KD_ERR_IO, std::to_string(number));
    KD_EXPECT(strstr(kd_fault_text(), text), kd_fault_text());
    KD_EXPECT(kd_backend_wait(first) == KD_ERR_IO, "its own");
    KD_EXPECT(strstr(kd_fault_text(), "embed met an id that is no row of its table"),
              kd_fault_text());
    kd_fault_quiet(quiet);
    kd_cuda_host_recover();
    for (kd_tensor t : {table, y, ids})
        first->ops->free(first, t.data);
    second->ops->free(second, to.data);
    kd_backend_destroy(first);
    kd_backend_destroy(second);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

KD_TEST(backend, a_fault_reaches_who_waits_for_it)
{
    expect_passed_on(0, "what was queued");
    expect_passed_on(1, "CUDA device 0, which it waited for");
}

/* A device goes on that nobody told to wait for the lost one. */
KD_TEST(backend, a_fault_is_that_of_its_device)
{
    kd_backend *first = create(0), *second = create(1);
    const kd_tensor table = take(first, 2, 4), y = take(first, 1, 4);
    const kd_tensor ids = kd_tensor_1d(take(first, 1, 1).data, KD_I32, 1);
    const int quiet = kd_fault_quiet(1);
    fail(first, table, ids, y);
    KD_EXPECT(kd_backend_wait(first) == KD_ERR_IO, "one");
    expect_sums(second, "and the other");
    kd_fault_quiet(quiet);
    kd_cuda_host_recover();
    for (kd_tensor t : {table, y, ids})
        first->ops->free(first, t.data);
    kd_backend_destroy(first);
    kd_backend_destroy(second);
    KD_EXPECT(!cudaSetDevice(0), "set");
}

KD_TEST(backend, memory_of_a_failed_device_is_a_fault_and_no_refusal)
{
    kd_backend *be = create(0);
    const kd_tensor table = take(be, 2, 4), y = take(be, 1, 4);
    kd_tensor ids = kd_tensor_1d(take(be, 1, 1).data, KD_I32, 1);
    fail(be, table, ids, y);
    KD_EXPECT(!be->ops->alloc(be, KD_MEMORY_DEVICE, 64), "none");
    const std::string text = kd_fault_text();
    KD_EXPECT(text.find("taking memory") != std::string::npos, text);
    KD_EXPECT(be->fault == KD_ERR_IO, std::to_string(be->fault));
    /* and each later call finds the first fault, told once */
    KD_EXPECT(kd_fail(KD_ERR_ARG, "another") == KD_ERR_ARG, "");
    KD_EXPECT(be->ops->event_query(be, be->ops->event_record(be)), "nobody waits for ever");
    KD_EXPECT(std::string(kd_fault_text()) == "another", kd_fault_text());
    KD_EXPECT(kd_backend_wait(be) == KD_ERR_IO && text == kd_fault_text(), kd_fault_text());
    kd_cuda_host_recover();
    for (kd_tensor t : {table, y, ids})
        be->ops->free(be, t.data);
    kd_backend_destroy(be);
}
#endif

/* ---- the choice between kernels ---- */

static int n_used(int capability, const char *wish)
{
    kd_cuda_choice choice;
    int n = 0;
    if (kd_cuda_choose(capability, wish, &choice))
        abort();
    for (bool used : choice.uses)
        n += used;
    return n;
}

KD_TEST(backend, kernels_are_chosen_by_what_was_proven)
{
    int n_plain = 0, n_fast_80 = 0, n_fast_90 = 0, n_proven_90 = 0;
#define COUNT(name, first, last, fast, sources, tests)                                             \
    n_plain += !(fast);                                                                            \
    n_fast_80 += (fast) && (first) <= 80 && 80 <= (last);                                          \
    n_fast_90 += (fast) && (first) <= 90 && 90 <= (last);
    KD_CUDA_KERNELS_EACH(COUNT)
#define COUNT_FAST(name, capability)                                                               \
    n_proven_90 += (capability) == 90 && is_fast[KD_CUDA_KERNEL_##name];
#define IS_FAST(name, first, last, fast, sources, tests) fast,
    const bool is_fast[] = {KD_CUDA_KERNELS_EACH(IS_FAST)};
    (void)is_fast;
    KD_CUDA_PROVEN_EACH(COUNT_FAST)
    KD_EXPECT(n_used(90, "plain") == n_plain, "plain");
    KD_EXPECT(n_used(80, "fast") == n_plain + n_fast_80, "fast on sm_80");
    KD_EXPECT(n_used(90, "fast") == n_plain + n_fast_90, "fast on sm_90");
    KD_EXPECT(n_used(90, "auto") == n_plain + n_proven_90, "auto");
    KD_EXPECT(n_used(90, nullptr) == n_used(90, "auto"), "by default");
}

KD_TEST(backend, a_choice_that_is_none_is_refused)
{
    kd_cuda_choice choice;
    kd_fault_quiet(1);
    KD_EXPECT(kd_cuda_choose(90, "quick", &choice) == KD_ERR_ARG, "quick");
    KD_EXPECT(strstr(kd_fault_text(), "\"quick\", expected auto, plain or fast"), kd_fault_text());
    kd_fault_quiet(0);
}
