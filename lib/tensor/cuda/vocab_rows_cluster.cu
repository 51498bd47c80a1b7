/*
 * vocab_rows_cluster.cu - the losses of a chunk's rows with a teacher, where both rows of logits stay in the shared
 * memory of a cluster: formulas and what each column adds as in vocab_rows.cu, at half the bytes.
 *
 * Idea: a cluster of 1 to 8 blocks takes one row after another, each block an equal share of its columns, in tiles
 * of 4 columns a thread. A ring of tiles is filled by cp.async: as soon as a tile of this row has been read for the
 * second time, the next row's comes into its place, so that memory never rests. A thread reads only what it has
 * copied itself: but for the sums no thread waits for another. Sums go up a fixed tree, warp, block, cluster, with
 * one barrier of the block and one of the cluster a row; that of the divergence is known after the second reading
 * and goes up with the next row's.
 *
 * Bytes per column: 8 read, 2 (bf16) or 4 written.
 */
#include "base/log.h"
#include "tensor/cuda/vocab_rows_common.h"

enum {
    THREADS = 512,
    WARPS = THREADS / 32,
    WIDE = 4,
    TILE = THREADS * WIDE, /* columns */
    RING = 14,             /* tiles   */
    CLUSTER_MAX = 8,
    SHARE_STEP = 64, /* columns: shares begin at multiples of 128 bytes of bf16 */
};

struct tile {
    float student[TILE], teacher[TILE];
};

static constexpr size_t RING_BYTES = RING * sizeof(tile);

struct cluster_args {
    kd_vocab_args of;
    int share, n_tiles; /* columns and tiles of a row that a block has */
};

/* ---- sums over a cluster ---- */

/* What goes up the tree. */
struct alignas(16) joined {
    kd_vocab_row_sums row;
    float kl; /* of the row before */
};

KD_FN joined nothing()
{
    const kd_softmax none = kd_softmax_empty();
    return {{none, none, none, false}, 0.0f};
}

KD_FN kd_softmax join_warp(kd_softmax mine, float unit)
{
    const float max = kd_warp_max(mine.max);
    return {max, kd_warp_sum(kd_softmax_sum_at(mine, max, unit))};
}

KD_FN joined join_warp(const kd_vocab_args &a, const joined &mine)
{
    joined all;
    all.row.hard = join_warp(mine.row.hard, KD_LOG2_E);
    all.row.p = join_warp(mine.row.p, a.teacher_unit);
    all.row.q = a.shared ? all.row.hard : join_warp(mine.row.q, a.unit);
    all.row.beaten = kd_warp_max(mine.row.beaten ? 1.0f : 0.0f) != 0.0f;
    all.kl = kd_warp_sum(mine.kl);
    return all;
}

/*
 * Of all threads of the cluster, to each of them. Calls alternate between two totals: a block that is
 * ahead writes the one that nobody reads any more.
 */
KD_FN joined join_cluster(const kd_vocab_args &a, const joined &mine, joined *parts, joined *total)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    joined all = join_warp(a, mine);
    if (lane == 0) {
        parts[warp] = all;
    }
    __syncthreads();
    if (warp == 0) {
        all = join_warp(a, lane < WARPS ? parts[lane] : nothing());
        if (lane == 0) {
            *total = all;
        }
    }
    kd_cluster_sync();
    return join_warp(a, lane < kd_cluster_size() ? *kd_map_rank(total, lane) : nothing());
}

/* ---- the rows of a cluster ---- */

/* One after another those that take part; whether the next does is asked before it matters. */
struct row_cursor {
    int64_t row; /* n_rows or more: there are no more */
    int32_t ahead;
};

KD_FN int64_t n_clusters()
{
    return gridDim.x / kd_cluster_size();
}

/* skipped(row) for those between that take no part. */
template <class F> KD_FN void step(row_cursor &c, const kd_vocab_args &a, F skipped)
{
    for (bool found = false; !found;) {
        c.row += n_clusters();
        const int64_t next = c.row + n_clusters();
        found = c.row >= a.n_rows || c.ahead >= 0;
        if (!found) {
            skipped(c.row);
        }
        c.ahead = next < a.n_rows ? a.rows[next] : 0;
    }
}

