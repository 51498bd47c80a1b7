/*
 * option.h - command lines, by getopt_long(): one option at a time, mistakes told by kd_fail().
 *
 *     kd_option_begin();
 *     while (!(st = kd_option_next(argc, argv, ":h", known, &letter)) && letter != KD_OPTION_END) ...
 *
 * An option may be shortened as far as it stays clear.
 *
 * Threads: one command line at a time, since getopt() keeps its place in globals.
 */
#ifndef KD_BASE_OPTION_H
#define KD_BASE_OPTION_H

#include <getopt.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"

#define KD_OPTION_END  (-1)
#define KD_OPTION_WORD 1

/* Before the first option of a command line. */
void kd_option_begin(void);

/*
 * The `val` of the next option, its value in getopt's `optarg`; KD_OPTION_END behind the last.
 * `letters` are the short ones as getopt() has them, behind ":" or "-:". With ":" words that are no
 * options are moved behind them, to argv[optind]; with "-:" each comes in its place as KD_OPTION_WORD,
 * in `optarg`. KD_ERR_ARG: the option is not known
 * (the nearest right one is named), lacks its value, or has one too many.
 */
KD_MUST_USE kd_status kd_option_next(int argc,
                                     char *const *argv,
                                     const char *letters,
                                     const struct option *known,
                                     int *letter_out);

/* A decimal number, nothing else; `name` is the option for the fault's text, "--slots". KD_ERR_ARG. */
KD_MUST_USE kd_status kd_option_number(const char *name,
                                       const char *text,
                                       uint32_t least,
                                       uint32_t most,
                                       uint32_t *number_out);
KD_MUST_USE kd_status kd_option_number64(const char *name,
                                         const char *text,
                                         uint64_t least,
                                         uint64_t most,
                                         uint64_t *number_out);

/* debug, info, warn or error: sets the level of the log. KD_ERR_ARG. */
KD_MUST_USE kd_status kd_option_log_level(const char *text);

#endif
