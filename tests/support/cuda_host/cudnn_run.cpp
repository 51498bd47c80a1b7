/*
 * cudnn_run.cpp - what a graph computes: one operation after the other, each result in memory.
 */
#include "cudnn.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "cuda_bf16.h"
#include "runtime.h"

namespace kd_host
{
size_t graph_dtype_bytes(int dtype)
{
    return dtype == KD_CUDNN_BF16 ? 2 : dtype == KD_CUDNN_BOOL ? 1 : 4;
}

int64_t graph_tensor::elements() const
{
    int64_t last = 0;
    for (int i = 0; i < 4; i++)
        last += (dims[i] - 1) * strides[i];
    return last + 1;
}

/* Rows of scores come in tiles of 64; what a backward pass keeps of them is bf16. */
size_t graph_workspace_bytes(const graph &g)
{
    size_t n = 256;
    int n_products = 0;
    for (const graph_operation &o : g.operations)
        n_products += o.kind == GRAPH_MATMUL;
    for (const graph_operation &o : g.operations) {
        if (o.kind == GRAPH_MATMUL && n_products > 2) {
            const int64_t *d = g.tensors[o.y].dims;
            n = std::max(n, (size_t)(d[0] * d[1] * ((d[2] + 63) / 64) * ((d[2] + 63) / 64)) * 64 *
                                64 * 2);
        }
    }
    return n;
}

namespace
{
typedef const int64_t (&index4)[4];

/* A tensor's memory; dimensions of 1 are those of every index. */
struct operand {
    char *base;
    int dtype;
    int64_t dims[4], strides[4];

    char *at(index4 i) const
    {
        int64_t place = 0;
        for (int d = 0; d < 4; d++)
            place += dims[d] == 1 ? 0 : i[d] * strides[d];
        return base + place * (int64_t)graph_dtype_bytes(dtype);
    }

    float get(index4 i) const
    {
        return load(at(i));
    }

    float load(const char *p) const
    {
        if (dtype == KD_CUDNN_BF16)
            return __bfloat162float(*(const __nv_bfloat16 *)p);
        if (dtype == KD_CUDNN_BOOL)
            return *p;
        if (dtype == KD_CUDNN_I32)
            return (float)*(const int32_t *)p;
        return *(const float *)p;
    }

