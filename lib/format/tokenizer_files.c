/* By name, and not all that is there: other files of a folder may be as large as its weights. */
#include "format/tokenizer_files.h"

#include <stdlib.h>

#include "base/file.h"
#include "format/lineage.h"

enum { FILE_BYTES_MAX = 256 << 20 };

static const char *const names[] = {
    KD_LINEAGE_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
};
_Static_assert(sizeof names / sizeof *names == KD_TOKENIZER_FILES_MAX, "room for each");

static kd_status read_one(const char *folder, int i, kd_tokenizer_files *files)
{
    char *path = kd_path_join(folder, names[i]);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    const kd_status st =
        kd_file_exists(path)
            ? kd_file_read(path, FILE_BYTES_MAX, &files->files[i].data, &files->files[i].size_bytes)
            : KD_OK;
    free(path);
    return st;
}

kd_status kd_tokenizer_files_read(const char *folder, kd_tokenizer_files *files_out)
{
    kd_tokenizer_files files = {0};
    kd_status st = KD_OK;
    for (int i = 0; i < KD_TOKENIZER_FILES_MAX && !st; i++) {
        st = read_one(folder, i, &files);
    }
    if (st) {
        kd_tokenizer_files_release(&files);
        return st;
    }
    *files_out = files;
    return KD_OK;
}

void kd_tokenizer_files_release(kd_tokenizer_files *files)
{
    for (int i = 0; i < KD_TOKENIZER_FILES_MAX; i++) {
        free(files->files[i].data);
    }
    *files = (kd_tokenizer_files){0};
}

kd_status kd_tokenizer_files_write(const kd_tokenizer_files *files, const char *folder)
{
    kd_status st = KD_OK;
    for (int i = 0; i < KD_TOKENIZER_FILES_MAX && !st; i++) {
        if (files->files[i].data != NULL) {
            char *path = kd_path_join(folder, names[i]);
            st = path == NULL
                     ? KD_ERR_NOMEM
                     : kd_file_replace(path, files->files[i].data, files->files[i].size_bytes);
            free(path);
        }
    }
    return st;
}
