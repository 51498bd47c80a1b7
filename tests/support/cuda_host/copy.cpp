/*
 * copy.cpp - copies and fills. Pageable host memory has been read, or written, when the call returns, as
 * on a device; what lies in pinned memory is read when the copy runs, which may be much later.
 */
#include "runtime.h"

#include <cstdlib>

using namespace kd_host;

namespace
{
struct copy_shape {
    char *dst;
    const char *src;
    size_t dst_pitch, src_pitch, width, height;
};
} // namespace

static void copy_rows(const copy_shape &c)
{
    for (size_t r = 0; r < c.height; r++)
        memmove(c.dst + r * c.dst_pitch, c.src + r * c.src_pitch, c.width);
}

static size_t extent(size_t pitch, size_t width, size_t height)
{
    return (height - 1) * pitch + width;
}

/* Does the direction fit to where the memory lies, and each side into its allocation? */
static cudaError_t check_copy(const copy_shape &c, cudaMemcpyKind kind)
{
    bool to_device = memory_place(c.dst) >= 0, from_device = memory_place(c.src) >= 0;
    if ((unsigned)kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (kind != cudaMemcpyDefault) {
        bool says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        bool says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (says_to != to_device || says_from != from_device)
            return cudaErrorInvalidValue;
    }
    if (c.width > c.dst_pitch || c.width > c.src_pitch)
        return cudaErrorInvalidValue;
    if (to_device && !memory_holds(c.dst, extent(c.dst_pitch, c.width, c.height)))
        return cudaErrorInvalidValue;
    if (from_device && !memory_holds(c.src, extent(c.src_pitch, c.width, c.height)))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

/* Pageable memory is read here. */
static cudaError_t enqueue_staged(copy_shape c, cudaStream_t stream)
{
    std::vector<char> staged(c.width * c.height);
    copy_rows({staged.data(), c.src, c.width, c.src_pitch, c.width, c.height});
    auto run = [c, staged = std::move(staged)]() mutable {
        c.src = staged.data();
        c.src_pitch = c.width;
        copy_rows(c);
        return cudaSuccess;
    };
    return enqueue(stream, {run, {}, -1});
}

static cudaError_t copy(const copy_shape &c, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (!c.width || !c.height)
        return cudaSuccess;
    if (cudaError_t error = check_copy(c, kind))
        return error;
    if (memory_place(c.src) == ON_HOST || memory_place(c.dst) == ON_HOST) {
        if (cudaError_t error = refuse_capture(stream))
            return error;
    }
    if (memory_place(c.src) == ON_HOST && memory_place(c.dst) >= 0)
        return enqueue_staged(c, stream);
    auto run = [c] {
        copy_rows(c);
        return cudaSuccess;
    };
    cudaError_t error = enqueue(stream, {run, {}, -1});
    return error || memory_place(c.dst) != ON_HOST ? error : finish(stream);
}

/* Rows of a copy may not be further apart, even where there is but one. */
static bool pitches_fit(const copy_shape &c)
{
    return c.dst_pitch <= INT32_MAX && c.src_pitch <= INT32_MAX;
}

cudaError_t
cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t stream)
{
    api_call call;
    return answer(copy({(char *)dst, (const char *)src, n, n, n, 1}, kind, stream));
}

cudaError_t cudaMemcpy2DAsync(void *dst,
                              size_t dst_pitch,
                              const void *src,
                              size_t src_pitch,
                              size_t width,
                              size_t height,
                              cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    api_call call;
    copy_shape c{(char *)dst, (const char *)src, dst_pitch, src_pitch, width, height};
    return answer(pitches_fit(c) ? copy(c, kind, stream) : cudaErrorInvalidPitchValue);
}

/* Waits, unless both sides are on devices. */
static cudaError_t copy_and_wait(const copy_shape &c, cudaMemcpyKind kind)
{
    cudaError_t error = copy(c, kind, nullptr);
    if (!error && (memory_place(c.dst) < 0 || memory_place(c.src) < 0))
        error = finish(nullptr);
    return error;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind)
{
    api_call call;
    return answer(copy_and_wait({(char *)dst, (const char *)src, n, n, n, 1}, kind));
}

cudaError_t cudaMemcpy2D(void *dst,
                         size_t dst_pitch,
                         const void *src,
                         size_t src_pitch,
                         size_t width,
                         size_t height,
                         cudaMemcpyKind kind)
{
    api_call call;
    copy_shape c{(char *)dst, (const char *)src, dst_pitch, src_pitch, width, height};
    return answer(pitches_fit(c) ? copy_and_wait(c, kind) : cudaErrorInvalidPitchValue);
}

cudaError_t cudaMemset2DAsync(void *dst,
                              size_t pitch,
                              int value,
                              size_t width,
                              size_t height,
                              cudaStream_t stream)
{
    api_call call;
    if (!width || !height)
        return answer(cudaSuccess);
    if (memory_place(dst) < 0 || width > pitch || !memory_holds(dst, extent(pitch, width, height)))
        return answer(cudaErrorInvalidValue);
    auto run = [=] {
        for (size_t r = 0; r < height; r++)
            memset((char *)dst + r * pitch, value, width);
        return cudaSuccess;
    };
    return answer(enqueue(stream, {run, {}, -1}));
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n, cudaStream_t stream)
{
    return cudaMemset2DAsync(dst, n, value, n, 1, stream);
}

cudaError_t cudaMemset(void *dst, int value, size_t n)
{
    return cudaMemsetAsync(dst, value, n, nullptr);
}
