/*
 * tokenizer_files.h - the files of a model folder that say what its tokens are and what text it never saw:
 * distilld.json (lineage.h), and those of a tokenizer of Hugging Face. Whoever starts from a folder and
 * saves another keeps them, since the token ids go on to mean the same.
 *
 * They are kept as they are, in memory: the folder may be replaced by what is saved. Blocks on the disk.
 */
#ifndef KD_FORMAT_TOKENIZER_FILES_H
#define KD_FORMAT_TOKENIZER_FILES_H

#include <stddef.h>

#include "base/status.h"

#define KD_TOKENIZER_FILES_MAX 9

/* {0} holds none. */
typedef struct kd_tokenizer_files {
    struct {
        char *data; /* owned; NULL: the folder has no such file */
        size_t size_bytes;
    } files[KD_TOKENIZER_FILES_MAX];
} kd_tokenizer_files;

/* Those that the folder has. KD_ERR_INVALID: one is larger than 256 MiB. */
KD_MUST_USE kd_status kd_tokenizer_files_read(const char *folder, kd_tokenizer_files *files_out);
void kd_tokenizer_files_release(kd_tokenizer_files *files); /* fine on {0} and twice */

/* Into an existing folder. */
KD_MUST_USE kd_status kd_tokenizer_files_write(const kd_tokenizer_files *files, const char *folder);

#endif
