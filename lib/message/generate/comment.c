/*
 * Reads a comment from the left: facts with blanks between, up to " - ", and the meaning behind.
 * A comment without " - " is a meaning alone. So a misspelt fact is never taken for prose.
 */
#include "message/generate/comment.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char separator[] = " - ";

static bool mistaken(kd_text *mistake, const char *found, size_t n_bytes, const char *expected)
{
    kd_text_printf(mistake, "found \"%.*s\", expected %s", (int)n_bytes, found, expected);
    return false;
}

/* One end of a range; nothing between the signs is no limit. */
static bool read_end(const char *begin, const char *end, double none, double *end_out)
{
    char digits[32] = "";
    const size_t n = (size_t)(end - begin);
    if (n == 0) {
        *end_out = none;
        return true;
    }
    if (n >= sizeof digits) {
        return false;
    }
    memcpy(digits, begin, n);
    char *rest;
    *end_out = strtod(digits, &rest);
    return *rest == '\0' && isfinite(*end_out);
}

static bool are_whole(const kd_range *range)
{
    const double exact_max = 9007199254740992.0; /* 2^53: a double tells each one apart */
    const double ends[] = {range->least, range->most};
    for (int i = 0; i < 2; i++) {
        if (isfinite(ends[i]) && (ends[i] != floor(ends[i]) || fabs(ends[i]) > exact_max)) {
            return false;
        }
    }
    return true;
}

/* "a..b" between two signs, which are the first and the last byte of the word. */
static bool read_range(const char *word, size_t n_bytes, bool whole, kd_range *range_out)
{
    const char *last = word + n_bytes - 1;
    const char *dots = strstr(word, "..");
    kd_range range = {.least_open = word[0] == '(', .most_open = *last == ')'};
    if (n_bytes < 4 || dots == NULL || dots + 2 > last ||
        !read_end(word + 1, dots, -INFINITY, &range.least) ||
        !read_end(dots + 2, last, INFINITY, &range.most)) {
        return false;
    }
    /* What has no limit has no end that could belong to it. */
    const bool open_ends = (isfinite(range.least) || range.least_open) &&
                           (isfinite(range.most) || range.most_open || *last == '}');
    if (!open_ends || range.least > range.most || (whole && !are_whole(&range))) {
        return false;
    }
    *range_out = range;
    return true;
}

static bool take_range(const char *word,
                       size_t n_bytes,
                       const field_place *place,
                       kd_field_facts *facts,
                       kd_text *mistake)
{
    const char last = word[n_bytes - 1];
    const bool whole = place->kind != FIELD_REAL && place->kind != FIELD_SCHEDULE;
    if (place->kind == FIELD_OTHER || facts->has_range) {
        return mistaken(mistake, word, n_bytes, "no range, or no second one");
    }
    if ((last != ']' && last != ')') || !read_range(word, n_bytes, whole, &facts->range)) {
        return mistaken(mistake, word, n_bytes,
                        whole ? "a range of whole numbers like [1..64] or [0..)"
                              : "a range like [0..1], (0..1] or (0..)");
    }
    facts->has_range = true;
    return true;
}

static bool take_count(const char *word,
                       size_t n_bytes,
                       const field_place *place,
                       kd_field_facts *facts,
                       kd_text *mistake)
{
    if (!place->is_list || facts->has_count) {
        return mistaken(mistake, word, n_bytes, "no count: the field is no list, or has one");
    }
    if (word[n_bytes - 1] != '}' || !read_range(word, n_bytes, true, &facts->count)) {
        return mistaken(mistake, word, n_bytes, "a count like {1..32}");
    }
    facts->has_count = true;
    return true;
}

/* The flag that a word stands for; 0 if it is none. */
static unsigned flag_of(const char *word, size_t n_bytes)
{
    static const struct {
        const char *word;
        unsigned flag;
    } words[] = {
        {"required", KD_FIELD_REQUIRED},   {"live", KD_FIELD_LIVE},   {"path", KD_FIELD_PATH},
        {"free", KD_FIELD_FREE},           {"asked", KD_FIELD_ASKED}, {"teacher", KD_FIELD_TAUGHT},
        {"auxiliary", KD_FIELD_AUXILIARY},
    };

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].word) == n_bytes && memcmp(word, words[i].word, n_bytes) == 0) {
            return words[i].flag;
        }
    }
    return 0;
}

static bool take_word(const char *word,
                      size_t n_bytes,
                      const field_place *place,
                      kd_field_facts *facts,
                      kd_text *mistake)
{
    const unsigned flag = flag_of(word, n_bytes);
    if (flag == 0 || (facts->flags & flag) != 0) {
        return mistaken(mistake, word, n_bytes,
                        "a range, a count, or one of required, live, path, free, asked, teacher, "
                        "auxiliary, default: WORDS; each once");
    }
    const unsigned of_messages = KD_FIELD_ASKED | KD_FIELD_TAUGHT | KD_FIELD_AUXILIARY;
    if ((flag & of_messages) != 0 && (place->kind != FIELD_OTHER || place->is_list)) {
        return mistaken(mistake, word, n_bytes, "it at a message alone");
    }
    if (flag == KD_FIELD_PATH && place->kind != FIELD_TEXT) {
        return mistaken(mistake, word, n_bytes, "it at a text alone");
    }
    facts->flags |= flag;
    return true;
}

