/*
 * test_products.cu - the emulator's products by cuBLASLt: every combination of descriptors against three loops,
 * and what the library refuses.
 */
#include "harness.h"

#ifndef __CUDACC__
#include <cublasLt.h>

/* A matrix as the library is told of it; batches are `apart` elements from each other. */
struct matrix {
    cudaDataType_t type;
    cublasLtOrder_t order;
    int64_t rows, cols, ld, apart;
};

static matrix matrix_of(cudaDataType_t type, cublasLtOrder_t order, int64_t rows, int64_t cols)
{
    const int64_t width = order == CUBLASLT_ORDER_ROW ? cols : rows;
    const int64_t lines = order == CUBLASLT_ORDER_ROW ? rows : cols;
    const int64_t ld = (width + 7) / 8 * 8 + 8;
    return {type, order, rows, cols, ld, ld * lines};
}

static size_t at(const matrix &m, int64_t batch, int64_t i, int64_t j)
{
    return (size_t)(batch * m.apart +
                    (m.order == CUBLASLT_ORDER_ROW ? i * m.ld + j : j * m.ld + i));
}

static size_t bytes_of(const matrix &m, int64_t n_batches)
{
    return (size_t)(m.apart * n_batches) * (m.type == CUDA_R_16BF ? 2 : 4);
}

/* Its elements as the device has them, in memory of their exact size; NaN between the rows. */
struct values {
    matrix m;
    std::vector<float> v; /* by at() */
    device_array<char> device;

    values(const matrix &shape, int64_t n_batches)
        : m(shape), v((size_t)(shape.apart * n_batches), NAN), device(bytes_of(shape, n_batches))
    {
        for (int64_t b = 0; b < n_batches; b++)
            for (int64_t i = 0; i < m.rows; i++)
                for (int64_t j = 0; j < m.cols; j++)
                    v[at(m, b, i, j)] = rounded(kd_test_uniform());
        write();
    }

    float rounded(float x) const
    {
        return m.type == CUDA_R_16BF ? __bfloat162float(__float2bfloat16(x)) : x;
    }

    void write()
    {
        std::vector<__nv_bfloat16> narrow;
        for (float x : v)
            narrow.push_back(__float2bfloat16(x));
        const void *from = m.type == CUDA_R_16BF ? (const void *)narrow.data() : v.data();
        KD_EXPECT(!cudaMemcpy(device.p, from, device.n, cudaMemcpyHostToDevice), "write");
    }

    std::vector<float> read() const
    {
        const std::vector<char> bytes = device.get();
        std::vector<float> got(v.size());
        if (m.type == CUDA_R_32F) {
            memcpy(got.data(), bytes.data(), bytes.size());
            return got;
        }
        for (size_t i = 0; i < got.size(); i++) {
            __nv_bfloat16 x;
            memcpy(&x, bytes.data() + 2 * i, 2);
            got[i] = __bfloat162float(x);
        }
        return got;
    }
};

/* All that one product is asked with; a test changes what it wants to be wrong. */
struct request {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t layout[4] = {}; /* A, B, C, D */
    cublasLtMatmulPreference_t preference = nullptr;
    void *data[4] = {};
    float alpha = 1, beta = 0;
    void *workspace = nullptr;
    size_t workspace_bytes = 0;

    ~request()
    {
        for (cublasLtMatrixLayout_t l : layout)
            cublasLtMatrixLayoutDestroy(l);
        cublasLtMatmulPreferenceDestroy(preference);
        cublasLtMatmulDescDestroy(desc);
    }

    request() = default;
    request(const request &) = delete;
    request &operator=(const request &) = delete;

    template <class T> void set(cublasLtMatmulDescAttributes_t which, T value)
    {
        KD_EXPECT(!cublasLtMatmulDescSetAttribute(desc, which, &value, sizeof value), "desc");
    }

    template <class T> void set(int i, cublasLtMatrixLayoutAttribute_t which, T value)
    {
        KD_EXPECT(!cublasLtMatrixLayoutSetAttribute(layout[i], which, &value, sizeof value),
                  "layout");
    }

