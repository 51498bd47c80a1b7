/*
 * test_backend.cu - what the CUDA back end owes to the runtime rather than to its table: the right device, the
 * limits of copies and launches, and errors that are told once.
 */
#include "harness.h"

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
