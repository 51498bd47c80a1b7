/*
 * config.c - the command line lies over the file, and both over the defaults of daemon.proto; ranges come
 * from there too, so that none stands twice.
 */
#include "daemon/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/option.h"
#include "message/check.h"
#include "message/fields.h"
#include "message/reflect.h"
#include "message/yaml.h"

const char options_help[] =
    "distilld - takes distillation jobs, runs them over MPI, survives crashes\n"
    "\n"
    "usage: distilld --state DIR [--listen ADDRESS]... [--config FILE] [--slots N]\n"
    "\n"
    "  --state DIR       folder for the queue, logs and sockets; made with mode 0700\n"
    "  --listen ADDRESS  unix:PATH or tcp:HOST:PORT (this machine only); may be repeated\n"
    "                    [unix:DIR/distilld.sock]\n"
    "  --config FILE     settings as YAML; the fields are those of proto/daemon.proto\n"
    "  --slots N         ranks times threads that run at once [cores that are online]\n"
    "  --worker PATH     the program each rank runs [$DISTILLD_WORKER, or distill-worker next to\n"
    "                    distilld]\n"
    "  --log-level LEVEL debug, info, warn or error: the least that is told, by ranks too [info]\n"
    "  --version         print the version\n"
    "  --help            print this\n"
    "\n"
    "Runs in the foreground and prints one line when it is ready. SIGTERM and SIGINT stop it:\n"
    "running jobs save a checkpoint and go back to the queue, to be resumed by the next start. A\n"
    "second signal ends it at once; the next start takes up the jobs that go on without it.\n"
    "\n"
    "exit codes: 0 stopped, 2 wrong usage, 3 bad configuration, 4 address in use,\n"
    "            5 state folder in use, 6 the store failed, 1 anything else\n"
    "\n"
    "example:    distilld --state ~/distilld &\n"
    "            distillctl --server unix:$HOME/distilld/distilld.sock list\n";

static kd_status take_slots(const char *text, uint32_t *slots_out)
{
    const kd_range *range = &kd_field_facts_named("kd.DaemonConfig", "slots")->range;
    return kd_option_number("--slots", text, (uint32_t)range->least, (uint32_t)range->most,
                            slots_out);
}

static kd_status take_option(options *o, int letter)
{
    switch (letter) {
    case 's':
        o->state = optarg;
        return KD_OK;
    case 'c':
        o->config_file = optarg;
        return KD_OK;
    case 'w':
        o->worker = optarg;
        return KD_OK;
    case 'n':
        return take_slots(optarg, &o->slots);
    case 'l':
        if (o->n_listen == CONFIG_LISTEN_MAX) {
            return kd_fail(KD_ERR_ARG, "--listen: expected at most %d", CONFIG_LISTEN_MAX);
        }
        o->listen[o->n_listen++] = optarg;
        return KD_OK;
    case 'd':
        return kd_option_log_level(optarg);
    case 'v':
        o->version = true;
        return KD_OK;
    default: /* 'h' */
        o->help = true;
        return KD_OK;
    }
}

kd_status options_parse(int argc, char *const *argv, options *options_out)
{
    static const struct option known[] = {
        {"state", required_argument, NULL, 's'},
        {"config", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'l'},
        {"slots", required_argument, NULL, 'n'},
        {"worker", required_argument, NULL, 'w'},
        {"log-level", required_argument, NULL, 'd'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {0},
    };
    options o = {0};
    int letter;
    kd_status st;
    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":h", known, &letter)) && letter != KD_OPTION_END) {
        st = take_option(&o, letter);
        if (st) {
            return st;
        }
    }
    if (st) {
        return st;
    }
    if (optind < argc) {
        return kd_fail(KD_ERR_ARG, "found \"%s\", expected only options; see --help", argv[optind]);
    }
    if (o.state == NULL && !o.help && !o.version) {
        return kd_fail(KD_ERR_ARG, "--state: missing; it names the folder for the daemon's state");
    }
    *options_out = o;
    return KD_OK;
}

static kd_status read_file(const char *path, Kd__DaemonConfig **config_out)
{
    ProtobufCMessage *message = NULL;
    if (path == NULL) {
        message = kd_message_create(&kd__daemon_config__descriptor);
        *config_out = (Kd__DaemonConfig *)message;
        return message != NULL ? KD_OK : kd_fail(KD_ERR_NOMEM, "no memory for the configuration");
    }
    char *text;
    size_t n_bytes;
    kd_status st = kd_file_read(path, KD_YAML_BYTES_MAX, &text, &n_bytes);
    if (st) {
        return st;
    }
    st = kd_yaml_parse(text, n_bytes, path, &kd__daemon_config__descriptor, &message);
    free(text);
    if (st == KD_OK) {
        *config_out = (Kd__DaemonConfig *)message;
    }
    return st;
}

static kd_status set_listen(Kd__DaemonConfig *config, const char *const *addresses, size_t n)
{
    const ProtobufCFieldDescriptor *field = kd_message_field(config->base.descriptor, "listen");
    kd_message_clear(&config->base, field);
    for (size_t i = 0; i < n; i++) {
        char *copy = strdup(addresses[i]);
        if (copy == NULL || kd_message_add_element(&config->base, field, &copy) == NULL) {
            free(copy);
            return kd_fail(KD_ERR_NOMEM, "no memory for the configuration");
        }
    }
    return KD_OK;
}

static kd_status lay_over(Kd__DaemonConfig *config, const options *o, const char *state)
{
    if (o->n_listen > 0) {
        const kd_status st = set_listen(config, o->listen, o->n_listen);
        if (st) {
            return st;
        }
    } else if (config->n_listen == 0) {
        char address[4200];
        const char *list[] = {address};
        (void)snprintf(address, sizeof address, "unix:%s/distilld.sock", state);
        const kd_status st = set_listen(config, list, 1);
        if (st) {
            return st;
        }
    }
    if (o->slots != 0 || !config->has_slots) {
        const long cores = sysconf(_SC_NPROCESSORS_ONLN);
        config->has_slots = 1;
        config->slots = o->slots != 0 ? o->slots : cores > 0 ? (uint32_t)cores : 1;
    }
    return kd_message_fill(&config->base);
}

static kd_status check(const Kd__DaemonConfig *c)
{
    kd_checker checker = {0};
    kd_checker_message(&checker, &c->base);
    if (c->rank_silence_ms <= c->heartbeat_ms) {
        kd_checker_add(&checker, "rank_silence_ms",
                       "found %u, expected more than heartbeat_ms (%u)", c->rank_silence_ms,
                       c->heartbeat_ms);
    }
    return kd_checker_end(&checker, NULL);
}

kd_status config_load(const options *o, const char *state, Kd__DaemonConfig **config_out)
{
    Kd__DaemonConfig *config = NULL;
    kd_status st = read_file(o->config_file, &config);
    if (st) {
        return st;
    }
    st = lay_over(config, o, state);
    if (st == KD_OK) {
        st = check(config);
    }
    if (st) {
        kd_message_destroy(&config->base);
        return st;
    }
    *config_out = config;
    return KD_OK;
}
