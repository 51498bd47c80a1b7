#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/process.h"

static char mark[64];
static int ready[2];

static void set_up(void)
{
    (void)snprintf(mark, sizeof mark, PROCESS_MARK "=/test:%d:1", (int)getpid());
    cr_assert(eq(int, pipe(ready), 0));
}

TestSuite(process, .init = set_up);

static bool is_sleeping(pid_t pid)
{
    char path[64];
    char words[64] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        (void)fread(words, 1, sizeof words - 1, file);
        (void)fclose(file);
    }
    return strcmp(words, "sleep") == 0;
}

/* A marked process that sleeps; the environment is that of its last exec, as /proc shows it. */
static pid_t start_marked(bool own_session)
{
    char *const environment[] = {"PATH=/bin:/usr/bin", mark, NULL};
    char *const args[] = {"sh", "-c", "echo; exec sleep 60", NULL};
    char byte;
    const pid_t pid = fork();
    if (pid == 0) {
        if (own_session) {
            (void)setsid();
        }
        (void)dup2(ready[1], STDOUT_FILENO);
        (void)execve("/bin/sh", args, environment);
        _exit(127);
    }
    cr_assert(eq(sz, (size_t)read(ready[0], &byte, 1), 1));
    for (int ms = 0; ms < 5000 && !is_sleeping(pid); ms++) {
        (void)usleep(1000);
    }
    cr_assert(is_sleeping(pid));
    (void)usleep(1000); /* the kernel sets the environment right after the command line */
    return pid;
}

Test(process, one_is_known_by_its_pid_and_its_start)
{
    process_stat stat;
    cr_assert(process_read(getpid(), &stat));
    cr_expect(process_is_alive(getpid(), stat.start));
    cr_expect(not(process_is_alive(getpid(), stat.start + 1)));
    cr_expect(eq(int, stat.session, getsid(0)));
    cr_expect(not(process_read(0x3fffffff, &stat)));
}

Test(process, a_zombie_is_dead)
{
    process_stat stat;
    const pid_t pid = start_marked(false);
    cr_assert(process_read(pid, &stat));
    cr_expect(process_is_alive(pid, stat.start));
    (void)kill(pid, SIGKILL);
    siginfo_t info;
    cr_assert(eq(int, waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0));
    cr_expect(not(process_is_alive(pid, stat.start)));
    cr_expect(eq(sz, process_signal_marked(mark, 0), 0));
    (void)waitpid(pid, NULL, 0);
}

Test(process, marked_ones_are_found_in_any_session_and_nobody_else)
{
    char other[80];
    int status;
    const pid_t first = start_marked(true);
    const pid_t second = start_marked(false);
    (void)snprintf(other, sizeof other, "%s0", mark); /* attempt 10 is not attempt 1 */
    cr_expect(eq(sz, process_signal_marked(other, SIGKILL), 0));
    cr_expect(eq(sz, process_signal_marked(mark, 0), 2));
    cr_expect(eq(sz, process_signal_marked(mark, SIGKILL), 2));
    cr_assert(eq(int, waitpid(first, &status, 0), first));
    cr_expect(eq(int, WTERMSIG(status), SIGKILL));
    cr_assert(eq(int, waitpid(second, &status, 0), second));
}

Test(process, the_launcher_is_the_one_that_leads_its_session)
{
    process_stat stat;
    uint64_t start = 0;
    const pid_t rank = start_marked(false);
    cr_expect(eq(int, process_find_leader(mark, &start), 0));
    const pid_t launcher = start_marked(true);
    cr_expect(eq(int, process_find_leader(mark, &start), launcher));
    cr_assert(process_read(launcher, &stat));
    cr_expect(eq(u64, start, stat.start));
    (void)process_signal_marked(mark, SIGKILL);
    (void)waitpid(rank, NULL, 0);
    (void)waitpid(launcher, NULL, 0);
}

Test(process, a_description_names_each_thread)
{
    kd_text text = {0};
    process_describe(getpid(), &text);
    cr_expect(ne(ptr, strstr(text.data, "state "), NULL));
    kd_text_clear(&text);
    process_describe(0x3fffffff, &text);
    cr_expect(ne(ptr, strstr(text.data, "gone"), NULL));
    kd_text_release(&text);
}
