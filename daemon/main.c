/* main.c - distilld: options, start, signals, stop. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/config.h"
#include "daemon/coordinator.h"
#include "daemon/server.h"
#include "daemon/state_folder.h"
#include "message/reflect.h"

typedef enum exit_code {
    EXIT_STOPPED = 0,
    EXIT_OTHER = 1,
    EXIT_USAGE = 2,
    EXIT_CONFIG = 3,
    EXIT_ADDRESS = 4,
    EXIT_STATE_FOLDER = 5,
    EXIT_STORE = 6,
} exit_code;

typedef struct program {
    uv_loop_t loop;
    uv_signal_t signals[2]; /* SIGTERM, SIGINT */
    coordinator coordinator;
    server *server;
    Kd__DaemonConfig *config;
    char *state;
    int lock;
    char worker[PATH_MAX];
    exit_code result;
} program;

static void on_end(void *context, coordinator_end end)
{
    program *p = context;
    if (end == COORDINATOR_STORE_FAILED) {
        kd_log(KD_LOG_ERROR, "the store has failed: nothing is acknowledged any more");
        p->result = EXIT_STORE;
    }
    uv_stop(&p->loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
    program *p = handle->data;
    if (p->coordinator.stopping) {
        kd_log(KD_LOG_WARN, "%s again: running jobs are left to the next start", strsignal(number));
        uv_stop(&p->loop);
        return;
    }
    kd_log(KD_LOG_INFO, "%s: running jobs save and stop", strsignal(number));
    server_stop_accepting(p->server);
    coordinator_stop(&p->coordinator);
}

static kd_status watch_signals(program *p)
{
    const int numbers[] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++) {
        if (uv_signal_init(&p->loop, &p->signals[i]) != 0) {
            return kd_fail(KD_ERR_IO, "cannot watch for signals");
        }
        p->signals[i].data = p;
        if (uv_signal_start(&p->signals[i], on_signal, numbers[i]) != 0) {
            return kd_fail(KD_ERR_IO, "cannot watch for signals");
        }
        uv_unref((uv_handle_t *)&p->signals[i]);
    }
    return KD_OK;
}

/* The worker lies next to this program unless it is named. */
static void find_worker(program *p, const char *named)
{
    size_t n_bytes = sizeof p->worker;
    const char *from_environment = getenv("DISTILLD_WORKER");
    if (named == NULL) {
        named = from_environment;
    }
    if (named != NULL) {
        (void)snprintf(p->worker, sizeof p->worker, "%s", named);
        return;
    }
    char self[PATH_MAX];
    char *slash = NULL;
    if (uv_exepath(self, &n_bytes) == 0) {
        slash = strrchr(self, '/');
    }
    const int folder_bytes = slash == NULL ? 0 : (int)(slash + 1 - self);
    if (snprintf(p->worker, sizeof p->worker, "%.*sdistill-worker", folder_bytes, self) >=
        (int)sizeof p->worker) {
        p->worker[0] = '\0';
    }
}

/* Ten thousand ranks are ten thousand sockets; more than needed would make mpirun slow to start. */
static void raise_descriptor_limit(uint32_t max_connections)
{
    struct rlimit limit;
    const rlim_t wanted = (rlim_t)max_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static exit_code open_all(program *p, const options *o)
{
    kd_status st = state_folder_open(o->state, &p->state, &p->lock);
    if (st) {
        return st == KD_ERR_STATE ? EXIT_STATE_FOLDER : EXIT_OTHER;
    }
    if (config_load(o, p->state, &p->config)) {
        return EXIT_CONFIG;
    }
    raise_descriptor_limit(p->config->max_connections);
    find_worker(p, o->worker);
    p->coordinator = (coordinator){.loop = &p->loop,
                                   .config = p->config,
                                   .folder = p->state,
                                   .worker = p->worker,
                                   .on_end = on_end,
                                   .context = p};
    if (coordinator_open(&p->coordinator)) {
        return EXIT_STORE;
    }
    st = server_open(&p->coordinator, (const char *const *)p->config->listen, p->config->n_listen,
                     &p->server);
    if (st) {
        return st == KD_ERR_STATE ? EXIT_ADDRESS : st == KD_ERR_INVALID ? EXIT_CONFIG : EXIT_OTHER;
    }
    return watch_signals(p) || coordinator_start(&p->coordinator) ? EXIT_OTHER : EXIT_STOPPED;
}

static void say_ready(const program *p)
{
    printf("distilld ready: listening on %s, state %s, %u slots, pid %d\n",
           p->coordinator.rank_address, p->state, p->config->slots, (int)getpid());
    (void)fflush(stdout);
}

/* People and ranks first, then the store, so that nothing is told to a store that is closed. */
static void close_all(program *p)
{
    for (int i = 0; i < 2; i++) {
        if (p->signals[i].data != NULL) {
            uv_close((uv_handle_t *)&p->signals[i], NULL);
        }
    }
    if (p->server != NULL) {
        server_close(p->server);
    }
    (void)uv_run(&p->loop, UV_RUN_NOWAIT);
    if (p->coordinator.store != NULL) {
        coordinator_close(&p->coordinator);
    }
    (void)uv_run(&p->loop, UV_RUN_NOWAIT);
    coordinator_release(&p->coordinator);
    server_destroy(p->server);
    if (p->config != NULL) {
        kd_message_destroy(&p->config->base);
    }
    free(p->state);
    (void)uv_loop_close(&p->loop);
}

static exit_code serve(const options *o)
{
    static program p;
    p.lock = -1;
    if (uv_loop_init(&p.loop) != 0) {
        return EXIT_OTHER;
    }
    p.result = open_all(&p, o);
    if (p.result == EXIT_STOPPED) {
        say_ready(&p);
        (void)uv_run(&p.loop, UV_RUN_DEFAULT);
    }
    close_all(&p);
    if (p.lock >= 0) {
        (void)close(p.lock); /* last: another daemon may start now */
    }
    return p.result;
}

int main(int argc, char **argv)
{
    options o;
    kd_log_set_who("distilld");
    if (options_parse(argc, argv, &o)) {
        return EXIT_USAGE;
    }
    if (o.help) {
        return fputs(options_help, stdout) < 0 ? EXIT_OTHER : EXIT_STOPPED;
    }
    if (o.version) {
        return puts(DAEMON_PROGRAM) < 0 ? EXIT_OTHER : EXIT_STOPPED;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    return (int)serve(&o);
}
