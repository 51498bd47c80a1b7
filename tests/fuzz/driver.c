#include "tests/fuzz/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"

enum { INPUT_BYTES_MAX = 4096, MUTATIONS_MAX = 4 };

typedef struct mutant {
    uint8_t data[INPUT_BYTES_MAX];
    size_t size;
    uint64_t key, counter; /* of its random numbers */
} mutant;

/* Uniform in [0, n); 0 if n is. */
static size_t roll(mutant *m, size_t n)
{
    return n == 0 ? 0 : (size_t)(kd_rng_u64(m->key, m->counter++) % n);
}

/* Puts n bytes in at a place, as far as there is room. */
static void insert(mutant *m, size_t at, const uint8_t *bytes, size_t n)
{
    if (n <= INPUT_BYTES_MAX - m->size) {
        memmove(m->data + at + n, m->data + at, m->size - at);
        memcpy(m->data + at, bytes, n);
        m->size += n;
    }
}

static void erase(mutant *m, size_t at, size_t n)
{
    memmove(m->data + at, m->data + at + n, m->size - at - n);
    m->size -= n;
}

/* A stretch of some input of the corpus, put in anywhere. */
static void splice(mutant *m)
{
    const fuzz_input *from = &fuzz_corpus[roll(m, fuzz_corpus_size)];
    const size_t start = roll(m, from->size);
    const size_t n = roll(m, from->size - start + 1);
    insert(m, roll(m, m->size + 1), (const uint8_t *)from->data + start, n);
}

static void mutate(mutant *m)
{
    static const uint8_t telling[] = {0,   1,   0x7f, 0x80, 0xff, '\n', ' ', ':', '-', '"',
                                      '[', '{', '}',  '&',  '*',  '!',  '#', '9', '.', 0x08};
    const uint8_t byte = telling[roll(m, sizeof telling)];
    const size_t at = roll(m, m->size);
    switch (roll(m, 7)) {
    case 0:
        m->data[at] ^= (uint8_t)(1u << roll(m, 8));
        break;
    case 1:
        m->data[at] = byte;
        break;
    case 2:
        m->data[at] = (uint8_t)roll(m, 256);
        break;
    case 3:
        insert(m, roll(m, m->size + 1), &byte, 1);
        break;
    case 4:
        erase(m, at, roll(m, m->size - at + 1) / 2);
        break;
    case 5:
        m->size = at;
        break;
    case 6:
        splice(m);
        break;
    }
}

static void run_one(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size + (size == 0)); /* malloc(0) may be NULL */
    KD_CHECK(exact != NULL);
    memcpy(exact, data, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void run_mutant(uint64_t key)
{
    mutant m = {.key = key};
    const fuzz_input *origin = &fuzz_corpus[roll(&m, fuzz_corpus_size)];
    KD_CHECK(origin->size <= INPUT_BYTES_MAX);
    memcpy(m.data, origin->data, origin->size);
    m.size = origin->size;
    for (size_t n = 1 + roll(&m, MUTATIONS_MAX); n > 0 && m.size > 0; n--) {
        mutate(&m);
    }
    run_one(m.data, m.size);
}

int main(int argc, char **argv)
{
    const uint64_t n_inputs = argc > 1 ? strtoull(argv[1], NULL, 10) : 50000;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    kd_fault_quiet(1);
    for (size_t i = 0; i < fuzz_corpus_size; i++) {
        run_one((const uint8_t *)fuzz_corpus[i].data, fuzz_corpus[i].size);
    }
    for (uint64_t i = 0; i < n_inputs; i++) {
        run_mutant(kd_rng_u64(seed, i));
    }
    (void)printf("%llu inputs, seed %llu\n", (unsigned long long)n_inputs,
                 (unsigned long long)seed);
    return 0;
}