/* Before the first. */
KD_FN row_cursor start_rows(const kd_vocab_args &a)
{
    const int64_t first = blockIdx.x / kd_cluster_size();
    return {first - n_clusters(), a.rows[first]};
}

/* ---- tiles ---- */

/* At most n groups of this thread's copies are still under way; n is from LOW to HIGH - 1. */
template <int LOW, int HIGH> KD_FN void wait_for_copies(int n)
{
    if constexpr (HIGH - LOW == 1) {
        kd_cp_async_wait<LOW>();
    } else {
        constexpr int MIDDLE = (LOW + HIGH) / 2;
        if (n < MIDDLE) {
            wait_for_copies<LOW, MIDDLE>(n);
        } else {
            wait_for_copies<MIDDLE, HIGH>(n);
        }
    }
}

/* What a thread sees of its block's share: its columns in tile k begin at first + k * TILE. */
struct share {
    int first, end; /* end: of the block's columns */
    int taught_end; /* of those that kd sees       */
};

KD_FN share share_of(const cluster_args &a)
{
    const int begin = static_cast<int>(kd_cluster_rank()) * a.share, end = begin + a.share;
    const int n_columns = a.of.n_columns, n_vocab = a.of.n_vocab;
    return {begin + static_cast<int>(threadIdx.x) * WIDE, end < n_columns ? end : n_columns,
            end < n_vocab ? end : n_vocab};
}

/* This thread's columns of the row from i on, those before the end; nothing beyond it is read. */
KD_FN void copy_columns(float *tile_row, const float *row, int i, int end)
{
    const int n = end - i < WIDE ? end - i : WIDE;
    if (n > 0) {
        kd_cp_async16(tile_row + threadIdx.x * WIDE, row + i, static_cast<unsigned>(n) * 4);
    }
}

/* The ring's end that is written: tile k of a row is the next to come. */
struct filler {
    row_cursor rows;
    int k, slot;
};

/* A group of copies for each tile, an empty one behind the last: so the groups tell which tile has come. */
KD_FN void fill(filler &f, const cluster_args &a, const share &mine, tile *ring)
{
    const kd_vocab_args &of = a.of;
    if (f.rows.row < of.n_rows) {
        const int i = mine.first + f.k * TILE;
        copy_columns(ring[f.slot].student, of.student + f.rows.row * of.student_stride, i,
                     mine.end);
        copy_columns(ring[f.slot].teacher, of.teacher + f.rows.row * of.teacher_stride, i,
                     mine.taught_end);
        if (++f.k == a.n_tiles) {
            f.k = 0;
            step(f.rows, of, [](int64_t) {});
        }
    }
    kd_cp_async_commit();
    f.slot = f.slot + 1 < RING ? f.slot + 1 : 0;
}

/*
 * both(i, x, z) or alone(i, x) for this thread's columns from i on in a tile: four at once, or one by one
 * where kd's columns or all end between them.
 */
template <class B, class A>
KD_FN void read_columns(const tile &t, const share &mine, int i, B both, A alone)
{
    const float *student = t.student + threadIdx.x * WIDE,
                *teacher = t.teacher + threadIdx.x * WIDE;
    if (i + WIDE <= mine.taught_end) {
        float x[WIDE], z[WIDE];
        kd_load_vector(x, student);
        kd_load_vector(z, teacher);
        both(i, x, z);
    } else if (i >= mine.taught_end && i + WIDE <= mine.end) {
        float x[WIDE];
        kd_load_vector(x, student);
        alone(i, x);
    } else {
        for (int j = 0; i + j < mine.end && j < WIDE; j++) {
            float x[1] = {student[j]};
            if (i + j < mine.taught_end) {
                const float z[1] = {teacher[j]};
                both(i + j, x, z);
            } else {
                alone(i + j, x);
            }
        }
    }
}

