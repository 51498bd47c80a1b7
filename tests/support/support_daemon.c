#include "support_daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "job/job.h"
#include "wire/frame.h"

void support_fail(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "%s:%d: FAILED: %s: ", file, line, condition);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void write_text(const support_daemon *d, const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", d->folder, name);
    SUPPORT_REQUIRE(kd_file_replace(path, text, strlen(text)) == KD_OK, "%s", path);
}

void support_daemon_init(support_daemon *d, const char *config_yaml)
{
    memset(d, 0, sizeof *d);
    (void)snprintf(d->folder, sizeof d->folder, "/tmp/distilld-e2e.XXXXXX");
    SUPPORT_REQUIRE(mkdtemp(d->folder) != NULL, "%s", strerror(errno));
    (void)snprintf(d->socket, sizeof d->socket, "%s/state/distilld.sock", d->folder);
    write_text(d, "text.txt", "In the beginning was the word, and many a word came after it.\n");
    write_text(d, "config.yaml", config_yaml);
    (void)signal(SIGPIPE, SIG_IGN);
}

static void run_daemon(const support_daemon *d, const char *worker, int ready_fd)
{
    char state[128], config[128], log[128];
    (void)snprintf(state, sizeof state, "%s/state", d->folder);
    (void)snprintf(config, sizeof config, "%s/config.yaml", d->folder);
    (void)snprintf(log, sizeof log, "%s/daemon.log", d->folder);
    /* A test that fails leaves no daemon behind. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || freopen(log, "a", stderr) == NULL ||
        dup2(ready_fd, STDOUT_FILENO) < 0) {
        _exit(126);
    }
    (void)close(ready_fd);
    if (d->file_bytes_max > 0) {
        const struct rlimit limit = {d->file_bytes_max, d->file_bytes_max};
        (void)signal(SIGXFSZ, SIG_IGN);
        (void)setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (worker != NULL) {
        (void)setenv("DISTILLD_WORKER", worker, 1);
    }
    (void)execl(KD_TEST_DISTILLD, "distilld", "--state", state, "--config", config, "--log-level",
                "warn", (char *)NULL);
    _exit(127);
}

void support_daemon_start(support_daemon *d, const char *worker)
{
    int ready[2];
    char line[512] = "";
    SUPPORT_REQUIRE(pipe(ready) == 0, "%s", strerror(errno));
    d->pid = fork();
    SUPPORT_REQUIRE(d->pid >= 0, "%s", strerror(errno));
    if (d->pid == 0) {
        (void)close(ready[0]);
        run_daemon(d, worker, ready[1]);
    }
    (void)close(ready[1]);
    FILE *in = fdopen(ready[0], "r");
    SUPPORT_REQUIRE(in != NULL && fgets(line, sizeof line, in) != NULL, "see %s/daemon.log",
                    d->folder);
    SUPPORT_REQUIRE(strncmp(line, "distilld ready: listening on unix:", 34) == 0, "%s", line);
    (void)fclose(in);
}

int support_daemon_end(support_daemon *d, int signal)
{
    int status;
    SUPPORT_REQUIRE(d->pid > 0 && kill(d->pid, signal) == 0, "%s", strerror(errno));
    SUPPORT_REQUIRE(waitpid(d->pid, &status, 0) == d->pid, "%s", strerror(errno));
    d->pid = 0;
    SUPPORT_REQUIRE(signal != SIGKILL || WIFSIGNALED(status), "it had ended with code %d, see %s",
                    WEXITSTATUS(status), d->folder);
    return status;
}

void support_daemon_release(support_daemon *d)
{
    if (d->pid > 0) {
        (void)support_daemon_end(d, SIGKILL);
    }
    SUPPORT_REQUIRE(kd_folder_remove(d->folder) == KD_OK, "%s", kd_fault_text());
}

int support_connect(const support_daemon *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = 10};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%.100s", d->socket);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SUPPORT_REQUIRE(fd >= 0, "%s", strerror(errno));
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

bool support_send_bytes(int fd, const void *bytes, size_t n_bytes)
{
    const char *at = bytes;
    while (n_bytes > 0) {
        const ssize_t n = write(fd, at, n_bytes);
        if (n <= 0) {
            return false;
        }
        at += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

bool support_send(int fd, const ProtobufCMessage *message)
{
    const size_t n_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *frame = malloc(KD_FRAME_HEADER_BYTES + n_bytes);
    SUPPORT_REQUIRE(frame != NULL, "no memory");
    kd_frame_write_header(frame, n_bytes);
    (void)protobuf_c_message_pack(message, frame + KD_FRAME_HEADER_BYTES);
    const bool sent = support_send_bytes(fd, frame, KD_FRAME_HEADER_BYTES + n_bytes);
    free(frame);
    return sent;
}

static bool read_all(int fd, uint8_t *bytes, size_t n_bytes)
{
    while (n_bytes > 0) {
        const ssize_t n = read(fd, bytes, n_bytes);
        if (n <= 0) {
            return false;
        }
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

uint8_t *support_receive(int fd, size_t *n_bytes_out)
{
    uint8_t header[KD_FRAME_HEADER_BYTES];
    if (!read_all(fd, header, sizeof header)) {
        return NULL;
    }
    const size_t n_bytes = (size_t)header[0] << 24 | (size_t)header[1] << 16 |
                           (size_t)header[2] << 8 | (size_t)header[3];
    SUPPORT_REQUIRE(n_bytes > 0 && n_bytes <= KD_FRAME_BYTES_MAX, "a frame of %zu bytes", n_bytes);
    uint8_t *payload = malloc(n_bytes);
    SUPPORT_REQUIRE(payload != NULL, "no memory");
    if (!read_all(fd, payload, n_bytes)) {
        free(payload);
        return NULL;
    }
    *n_bytes_out = n_bytes;
    return payload;
}

bool support_is_closed(int fd)
{
    char byte;
    return read(fd, &byte, 1) == 0 || errno == ECONNRESET;
}

int support_open(const support_daemon *d, Kd__Hello__Role role)
{
    Kd__Hello hello = KD__HELLO__INIT;
    size_t n_bytes;
    const int fd = support_connect(d);
    if (fd < 0) {
        return -1;
    }
    hello.has_protocol = hello.has_role = 1;
    hello.protocol = KD_PROTOCOL_VERSION;
    hello.role = role;
    hello.program = "test";
    uint8_t *answer = support_send(fd, &hello.base) ? support_receive(fd, &n_bytes) : NULL;
    if (answer == NULL) {
        (void)close(fd);
        return -1;
    }
    free(answer);
    return fd;
}

Kd__Reply *support_ask(int fd, Kd__Request *request)
{
    size_t n_bytes;
    request->has_id = 1;
    request->id = 1;
    uint8_t *payload = support_send(fd, &request->base) ? support_receive(fd, &n_bytes) : NULL;
    if (payload == NULL) {
        return NULL;
    }
    Kd__Reply *reply = kd__reply__unpack(NULL, n_bytes, payload);
    SUPPORT_REQUIRE(reply != NULL, "an answer that is no reply");
    free(payload);
    return reply;
}

static Kd__Job *make_job(const support_daemon *d, const char *text)
{
    char yaml[2048];
    Kd__Job *job;
    (void)snprintf(yaml, sizeof yaml,
                   "output: %s/out\n"
                   "data: {files: [%s/text.txt], sequence_length: 8}\n"
                   "training: {steps: 10000, batch_size: 2}\n"
                   "student:\n"
                   "  model: {hidden_size: 8, num_layers: 1, num_heads: 1,"
                   " intermediate_size: 8, num_experts: 2}\n"
                   "%s\n",
                   d->folder, d->folder, text == NULL ? "" : text);
    SUPPORT_REQUIRE(kd_job_parse(yaml, strlen(yaml), "job", NULL, 0, &job) == KD_OK, "%s",
                    kd_fault_text());
    return job;
}

Kd__Reply *support_submit(const support_daemon *d, int fd, const char *token, const char *text)
{
    Kd__SubmitRequest submit = KD__SUBMIT_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    submit.job = make_job(d, text);
    submit.token = (char *)token; /* only read */
    request.body_case = KD__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    Kd__Reply *reply = support_ask(fd, &request);
    kd__job__free_unpacked(submit.job, NULL);
    return reply;
}

Kd__Reply *support_show(int fd, uint64_t job_id)
{
    Kd__JobRequest show = KD__JOB_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    show.has_job_id = 1;
    show.job_id = job_id;
    request.body_case = KD__REQUEST__BODY_SHOW;
    request.show = &show;
    return support_ask(fd, &request);
}

Kd__Reply *support_wait(const support_daemon *d, uint64_t job_id, Kd__JobState state)
{
    const double until = kd_clock_monotonic_s() + 20.0;
    const int fd = support_open(d, KD__HELLO__ROLE__PERSON);
    for (;;) {
        Kd__Reply *reply = support_show(fd, job_id);
        SUPPORT_REQUIRE(reply != NULL && reply->status != NULL, "no status of job %d", (int)job_id);
        if (reply->status->state == state) {
            (void)close(fd);
            return reply;
        }
        SUPPORT_REQUIRE(kd_clock_monotonic_s() < until, "job %d is in state %d (%s), expected %d",
                        (int)job_id, (int)reply->status->state, reply->status->reason, (int)state);
        kd__reply__free_unpacked(reply, NULL);
        (void)usleep(20000);
    }
}
