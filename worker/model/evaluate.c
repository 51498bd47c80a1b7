/* evaluate.c - distill-model evaluate: a model's loss on text, or on a packed shard. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_print.h"
#include "base/log.h"
#include "base/option.h"
#include "data/pack.h"
#include "format/model_folder.h"
#include "train/evaluate.h"
#include "train/vocabulary.h"
#include "worker/model/command.h"

static const char help[] =
    "usage: distill-model evaluate FOLDER --data FILE... [--sequence-length N] [--batch N]\n"
    "                              [--threads N] [--max-sequences N]\n"
    "                              [--device auto|cpu|cuda] [--dtype auto|bf16|f32] [--json]\n"
    "                              [--log-level debug|info|warn|error]\n"
    "\n"
    "prints loss (nats a token), perplexity and next-token accuracy on text files, or on one "
    "packed\n"
    "shard (OUTPUT/data/test.shard of a job), by sequences of N tokens [256, or the model's "
    "positions\n"
    "where those are fewer]\n";

typedef struct arguments {
    const char *folder;
    const char **files;
    size_t n_files;
    uint32_t n_tokens, n_batch, n_sequences; /* n_tokens 0: as help says, n_sequences 0: all */
    bool json, help;
    command_place place;
} arguments;

/* The folder comes first; behind --data FILE further files may follow without it. */
static kd_status take_word(const char *word, arguments *a)
{
    if (a->folder == NULL) {
        a->folder = word;
    } else if (a->n_files > 0) {
        a->files[a->n_files++] = word;
    } else {
        return kd_fail(KD_ERR_ARG, "found \"%s\", expected an option; see --help", word);
    }
    return KD_OK;
}

static kd_status take(int letter, void *user)
{
    arguments *a = user;

    enum { MOST = 1 << 24 };

    switch (letter) {
    case KD_OPTION_WORD:
        return take_word(optarg, a);
    case 'd':
        a->files[a->n_files++] = optarg;
        return KD_OK;
    case 's':
        return kd_option_number("--sequence-length", optarg, 1, MOST, &a->n_tokens);
    case 'b':
        return kd_option_number("--batch", optarg, 1, MOST, &a->n_batch);
    case 't':
        return command_threads(optarg, &a->place.n_threads);
    case 'm':
        return kd_option_number("--max-sequences", optarg, 1, MOST, &a->n_sequences);
    case 'l':
        return kd_option_log_level(optarg);
    case 'p':
        return command_place_dtype(optarg, &a->place);
    case 'D':
        return command_place_device(optarg, &a->place);
    case 'j':
        a->json = true;
        return KD_OK;
    default: /* 'h' */
        a->help = true;
        return KD_OK;
    }
}

static kd_status check(const arguments *a)
{
    if (a->folder == NULL) {
        return kd_fail(KD_ERR_ARG, "evaluate: expected a model folder; see --help");
    }
    if (a->n_files == 0) {
        return kd_fail(KD_ERR_ARG, "--data: missing; it names the text to evaluate on");
    }
    return KD_OK;
}

