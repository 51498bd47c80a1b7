/*
 * launch_mpirun.c - an environment, a command and a log file. What is set here was measured where cores
 * are shared; users override all but what keeps ranks findable.
 */
#include "daemon/launch_mpirun.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

extern char **environ;

/*
 * Shared memory and loopback only, and ranks and threads that give up the core while they wait: on
 * a machine that is shared, a thread that spins keeps away the one it waits for. Measured on two
 * cores with two threads a rank: GNU OpenMP's own 300,000 turns cost nothing on an idle machine and
 * nine tenths of the speed beside one busy process; 1,000 cost nothing and half; no turns at all
 * (OMP_WAIT_POLICY=passive) a quarter and half. And no look for X displays, which hwloc's plug-in `gl`
 * does at each start on ten ports of `localhost`: 5 s where that name is asked of a name server.
 * tests/support/mpirun reads this list, so that ranks of tests run as these do.
 */
static const char *const defaults[] = {
    "OMPI_MCA_oob_tcp_if_include=lo", "OMPI_MCA_btl_tcp_if_include=lo", "OMPI_MCA_pml=ob1",
    "OMPI_MCA_btl=self,vader,tcp",    "OMPI_MCA_mpi_yield_when_idle=1", "GOMP_SPINCOUNT=1000",
    "HWLOC_COMPONENTS=-gl",
};
static const char *const defaults_of_root[] = {
    "OMPI_ALLOW_RUN_AS_ROOT=1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
};
#define COUNT(list) (sizeof(list) / sizeof *(list))

static bool is_on_path(const char *program)
{
    const char *path = getenv("PATH");
    for (const char *at = path == NULL ? "" : path; *at != '\0';) {
        const size_t n = strcspn(at, ":");
        char file[4096];
        const int used = snprintf(file, sizeof file, "%.*s/%s", (int)n, at, program);
        if (used > 0 && (size_t)used < sizeof file && access(file, X_OK) == 0) {
            return true;
        }
        at += n + (at[n] == ':');
    }
    return false;
}

kd_status launch_prepare(const launch *l)
{
    if (!is_on_path("mpirun")) {
        return kd_fail(KD_ERR_NOT_FOUND,
                       "mpirun: found no such program on PATH, expected that of Open MPI");
    }
    if (access(l->worker, X_OK) != 0) {
        return kd_fail(KD_ERR_NOT_FOUND, "worker %s: cannot be run: %s", l->worker,
                       strerror(errno));
    }
    kd_status st = kd_folder_make(l->folder);
    if (st == KD_OK) {
        st = kd_file_replace(l->job_file, l->job_yaml, strlen(l->job_yaml));
    }
    if (st == KD_OK) {
        st = kd_file_replace_mode(l->attempt_file, l->attempt, l->attempt_bytes, 0600);
    }
    return st;
}

/* True if `entry` ("NAME=VALUE") names a variable of the list. */
static bool is_named(char *const *list, size_t n, const char *entry)
{
    const size_t name_bytes = strcspn(entry, "=") + 1;
    for (size_t i = 0; i < n; i++) {
        if (strncmp(list[i], entry, name_bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* Ours by force, then the daemon's own, then defaults for what nobody has set. NULL without memory. */
static char **make_environment(const char *mark)
{
    size_t n_inherited = 0;
    while (environ[n_inherited] != NULL) {
        n_inherited++;
    }
    char **list = calloc(n_inherited + COUNT(defaults) + COUNT(defaults_of_root) + 2, sizeof *list);
    if (list == NULL) {
        return NULL;
    }
    size_t n = 0;
    list[n++] = (char *)mark;
    for (size_t i = 0; i < n_inherited; i++) {
        if (!is_named(list, 1, environ[i])) {
            list[n++] = environ[i];
        }
    }
    for (size_t i = 0; i < COUNT(defaults); i++) {
        if (!is_named(list, n, defaults[i])) {
            list[n++] = (char *)defaults[i];
        }
    }
    for (size_t i = 0; geteuid() == 0 && i < COUNT(defaults_of_root); i++) {
        if (!is_named(list, n, defaults_of_root[i])) {
            list[n++] = (char *)defaults_of_root[i];
        }
    }
    return list;
}

/* A launched mpirun; lives until its end was told. */
typedef struct child {
    uv_process_t process;
    launch_exited on_exit;
    void *context;
} child;

static void on_child_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_child_exit(uv_process_t *process, int64_t exit_status, int signal)
{
    const child *c = process->data;
    c->on_exit(c->context, signal != 0 ? 128 + signal : (int)exit_status);
    uv_close((uv_handle_t *)process, on_child_closed);
}

static int spawn(uv_loop_t *loop, const launch *l, int log_fd, char **environment, child *c)
{
    char ranks[16];
    (void)snprintf(ranks, sizeof ranks, "%u", l->n_ranks);
    const char *level = kd_log_level_name(kd_log_get_level());
    const char *args[] = {
        "mpirun",  "-n",    ranks,       "--oversubscribe", "--bind-to",     "none",
        l->worker, "--job", l->job_file, "--attempt-file",  l->attempt_file, "--log-level",
        level,     NULL};
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = log_fd},
        {.flags = UV_INHERIT_FD, .data.fd = log_fd},
    };
    const uv_process_options_t options = {.exit_cb = on_child_exit,
                                          .file = "mpirun",
                                          .args = (char **)args,
                                          .env = environment,
                                          .flags = UV_PROCESS_DETACHED,
                                          .stdio_count = 3,
                                          .stdio = stdio};
    return uv_spawn(loop, &c->process, &options);
}

kd_status launch_mpirun(uv_loop_t *loop,
                        const launch *l,
                        launch_exited on_exit,
                        void *context,
                        int64_t *pid_out)
{
    kd_status st = KD_ERR_IO;
    const int log_fd = open(l->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) {
        return kd_fail(st, "cannot open %s: %s", l->log_file, strerror(errno));
    }
    child *c = calloc(1, sizeof *c);
    char **environment = make_environment(l->mark);
    if (c == NULL || environment == NULL) {
        free(c);
        st = kd_fail(KD_ERR_NOMEM, "no memory to start mpirun");
        goto out;
    }
    *c = (child){.process.data = c, .on_exit = on_exit, .context = context};
    const int error = spawn(loop, l, log_fd, environment, c);
    if (error != 0) { /* the handle is on the loop's list all the same */
        st = kd_fail(KD_ERR_IO, "cannot start mpirun: %s", uv_strerror(error));
        uv_close((uv_handle_t *)&c->process, on_child_closed);
        goto out;
    }
    uv_unref((uv_handle_t *)&c->process); /* the daemon may end before it */
    *pid_out = uv_process_get_pid(&c->process);
    st = KD_OK;

out:
    free(environment);
    (void)close(log_fd);
    return st;
}