/* ---- a row ---- */

KD_FN kd_vocab_row_sums read_row(const cluster_args &a,
                                 const share &mine,
                                 const kd_vocab_label &label,
                                 const tile *ring,
                                 int slot)
{
    kd_vocab_row_sums s = kd_vocab_no_sums(label);
    for (int k = 0; k < a.n_tiles; k++) {
        wait_for_copies<0, RING>(RING - 1 - k);
        read_columns(
            ring[slot], mine, mine.first + k * TILE,
            [&](int i, auto &x, auto &z) { kd_vocab_add_taught(s, a.of, label, i, x, z); },
            [&](int i, auto &x) { kd_vocab_add(s, label, i, x); });
        slot = slot + 1 < RING ? slot + 1 : 0;
    }
    return s;
}

/* The second reading, which gives each tile away; slopes: the row's, or NULL. This thread's part of kl. */
template <class T>
KD_FN float read_again(const cluster_args &a,
                       const share &mine,
                       int label,
                       const kd_vocab_row_sums &s,
                       T *slopes,
                       tile *ring,
                       filler &f)
{
    const kd_vocab_gradient g = kd_vocab_gradient_of(a.of, s);
    float kl = 0.0f;
    for (int k = 0; k < a.n_tiles; k++) {
        read_columns(
            ring[f.slot], mine, mine.first + k * TILE,
            [&](int i, auto &x, auto &z) {
                kl += kd_vocab_slope_taught(x, z, a.of, s, g, i, label);
                if (slopes != nullptr) {
                    kd_store_vector(slopes + i, x);
                }
            },
            [&](int i, auto &x) {
                if (slopes != nullptr) {
                    kd_vocab_slope(x, s, g, i, label);
                    kd_store_vector(slopes + i, x);
                }
            });
        fill(f, a, mine, ring);
    }
    return kl;
}

/* A row that takes no part. */
template <class T>
KD_FN void skip_row(const cluster_args &a, const share &mine, T *slopes, int64_t row)
{
    if (kd_cluster_rank() == 0) {
        kd_vocab_write_no_sums(a.of, row);
    }
    for (int i = mine.first; slopes != nullptr && i < mine.end; i += TILE) {
        T *out = slopes + row * a.of.slopes_stride;
        const float zeros[WIDE] = {}, zero[1] = {};
        if (i + WIDE <= mine.end) {
            kd_store_vector(out + i, zeros);
        } else {
            for (int j = i; j < mine.end; j++) {
                kd_store_vector(out + j, zero);
            }
        }
    }
}

/* ---- all rows of a cluster ---- */

/* -1: no label, or no such row. */
KD_FN int label_of(const kd_vocab_args &a, int64_t row)
{
    return row < a.n_rows && a.labels != nullptr ? a.labels[row] : -1;
}

/* A row whose divergence is not yet known. */
struct unfinished {
    int64_t row; /* -1: none */
    float p_sum;
};

KD_FN void finish(const kd_vocab_args &a, const unfinished &last, float kl)
{
    if (last.row >= 0 && kd_cluster_rank() == 0 && threadIdx.x == 0) {
        kd_vocab_write_kd(a, last.row, kl, last.p_sum);
    }
}

KD_FN filler start_ring(const cluster_args &a, const share &mine, tile *ring)
{
    filler f = {start_rows(a.of), 0, 0};
    step(f.rows, a.of, [](int64_t) {});
    for (int i = 0; i < RING; i++) {
        fill(f, a, mine, ring);
    }
    return f;
}