/* `a->files` has room for argc names. */
static kd_status parse(int argc, char **argv, arguments *a)
{
    static const struct option known[] = {
        {"data", required_argument, NULL, 'd'},
        {"sequence-length", required_argument, NULL, 's'},
        {"batch", required_argument, NULL, 'b'},
        {"threads", required_argument, NULL, 't'},
        {"max-sequences", required_argument, NULL, 'm'},
        {"log-level", required_argument, NULL, 'l'},
        {"dtype", required_argument, NULL, 'p'},
        {"device", required_argument, NULL, 'D'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    kd_status st = command_options(argc, argv, "-:h", known, take, a);
    for (int i = optind; !st && i < argc; i++) { /* behind "--" */
        st = take_word(argv[i], a);
    }
    return st || a->help ? st : check(a);
}

static bool is_shard(const char *path)
{
    char magic[sizeof KD_SHARD_MAGIC] = "";
    FILE *file = fopen(path, "rb");
    if (file != NULL) {
        (void)!fread(magic, 1, sizeof magic - 1, file);
        (void)fclose(file);
    }
    return strcmp(magic, KD_SHARD_MAGIC) == 0;
}

/* A new folder below $TMPDIR, or /tmp; the caller frees its path. */
static kd_status make_temporary(char **folder_out)
{
    const char *top = getenv("TMPDIR");
    char *folder =
        kd_path_join(top != NULL && top[0] != '\0' ? top : "/tmp", "distill-model.XXXXXX");
    if (folder == NULL) {
        return KD_ERR_NOMEM;
    }
    if (mkdtemp(folder) == NULL) {
        const int error = errno;
        const kd_status st =
            kd_fail(KD_ERR_IO, "cannot make the folder %s: %s", folder, strerror(error));
        free(folder);
        return st;
    }
    *folder_out = folder;
    return KD_OK;
}

/* Packs text into a folder that is gone when this returns; the mapping of the shard stays. */
static kd_status open_text(const arguments *a, kd_shard *shard_out)
{
    char *folder = NULL;
    kd_status st = make_temporary(&folder);
    if (st) {
        return st;
    }
    char *path = kd_path_join(folder, "text.shard");
    const kd_pack_settings settings = {
        .files = a->files,
        .n_files = a->n_files,
        .tokenizer = KD_TOKENIZER_BYTE,
        .sequence_length = a->n_tokens,
        .out_train_path = path,
    };
    st = path == NULL ? KD_ERR_NOMEM : kd_pack(&settings, NULL);
    if (!st) {
        st = kd_shard_open(shard_out, path);
    }
    free(path);
    const kd_status removed = kd_folder_remove(folder);
    free(folder);
    return st ? st : removed;
}

static kd_status
open_model(const arguments *a, kd_backend *be, kd_parameters **params_out, kd_decoder **decoder_out)
{
    kd_model_config config;
    kd_parameters *params = NULL;
    const kd_decoder_settings settings = {.max_batch = a->n_batch, .n_tokens = a->n_tokens};
    kd_status st = kd_model_folder_config(a->folder, &config);
    if (!st) {
        st = kd_parameters_create(be, &config, KD_PARAMS_INFER, &params);
    }
    if (!st) {
        st = kd_model_folder_load(a->folder, params);
    }
    if (!st) {
        st = kd_decoder_create(params, &settings, decoder_out);
    }
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    *params_out = params;
    return KD_OK;
}

static void print_evaluation(const arguments *a, const kd_evaluation *e)
{
    if (!a->json) {
        (void)printf("loss %.6f nats a token, perplexity %.4f, accuracy %.4f, over %llu tokens\n",
                     e->loss, e->perplexity, e->accuracy, (unsigned long long)e->n_tokens);
        return;
    }
    kd_text text = {0};
    kd_json_printer p = {.text = &text};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "loss");
    kd_json_double(&p, e->loss);
    kd_json_key(&p, "perplexity");
    kd_json_double(&p, e->perplexity);
    kd_json_key(&p, "accuracy");
    kd_json_double(&p, e->accuracy);
    kd_json_key(&p, "tokens");
    kd_json_uint(&p, e->n_tokens);
    kd_json_end(&p, '}');
    command_put_json(&text);
}

static kd_status evaluate_shard(const arguments *a, const kd_shard *shard)
{
    kd_backend *be = NULL;
    kd_parameters *params = NULL;
    kd_decoder *decoder = NULL;
    kd_order order;
    kd_evaluation evaluation;
    const kd_reduce reduce = kd_reduce_single();
    const kd_evaluate_settings settings = {.max_batch = a->n_batch, .n_tokens = a->n_tokens};

    kd_status st = kd_order_held_out(&order, shard, a->n_tokens);
    if (!st) {
        st = command_place_open(&a->place, &be);
    }
    if (!st) {
        st = open_model(a, be, &params, &decoder);
    }
    if (!st) {
        kd_shard_sequences of = {shard, &order};
        kd_sequences sequences = kd_sequences_of_shard(&of);
        if (a->n_sequences > 0 && a->n_sequences < sequences.n_sequences) {
            sequences.n_sequences = a->n_sequences;
        }
        st = kd_evaluate(params, decoder, &settings, &sequences, &reduce, &evaluation);
    }
    if (!st) {
        print_evaluation(a, &evaluation);
    }
    kd_decoder_destroy(decoder);
    kd_parameters_destroy(params);
    kd_backend_destroy(be);
    return st;
}

/* The model understands what text is cut into. */
static kd_status check_vocabulary(const char *folder)
{
    kd_tokenizer *tokenizer;
    kd_status st = kd_tokenizer_create(KD_TOKENIZER_BYTE, &tokenizer);
    if (!st) {
        st = kd_vocabulary_check(folder, tokenizer);
        kd_tokenizer_destroy(tokenizer);
    }
    return st;
}

/* Left out, sequences are as long as the model can take, up to a length that is soon read. */
static kd_status choose_length(arguments *a)
{
    enum { LENGTH = 256 };

    kd_model_config config;
    if (a->n_tokens > 0) {
        return KD_OK;
    }
    const kd_status st = kd_model_folder_config(a->folder, &config);
    if (!st) {
        const bool is_short = config.max_positions > 0 && config.max_positions < LENGTH;
        a->n_tokens = is_short ? (uint32_t)config.max_positions : LENGTH;
    }
    return st;
}

static kd_status evaluate(arguments *a)
{
    kd_shard shard = {0};
    const bool packed = a->n_files == 1 && is_shard(a->files[0]);
    kd_status st = check_vocabulary(a->folder);
    if (!st) {
        st = choose_length(a);
    }
    if (st) {
        return st;
    }
    st = packed ? kd_shard_open(&shard, a->files[0]) : open_text(a, &shard);
    if (!st) {
        st = evaluate_shard(a, &shard);
    }
    kd_shard_close(&shard);
    return st;
}

int command_evaluate(int argc, char **argv)
{
    arguments a = {
        .n_batch = 8,
        .place = {.device = KD__RESOURCES__DEVICE__AUTO, .dtype = KD__DTYPE__AUTO, .n_threads = 1}};
    int code = EXIT_USAGE;
    a.files = calloc((size_t)argc, sizeof *a.files);
    if (a.files == NULL) {
        return EXIT_INTERNAL;
    }
    if (parse(argc, argv, &a) == KD_OK) {
        code = a.help ? command_help(help) : command_exit_code(evaluate(&a));
    }
    free(a.files);
    return code;
}
