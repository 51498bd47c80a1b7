/*
 * main.c - distill-model: looks at model folders on this machine, without daemon or MPI.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "data/pack.h"
#include "format/model_folder.h"
#include "shape/count.h"
#include "train/evaluate.h"

enum { EXIT_DONE = 0, EXIT_USAGE = 64, EXIT_INPUT = 65, EXIT_INTERNAL = 70, EXIT_IO = 74 };

static const char help[] =
    "usage: distill-model inspect FOLDER [--json]\n"
    "       distill-model evaluate FOLDER --data FILE... [--sequence-length N] [--batch N]\n"
    "                              [--threads N] [--max-sequences N] [--f32] [--json]\n"
    "\n"
    "inspect   prints the shape and size of a model folder (config.json, model.safetensors)\n"
    "evaluate  prints loss (nats a token), perplexity and next-token accuracy on text files, or "
    "on\n"
    "          one packed shard (OUTPUT/data/test.shard of a job), by sequences of N tokens [256]\n"
    "\n"
    "exit codes: 0 done, 64 bad command line, 65 bad input, 70 internal, 74 input or output "
    "failed\n";

typedef struct arguments {
    const char *command;
    const char *folder;
    const char **files;
    size_t n_files;
    uint32_t n_tokens, n_batch, n_threads, n_sequences; /* n_sequences 0: all */
    bool f32, json;
} arguments;

static bool take_number(const char *text, uint32_t *number_out)
{
    char *end = NULL;
    const unsigned long value = text != NULL ? strtoul(text, &end, 10) : 0;
    if (text == NULL || *end != '\0' || value == 0 || value > 1u << 24) {
        return false;
    }
    *number_out = (uint32_t)value;
    return true;
}

/* `a->files` has room for argc names. */
static bool parse(int argc, char **argv, arguments *a)
{
    struct {
        const char *name;
        uint32_t *value;
    } numbers[] = {{"--sequence-length", &a->n_tokens},
                   {"--batch", &a->n_batch},
                   {"--threads", &a->n_threads},
                   {"--max-sequences", &a->n_sequences}};

    bool in_files = false;
    if (argc < 3) {
        return false;
    }
    a->command = argv[1];
    a->folder = argv[2];
    for (int i = 3; i < argc; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers && !known; k++) {
            if (strcmp(argv[i], numbers[k].name) == 0) {
                known = true;
                if (!take_number(i + 1 < argc ? argv[++i] : NULL, numbers[k].value)) {
                    return false;
                }
            }
        }
        if (strcmp(argv[i], "--data") == 0) {
            known = in_files = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            known = a->json = true;
        } else if (strcmp(argv[i], "--f32") == 0) {
            known = a->f32 = true;
        } else if (!known && in_files && argv[i][0] != '-') {
            known = true;
            a->files[a->n_files++] = argv[i];
        }
        if (!known) {
            return false;
        }
    }
    return true;
}

