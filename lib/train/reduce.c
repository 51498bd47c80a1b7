/*
 * reduce.c - the sums of one who is alone; with more ranks lib/comm gives others, and the step does not
 * know the difference.
 */
#include "train/reduce.h"

/* NOLINTNEXTLINE(readability-non-const-parameter): the type is that of kd_reduce */
static kd_status keep_f32(void *user, float *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): likewise */
static kd_status keep_f64(void *user, double *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): likewise */
static kd_status keep_i64(void *user, int64_t *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

kd_reduce kd_reduce_single(void)
{
    return (kd_reduce){
        .rank = 0, .n_ranks = 1, .sum_f32 = keep_f32, .sum_f64 = keep_f64, .sum_i64 = keep_i64};
}