    template <class T> void set(cublasLtMatmulPreferenceAttributes_t which, T value)
    {
        KD_EXPECT(!cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value),
                  "preference");
    }

    void add(int i, const matrix &m, void *memory, int32_t n_batches)
    {
        KD_EXPECT(!cublasLtMatrixLayoutCreate(&layout[i], m.type, (uint64_t)m.rows,
                                              (uint64_t)m.cols, m.ld),
                  "layout");
        set(i, CUBLASLT_MATRIX_LAYOUT_ORDER, (int32_t)m.order);
        set(i, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, n_batches);
        set(i, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.apart);
        data[i] = memory;
    }

    void begin(cublasOperation_t op_a, cublasOperation_t op_b)
    {
        KD_EXPECT(!cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "desc");
        KD_EXPECT(!cublasLtMatmulPreferenceCreate(&preference), "preference");
        set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)op_a);
        set(CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)op_b);
    }

    cublasStatus_t choose(cublasLtHandle_t handle, int *n_found)
    {
        cublasLtMatmulHeuristicResult_t result;
        return cublasLtMatmulAlgoGetHeuristic(handle, desc, layout[0], layout[1], layout[2],
                                              layout[3], preference, 1, &result, n_found);
    }

    cublasStatus_t run(cublasLtHandle_t handle, cudaStream_t stream)
    {
        return cublasLtMatmul(handle, desc, &alpha, data[0], layout[0], data[1], layout[1], &beta,
                              data[2], layout[2], data[3], layout[3], nullptr, workspace,
                              workspace_bytes, stream);
    }
};

struct library {
    cublasLtHandle_t handle = nullptr;

    library()
    {
        KD_EXPECT(!cublasLtCreate(&handle), "handle");
    }

    ~library()
    {
        cublasLtDestroy(handle);
    }

    library(const library &) = delete;
    library &operator=(const library &) = delete;
};

/* ---- against three loops ---- */

struct kind {
    cudaDataType_t operands, result;
};

static const kind KINDS[] = {{CUDA_R_32F, CUDA_R_32F},
                             {CUDA_R_16BF, CUDA_R_32F},
                             {CUDA_R_16BF, CUDA_R_16BF}};

/* One product of KINDS; bits: A transposed, B transposed, A by rows, B by rows, C and D by rows, C is D. */
struct variant {
    kind types;
    int bits;
    double alpha, beta;
    int32_t n_batches;
    int64_t m, n, k;
};

static matrix operand(const variant &x, int shift, int64_t rows, int64_t cols)
{
    const bool transposed = x.bits >> shift & 1, by_rows = x.bits >> (2 + shift) & 1;
    return matrix_of(x.types.operands, by_rows ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL,
                     transposed ? cols : rows, transposed ? rows : cols);
}

static double element(const values &x, bool transposed, int64_t batch, int64_t i, int64_t j)
{
    return x.v[transposed ? at(x.m, batch, j, i) : at(x.m, batch, i, j)];
}

/* What D should hold, everywhere: what lies between its rows is as it was. */
static std::vector<float>
expected(const variant &x, const values &a, const values &b, const values &c, const values &d)
{
    std::vector<float> want = d.v;
    for (int64_t batch = 0; batch < x.n_batches; batch++)
        for (int64_t i = 0; i < x.m; i++)
            for (int64_t j = 0; j < x.n; j++) {
                double sum = 0;
                for (int64_t k = 0; k < x.k; k++)
                    sum +=
                        element(a, x.bits & 1, batch, i, k) * element(b, x.bits & 2, batch, k, j);
                const double before = x.beta != 0 ? kd_test_value(c.v[at(c.m, batch, i, j)]) : 0;
                want[at(d.m, batch, i, j)] = (float)(x.alpha * sum + x.beta * before);
            }
    return want;
}

static void
expect_same(const variant &x, const std::vector<float> &got, const std::vector<float> &want)
{
    const float tolerance = x.types.result == CUDA_R_16BF ? 1.0f / 256 : 1e-5f;
    for (size_t i = 0; i < want.size(); i++) {
        const bool same = want[i] != want[i]
                              ? got[i] != got[i]
                              : fabsf(got[i] - want[i]) <= tolerance * (1 + fabsf(want[i]));
        KD_EXPECT(same,
                  kd_test_dims("element, types, bits, batches",
                               {(int)i, x.types.operands, x.types.result, x.bits, x.n_batches}) +
                      ": " + std::to_string(got[i]) + ", not " + std::to_string(want[i]));
    }
}

