/*
 * The byte tokenizer as Hugging Face's tokenizer.json: a BPE without merges over the 256 letters that
 * its ByteLevel step writes for bytes. Printable Latin-1 stands for itself; every other byte, in
 * rising order, for the next code point from U+0100 on.
 */
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "data/tokenizer.h"

static bool stands_for_itself(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Code points here are below U+0800: one or two bytes of UTF-8. */
static void add_letter(kd_text *text, unsigned code)
{
    if (code == '"' || code == '\\') {
        kd_text_printf(text, "\\%c", (char)code);
    } else if (code < 0x80) {
        kd_text_printf(text, "%c", (char)code);
    } else {
        kd_text_printf(text, "%c%c", (char)(0xC0 | code >> 6), (char)(0x80 | (code & 0x3F)));
    }
}

static void add_vocabulary(kd_text *text)
{
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        kd_text_add(text, byte ? ",\"" : "\"");
        add_letter(text, stands_for_itself(byte) ? byte : next++);
        kd_text_printf(text, "\":%u", byte);
    }
}

static void add_byte_level(kd_text *text, const char *key)
{
    kd_text_printf(text,
                   "\"%s\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                   "\"trim_offsets\":false,\"use_regex\":false},",
                   key);
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
    kd_text_add(&text, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
                       "\"added_tokens\":[],\"normalizer\":null,");
    add_byte_level(&text, "pre_tokenizer");
    kd_text_add(&text, "\"post_processor\":null,");
    add_byte_level(&text, "decoder");
    kd_text_add(&text, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                       "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                       "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{");
    add_vocabulary(&text);
    kd_text_add(&text, "},\"merges\":[]}}\n");
    kd_status st = write_file(folder, "tokenizer.json", &text);
    if (st == KD_OK) {
        kd_text_add(&text, "{\"tokenizer_class\":\"PreTrainedTokenizerFast\","
                           "\"clean_up_tokenization_spaces\":false}\n");
        st = write_file(folder, "tokenizer_config.json", &text);
    }
    return st;
}
