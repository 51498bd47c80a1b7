/*
 * create.c - distill-model create: a model folder with random weights. Its shape is a job's Model:
 * each of that message's fields is an option, with the range that job.proto states.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/option.h"
#include "data/tokenizer.h"
#include "format/lineage.h"
#include "message/check.h"
#include "message/path.h"
#include "message/reflect.h"
#include "model/parameters.h"
#include "shape/from_message.h"
#include "train/checkpoint.h"
#include "worker/model/command.h"

static const char help[] =
    "usage: distill-model create --out FOLDER --hidden-size N --layers N --experts N [--FIELD "
    "VALUE]...\n"
    "                            [--seed N] [--tokenizer byte] [--sequence-length N] [--threads "
    "N]\n"
    "                            [--dtype auto|bf16|f32] [--json] [--log-level LEVEL]\n"
    "\n"
    "makes a model folder with random weights, as a job with this student.model and student.seed\n"
    "starts with. FIELD is a field of student.model: --type, --num-kv-heads, --intermediate-size, "
    "...\n"
    "--layers, --experts and --heads are short for num_layers, num_experts and num_heads; type "
    "llama\n"
    "has no experts, [mixtral] and the others need a number of them. Left out,\n"
    "heads are 64 wide, an MLP or expert four times the hidden size, a shared expert as an "
    "expert.\n"
    "--sequence-length is written as max_position_embeddings [256], --tokenizer beside the "
    "model.\n";

enum { FIELD_LETTER = 256, N_OWN = 12, N_FIELDS_MAX = 48, NAME_BYTES = 64 };

typedef struct arguments {
    Kd__Model *model; /* as the options say it */
    const char *out;
    uint64_t seed; /* as student.seed */
    uint32_t n_positions, n_threads;
    bool json, help, byte_tokenizer;
    kd_dtype dtype; /* of the weights in the folder */
} arguments;

/* The options: those of the command, then one for each field of Model. */
typedef struct options {
    struct option known[N_OWN + N_FIELDS_MAX + 1];
    char names[N_FIELDS_MAX][NAME_BYTES]; /* "hidden-size" */
} options;

static const struct option own[] = {
    {"out", required_argument, NULL, 'o'},
    {"layers", required_argument, NULL, 'L'},
    {"experts", required_argument, NULL, 'E'},
    {"heads", required_argument, NULL, 'H'},
    {"seed", required_argument, NULL, 's'},
    {"tokenizer", required_argument, NULL, 'k'},
    {"sequence-length", required_argument, NULL, 'n'},
    {"threads", required_argument, NULL, 't'},
    {"dtype", required_argument, NULL, 'p'},
    {"json", no_argument, NULL, 'j'},
    {"log-level", required_argument, NULL, 'l'},
    {"help", no_argument, NULL, 'h'},
};
_Static_assert(sizeof own / sizeof *own == N_OWN, "room for each");

static void list_options(options *o)
{
    const ProtobufCMessageDescriptor *type = &kd__model__descriptor;
    KD_CHECK(type->n_fields <= N_FIELDS_MAX);
    *o = (options){0};
    memcpy(o->known, own, sizeof own);
    for (unsigned i = 0; i < type->n_fields; i++) {
        (void)snprintf(o->names[i], NAME_BYTES, "%s", type->fields[i].name);
        for (char *c = strchr(o->names[i], '_'); c != NULL; c = strchr(c, '_')) {
            *c = '-';
        }
        o->known[N_OWN + i] =
            (struct option){o->names[i], required_argument, NULL, FIELD_LETTER + (int)i};
    }
}

static kd_status set_field(arguments *a, const char *field, const char *value)
{
    return kd_path_set(&a->model->base, field, value, NULL);
}

static kd_status take_tokenizer(const char *word, arguments *a)
{
    if (strcmp(word, "byte") != 0) {
        return kd_fail(KD_ERR_ARG, "--tokenizer: found \"%s\", expected byte", word);
    }
    a->byte_tokenizer = true;
    return KD_OK;
}

static kd_status take(int letter, void *user)
{
    arguments *a = user;
    switch (letter) {
    case 'o':
        a->out = optarg;
        return KD_OK;
    case 'L':
        return set_field(a, "num_layers", optarg);
    case 'E':
        return set_field(a, "num_experts", optarg);
    case 'H':
        return set_field(a, "num_heads", optarg);
    case 's':
        return kd_option_number64("--seed", optarg, 0, UINT64_MAX, &a->seed);
    case 'k':
        return take_tokenizer(optarg, a);
    case 'n':
        return kd_option_number("--sequence-length", optarg, 1, INT32_MAX, &a->n_positions);
    case 't':
        return command_threads(optarg, &a->n_threads);
    case 'p':
        return command_dtype(optarg, &a->dtype);
    case 'j':
        a->json = true;
        return KD_OK;
    case 'l':
        return kd_option_log_level(optarg);
    case 'h':
        a->help = true;
        return KD_OK;
    default:
        return set_field(a, kd__model__descriptor.fields[letter - FIELD_LETTER].name, optarg);
    }
}

