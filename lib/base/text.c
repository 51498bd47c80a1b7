/*
 * text.c - a fault is kept in the text, not returned, so that a line of output is a line of code. Numbers
 * take the fewest digits that read back the same: they are held against each other as text.
 */
#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` bytes and the NUL behind what is there; false sets `failed`. */
static bool reserve(kd_text *text, size_t more)
{
    if (text->failed || more > SIZE_MAX / 2 - text->size - 1) {
        text->failed = true;
        return false;
    }
    const size_t needed = text->size + more + 1;
    if (needed <= text->capacity) {
        return true;
    }
    size_t capacity = text->capacity < 64 ? 64 : text->capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    char *data = realloc(text->data, capacity);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void kd_text_add_bytes(kd_text *text, const void *bytes, size_t size)
{
    if (!reserve(text, size)) {
        return;
    }
    if (size > 0) {
        memcpy(text->data + text->size, bytes, size);
    }
    text->size += size;
    text->data[text->size] = '\0';
}

void kd_text_add(kd_text *text, const char *string)
{
    kd_text_add_bytes(text, string, strlen(string));
}

void kd_text_printf(kd_text *text, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    if (n < 0) {
        text->failed = true;
    } else if (reserve(text, (size_t)n)) {
        (void)vsnprintf(text->data + text->size, (size_t)n + 1, format, again);
        text->size += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void kd_text_clear(kd_text *text)
{
    text->size = 0;
    text->failed = false;
    if (text->data != NULL) {
        text->data[0] = '\0';
    }
}

void kd_text_release(kd_text *text)
{
    free(text->data);
    *text = (kd_text){0};
}

enum { LONGEST_WORD = 64 }; /* names are shorter; a longer one has no neighbour */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Optimal string alignment: the three rows of the table that the recurrence looks at. */
static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t rows[3][LONGEST_WORD + 1];
    size_t *before = rows[0], *above = rows[1], *row = rows[2];

    for (size_t j = 0; j <= n_b; j++) {
        above[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            const size_t replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = min_size(replaced, 1 + min_size(above[j], row[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = min_size(row[j], before[j - 2] + 1);
            }
        }
        size_t *const oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[n_b];
}

const char *kd_text_nearest(const char *word, const char *const *candidates, size_t n_candidates)
{
    const size_t n_word = strlen(word);
    const char *nearest = NULL;
    size_t limit = (n_word + 2) / 3;

    if (n_word > LONGEST_WORD) {
        return NULL;
    }
    for (size_t i = 0; i < n_candidates; i++) {
        const size_t n = strlen(candidates[i]);
        if (n > LONGEST_WORD) {
            continue;
        }
        const size_t distance = edit_distance(word, n_word, candidates[i], n);
        if (distance < limit || (distance == limit && nearest == NULL)) {
            nearest = candidates[i];
            limit = distance;
        }
    }
    return nearest;
}

const char *kd_text_not_finite(double number)
{
    return isnan(number) ? "not a number" : "infinite";
}

/* 15 digits always survive text -> double -> text, 17 always double -> text -> double. */
void kd_text_add_double(kd_text *text, double number)
{
    char digits[32];
    for (int n = 15; n <= 17; n++) {
        (void)snprintf(digits, sizeof digits, "%.*g", n, number);
        if (strtod(digits, NULL) == number) {
            break;
        }
    }
    kd_text_add(text, digits);
}

void kd_text_add_float(kd_text *text, float number)
{
    char digits[32];
    for (int n = 6; n <= 9; n++) {
        (void)snprintf(digits, sizeof digits, "%.*g", n, (double)number);
        if (strtof(digits, NULL) == number) {
            break;
        }
    }
    kd_text_add(text, digits);
}
