/*
 * option.c - getopt_long() finds the options; what it would print itself is silenced, so that every
 * mistake is told in one form, with the nearest right word.
 */
#include "base/option.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define NAMES_MAX 32

void kd_option_begin(void)
{
    optind = 0; /* glibc's way to start anew; 1 would keep its place within a word */
    opterr = 0;
}

/* "--jbo=a" -> the nearest of the known names, or NULL. */
static const char *nearest_name(const char *word, const struct option *known)
{
    char name[64];
    const char *names[NAMES_MAX];
    size_t n = 0;
    while (*word == '-') {
        word++;
    }
    const size_t size = strcspn(word, "=");
    if (size == 0 || size >= sizeof name) {
        return NULL;
    }
    memcpy(name, word, size);
    name[size] = '\0';
    for (; known[n].name != NULL && n < NAMES_MAX; n++) {
        names[n] = known[n].name;
    }
    return kd_text_nearest(name, names, n);
}

static kd_status refuse(const char *word, const struct option *known)
{
    const char *nearest = nearest_name(word, known);
    return kd_fail(KD_ERR_ARG, "%s: no such option%s%s%s; see --help", word,
                   nearest ? "; did you mean \"--" : "", nearest ? nearest : "",
                   nearest ? "\"?" : "");
}

kd_status kd_option_next(int argc,
                         char *const *argv,
                         const char *letters,
                         const struct option *known,
                         int *letter_out)
{
    const int letter = getopt_long(argc, argv, letters, known, NULL);
    const char *word = letter == KD_OPTION_END || optind == 0 ? "" : argv[optind - 1];
    if (letter == ':') {
        return kd_fail(KD_ERR_ARG, "%s: expected a value behind it; see --help", word);
    }
    if (letter == '?' && strchr(word, '=') != NULL && optopt != 0) {
        return kd_fail(KD_ERR_ARG, "%s: expected no value; see --help", word);
    }
    if (letter == '?') {
        return refuse(word, known);
    }
    *letter_out = letter;
    return KD_OK;
}

kd_status kd_option_number64(const char *name,
                             const char *text,
                             uint64_t least,
                             uint64_t most,
                             uint64_t *number_out)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < least || n > most) {
        return kd_fail(KD_ERR_ARG,
                       "%s: found \"%s\", expected a number from %" PRIu64 " to %" PRIu64, name,
                       text, least, most);
    }
    *number_out = n;
    return KD_OK;
}

kd_status kd_option_number(const char *name,
                           const char *text,
                           uint32_t least,
                           uint32_t most,
                           uint32_t *number_out)
{
    uint64_t number = 0;
    const kd_status st = kd_option_number64(name, text, least, most, &number);
    if (!st) {
        *number_out = (uint32_t)number;
    }
    return st;
}

kd_status kd_option_log_level(const char *text)
{
    for (int level = KD_LOG_DEBUG; level <= KD_LOG_ERROR; level++) {
        if (strcmp(text, kd_log_level_name((kd_log_level)level)) == 0) {
            kd_log_set_level((kd_log_level)level);
            return KD_OK;
        }
    }
    return kd_fail(KD_ERR_ARG, "--log-level: found \"%s\", expected debug, info, warn or error",
                   text);
}
