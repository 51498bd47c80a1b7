/* command.c - what distill-model's commands share. */
#include "worker/model/command.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/option.h"
#include "train/device.h"
#include "train/dtype.h"
#include "worker/auto.h"

int command_help(const char *text)
{
    return fputs(text, stdout) < 0 ? EXIT_IO : EXIT_DONE;
}

int command_exit_code(kd_status st)
{
    if (st == KD_OK) {
        return EXIT_DONE;
    }
    if (st == KD_ERR_IO) {
        return EXIT_IO;
    }
    return st == KD_ERR_NOMEM || st == KD_ERR_STATE ? EXIT_INTERNAL : EXIT_INPUT;
}

kd_status command_options(int argc,
                          char **argv,
                          const char *letters,
                          const struct option *known,
                          kd_status (*take)(int letter, void *user),
                          void *user)
{
    int letter;
    kd_option_begin();
    kd_status st = kd_option_next(argc, argv, letters, known, &letter);
    while (!st && letter != KD_OPTION_END) {
        st = take(letter, user);
        if (!st) {
            st = kd_option_next(argc, argv, letters, known, &letter);
        }
    }
    return st;
}

kd_status command_word(int argc, char **argv, const char *expected, const char **word_out)
{
    if (argc - optind != 1) {
        return kd_fail(KD_ERR_ARG, "%s: found %d words, expected %s; see --help", argv[0],
                       argc - optind, expected);
    }
    *word_out = argv[optind];
    return KD_OK;
}

kd_status command_dtype(const char *word, kd_dtype *dtype_out)
{
    if (strcmp(word, "auto") == 0) {
        *dtype_out = kd_dtype_auto(1, kd_cpu_multiplies_bf16() ? 1 : 0);
    } else if (strcmp(word, "bf16") == 0) {
        *dtype_out = KD_BF16;
    } else if (strcmp(word, "f32") == 0) {
        *dtype_out = KD_F32;
    } else {
        return kd_fail(KD_ERR_ARG, "--dtype: found \"%s\", expected auto, bf16 or f32", word);
    }
    return KD_OK;
}

/* A value of an option by its word: the i-th of n. */
static kd_status
find_word(const char *option, const char *const *words, int n, const char *word, int *i_out)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(word, words[i]) == 0) {
            *i_out = i;
            return KD_OK;
        }
    }
    return kd_fail(KD_ERR_ARG, "%s: found \"%s\", expected %s, %s or %s", option, word, words[0],
                   words[1], words[2]);
}

kd_status command_place_device(const char *word, command_place *place)
{
    static const char *const words[] = {"auto", "cpu", "cuda"};
    static const Kd__Resources__Device devices[] = {
        KD__RESOURCES__DEVICE__AUTO, KD__RESOURCES__DEVICE__CPU, KD__RESOURCES__DEVICE__CUDA};
    int i = 0;
    const kd_status st = find_word("--device", words, 3, word, &i);
    place->device = st ? place->device : devices[i];
    return st;
}

kd_status command_place_dtype(const char *word, command_place *place)
{
    static const char *const words[] = {"auto", "bf16", "f32"};
    static const Kd__Dtype dtypes[] = {KD__DTYPE__AUTO, KD__DTYPE__BF16, KD__DTYPE__F32};
    int i = 0;
    const kd_status st = find_word("--dtype", words, 3, word, &i);
    place->dtype = st ? place->dtype : dtypes[i];
    return st;
}

/* As a job of one rank resolves them. */
kd_status command_place_open(const command_place *wish, kd_backend **be_out)
{
    const role_count here = role_count_here(0);
    const kd_device_place place = {.device =
                                       kd_device_choose(wish->device, here.n_ranks, here.n_see),
                                   .n_threads = (int)wish->n_threads};
    const bool cuda = place.device == KD__RESOURCES__DEVICE__CUDA;
    const Kd__Dtype dtype =
        kd_dtype_choose(wish->dtype, here.n_ranks, cuda ? here.n_ranks : here.n_multiply);
    return kd_device_open(&place, kd_dtype_of_word(dtype), be_out);
}

kd_status command_threads(const char *word, uint32_t *n_threads_out)
{
    return kd_option_number("--threads", word, 1, KD_THREADS_MAX, n_threads_out);
}

void command_put_json(kd_text *text)
{
    (void)puts(text->failed ? "null" : text->data);
    kd_text_release(text);
}
