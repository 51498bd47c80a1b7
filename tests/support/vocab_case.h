/*
 * vocab_case.h - a vocabulary loss with made-up tensors, run by the table of operations, and the same
 * loss in doubles to hold it against.
 *
 * What fails here fails the test that called.
 */
#ifndef KD_TESTS_VOCAB_CASE_H
#define KD_TESTS_VOCAB_CASE_H

#include "tensor/ops.h"

enum { TEACHERS_MAX = 3, ROWS_MAX = 700 };

/* The last of these columns of the student and of the teachers are padding. */
typedef struct vocab_shape {
    int64_t rows, width, student, teacher, vocab;
    int n_teachers, n_hidden; /* the first of them give hidden states, the others logits */
    float temperature, kd_scale, hard_scale;
} vocab_shape;

/* A test may change anything in it before it runs it. Rows and columns are below ROWS_MAX. */
typedef struct vocab_case {
    kd_backend *be;
    kd_vocab_loss loss;
    kd_vocab_teacher teachers[TEACHERS_MAX];
    int32_t *labels; /* what loss.labels holds, set before a run */
} vocab_case;

/* Random values; every fourth row has no label. release() frees the tensors that are then there. */
void vocab_case_make(vocab_case *f, kd_dtype compute, int n_threads, vocab_shape s);
void vocab_case_release(vocab_case *f);

/* One pass over zeroed sums; then a sum by its number, KD_VOCAB_SUM_KD ... */
void vocab_case_run(vocab_case *f);
double vocab_case_sum(const vocab_case *f, int which);

/* Logits in doubles, and whether a row is listed and labelled where that is asked for. */
double vocab_case_student(const vocab_case *f, int64_t row, int64_t v);
double vocab_case_teacher(const vocab_case *f, int t, int64_t row, int64_t v);
bool vocab_case_takes(const vocab_case *f, int64_t row);

/* The scaled loss in doubles; with sums_out not NULL the raw sums of kd and hard (2) as well. */
double vocab_case_naive(const vocab_case *f, double *sums_out);

/* Runs it; sums agree with those in doubles, gradients with central differences of them. */
void vocab_case_expect(vocab_case *f, const char *what, int which);

#endif
