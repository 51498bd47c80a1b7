/* config.h - what distilld is told: its command line, and the file named there (proto/daemon.proto). */
#ifndef KD_DAEMON_CONFIG_H
#define KD_DAEMON_CONFIG_H

#include <stdbool.h>

#include "base/status.h"
#include "proto/daemon.pb-c.h"

#define CONFIG_LISTEN_MAX 16

typedef struct options {
    const char *state;
    const char *config_file;               /* NULL: none */
    const char *listen[CONFIG_LISTEN_MAX]; /* replaces that of the file, if there is any */
    size_t n_listen;
    uint32_t slots;     /* 0: not given */
    const char *worker; /* NULL: next to distilld */
    bool help, version;
} options;

/*
 * KD_ERR_ARG: the fault text says what is wrong. Strings stay those of argv, which is put into order.
 * Sets the level of the log.
 */
KD_MUST_USE kd_status options_parse(int argc, char *const *argv, options *options_out);

extern const char options_help[];

/*
 * Reads the file, lays the command line over it, fills in every default and checks ranges.
 * `state` is the state folder's real path. The caller frees *config_out.
 */
KD_MUST_USE kd_status config_load(const options *o,
                                  const char *state,
                                  Kd__DaemonConfig **config_out);

#endif