static void expect_product(const library &lib, const variant &x)
{
    const matrix result =
        matrix_of(x.types.result, x.bits & 16 ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL, x.m, x.n);
    values a(operand(x, 0, x.m, x.k), x.n_batches), b(operand(x, 1, x.k, x.n), x.n_batches);
    values c(result, x.n_batches), d(result, x.n_batches);
    values &from = x.bits & 32 ? d : c;
    request r;
    r.begin(x.bits & 1 ? CUBLAS_OP_T : CUBLAS_OP_N, x.bits & 2 ? CUBLAS_OP_T : CUBLAS_OP_N);
    r.add(0, a.m, a.device.p, x.n_batches);
    r.add(1, b.m, b.device.p, x.n_batches);
    r.add(2, result, from.device.p, x.n_batches);
    r.add(3, result, d.device.p, x.n_batches);
    r.alpha = (float)x.alpha;
    r.beta = (float)x.beta;
    int n_found = 0;
    KD_EXPECT(!r.choose(lib.handle, &n_found) && n_found == 1, "an algorithm");
    const cublasStatus_t status = r.run(lib.handle, nullptr);
    r.alpha = r.beta = NAN; /* both were read by the call */
    KD_EXPECT(!status, cublasLtGetStatusName(status));
    expect_same(x, d.read(), expected(x, a, b, from, d));
}

KD_TEST(products, every_transpose_order_and_type_follows_the_formula)
{
    const library lib;
    for (const kind &types : KINDS)
        for (int bits = 0; bits < 64; bits++)
            expect_product(lib, {types, bits, 0.5f, -2, 1, 5, 7, 3});
}

KD_TEST(products, batches_lie_their_offset_apart)
{
    const library lib;
    for (const kind &types : KINDS)
        for (int bits = 0; bits < 64; bits += 5)
            expect_product(lib, {types, bits, 1, 1, 3, 4, 6, 9});
}

KD_TEST(products, shapes_beyond_one_tile_follow_the_formula)
{
    const library lib;
    for (int bits = 0; bits < 4; bits++) {
        expect_product(lib, {KINDS[0], bits, 1, 0, 1, 33, 65, 257});
        expect_product(lib, {KINDS[1], bits, 1, 1, 1, 32, 64, 256});
        expect_product(lib, {KINDS[2], bits, 1, 0, 1, 1, 130, 1});
    }
}

/* ---- what is told ---- */

/* (16, 16) by (16, 16), of which one thing is then wrong. */
struct sound {
    library lib;
    values a, b, c;
    request r;

    explicit sound(kind types = KINDS[1])
        : a(matrix_of(types.operands, CUBLASLT_ORDER_COL, 16, 16), 1),
          b(matrix_of(types.operands, CUBLASLT_ORDER_COL, 16, 16), 1),
          c(matrix_of(types.result, CUBLASLT_ORDER_COL, 16, 16), 1)
    {
        r.begin(CUBLAS_OP_N, CUBLAS_OP_N);
        r.add(0, a.m, a.device.p, 1);
        r.add(1, b.m, b.device.p, 1);
        r.add(2, c.m, c.device.p, 1);
        r.add(3, c.m, c.device.p, 1);
    }

    /* Both of the heuristic and of the product. */
    void expect(cublasStatus_t wanted, const char *what)
    {
        int n_found = -1;
        const cublasStatus_t chosen = r.choose(lib.handle, &n_found);
        KD_EXPECT(chosen == wanted && n_found == (wanted ? 0 : 1),
                  std::string(what) + ": " + cublasLtGetStatusName(chosen));
        expect_run(wanted, what);
    }

    void expect_run(cublasStatus_t wanted, const char *what)
    {
        const cublasStatus_t status = r.run(lib.handle, nullptr);
        KD_EXPECT(status == wanted, std::string(what) + ": " + cublasLtGetStatusName(status));
        KD_EXPECT(!cudaDeviceSynchronize(), what);
    }

