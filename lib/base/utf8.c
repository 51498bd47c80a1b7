/* utf8.c - the one decoder: what a check lets pass, a printer prints, and what one refuses, so does the other. */
#include "base/utf8.h"

#include <string.h>

size_t kd_utf8_decode(const char *bytes, size_t size, uint32_t *code_out)
{
    static const uint32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *at = (const uint8_t *)bytes;
    const uint8_t first = size > 0 ? at[0] : 0xff;
    const size_t n = first < 0x80             ? 1
                     : (first & 0xe0) == 0xc0 ? 2
                     : (first & 0xf0) == 0xe0 ? 3
                     : (first & 0xf8) == 0xf0 ? 4
                                              : 0;
    if (n == 0 || n > size) {
        return 0;
    }
    uint32_t code = n == 1 ? first : first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (at[i] & 0x3fu);
    }
    if (code < lowest[n] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
        return 0;
    }
    *code_out = code;
    return n;
}

size_t kd_utf8_span(const char *string)
{
    const size_t n = strlen(string);
    uint32_t code;
    size_t n_character = 1, at = 0;
    while (at < n && n_character > 0) {
        n_character = kd_utf8_decode(string + at, n - at, &code);
        at += n_character;
    }
    return at;
}

bool kd_utf8_is_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0);
}
