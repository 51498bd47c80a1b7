/*
 * Every operation that has tensors, at odd shapes and in both dtypes, on the back end under test and on the
 * CPU's; see device_runs.h and side.h. Tensors are made within calls: in whatever order, it is the same on both
 * sides.
 */
#include <criterion/criterion.h>

#include "tests/support/device_runs.h"

/* clang-format off */
static const side_shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 2, 0, 0},       /* one element                                   */
    {3, 17, 5, 3, 3, 3, 6, 0, 3},      /* no whole vectors                              */
    {5, 16, 8, 2, 1, 1, 8, 0, 1},      /* whole ones, but rows are not whole ones apart */
    {4, 24, 8, 2, 2, 1, 8, 1, 7},      /* rows are, but begin at none                   */
    {35, 40, 24, 9, 2, 2, 16, 0, 8},   /* rows of vectors, strided                      */
    {70, 72, 136, 40, 4, 1, 64, 0, 0}, /* several blocks of rows                        */
};

/* clang-format on */

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

#define TEST_ONE(name)                                                                             \
    Test(ops_device, name##_agrees)                                                                \
    {                                                                                              \
        side_compare(device_run_##name, KD_F32, shapes, N_SHAPES);                                 \
        side_compare(device_run_##name, KD_BF16, shapes, N_SHAPES);                                \
    }

DEVICE_RUNS_EACH(TEST_ONE)

Test(ops_device, ties_agree_for_any_number_of_experts_and_choices)
{
    static const side_shape routes[] = {
        {.n = 0, .experts = 8, .k = 2},    {.n = 70, .experts = 32, .k = 32, .padding = 1},
        {.n = 65, .experts = 33, .k = 1},  {.n = 129, .experts = 64, .k = 6},
        {.n = 9, .experts = 65, .k = 65},  {.n = 90, .experts = 128, .k = 8},
        {.n = 66, .experts = 200, .k = 9}, {.n = 5, .experts = 512, .k = 33},
        {.n = 2, .experts = 1023, .k = 7}, {.n = 3, .experts = 1024, .k = 1024},
    };
    side_compare(device_run_route_with_ties, KD_F32, routes, sizeof routes / sizeof *routes);
}

/* Rows too long for what a processor keeps at hand, more of them than one part of the work takes, and none. */
Test(ops_device, sums_over_long_or_many_rows_agree)
{
    static const side_shape sizes[] = {
        {.n = 3, .c = 13001, .heads = 1, .dim = 13001, .padding = 1},
        {.n = 2, .c = 12800, .heads = 2, .dim = 6400},
        {.n = 4103, .c = 36, .heads = 3, .dim = 12},
        {.n = 0, .c = 40, .heads = 2, .dim = 20},
    };

    static const struct {
        side_fn *run;
        int first; /* of sizes: what is turned has pairs */
    } runs[] = {{device_run_bias_backward, 0},
                {device_run_norm, 0},
                {device_run_norm_backward, 0},
                {device_run_head_norm, 0},
                {device_run_head_norm_backward, 0},
                {device_run_head_norm_rotate, 1},
                {device_run_head_norm_rotate_backward, 1}};

    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const int n_sizes = (int)(sizeof sizes / sizeof *sizes) - runs[i].first;
        side_compare(runs[i].run, KD_F32, sizes + runs[i].first, n_sizes);
        side_compare(runs[i].run, KD_BF16, sizes + runs[i].first, n_sizes);
    }
}

/* An id has many rows, or few of many ids have one. */
Test(ops_device, embeddings_of_small_and_large_tables_agree)
{
    static const side_shape tables[] = {
        {.n = 2100, .c = 5, .o = 3, .padding = 1},
        {.n = 2100, .c = 8, .o = 257},
        {.n = 1025, .c = 3, .o = 256},
        {.n = 37, .c = 4, .o = 70000},
        {.n = 0, .c = 4, .o = 9},
    };
    side_compare(device_run_embed, KD_BF16, tables, sizeof tables / sizeof *tables);
    side_compare(device_run_embed_backward, KD_F32, tables, sizeof tables / sizeof *tables);
}

/* What has no tensors. */
static bool is_administration(int op)
{
    return op <= DEVICE_marks_elapsed;
}

Test(ops_device, every_operation_with_tensors_is_compared)
{
#define RUN_ONE(name)   device_run_##name,
#define NAME_OF_ONE(op) #op,
    static side_fn *const runs[] = {DEVICE_RUNS_EACH(RUN_ONE)};
    static const char *const names[] = {KD_OPS_EACH(NAME_OF_ONE)};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        side host = side_on_cpu(KD_F32, shapes[0]);
        runs[i](&host);
        side_finish(&host);
    }
    for (int op = 0; op < DEVICE_OPS; op++) {
        cr_expect(device_called[op] || is_administration(op), "%s is never called", names[op]);
    }
}
