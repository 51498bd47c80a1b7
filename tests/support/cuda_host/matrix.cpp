/*
 * matrix.cpp - ldmatrix, mma.sync and wgmma, after the PTX ISA.
 *
 * The sums are f32 in the order of k; a device's differ from them in the last bits.
 */
#include "engine.h"

#include <utility>

using namespace kd_host;

static float bf(const void *p)
{
    return __bfloat162float(*(const __nv_bfloat16 *)p);
}

struct ldmatrix_args {
    unsigned *r;
    int n;
    bool trans;
    const char *row;
};

/* Lane 8 * matrix + row gave the row's address. */
static unsigned ldmatrix_at(void **lane, int matrix, int row, int col)
{
    const ldmatrix_args *args = (const ldmatrix_args *)lane[8 * matrix + row];
    return *(const unsigned short *)(args->row + 2 * col);
}

static void ldmatrix_all(unsigned, void **lane)
{
    for (int l = 0; l < 32; l++) {
        ldmatrix_args *a = (ldmatrix_args *)lane[l];
        int i = l / 4, j = l % 4 * 2;
        for (int m = 0; m < a->n; m++)
            a->r[m] = a->trans ? ldmatrix_at(lane, m, j, i) | ldmatrix_at(lane, m, j + 1, i) << 16
                               : ldmatrix_at(lane, m, i, j) | ldmatrix_at(lane, m, i, j + 1) << 16;
    }
}

void kd_host_ldmatrix(unsigned *r, int n, bool trans, const void *row, const char *file, int line)
{
    if ((uintptr_t)row % 16)
        fault("%s:%d: ldmatrix row at %p", file, line, row);
    shared_owner(row);
    KD_RACE(access(me(), row, 16, false, false));
    ldmatrix_args a{r, n, trans, (const char *)row};
    warp_meet(~0u, "ldmatrix", ldmatrix_all, &a, file, line);
}

/* Fragments: with g = lane / 4 and t = lane % 4, register r of A holds row g + 8 (r & 1), columns
 * 2t + 8 (r >> 1) and the next; r of B holds rows 2t + 8r and the next, column g; d[i] is row
 * g + 8 (i >> 1), column 2t + (i & 1). */
struct mma_args {
    float *d;
    const unsigned *a, *b;
};

static void mma_all(unsigned, void **lane)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const mma_args *m = (const mma_args *)lane[l];
        int g = l / 4, t = l % 4 * 2;
        for (int h = 0; h < 2; h++) {
            for (int r = 0; r < 4; r++)
                a[g + (r & 1) * 8][t + (r >> 1) * 8 + h] = bf((const short *)&m->a[r] + h);
            for (int r = 0; r < 2; r++)
                b[t + r * 8 + h][g] = bf((const short *)&m->b[r] + h);
        }
    }
    for (int l = 0; l < 32; l++) {
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + (i >> 1) * 8, col = l % 4 * 2 + (i & 1);
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            ((mma_args *)lane[l])->d[i] += sum;
        }
    }
}

void kd_mma_m16n8k16(float (&d)[4],
                     const unsigned (&a)[4],
                     const unsigned (&b)[2],
                     const char *file,
                     int line)
{
    mma_args arg{d, a, b};
    warp_meet(~0u, "mma.m16n8k16", mma_all, &arg, file, line);
}

static unsigned swizzle_width(uint64_t desc)
{
    return desc >> 62 ? 256u >> (desc >> 62) : 16;
}

/* Where element (mn, k) of an operand is. In K-major order eight rows of w bytes (the swizzle's width) make
 * a core matrix, and sbo leads from one to that of the next eight rows; without swizzle lbo leads to the
 * next eight columns. In MN-major order w bytes along mn and eight rows along k make one; lbo leads on
 * along mn and sbo along k; without swizzle they change places. */
static const char *operand(fiber *f, uint64_t desc, bool mn_major, unsigned mn, unsigned k)
{
    unsigned start = (desc & 0x3fff) << 4, lbo = (desc >> 16 & 0x3fff) << 4,
             sbo = (desc >> 32 & 0x3fff) << 4, w = swizzle_width(desc);
    size_t off;
    if (mn_major && w == 16)
        std::swap(lbo, sbo);
    if (mn_major)
        off = start + mn / (w / 2) * lbo + mn % (w / 2) * 2 + k / 8 * sbo + k % 8 * w;
    else
        off = start + mn / 8 * sbo + mn % 8 * w + (w == 16 ? k / 8 * lbo + k % 8 * 2 : k * 2);
    char *p = swizzled(f->cta->smem + off, w);
    KD_RACE(access(f, p, 2, false, true));
    return p;
}