/* "0.7", or "0.7 with a teacher, 0 without": what a Schedule is when the job does not say. */
static bool take_schedule(kd_field_facts *facts, kd_text *mistake)
{
    const char *words = facts->computed_default;
    char *rest;
    facts->schedule[1] = strtod(words, &rest);
    facts->schedule[0] = facts->schedule[1];
    bool fine = rest != words;
    if (fine && *rest != '\0') {
        static const char with[] = " with a teacher, ", without[] = " without";
        char *second = rest + sizeof with - 1;
        fine = strncmp(rest, with, sizeof with - 1) == 0;
        facts->schedule[0] = fine ? strtod(second, &rest) : 0.0;
        fine = fine && rest != second && strcmp(rest, without) == 0;
    }
    return fine || mistaken(mistake, words, strlen(words),
                            "\"NUMBER\" or \"NUMBER with a teacher, NUMBER without\"");
}

/* The facts are the first `n_bytes` of the text, and " - " is behind them. */
static bool take_facts(const char *text,
                       size_t n_bytes,
                       const field_place *place,
                       kd_field_facts *facts,
                       kd_text *mistake)
{
    static const char words[] = "default: ";
    const char *const end = text + n_bytes;
    bool fine = true;
    while (fine && text < end) {
        const size_t left = (size_t)(end - text);
        const char *blank = memchr(text, ' ', left);
        const size_t n = blank != NULL ? (size_t)(blank - text) : left;
        if (left >= sizeof words && strncmp(text, words, sizeof words - 1) == 0) {
            facts->computed_default = strndup(text + sizeof words - 1, left - (sizeof words - 1));
            return place->kind != FIELD_SCHEDULE || take_schedule(facts, mistake);
        }
        if (n > 0) {
            fine = text[0] == '[' || text[0] == '(' ? take_range(text, n, place, facts, mistake)
                   : text[0] == '{'                 ? take_count(text, n, place, facts, mistake)
                                                    : take_word(text, n, place, facts, mistake);
        }
        text += n < left ? n + 1 : n;
    }
    return fine;
}

/* What facts say together, and with the type and the default that protoc knows. */
static bool agree(const field_place *place, const kd_field_facts *facts, kd_text *mistake)
{
    const char *given = place->default_value;
    const bool needs_range =
        place->kind == FIELD_WHOLE || place->kind == FIELD_REAL || place->kind == FIELD_SCHEDULE;
    if (place->is_list && !facts->has_count) {
        kd_text_add(mistake, "found no count, expected one like {0..32} at a list");
        return false;
    }
    if (needs_range && !facts->has_range) {
        kd_text_add(mistake, "found no range, expected one like [1..64] at a number");
        return false;
    }
    if (place->kind == FIELD_SCHEDULE && (facts->flags & KD_FIELD_REQUIRED) == 0 &&
        (facts->computed_default == NULL || !kd_range_holds(&facts->range, facts->schedule[0]) ||
         !kd_range_holds(&facts->range, facts->schedule[1]))) {
        kd_text_add(mistake,
                    "found no default within the range, expected one like default: 0.5 at a "
                    "Schedule");
        return false;
    }
    if ((facts->flags & KD_FIELD_REQUIRED) != 0 &&
        (given != NULL || facts->computed_default != NULL)) {
        kd_text_add(mistake, "found a default, expected none: the field is required");
        return false;
    }
    if (given != NULL && facts->computed_default != NULL) {
        kd_text_add(mistake, "found two defaults, expected one");
        return false;
    }
    const bool is_number = place->kind == FIELD_WHOLE || place->kind == FIELD_REAL;
    if (given != NULL && is_number && !kd_range_holds(&facts->range, strtod(given, NULL))) {
        kd_text_printf(mistake, "found the default %s, expected one in the range", given);
        return false;
    }
    return true;
}

bool comment_read(const char *comment,
                  const field_place *place,
                  kd_field_facts *facts_out,
                  kd_text *mistake)
{
    kd_field_facts facts = {0};
    while (comment != NULL && isspace((unsigned char)*comment)) {
        comment++;
    }
    size_t n = comment != NULL ? strlen(comment) : 0;
    while (n > 0 && isspace((unsigned char)comment[n - 1])) {
        n--;
    }
    if (n == 0) {
        kd_text_add(mistake, "found no comment behind it, expected its meaning");
        return false;
    }
    const char *dash = strstr(comment, separator);
    const char *meaning = dash != NULL ? dash + strlen(separator) : comment;
    const size_t n_first = strcspn(comment, " :,\n");
    if (dash == NULL && (strchr("[({", comment[0]) != NULL || flag_of(comment, n_first) != 0)) {
        return mistaken(mistake, comment, n, "\" - \" between its facts and its meaning");
    }
    const bool fine =
        dash == NULL || take_facts(comment, (size_t)(dash - comment), place, &facts, mistake);
    facts.meaning = strndup(meaning, n - (size_t)(meaning - comment));
    if (!fine || !agree(place, &facts, mistake)) {
        free((char *)facts.meaning);
        free((char *)facts.computed_default);
        return false;
    }
    *facts_out = facts;
    return true;
}
