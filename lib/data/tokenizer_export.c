/*
 * The byte tokenizer as Hugging Face's tokenizer.json: a BPE without merges over the 256 letters that
 * its ByteLevel step writes for bytes. Printable Latin-1 stands for itself; every other byte, in
 * rising order, for the next code point from U+0100 on.
 */
#include <stdlib.h>

#include "base/file.h"
#include "base/json_print.h"
#include "base/log.h"
#include "data/tokenizer.h"

static bool stands_for_itself(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Code points here are below U+0800: one or two bytes of UTF-8. */
static void add_letter(kd_json_printer *p, unsigned code)
{
    const char one[] = {(char)code, '\0'};
    const char two[] = {(char)(0xC0 | code >> 6), (char)(0x80 | (code & 0x3F)), '\0'};
    kd_json_key(p, code < 0x80 ? one : two);
}

static void add_vocabulary(kd_json_printer *p)
{
    unsigned next = 0x100;
    kd_json_key(p, "vocab");
    kd_json_begin(p, '{');
    for (unsigned byte = 0; byte < 256; byte++) {
        add_letter(p, stands_for_itself(byte) ? byte : next++);
        kd_json_uint(p, byte);
    }
    kd_json_end(p, '}');
}

static void add_raw(kd_json_printer *p, const char *key, const char *json)
{
    kd_json_key(p, key);
    kd_json_raw(p, json);
}

static void add_byte_level(kd_json_printer *p, const char *key)
{
    kd_json_key(p, key);
    kd_json_begin(p, '{');
    kd_json_key(p, "type");
    kd_json_string(p, "ByteLevel");
    add_raw(p, "add_prefix_space", "false");
    add_raw(p, "trim_offsets", "false");
    add_raw(p, "use_regex", "false");
    kd_json_end(p, '}');
}

static void add_model(kd_json_printer *p)
{
    kd_json_key(p, "model");
    kd_json_begin(p, '{');
    kd_json_key(p, "type");
    kd_json_string(p, "BPE");
    add_raw(p, "dropout", "null");
    add_raw(p, "unk_token", "null");
    add_raw(p, "continuing_subword_prefix", "null");
    add_raw(p, "end_of_word_suffix", "null");
    add_raw(p, "fuse_unk", "false");
    add_raw(p, "byte_fallback", "false");
    add_vocabulary(p);
    add_raw(p, "merges", "[]");
    kd_json_end(p, '}');
}

static void describe(kd_text *text)
{
    kd_json_printer p = {.text = text};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "version");
    kd_json_string(&p, "1.0");
    add_raw(&p, "truncation", "null");
    add_raw(&p, "padding", "null");
    add_raw(&p, "added_tokens", "[]");
    add_raw(&p, "normalizer", "null");
    add_byte_level(&p, "pre_tokenizer");
    add_raw(&p, "post_processor", "null");
    add_byte_level(&p, "decoder");
    add_model(&p);
    kd_json_end(&p, '}');
    kd_text_add(text, "\n");
}

static kd_status write_file(const char *folder, const char *name, kd_text *text)
{
    char *path = kd_path_join(folder, name);
    const kd_status st = path == NULL || text->failed
                             ? kd_fail(KD_ERR_NOMEM, "no memory for %s/%s", folder, name)
                             : kd_file_replace(path, text->data, text->size);
    free(path);
    kd_text_release(text);
    return st;
}

kd_status kd_tokenizer_byte_export(const char *folder)
{
    kd_text text = {0};
    describe(&text);
    kd_status st = write_file(folder, "tokenizer.json", &text);
    if (st == KD_OK) {
        kd_json_printer p = {.text = &text};
        kd_json_begin(&p, '{');
        kd_json_key(&p, "tokenizer_class");
        kd_json_string(&p, "PreTrainedTokenizerFast");
        add_raw(&p, "clean_up_tokenization_spaces", "false");
        kd_json_end(&p, '}');
        kd_text_add(&text, "\n");
        st = write_file(folder, "tokenizer_config.json", &text);
    }
    return st;
}