    /* The product itself ends with a fault whose text names the matrix. */
    void expect_fault(const char *matrix)
    {
        KD_EXPECT(!r.run(lib.handle, nullptr), "it is queued");
        KD_EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, matrix);
        KD_EXPECT(std::string(kd_cuda_host_last_fault()).find(matrix) != std::string::npos, matrix);
        kd_cuda_host_recover();
    }
};

KD_TEST(products, a_sound_request_is_taken)
{
    for (const kind &types : KINDS)
        sound(types).expect(CUBLAS_STATUS_SUCCESS, "sound");
}

KD_TEST(products, a_leading_dimension_below_the_width_is_refused)
{
    for (int i = 0; i < 4; i++) {
        sound s;
        s.r.set(i, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(8));
        s.expect(CUBLAS_STATUS_INVALID_VALUE, "ld");
    }
}

KD_TEST(products, a_matrix_that_leaves_its_allocation_is_told)
{
    for (int i = 0; i < 4; i++) {
        sound s;
        s.r.beta = 1; /* or C is nobody's */
        s.r.set(i, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(32));
        const char *const names[] = {"matrix A", "matrix B", "matrix C", "matrix D"};
        s.expect_fault(names[i]);
    }
    sound s;
    s.r.data[0] = s.a.device.p + 16 * 8 * 2;
    s.expect_fault("matrix A");
}

KD_TEST(products, memory_of_the_host_is_told)
{
    sound s;
    std::vector<char> host(s.b.device.n + 16);
    s.r.data[1] = host.data() + (16 - (uintptr_t)host.data() % 16) % 16;
    s.expect_fault("matrix B");
}

KD_TEST(products, c_is_not_read_where_beta_is_zero)
{
    sound s;
    const device_array<char> unwritten(s.c.device.n);
    s.r.data[2] = unwritten.p;
    s.expect_run(CUBLAS_STATUS_SUCCESS, "unwritten");
    for (int64_t i = 0; i < 16; i++)
        KD_EXPECT(s.c.read()[at(s.c.m, 0, i, i)] == s.c.read()[at(s.c.m, 0, i, i)], "no NaN");
    s.r.data[2] = nullptr;
    s.expect_run(CUBLAS_STATUS_SUCCESS, "none");
    s.r.beta = 1;
    s.expect_run(CUBLAS_STATUS_INVALID_VALUE, "none, but it is asked for");
}

KD_TEST(products, a_missing_pointer_is_refused)
{
    for (int i : {0, 1, 3}) {
        sound s;
        s.r.data[i] = nullptr;
        s.expect_run(CUBLAS_STATUS_INVALID_VALUE, "no matrix");
    }
    sound s;
    KD_EXPECT(s.r.run(nullptr, nullptr) == CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
}

KD_TEST(products, alignment_below_what_an_algorithm_takes_finds_none)
{
    const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++) {
        const uint32_t least = i < 2 ? 16 : 4; /* bf16 to f32 */
        int n_found;
        sound s;
        s.r.set(which[i], least);
        KD_EXPECT(!s.r.choose(s.lib.handle, &n_found) && n_found == 1, "the least");
        s.r.set(which[i], least / 2);
        KD_EXPECT(s.r.choose(s.lib.handle, &n_found) == CUBLAS_STATUS_NOT_SUPPORTED, "less");
        KD_EXPECT(n_found == 0, "none");
    }
}

KD_TEST(products, bf16_at_other_addresses_than_multiples_of_16_is_refused)
{
    sound s;
    s.r.data[0] = s.a.device.p + 2;
    s.expect_run(CUBLAS_STATUS_NOT_SUPPORTED, "an address");
    sound rows;
    rows.r.set(0, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(17));
    rows.expect(CUBLAS_STATUS_NOT_SUPPORTED, "a leading dimension");
}

