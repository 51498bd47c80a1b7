/*
 * golden.h - reads the files of tests/golden: safetensors, written by generate.py.
 *
 * For tests: a file that cannot be read, and a name that is not in it, end the program with a message.
 */
#ifndef KD_TESTS_GOLDEN_H
#define KD_TESTS_GOLDEN_H

#include <stdint.h>

#include "shape/config.h"

#define GOLDEN_DIMS_MAX 3

typedef struct golden_record {
    char name[64];
    char kind; /* 'f' f32, 'd' f64, 'i' i32, 'q' i64 */
    int n_dims;
    int64_t dims[GOLDEN_DIMS_MAX]; /* unused ones are 1 */
    int64_t n_elements;
    void *data; /* owned, aligned */
} golden_record;

typedef struct golden {
    golden_record *records;
    int n_records;
} golden;

golden golden_read(const char *path);
void golden_release(golden *g);

/* The record of that name and kind. */
const golden_record *golden_find(const golden *g, const char *name, char kind);

kd_model_config golden_config(const golden *g);

#endif
