/*
 * tma.cpp - asynchronous copies: cp.async of 16 bytes, and TMA of 2-D tiles of 16-bit elements. After the PTX
 * ISA.
 */
#include "engine.h"

using namespace kd_host;

void kd_cp_async16(void *dst, const void *src, unsigned src_bytes)
{
    if (src_bytes > 16 || (uintptr_t)dst % 16 || (uintptr_t)src % 16)
        fault("cp.async of %u bytes, %p <- %p", src_bytes, dst, src);
    shared_owner(dst);
    me()->cp_async.add([=, f = me()] {
        KD_RACE(access(f, src, src_bytes, false, false));
        KD_RACE(access(f, dst, 16, true, false));
        memcpy(dst, src, src_bytes);
        memset((char *)dst + src_bytes, 0, 16 - src_bytes);
    });
}

void kd_cp_async_commit()
{
    me()->cp_async.commit();
}

void kd_host_cp_async_wait(unsigned n)
{
    me()->cp_async.wait(n);
}

char *kd_host::swizzled(char *p, unsigned width)
{
    return (char *)((uintptr_t)p ^ ((uintptr_t)p >> 7 & (width / 16 - 1)) << 4);
}

cudaError_t kd_tensor_map_2d(CUtensorMap *map,
                             const void *base,
                             uint64_t rows,
                             uint64_t cols,
                             uint64_t ld,
                             unsigned box_rows,
                             unsigned box_cols,
                             int swizzle)
{
    *map = {(char *)const_cast<void *>(base), rows, cols, ld, box_rows, box_cols, swizzle};
    return (uintptr_t)base % 16 || ld * 2 % 16 || !rows || !cols || !box_rows || box_rows > 256 ||
                   !box_cols || box_cols > 256 || box_cols * 2 % 16 ||
                   (swizzle && (int)box_cols * 2 > 16 << swizzle)
               ? cudaErrorInvalidValue
               : cudaSuccess;
}

static void tile(fiber *f, const CUtensorMap &m, int col, int row, char *smem, bool store)
{
    KD_RACE(access(f, smem, m.box_rows * m.box_cols * 2, !store, true));
    for (unsigned r = 0; r < m.box_rows; r++)
        for (unsigned c = 0; c < m.box_cols; c++) {
            int64_t y = (int64_t)row + r, x = (int64_t)col + c;
            bool inside = y >= 0 && y < (int64_t)m.rows && x >= 0 && x < (int64_t)m.cols;
            short *s = (short *)swizzled(smem + (r * m.box_cols + c) * 2, 16 << m.swizzle);
            short *g = (short *)m.base + y * (int64_t)m.ld + x;
            if (inside)
                KD_RACE(access(f, g, 2, store, true));
            if (!store)
                *s = inside ? *g : 0;
            else if (inside)
                *g = *s;
        }
}

static void check_tile(const CUtensorMap &m, const void *smem)
{
    shared_owner(smem);
    if ((uintptr_t)smem % (m.swizzle ? 128u << m.swizzle : 128))
        fault("TMA tile at %p: not aligned to its swizzle pattern", smem);
}

void kd_tma_load_2d(void *dst, const CUtensorMap *map, int col, int row, uint64_t *bar)
{
    check_tile(*map, dst);
    mbar_require(bar);
    /* The whole box counts, also what lies outside the matrix. */
    auto work = [m = *map, dst, col, row, bar, f = me()] {
        tile(f, m, col, row, (char *)dst, false);
        mbar_complete(f, bar, m.box_rows * m.box_cols * 2);
    };
    engine().copies.push_back({me()->cta, work});
}

void kd_tma_store_2d(const CUtensorMap *map, int col, int row, const void *src)
{
    check_tile(*map, src);
    me()->bulk.add([m = *map, src, col, row, f = me()] {
        tile(f, m, col, row, (char *)const_cast<void *>(src), true);
    });
}

void kd_tma_commit()
{
    me()->bulk.commit();
}

void kd_host_tma_wait(unsigned n)
{
    me()->bulk.wait(n);
}
