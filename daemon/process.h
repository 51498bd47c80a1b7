/*
 * process.h - processes of this machine, known by more than a number.
 *
 * A pid is believed only together with its start time (/proc/PID/stat, field 22), since numbers are
 * used again; a zombie is dead. The processes of an attempt are known by their environment: all of
 * them inherit PROCESS_MARK=<state folder>:<job>:<attempt> from the launcher, whatever session or parent
 * they end up in.
 *
 * Blocks on /proc only.
 */
#ifndef KD_DAEMON_PROCESS_H
#define KD_DAEMON_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"
#include "base/text.h"

#define PROCESS_MARK "DISTILLD_ATTEMPT"

typedef struct process_stat {
    char state; /* as ps(1) shows it; 'Z' and 'X' are dead */
    pid_t session;
    uint64_t start; /* clock ticks after boot */
} process_stat;

/* False if there is no such process. */
bool process_read(pid_t pid, process_stat *stat_out);

/* The same process as then, and not dead. */
bool process_is_alive(pid_t pid, uint64_t start);

/* Sends a signal (0: only counts) to every live process with this mark ("NAME=VALUE"); how many. */
size_t process_signal_marked(const char *mark, int signal);

/* The live process with this mark that leads its session, which is the launcher; 0 if none. */
pid_t process_find_leader(const char *mark, uint64_t *start_out);

/* Adds a line on each thread of a process: its name, state and where in the kernel it waits. */
void process_describe(pid_t pid, kd_text *text);

#endif