    void put(index4 i, float x) const
    {
        char *p = at(i);
        if (dtype == KD_CUDNN_BF16)
            *(__nv_bfloat16 *)p = __float2bfloat16(x);
        else if (dtype == KD_CUDNN_BOOL)
            *p = x != 0;
        else if (dtype == KD_CUDNN_I32)
            *(int32_t *)p = (int32_t)x;
        else
            *(float *)p = x;
    }
};

template <class F> void each(index4 dims, F f)
{
    int64_t i[4];
    for (i[0] = 0; i[0] < dims[0]; i[0]++)
        for (i[1] = 0; i[1] < dims[1]; i[1]++)
            for (i[2] = 0; i[2] < dims[2]; i[2]++)
                for (i[3] = 0; i[3] < dims[3]; i[3]++)
                    f(i);
}

float rounded(float x, bool to_bf16)
{
    return to_bf16 ? __bfloat162float(__float2bfloat16(x)) : x;
}

/* Matrices of the last two dimensions; heads of c in groups where b has fewer. */
void multiply(const operand &a, const operand &b, const operand &c)
{
    const bool bf16 = a.dtype == KD_CUDNN_BF16 || b.dtype == KD_CUDNN_BF16;
    const int64_t m = c.dims[2], n = c.dims[3], k = a.dims[3];
    std::vector<float> right((size_t)(k * n)), sum((size_t)n);
    each({c.dims[0], c.dims[1], 1, 1}, [&](index4 at) {
        const int64_t group = c.dims[1] / b.dims[1];
        for (int64_t x = 0; x < k; x++)
            for (int64_t j = 0; j < n; j++)
                right[(size_t)(x * n + j)] = rounded(b.get({at[0], at[1] / group, x, j}), bf16);
        for (int64_t i = 0; i < m; i++) {
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (int64_t x = 0; x < k; x++) {
                const float left = rounded(a.get({at[0], at[1], i, x}), bf16);
                for (int64_t j = 0; j < n; j++)
                    sum[(size_t)j] += left * right[(size_t)(x * n + j)];
            }
            for (int64_t j = 0; j < n; j++)
                c.put({at[0], at[1], i, j}, sum[(size_t)j]);
        }
    });
}

float point(int mode, float x, float b, bool t)
{
    switch (mode) {
    case KD_CUDNN_ADD:
        return x + b;
    case KD_CUDNN_SUB:
        return x - b;
    case KD_CUDNN_MUL:
        return x * b;
    case KD_CUDNN_DIV:
        return x / b;
    case KD_CUDNN_EXP:
        return std::exp(x);
    case KD_CUDNN_LOG:
        return std::log(x);
    case KD_CUDNN_GREATER_OR_EQUAL:
        return x >= b;
    case KD_CUDNN_SELECT:
        return t ? x : b;
    }
    return std::numeric_limits<float>::quiet_NaN();
}

/* Each element of y is of as many of x that follow each other, in each dimension. */
void reduce(int mode, const operand &x, const operand &y)
{
    const int64_t part[4] = {x.dims[0] / y.dims[0], x.dims[1] / y.dims[1], x.dims[2] / y.dims[2],
                             x.dims[3] / y.dims[3]};
    each(y.dims, [&](index4 i) {
        float all = mode == KD_CUDNN_MAX ? -INFINITY : 0.0f;
        each(part, [&](index4 j) {
            const float v = x.get({i[0] * part[0] + j[0], i[1] * part[1] + j[1],
                                   i[2] * part[2] + j[2], i[3] * part[3] + j[3]});
            all = mode == KD_CUDNN_MAX ? (v > all || v != v ? v : all) : all + v;
        });
        y.put(i, all);
    });
}

void run(const graph_operation &o, const std::vector<operand> &tensors)
{
    const operand none = {}, &x = tensors[(size_t)o.x], &y = tensors[(size_t)o.y];
    const operand &b = o.b < 0 ? none : tensors[(size_t)o.b];
    const operand &t = o.t < 0 ? none : tensors[(size_t)o.t];
    switch (o.kind) {
    case GRAPH_MATMUL:
        multiply(x, b, y);
        return;
    case GRAPH_REDUCTION:
        reduce(o.mode, x, y);
        return;
    case GRAPH_RESHAPE: /* of the memory, which is in the same order */
        each(y.dims, [&](index4 i) {
            const int64_t place = (y.at(i) - y.base) / (int64_t)graph_dtype_bytes(y.dtype);
            y.put(i, x.load(x.base + place * (int64_t)graph_dtype_bytes(x.dtype)));
        });
        return;
    case GRAPH_POINTWISE:
        each(y.dims, [&](index4 i) {
            y.put(i, o.mode == KD_CUDNN_GEN_INDEX ? (float)i[o.axis]
                                                  : point(o.mode, x.get(i), o.b < 0 ? 0 : b.get(i),
                                                          o.t >= 0 && t.get(i) != 0));
        });
    }
}
} // namespace

/* An argument that leaves its allocation. */
static bool leaves(const graph_tensor &t, const char *p)
{
    return memory_place(p) != PINNED &&
           !(memory_place(p) >= 0 &&
             memory_holds(p, (size_t)t.elements() * graph_dtype_bytes(t.dtype)));
}

cudaError_t graph_run(const graph &g, const std::vector<char *> &at)
{
    std::vector<std::vector<char>> made(g.tensors.size());
    std::vector<operand> operands;
    for (size_t i = 0; i < g.tensors.size(); i++) {
        const graph_tensor &t = g.tensors[i];
        if (t.is_virtual)
            made[i].resize((size_t)t.elements() * graph_dtype_bytes(t.dtype));
        else if (!t.is_by_value && leaves(t, at[i])) {
            engine().fault =
                "cuDNN: argument " + std::to_string(t.uid) + " leaves the memory it lies in";
            return cudaErrorLaunchFailure;
        }
        operand o = {t.is_virtual ? made[i].data() : at[i], t.dtype, {}, {}};
        memcpy(o.dims, t.dims, sizeof o.dims);
        memcpy(o.strides, t.strides, sizeof o.strides);
        operands.push_back(o);
    }
    for (const graph_operation &o : g.operations)
        run(o, operands);
    return memory_fences_hold() ? cudaSuccess : cudaErrorLaunchFailure;
}
} // namespace kd_host