static kd_status parse(int argc, char **argv, arguments *a)
{
    options o;
    list_options(&o);
    kd_status st = command_options(argc, argv, ":h", o.known, take, a);
    if (st || a->help) {
        return st;
    }
    if (optind < argc) {
        return kd_fail(KD_ERR_ARG, "found \"%s\", expected an option; see --help", argv[optind]);
    }
    if (a->out == NULL || a->out[0] == '\0') {
        return kd_fail(KD_ERR_ARG, "--out: %s; it names the folder to make",
                       a->out == NULL ? "missing" : "found \"\", expected a path");
    }
    return KD_OK;
}

static void set_if_absent(protobuf_c_boolean *has, uint32_t *field, uint64_t value)
{
    if (!*has && value > 0 && value <= UINT32_MAX) {
        *has = 1;
        *field = (uint32_t)value;
    }
}

/* What the method leaves open when it speaks of hidden size, layers and experts alone. */
static kd_status complete(Kd__Model *m)
{
    enum { HEAD_WIDTH = 64, MLP_RATIO = 4 };

    const kd_model_type *type;
    kd_status st = kd_message_fill(&m->base);
    if (!st) {
        st = kd_model_type_find(m->type, "type", &type);
    }
    if (st) {
        return st;
    }
    if (m->hidden_size % HEAD_WIDTH == 0) {
        set_if_absent(&m->has_num_heads, &m->num_heads, m->hidden_size / HEAD_WIDTH);
    }
    set_if_absent(&m->has_intermediate_size, &m->intermediate_size,
                  (uint64_t)MLP_RATIO * m->hidden_size);
    if (type->has_shared_expert && m->shared_expert_size == 0) {
        m->shared_expert_size = m->intermediate_size;
    }
    kd_model_message_complete(m);
    return KD_OK;
}

static kd_status check_model(const Kd__Model *m)
{
    kd_checker checker = {0};
    kd_checker_message(&checker, &m->base);
    kd_model_message_check_width(m, &checker, "head_dim");
    return kd_checker_end(&checker, NULL);
}

static kd_status shape(const arguments *a, kd_model_config *config_out)
{
    kd_model_config config;
    kd_status st = complete(a->model);
    if (!st) {
        st = check_model(a->model);
    }
    if (!st) {
        st = kd_model_config_from_message(a->model, a->n_positions, &config);
    }
    if (!st) {
        st = kd_model_config_check(&config);
    }
    if (!st) {
        *config_out = config;
    }
    return st;
}

/* Beside the weights: who reads the model knows what its tokens are. */
static kd_status add_tokenizer(void *user, const char *folder)
{
    kd_tokenizer *tokenizer;
    (void)user;
    kd_status st = kd_tokenizer_create(KD_TOKENIZER_BYTE, &tokenizer);
    if (st) {
        return st;
    }
    kd_lineage lineage = {.tokenizer_hash = tokenizer->hash};
    (void)snprintf(lineage.tokenizer, sizeof lineage.tokenizer, "%s", tokenizer->name);
    st = kd_tokenizer_export(tokenizer, folder);
    if (!st) {
        st = kd_lineage_write(folder, &lineage);
    }
    kd_tokenizer_destroy(tokenizer);
    return st;
}

static kd_status make(const arguments *a, const kd_model_config *config)
{
    kd_backend *be = NULL;
    kd_parameters *params = NULL;
    kd_status st = kd_backend_create_cpu(a->dtype, (int)a->n_threads, &be);
    if (!st) {
        st = kd_parameters_create(be, config, KD_PARAMS_INFER, &params);
    }
    if (!st) {
        st = kd_parameters_init(params, a->seed);
    }
    if (!st) {
        st = kd_model_export(a->out, params, a->byte_tokenizer ? add_tokenizer : NULL, NULL);
    }
    kd_parameters_destroy(params);
    kd_backend_destroy(be);
    return st;
}

static kd_status create(const arguments *a)
{
    kd_model_config config;
    if (kd_file_exists(a->out)) { /* weights that took weeks are not replaced by random ones */
        return kd_fail(KD_ERR_INVALID, "--out: %s: is there already", a->out);
    }
    kd_status st = shape(a, &config);
    if (!st) {
        st = make(a, &config);
    }
    if (!st) {
        command_print_shape(&config, a->json);
    }
    return st;
}

int command_create(int argc, char **argv)
{
    arguments a = {.n_positions = 256, .n_threads = 1};
    KD_CHECK(command_dtype("auto", &a.dtype) == KD_OK);
    a.model = (Kd__Model *)kd_message_create(&kd__model__descriptor);
    if (a.model == NULL) {
        return EXIT_INTERNAL;
    }
    int code = EXIT_USAGE;
    if (parse(argc, argv, &a) == KD_OK) {
        code = a.help ? command_help(help) : command_exit_code(create(&a));
    }
    kd_message_destroy(&a.model->base);
    return code;
}