/* The next row's label is read before the first reading of this one, its logit before the second. */
template <class T> KD_FN void run_rows(const cluster_args &a, T *slopes)
{
    KD_DYN_SHARED(tile, ring, 16);
    KD_SHARED(joined, parts, [WARPS]);
    KD_SHARED(joined, totals, [2]);
    const share mine = share_of(a);
    const auto skip = [&](int64_t row) { skip_row(a, mine, slopes, row); };
    filler f = start_ring(a, mine, ring);
    row_cursor rows = start_rows(a.of);
    step(rows, a.of, skip);
    kd_vocab_label label = {label_of(a.of, rows.row), NAN};
    label.logit = kd_vocab_label_logit(a.of, rows.row, label.column);
    joined sums = nothing();
    unfinished last = {-1, 0.0f};
    int turn = 0;
    for (; rows.row < a.of.n_rows; turn ^= 1) {
        const int64_t row = rows.row;
        T *out = slopes != nullptr ? slopes + row * a.of.slopes_stride : nullptr;
        step(rows, a.of, skip);
        const int next = label_of(a.of, rows.row);
        sums.row = read_row(a, mine, label, ring, f.slot);
        sums = join_cluster(a.of, sums, parts, &totals[turn]);
        finish(a.of, last, sums.kl);
        if (kd_cluster_rank() == 0 && threadIdx.x == 0) {
            kd_vocab_write_sums(a.of, row, sums.row, label.logit);
        }
        last = {row, sums.row.p.sum};
        const float next_logit = kd_vocab_label_logit(a.of, rows.row, next);
        sums.kl = read_again(a, mine, label.column, sums.row, out, ring, f);
        label = {next, next_logit};
    }
    sums.row = nothing().row;
    finish(a.of, last, join_cluster(a.of, sums, parts, &totals[turn]).kl);
    kd_cluster_sync(); /* nobody leaves while its shared memory may be read */
}

template <class T>
static __global__ void __launch_bounds__(THREADS) losses_cluster(cluster_args a, T *slopes)
{
    if (KD_HAS_CLUSTERS) {
        run_rows(a, slopes);
    } else {
        __trap();
    }
}

/* ---- the launch ---- */

static void cut(cluster_args *a, unsigned cluster)
{
    const int step = static_cast<int>(cluster) * SHARE_STEP;
    a->share = (a->of.n_columns + step - 1) / step * SHARE_STEP;
    a->n_tiles = (a->share + TILE - 1) / TILE;
}

/* The smallest cluster whose rings have half their tiles for the next row, or the largest. */
static unsigned choose_cluster(cluster_args *a)
{
    unsigned cluster = 1;
    cut(a, cluster);
    while (cluster < CLUSTER_MAX && a->n_tiles > RING / 2) {
        cluster *= 2;
        cut(a, cluster);
    }
    return cluster;
}

template <class T>
static bool launch(kd_backend *be, const cluster_args &a, unsigned cluster, kd_tensor slopes)
{
    int n_most = 0;
    const cudaError_t error =
        kd_clusters_at_once(losses_cluster<T>, THREADS, cluster, RING_BYTES, &n_most);
    if (!kd_cuda_keep(be, error, "losses over the vocabulary in clusters") || n_most < 1) {
        return error != cudaSuccess;
    }
    const int64_t n = a.of.n_rows < n_most ? a.of.n_rows : n_most;
    kd_cuda_launch_clusters(be, "losses over the vocabulary in clusters", losses_cluster<T>,
                            kd_cuda_blocks(n * cluster, 1), THREADS, cluster, RING_BYTES, a,
                            kd_cuda_data<T>(slopes));
    kd_cuda_ran(be, KD_CUDA_KERNEL_VOCABULARY_FAST);
    return true;
}

bool kd_cuda_vocab_rows_cluster(kd_backend *be, const kd_vocab_args &args, kd_tensor slopes)
{
    cluster_args a = {args, 0, 0};
    if (!args.vectors || args.n_rows == 0 || args.n_columns > CLUSTER_MAX * RING * TILE) {
        return false;
    }
    const unsigned cluster = choose_cluster(&a);
    bool ran = false;
    kd_cuda_with_type(slopes.data != nullptr ? slopes.dtype : KD_F32,
                      [&](auto type) { ran = launch<decltype(type)>(be, a, cluster, slopes); });
    return ran;
}
