/*
 * Feeds mutated safetensors files to the reader: 20,000 by default, or argv[1], from the seed argv[2].
 * A file is either refused with a message, or every byte of every tensor can be read. Each one lies in
 * a block of exactly its size, so that the address sanitizer sees a step beyond it.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "format/safetensors.h"

enum { FILE_BYTES_MAX = 1024 };

typedef struct bytes {
    uint8_t data[FILE_BYTES_MAX];
    size_t size;
} bytes;

/* Random numbers of one file: a key of its own and a counter. */
typedef struct dice {
    uint64_t key, counter;
} dice;

static size_t roll(dice *d, size_t n)
{
    return (size_t)(kd_rng_u64(d->key, d->counter++) % n);
}

static const char *const headers[] = {
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}  ",
    "{\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]},"
    "\"e\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[2,2]},"
    "\"i\":{\"dtype\":\"U8\",\"shape\":[30],\"data_offsets\":[2,32]}}",
    "{}",
};

/* What a header is made of, and numbers at the edges; pasted anywhere. */
static const char *const words[] = {
    "\"F32\"",
    "\"F64\"",
    "\"shape\":",
    "\"dtype\":",
    "\"data_offsets\":",
    "[0,8]",
    "[]",
    "{}",
    "null",
    "-1",
    "0",
    "24",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "1e9",
    "\"a\":",
    "\"__metadata__\":",
    ",",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\u0000",
    "\xff",
};

static void store_length(bytes *file, uint64_t length)
{
    for (size_t i = 0; i < 8; i++) {
        file->data[i] = (uint8_t)(length >> 8 * i);
    }
}

static bytes start_file(dice *d)
{
    bytes file = {.size = 0};
    const char *header = headers[roll(d, sizeof headers / sizeof *headers)];
    const size_t n = strlen(header), n_data = n > 2 ? 32 : 0;

    store_length(&file, n);
    memcpy(file.data + 8, header, n);
    for (size_t i = 0; i < n_data; i++) {
        file.data[8 + n + i] = (uint8_t)roll(d, 256);
    }
    file.size = 8 + n + n_data;
    return file;
}

/* Replaces `cut` bytes at `at` by `n` others; what does not fit is dropped. */
static void splice(bytes *file, size_t at, size_t cut, const void *with, size_t n)
{
    const size_t tail = file->size - at - cut;
    if (at + n + tail > FILE_BYTES_MAX) {
        return;
    }
    memmove(file->data + at + n, file->data + at + cut, tail);
    memcpy(file->data + at, with, n);
    file->size = at + n + tail;
}

static void mutate(bytes *file, dice *d)
{
    const size_t at = roll(d, file->size + 1), left = file->size - at;
    const char *word = words[roll(d, sizeof words / sizeof *words)];

    switch (roll(d, 7)) {
    case 0: /* another byte */
        if (left > 0) {
            file->data[at] = (uint8_t)roll(d, 256);
        }
        break;
    case 1: /* another digit */
        for (size_t i = at; i < file->size; i++) {
            if (file->data[i] >= '0' && file->data[i] <= '9') {
                file->data[i] = (uint8_t)('0' + roll(d, 10));
                break;
            }
        }
        break;
    case 2:
        splice(file, at, 0, word, strlen(word));
        break;
    case 3:
        splice(file, at, roll(d, (left < 16 ? left : 16) + 1), word, strlen(word));
        break;
    case 4: /* truncated */
        file->size = at;
        break;
    case 5: /* more data */
        splice(file, file->size, 0, word, strlen(word));
        break;
    default: /* another header length, mostly near the right one */
        if (file->size >= 8) {
            store_length(file, roll(d, 4) == 0 ? kd_rng_u64(d->key, d->counter++)
                                               : roll(d, file->size + 4));
        }
        break;
    }
}

static bool is_float(kd_safetensors_dtype dtype)
{
    return dtype == KD_SAFETENSORS_F64 || dtype == KD_SAFETENSORS_F32 ||
           dtype == KD_SAFETENSORS_F16 || dtype == KD_SAFETENSORS_BF16;
}

static void read_all(const kd_safetensors *file)
{
    float values[FILE_BYTES_MAX];

    for (size_t i = 0; i < kd_safetensors_count(file); i++) {
        const kd_safetensors_entry *entry = kd_safetensors_at(file, i);
        KD_CHECK(entry->size_bytes <= FILE_BYTES_MAX);
        KD_CHECK(kd_safetensors_find(file, entry->name) == entry);
        const kd_status st = kd_safetensors_read_f32(
            entry, 0, entry->size_bytes > 0 ? entry->n_elements : 0, values);
        KD_CHECK(st == KD_OK || !is_float(entry->dtype));
    }
}

/* Whether the file was believed. */
static bool try_file(const bytes *file)
{
    kd_safetensors *opened;
    uint8_t *exact = malloc(file->size > 0 ? file->size : 1);
    KD_CHECK(exact != NULL);
    memcpy(exact, file->data, file->size);
    const kd_status st = kd_safetensors_open_memory("mutant", exact, file->size, &opened);
    if (st == KD_OK) {
        read_all(opened);
        kd_safetensors_close(opened);
    } else {
        KD_CHECK(st == KD_ERR_PROTO || st == KD_ERR_INVALID);
        KD_CHECK(strncmp(kd_fault_text(), "mutant: ", 8) == 0);
    }
    free(exact);
    return st == KD_OK;
}

int main(int argc, char **argv)
{
    const unsigned long n_files = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned long n_believed = 0;

    kd_fault_quiet(1);
    for (unsigned long i = 0; i < n_files; i++) {
        dice d = {.key = kd_rng_u64(kd_rng_key(seed, "safetensors"), i)};
        bytes file = start_file(&d);
        for (size_t n = roll(&d, 4); n > 0; n--) {
            mutate(&file, &d);
        }
        n_believed += try_file(&file);
    }
    printf("%lu files, %lu believed, %lu refused\n", n_files, n_believed, n_files - n_believed);
    /* All of one kind would mean that nothing was tested. */
    return n_believed > 0 && n_believed < n_files ? 0 : 1;
}
