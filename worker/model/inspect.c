/* inspect.c - distill-model inspect: what config.json says of a model, and what follows. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json_print.h"
#include "base/log.h"
#include "base/option.h"
#include "format/model_folder.h"
#include "model/parameters.h"
#include "shape/count.h"
#include "worker/model/command.h"

static const char help[] =
    "usage: distill-model inspect FOLDER [--json] [--log-level debug|info|warn|error]\n"
    "\n"
    "prints the shape and size of a model folder as its config.json has them, and fails where the\n"
    "weights beside it are not those of that shape, or not those that its manifest lists\n";

typedef struct arguments {
    const char *folder;
    bool json, help;
} arguments;

static void print_shape_json(const kd_model_config *c)
{
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"vocab_size", c->vocab_size},
        {"hidden_size", c->hidden_size},
        {"layers", c->n_layers},
        {"heads", c->n_heads},
        {"kv_heads", c->n_kv_heads},
        {"head_dim", c->head_dim},
        {"intermediate_size", c->intermediate_size},
        {"experts", c->n_experts},
        {"experts_per_token", c->experts_per_token},
        {"parameters", kd_model_config_parameters(c)},
        {"active_parameters", kd_model_config_active_parameters(c)},
    };

    kd_text text = {0};
    kd_json_printer p = {.text = &text};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "type");
    kd_json_string(&p, c->type->name);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        kd_json_key(&p, numbers[i].name);
        kd_json_int(&p, numbers[i].value);
    }
    kd_json_key(&p, "forward_mflop_per_token");
    kd_json_double(&p, kd_model_config_forward_flops(c) / 1e6);
    kd_json_end(&p, '}');
    command_put_json(&text);
}

static void print_shape_table(const kd_model_config *c)
{
    (void)printf("type               %s\n"
                 "vocabulary         %lld\n"
                 "width              %lld\n"
                 "layers             %lld\n"
                 "heads              %lld (%lld of keys and values, %lld wide)\n"
                 "expert width       %lld\n"
                 "experts            %lld (%lld per token)\n"
                 "parameters         %lld (%lld active)\n"
                 "forward            %.3f MFLOP per token\n",
                 c->type->name, (long long)c->vocab_size, (long long)c->hidden_size,
                 (long long)c->n_layers, (long long)c->n_heads, (long long)c->n_kv_heads,
                 (long long)c->head_dim, (long long)c->intermediate_size, (long long)c->n_experts,
                 (long long)c->experts_per_token, (long long)kd_model_config_parameters(c),
                 (long long)kd_model_config_active_parameters(c),
                 kd_model_config_forward_flops(c) / 1e6);
}

void command_print_shape(const kd_model_config *config, bool json)
{
    if (json) {
        print_shape_json(config);
    } else {
        print_shape_table(config);
    }
}

static kd_status take(int letter, void *user)
{
    arguments *a = user;
    a->json |= letter == 'j';
    a->help |= letter == 'h';
    return letter == 'l' ? kd_option_log_level(optarg) : KD_OK;
}

static kd_status parse(int argc, char **argv, arguments *a)
{
    static const struct option known[] = {
        {"log-level", required_argument, NULL, 'l'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const kd_status st = command_options(argc, argv, ":h", known, take, a);
    return st || a->help ? st : command_word(argc, argv, "a model folder", &a->folder);
}

/* That the weights are there and are of that shape, with a back end that keeps none. */
static kd_status check_weights(const char *folder, const kd_model_config *config)
{
    kd_backend *be = NULL;
    kd_parameters *params = NULL;
    kd_status st = kd_backend_create_rehearsal(KD_F32, 1, &be);
    if (!st) {
        st = kd_parameters_create(be, config, KD_PARAMS_INFER, &params);
    }
    if (!st) {
        st = kd_model_folder_check(folder, params);
    }
    kd_parameters_destroy(params);
    kd_backend_destroy(be);
    return st;
}

int command_inspect(int argc, char **argv)
{
    arguments a = {0};
    kd_model_config config;
    if (parse(argc, argv, &a)) {
        return EXIT_USAGE;
    }
    if (a.help) {
        return command_help(help);
    }
    kd_status st = kd_model_folder_config(a.folder, &config);
    if (!st) {
        command_print_shape(&config, a.json);
        st = check_weights(a.folder, &config);
    }
    return command_exit_code(st);
}
