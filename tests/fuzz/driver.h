/*
 * driver.h - runs a libFuzzer entry point on mutated inputs from a corpus written in code.
 *
 * A program has LLVMFuzzerTestOneInput() and the corpus; driver.c has main(): N inputs (50,000, or
 * argv[1]) from a seed (1, or argv[2]), the same ones every time. Each lies in a block of exactly
 * its size, so that the address sanitizer sees a step beyond it. Under clang's -fsanitize=fuzzer
 * leave driver.c out.
 */
#ifndef KD_TESTS_FUZZ_DRIVER_H
#define KD_TESTS_FUZZ_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef struct fuzz_input {
    const char *data;
    size_t size;
} fuzz_input;

#define FUZZ_TEXT(text)                                                                            \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }

extern const fuzz_input fuzz_corpus[];
extern const size_t fuzz_corpus_size;

/* Checks what must hold for any input, with KD_CHECK; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