static kd_status inspect(const arguments *a)
{
    kd_model_config c;
    const kd_status st = kd_model_folder_config(a->folder, &c);
    if (st) {
        return st;
    }
    const char *format =
        a->json ? "{\"type\":\"%s\",\"vocab_size\":%lld,\"hidden_size\":%lld,\"layers\":%lld,"
                  "\"heads\":%lld,\"kv_heads\":%lld,\"head_dim\":%lld,\"intermediate_size\":%lld,"
                  "\"experts\":%lld,\"experts_per_token\":%lld,\"parameters\":%lld,"
                  "\"active_parameters\":%lld,\"forward_mflop_per_token\":%.3f}\n"
                : "type               %s\n"
                  "vocabulary         %lld\n"
                  "width              %lld\n"
                  "layers             %lld\n"
                  "heads              %lld (%lld of keys and values, %lld wide)\n"
                  "expert width       %lld\n"
                  "experts            %lld (%lld per token)\n"
                  "parameters         %lld (%lld active)\n"
                  "forward            %.3f MFLOP per token\n";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* both are above, with the same places */
    (void)printf(
        format, kd_model_type_name(c.type), (long long)c.vocab_size, (long long)c.hidden_size,
        (long long)c.n_layers, (long long)c.n_heads, (long long)c.n_kv_heads, (long long)c.head_dim,
        (long long)c.intermediate_size, (long long)c.n_experts, (long long)c.experts_per_token,
        (long long)kd_model_config_parameters(&c), (long long)kd_model_config_active_parameters(&c),
        kd_model_config_forward_flops(&c) / 1e6);
#pragma GCC diagnostic pop
    return KD_OK;
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

/* Packs text into a folder that is gone when this returns; the mapping of the shard stays. */
static kd_status open_text(const arguments *a, kd_shard *shard_out)
{
    char folder[] = "/tmp/distill-model.XXXXXX";
    if (mkdtemp(folder) == NULL) {
        return kd_fail(KD_ERR_IO, "cannot make a folder in /tmp");
    }
    char *path = kd_path_join(folder, "text.shard");
    const kd_pack_settings settings = {
        .files = a->files,
        .n_files = a->n_files,
        .format = KD_CORPUS_TEXT,
        .tokenizer = KD_TOKENIZER_BYTE,
        .sequence_length = a->n_tokens,
        .out_train_path = path,
    };
    kd_status st =
        path == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for a path") : kd_pack(&settings, NULL);
    if (!st) {
        st = kd_shard_open(shard_out, path);
    }
    free(path);
    const kd_status removed = kd_folder_remove(folder);
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
    const char *format = a->json ? "{\"loss\":%.9g,\"perplexity\":%.9g,\"accuracy\":%.9g,"
                                   "\"tokens\":%llu}\n"
                                 : "loss %.6f nats a token, perplexity %.4f, accuracy %.4f, over "
                                   "%llu tokens\n";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* both are above, with the same places */
    (void)printf(format, e->loss, e->perplexity, e->accuracy, (unsigned long long)e->n_tokens);
#pragma GCC diagnostic pop
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

    kd_status st = kd_order_sequential(&order, shard, a->n_tokens);
    if (!st) {
        st = kd_backend_create_cpu(a->f32 ? KD_F32 : KD_BF16, (int)a->n_threads, &be);
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

static kd_status evaluate(const arguments *a)
{
    kd_shard shard = {0};
    const bool packed = a->n_files == 1 && is_shard(a->files[0]);
    kd_status st = packed ? kd_shard_open(&shard, a->files[0]) : open_text(a, &shard);
    if (!st) {
        st = evaluate_shard(a, &shard);
    }
    kd_shard_close(&shard);
    return st;
}

static int exit_code(kd_status st)
{
    if (st == KD_OK) {
        return EXIT_DONE;
    }
    if (st == KD_ERR_IO) {
        return EXIT_IO;
    }
    return st == KD_ERR_NOMEM || st == KD_ERR_STATE ? EXIT_INTERNAL : EXIT_INPUT;
}

int main(int argc, char **argv)
{
    arguments a = {.n_tokens = 256, .n_batch = 8, .n_threads = 1};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        return fputs(help, stdout) < 0 ? EXIT_IO : EXIT_DONE;
    }
    kd_log_set_who("distill-model");
    a.files = calloc((size_t)argc, sizeof *a.files);
    int code = EXIT_USAGE;
    if (a.files == NULL || !parse(argc, argv, &a)) {
        (void)fputs(help, stderr);
    } else if (strcmp(a.command, "inspect") == 0 && a.n_files == 0) {
        code = exit_code(inspect(&a));
    } else if (strcmp(a.command, "evaluate") == 0 && a.n_files > 0) {
        code = exit_code(evaluate(&a));
    } else {
        (void)fputs(help, stderr);
    }
    free(a.files);
    return code == EXIT_DONE && fflush(stdout) != 0 ? EXIT_IO : code;
}