KD_TEST(products, types_that_do_not_go_together_are_refused)
{
    sound mixed;
    mixed.r.set(1, CUBLASLT_MATRIX_LAYOUT_TYPE, (uint32_t)CUDA_R_32F);
    mixed.expect(CUBLAS_STATUS_NOT_SUPPORTED, "A bf16, B f32");
    sound results;
    results.r.set(2, CUBLASLT_MATRIX_LAYOUT_TYPE, (uint32_t)CUDA_R_16BF);
    results.expect(CUBLAS_STATUS_NOT_SUPPORTED, "C bf16, D f32");
    sound narrow(KINDS[0]);
    narrow.r.set(2, CUBLASLT_MATRIX_LAYOUT_TYPE, (uint32_t)CUDA_R_16BF);
    narrow.r.set(3, CUBLASLT_MATRIX_LAYOUT_TYPE, (uint32_t)CUDA_R_16BF);
    narrow.expect(CUBLAS_STATUS_NOT_SUPPORTED, "f32 to bf16");
}

KD_TEST(products, shapes_that_do_not_fit_are_refused)
{
    sound depth;
    depth.r.set(1, CUBLASLT_MATRIX_LAYOUT_ROWS, uint64_t(8));
    depth.expect(CUBLAS_STATUS_INVALID_VALUE, "k");
    sound width;
    width.r.set(3, CUBLASLT_MATRIX_LAYOUT_COLS, uint64_t(8));
    width.expect(CUBLAS_STATUS_INVALID_VALUE, "n of D alone");
    sound batches;
    batches.r.set(0, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t(2));
    batches.expect(CUBLAS_STATUS_INVALID_VALUE, "batches of A alone");
    sound orders;
    orders.r.set(2, CUBLASLT_MATRIX_LAYOUT_ORDER, (int32_t)CUBLASLT_ORDER_ROW);
    orders.expect(CUBLAS_STATUS_INVALID_VALUE, "order of C alone");
}

KD_TEST(products, a_workspace_has_memory_if_it_has_a_size)
{
    const device_array<char> memory(1024);
    sound s;
    s.r.workspace_bytes = 512;
    s.expect_run(CUBLAS_STATUS_INVALID_VALUE, "none");
    s.r.workspace = memory.p + 128;
    s.expect_run(CUBLAS_STATUS_INVALID_VALUE, "at a multiple of 128");
    s.r.workspace = memory.p + 256;
    s.expect_run(CUBLAS_STATUS_SUCCESS, "at a multiple of 256");
    s.r.workspace = nullptr;
    s.r.workspace_bytes = 0;
    s.expect_run(CUBLAS_STATUS_SUCCESS, "none is asked for");
}

KD_TEST(products, attributes_have_one_size)
{
    sound s;
    const int64_t wide = 0;
    KD_EXPECT(cublasLtMatmulDescSetAttribute(s.r.desc, CUBLASLT_MATMUL_DESC_TRANSA, &wide,
                                             sizeof wide) == CUBLAS_STATUS_INVALID_VALUE,
              "a desc's");
    KD_EXPECT(cublasLtMatrixLayoutSetAttribute(s.r.layout[0], CUBLASLT_MATRIX_LAYOUT_LD, &wide,
                                               4) == CUBLAS_STATUS_INVALID_VALUE,
              "a layout's");
    KD_EXPECT(cublasLtMatmulPreferenceSetAttribute(
                  s.r.preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &wide, sizeof wide) ==
                  CUBLAS_STATUS_INVALID_VALUE,
              "a preference's");
    KD_EXPECT(cublasLtMatmulDescDestroy(nullptr) == CUBLAS_STATUS_INVALID_VALUE, "none");
}

/* Queued like a kernel: after what is on its stream, whatever the schedule. */
KD_TEST(products, they_run_in_the_order_of_their_stream)
{
    kd_test_schedules<float>("products", [&](auto &result) {
        cudaStream_t stream;
        if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))
            abort();
        sound s(KINDS[0]);
        s.r.beta = 1;
        KD_EXPECT(!cudaDeviceSynchronize(), "written");
        cudaMemsetAsync(s.a.device.p, 0, s.a.device.n, stream);
        cudaMemsetAsync(s.c.device.p, 0, s.c.device.n, stream);
        KD_EXPECT(!s.r.run(s.lib.handle, stream), "queued");
        KD_EXPECT(!cudaStreamSynchronize(stream), "run");
        result = s.c.read();
        for (float x : result)
            KD_EXPECT(x == 0, std::to_string(x));
        cudaStreamDestroy(stream);
        return cudaSuccess;
    });
}
#endif
