/*
 * command.h - distill-model's commands, one file each, and what they share.
 *
 * A command is given its own words: argv[0] is its name. It returns the program's exit code and has
 * told every fault.
 */
#ifndef KD_WORKER_MODEL_COMMAND_H
#define KD_WORKER_MODEL_COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <sysexits.h>

#include "base/text.h"
#include "proto/job.pb-c.h"
#include "shape/config.h"
#include "tensor/ops.h"

enum {
    EXIT_DONE = 0,
    EXIT_USAGE = EX_USAGE,
    EXIT_INPUT = EX_DATAERR,
    EXIT_INTERNAL = EX_SOFTWARE,
    EXIT_IO = EX_IOERR
};

int command_inspect(int argc, char **argv);
int command_evaluate(int argc, char **argv);
int command_create(int argc, char **argv);
int command_plan(int argc, char **argv);

int command_exit_code(kd_status st);

/* Standard output, where all commands write; EXIT_IO if it was closed. */
int command_help(const char *text);

struct option;

/*
 * Gives each option to `take`, whose fault ends it; `known` and `letters` as kd_option_next() has them.
 * Words that are no options are in argv from `optind` on, unless `letters` has them taken too.
 */
KD_MUST_USE kd_status command_options(int argc,
                                      char **argv,
                                      const char *letters,
                                      const struct option *known,
                                      kd_status (*take)(int letter, void *user),
                                      void *user);

/* The one word that is no option, behind all options; `expected` names it for the fault's text. KD_ERR_ARG. */
KD_MUST_USE kd_status command_word(int argc,
                                   char **argv,
                                   const char *expected,
                                   const char **word_out);

/* auto, bf16 or f32, the dtype of products: auto is what this machine's processor is faster in. KD_ERR_ARG. */
KD_MUST_USE kd_status command_dtype(const char *word, kd_dtype *dtype_out);

/* Where a command runs a model, and in which dtype, as its options say. */
typedef struct command_place {
    Kd__Resources__Device device;
    Kd__Dtype dtype;
    uint32_t n_threads; /* of the CPU */
} command_place;

/* The values of --device and --dtype. KD_ERR_ARG. */
KD_MUST_USE kd_status command_place_device(const char *word, command_place *place);
KD_MUST_USE kd_status command_place_dtype(const char *word, command_place *place);

/*
 * A back end there; auto is the first CUDA device, else the CPU, and bf16 where that multiplies it faster.
 * KD_ERR_NOT_FOUND: cuda, and there is no such device.
 */
KD_MUST_USE kd_status command_place_open(const command_place *place, kd_backend **be_out);

/* The value of --threads, 1 to what a back end takes. KD_ERR_ARG. */
KD_MUST_USE kd_status command_threads(const char *word, uint32_t *n_threads_out);

/* Prints what was built as one line, and releases it. */
void command_put_json(kd_text *text);

/* The shape and size of a model, as a table or a line of JSON. */
void command_print_shape(const kd_model_config *config, bool json);

#endif
