/*
 * listener.c - a socket file outlives a crash. Only one that refuses connections is removed: when in doubt
 * somebody is there.
 */
#include "wire/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

#define BACKLOG 1024

struct kd_listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_pipe_t pipe;
        uv_tcp_t tcp;
    } as; /* its only handle */

    kd_address address;
    kd_listener_callbacks callbacks;
    void *user;
};

typedef union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
} socket_address;

static void on_handle_closed(uv_handle_t *handle)
{
    kd_listener *l = handle->data;
    if (l->callbacks.on_closed != NULL) {
        l->callbacks.on_closed(l, l->user);
    }
    free(l);
}

void kd_listener_close(kd_listener *l)
{
    if (!uv_is_closing(&l->as.handle)) {
        uv_close(&l->as.handle, on_handle_closed); /* removes a socket file, too */
    }
}

static void on_connection(uv_stream_t *stream, int status)
{
    kd_listener *l = stream->data;
    kd_connection *c = NULL;
    if (status != 0) {
        kd_log(KD_LOG_WARN, "cannot accept a connection: %s", uv_strerror(status));
        return;
    }
    if (uv_is_closing(&l->as.handle) || kd_connection_accept(stream, l->address.kind, &c)) {
        return;
    }
    l->callbacks.on_accept(l, l->user, c);
    /* Not freed yet if it was closed: that takes a turn of the loop. */
    if (!kd_connection_is_started(c)) {
        kd_connection_close(c);
    }
}

/* True if somebody accepts connections on the socket file, or is just too busy to. */
static bool is_answered(const char *path)
{
    socket_address to = {.un = {.sun_family = AF_UNIX}};
    memcpy(to.un.sun_path, path, strlen(path) + 1); /* kd_address has the same limit */
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return true; /* unknown is not dead */
    }
    const bool answered = connect(fd, &to.any, sizeof to.un) == 0 || errno != ECONNREFUSED;
    (void)close(fd);
    return answered;
}

static kd_status remove_stale_socket(const char *path)
{
    struct stat file;
    if (lstat(path, &file) != 0) {
        return KD_OK; /* nothing there; what else is wrong, bind says */
    }
    if (!S_ISSOCK(file.st_mode)) {
        return kd_fail(KD_ERR_STATE, "unix:%s: found a file that is no socket", path);
    }
    if (is_answered(path)) {
        return kd_fail(KD_ERR_STATE, "unix:%s: already in use", path);
    }
    if (unlink(path) != 0 && errno != ENOENT) {
        return kd_fail(KD_ERR_IO, "unix:%s: cannot remove the old socket: %s", path,
                       strerror(errno));
    }
    return KD_OK;
}

/* libuv tells a folder that is not there as a lack of permission. */
static int error_of_bind(const char *path, int error)
{
    struct stat info;
    if (error != UV_EACCES) {
        return error;
    }
    char *folder = kd_path_holder(path);
    const bool is_lost = folder != NULL && stat(folder, &info) != 0;
    const int told = is_lost ? uv_translate_sys_error(errno) : error;
    free(folder);
    return told;
}

static kd_status bind_unix(kd_listener *l, unsigned mode)
{
    const char *path = l->address.path;
    kd_status st = remove_stale_socket(path);
    if (st) {
        return st;
    }
    const int error = uv_pipe_bind(&l->as.pipe, path);
    if (error != 0) {
        return kd_fail(KD_ERR_IO, "unix:%s: cannot bind: %s", path,
                       uv_strerror(error_of_bind(path, error)));
    }
    /* Nobody can connect before listen, so the mode is in force from the first connection on. */
    if (chmod(path, mode == 0 ? 0600 : (mode_t)mode) != 0) {
        return kd_fail(KD_ERR_IO, "unix:%s: cannot set the mode: %s", path, strerror(errno));
    }
    return KD_OK;
}

static kd_status bind_tcp(kd_listener *l)
{
    socket_address at;
    int error = uv_ip4_addr(l->address.host, l->address.port, &at.v4);
    if (error != 0) {
        error = uv_ip6_addr(l->address.host, l->address.port, &at.v6);
    }
    if (error == 0) {
        error = uv_tcp_bind(&l->as.tcp, &at.any, 0);
    }
    if (error != 0) {
        return kd_fail(KD_ERR_IO, "tcp:%s:%u: cannot bind: %s", l->address.host,
                       (unsigned)l->address.port, uv_strerror(error));
    }
    return KD_OK;
}

static kd_status listen_on(kd_listener *l)
{
    char text[KD_ADDRESS_TEXT_MAX];
    (void)kd_address_format(&l->address, text);
    int error = uv_listen(&l->as.stream, BACKLOG, on_connection);
    if (error == UV_EADDRINUSE) {
        return kd_fail(KD_ERR_STATE, "%s: already in use", text);
    }
    socket_address bound;
    int size = sizeof bound;
    if (error == 0 && l->address.kind == KD_ADDRESS_TCP) {
        error = uv_tcp_getsockname(&l->as.tcp, &bound.any, &size);
        l->address.port =
            ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    }
    if (error != 0) {
        return kd_fail(KD_ERR_IO, "%s: cannot listen: %s", text, uv_strerror(error));
    }
    return KD_OK;
}

kd_status kd_listener_open(uv_loop_t *loop,
                           const kd_address *address,
                           unsigned mode,
                           const kd_listener_callbacks *callbacks,
                           void *user,
                           kd_listener **listener_out)
{
    kd_listener *l = calloc(1, sizeof *l);
    if (l == NULL) {
        return kd_fail(KD_ERR_NOMEM, "listener: no memory");
    }
    const bool is_unix = address->kind == KD_ADDRESS_UNIX;
    const int error = is_unix ? uv_pipe_init(loop, &l->as.pipe, 0) : uv_tcp_init(loop, &l->as.tcp);
    if (error != 0) {
        free(l);
        return kd_fail(KD_ERR_IO, "listener: %s", uv_strerror(error));
    }
    l->as.handle.data = l;
    l->address = *address;

    kd_status st = is_unix ? bind_unix(l, mode) : bind_tcp(l);
    if (!st) {
        st = listen_on(l);
    }
    if (st) {
        kd_listener_close(l); /* without callbacks nobody hears of it */
        return st;
    }
    l->callbacks = *callbacks;
    l->user = user;
    *listener_out = l;
    return KD_OK;
}

const kd_address *kd_listener_address(const kd_listener *l)
{
    return &l->address;
}
