/*
 * process.c - /proc instead of a list of our own: a daemon that was restarted has no list, and ranks may
 * have been started by a launcher that is gone. A number is believed only with its time of start.
 */
#include "daemon/process.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENVIRONMENT_BYTES_MAX (1u << 18)
#define LOOKS_MAX             3

/* Up to size - 1 bytes and a NUL; the number of bytes, 0 if it cannot be read. */
static size_t read_small(const char *path, char *bytes, size_t size)
{
    size_t used = 0;
    bytes[0] = '\0';
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = 1;
    while (n > 0 && used + 1 < size) {
        n = read(fd, bytes + used, size - 1 - used);
        used += n > 0 ? (size_t)n : 0;
    }
    (void)close(fd);
    bytes[used] = '\0';
    return used;
}

/* The number that is the n-th word of a text, counted from 0; false if there is none. */
static bool word_as_number(const char *text, int n, uint64_t *number_out)
{
    for (; n > 0 && *text != '\0'; n--) {
        text += strspn(text, " ");
        text += strcspn(text, " ");
    }
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    *number_out = number;
    return end != text;
}

/* The name stands in parentheses and may hold anything, so words are counted from the last one: the
 * state is field 3 of proc(5), the session 6, the start 22. */
static bool parse_stat(const char *text, process_stat *stat_out)
{
    const char *after_name = strrchr(text, ')');
    uint64_t session, start;
    if (after_name == NULL || after_name[1] != ' ' ||
        !word_as_number(after_name + 1, 3, &session) ||
        !word_as_number(after_name + 1, 19, &start)) {
        return false;
    }
    *stat_out = (process_stat){.state = after_name[2], .session = (pid_t)session, .start = start};
    return true;
}

bool process_read(pid_t pid, process_stat *stat_out)
{
    char path[64];
    char text[1024];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    return read_small(path, text, sizeof text) > 0 && parse_stat(text, stat_out);
}

static bool is_dead(const process_stat *stat)
{
    return stat->state == 'Z' || stat->state == 'X';
}

bool process_is_alive(pid_t pid, uint64_t start)
{
    process_stat stat;
    return process_read(pid, &stat) && stat.start == start && !is_dead(&stat);
}

/* A process in the midst of execve(2) shows an empty environment for an instant: look again. */
static size_t read_environment(pid_t pid, char *buffer)
{
    char path[64];
    size_t n_bytes = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    for (int look = 0; look < LOOKS_MAX && n_bytes == 0; look++) {
        n_bytes = read_small(path, buffer, ENVIRONMENT_BYTES_MAX);
    }
    return n_bytes;
}

static bool has_mark(pid_t pid, const char *mark, char *buffer)
{
    const size_t n_bytes = read_environment(pid, buffer);
    for (size_t at = 0; at < n_bytes; at += strlen(buffer + at) + 1) {
        if (strcmp(buffer + at, mark) == 0) {
            return true;
        }
    }
    return false;
}

typedef bool (*visit_marked)(void *context, pid_t pid, const process_stat *stat);

/* Visits every live process with the mark until a visit returns false. */
static void for_each_marked(const char *mark, visit_marked visit, void *context)
{
    char *buffer = malloc(ENVIRONMENT_BYTES_MAX);
    DIR *proc = opendir("/proc");
    bool go_on = buffer != NULL && proc != NULL;
    for (struct dirent *e; go_on && (e = readdir(proc)) != NULL;) {
        process_stat stat;
        const pid_t pid = (pid_t)strtol(e->d_name, NULL, 10); /* 0 for what is no process */
        if (pid > 0 && pid != getpid() && has_mark(pid, mark, buffer) && process_read(pid, &stat) &&
            !is_dead(&stat)) {
            go_on = visit(context, pid, &stat);
        }
    }
    if (proc != NULL) {
        (void)closedir(proc);
    }
    free(buffer);
}

typedef struct signal_all {
    int signal;
    size_t n_found;
} signal_all;

static bool signal_one(void *context, pid_t pid, const process_stat *stat)
{
    signal_all *all = context;
    (void)stat;
    (void)kill(pid, all->signal);
    all->n_found++;
    return true;
}

size_t process_signal_marked(const char *mark, int signal)
{
    signal_all all = {.signal = signal};
    for_each_marked(mark, signal_one, &all);
    return all.n_found;
}

typedef struct leader {
    pid_t pid;
    uint64_t start;
} leader;

static bool look_for_leader(void *context, pid_t pid, const process_stat *stat)
{
    leader *found = context;
    if (stat->session != pid) {
        return true;
    }
    *found = (leader){.pid = pid, .start = stat->start};
    return false;
}

pid_t process_find_leader(const char *mark, uint64_t *start_out)
{
    leader found = {0};
    for_each_marked(mark, look_for_leader, &found);
    if (found.pid != 0) {
        *start_out = found.start;
    }
    return found.pid;
}

static void describe_thread(pid_t pid, const char *thread, kd_text *text)
{
    char path[128];
    char name[64];
    char stat_text[1024];
    char waits_in[128];
    process_stat stat = {.state = '?'};
    (void)snprintf(path, sizeof path, "/proc/%d/task/%.16s/comm", (int)pid, thread);
    name[read_small(path, name, sizeof name)] = '\0';
    name[strcspn(name, "\n")] = '\0';
    (void)snprintf(path, sizeof path, "/proc/%d/task/%.16s/stat", (int)pid, thread);
    if (read_small(path, stat_text, sizeof stat_text) > 0) {
        (void)parse_stat(stat_text, &stat);
    }
    (void)snprintf(path, sizeof path, "/proc/%d/task/%.16s/wchan", (int)pid, thread);
    (void)read_small(path, waits_in, sizeof waits_in);
    kd_text_printf(text, "  process %d thread %s (%s): state %c, waits in %s\n", (int)pid, thread,
                   name, stat.state, waits_in[0] != '\0' ? waits_in : "?");
}

void process_describe(pid_t pid, kd_text *text)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL) {
        kd_text_printf(text, "  process %d: gone\n", (int)pid);
        return;
    }
    for (struct dirent *e; (e = readdir(tasks)) != NULL;) {
        if (isdigit((unsigned char)e->d_name[0])) {
            describe_thread(pid, e->d_name, text);
        }
    }
    (void)closedir(tasks);
}
