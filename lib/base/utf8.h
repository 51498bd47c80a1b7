/* utf8.h - characters of UTF-8 text, one by one, and which of them steer a terminal. */
#ifndef KD_BASE_UTF8_H
#define KD_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Length in bytes of the character at the front of `size` bytes, and its number; 0 if it is none (overlong,
 * surrogate, above U+10FFFF, cut off), and then *code_out is untouched.
 */
size_t kd_utf8_decode(const char *bytes, size_t size, uint32_t *code_out);

/* How many bytes at the front of a string are UTF-8: all, where it is text. */
size_t kd_utf8_span(const char *string);

/* Controls of ASCII (C0 and DEL), and those from U+0080 to U+009F (C1), which terminals obey as well. */
bool kd_utf8_is_control(uint32_t code);

#endif