/* A base offset of 0 means just that. */
static void check_operand(uint64_t desc)
{
    unsigned w = swizzle_width(desc), start = (desc & 0x3fff) << 4;
    if (desc >> 49 & 7 || (w > 16 && start & 7 * w))
        fault("wgmma: operand does not start in row 0 of its swizzle pattern");
}

struct wgmma_args {
    float *d;
    int n, scale_d;
    uint64_t a, b;
    bool ta, tb;
};

/* One warp's 16 rows; reads shared memory only now. d[4q + 2h + o] of lane 4g + t is row g + 8h, column
 * 8q + 2t + o. */
static void wgmma_run(fiber *f, unsigned warp_row, const std::vector<wgmma_args> &lane)
{
    const wgmma_args &w = lane[0];
    float a[16][16], b[16][256];
    for (unsigned k = 0; k < 16; k++) {
        for (unsigned r = 0; r < 16; r++)
            a[r][k] = bf(operand(f, w.a, w.ta, warp_row + r, k));
        for (unsigned j = 0; j < (unsigned)w.n; j++)
            b[k][j] = bf(operand(f, w.b, w.tb, j, k));
    }
    for (int r = 0; r < 16; r++) {
        float sum[256] = {};
        for (int k = 0; k < 16; k++) {
            for (int j = 0; j < w.n; j++)
                sum[j] += a[r][k] * b[k][j];
        }
        for (int j = 0; j < w.n; j++) {
            float &d = lane[r % 8 * 4 + j % 8 / 2].d[j / 8 * 4 + r / 8 * 2 + j % 2];
            d = (w.scale_d ? d : 0) + sum[j];
        }
    }
}

static void wgmma_all(unsigned, void **arg_of_lane)
{
    fiber *f = me();
    std::vector<wgmma_args> lane;
    for (int l = 0; l < 32; l++) {
        lane.push_back(*(wgmma_args *)arg_of_lane[l]);
        if (lane[l].a != lane[0].a || lane[l].b != lane[0].b || lane[l].scale_d != lane[0].scale_d)
            fault("wgmma: operands differ between lanes");
    }
    unsigned threads = block_dim.x * block_dim.y * block_dim.z;
    unsigned warp_row = f->index % threads / 32 % 4 * 16;
    f->warp->wgmma.add([lane = std::move(lane), warp_row, f] { wgmma_run(f, warp_row, lane); });
}

void kd_host_wgmma(float *d,
                   int n,
                   uint64_t a,
                   uint64_t b,
                   int scale_d,
                   bool trans_a,
                   bool trans_b,
                   const char *file,
                   int line)
{
    if (n % 8 || n < 8 || n > 256)
        fault("wgmma with n = %d", n);
    if (!me()->warp->wgmma_fenced)
        fault("%s:%d: wgmma without a wgmma.fence before", file, line);
    check_operand(a);
    check_operand(b);
    wgmma_args arg{d, n, scale_d, a, b, trans_a, trans_b};
    warp_meet(~0u, "wgmma", wgmma_all, &arg, file, line);
}

void kd_wgmma_fence(const char *file, int line)
{
    auto fence = [](unsigned, void **) { me()->warp->wgmma_fenced = true; };
    warp_meet(~0u, "wgmma.fence", fence, nullptr, file, line);
}

void kd_wgmma_commit(const char *file, int line)
{
    auto commit = [](unsigned, void **) { me()->warp->wgmma.commit(); };
    warp_meet(~0u, "wgmma.commit_group", commit, nullptr, file, line);
}

/* The second meeting: no lane goes on while the warp's wgmma read. */
void kd_host_wgmma_wait(unsigned n, const char *file, int line)
{
    auto wait = [](unsigned, void **p) { me()->warp->wgmma.wait(*(unsigned *)p[0]); };
    warp_meet(~0u, "wgmma.wait_group", wait, &n, file, line);
    warp_meet(~0u, "wgmma.wait_group", nullptr, nullptr, file, line);
}
