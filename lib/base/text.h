/*
 * text.h - a growing byte string, and the nearest right word for a misspelt one.
 *
 * kd_text starts as {0}; kd_text_release() frees it and makes it {0} again. `data` is
 * always NUL-terminated once something was added. An append that finds no memory sets
 * `failed` and changes nothing; the caller looks once, at the end.
 *
 * Threads: any, one text at a time. Pure.
 */
#ifndef KD_BASE_TEXT_H
#define KD_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kd_text {
    char *data;
    size_t size; /* bytes without the NUL */
    size_t capacity;
    bool failed;
} kd_text;

void kd_text_add(kd_text *text, const char *string);
void kd_text_add_bytes(kd_text *text, const void *bytes, size_t size);
void kd_text_printf(kd_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As few significant digits as read back the same, at least 15 (6); the number must be finite. */
void kd_text_add_double(kd_text *text, double number);
void kd_text_add_float(kd_text *text, float number);
void kd_text_clear(kd_text *text); /* keeps the memory */
void kd_text_release(kd_text *text);

/* What to call a number that is not finite: "not a number" or "infinite". */
const char *kd_text_not_finite(double number);

/*
 * The candidate with the smallest edit distance (insert, delete, replace, swap of neighbours) to
 * `word`, or NULL if none is within a third of the word's length, rounded up.
 */
const char *kd_text_nearest(const char *word, const char *const *candidates, size_t n_candidates);

#endif
