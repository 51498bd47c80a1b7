/*
 * logs.c - what the ranks of a job wrote, attempt after attempt, and on as it grows.
 *
 * The files are read on pool threads, a piece at a time, while there is room to send. A follower looks
 * for more every POLL_MS; it ends with the job.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/run.h"
#include "daemon/session.h"
#include "daemon/state_folder.h"

#define PIECE_BYTES (64u << 10)
#define POLL_MS     250

typedef struct log_reader {
    stream stream;
    coordinator *co;
    const entry *entry;
    bool follow;
    uint32_t attempt; /* whose file is read */
    int file;         /* -1: not open */
    int64_t offset;
    bool busy;       /* a request is on a pool thread */
    bool ended;      /* the stream is gone; freed when nothing is busy */
    bool final_seen; /* the job was over before the last look at the file */
    uv_fs_t request;
    uv_timer_t timer;
    char piece[PIECE_BYTES];
} log_reader;

static void look(log_reader *r);

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void dispose(log_reader *r)
{
    if (r->file >= 0) {
        uv_fs_t close;
        (void)uv_fs_close(r->co->loop, &close, r->file, NULL);
        uv_fs_req_cleanup(&close);
    }
    uv_close((uv_handle_t *)&r->timer, on_timer_closed);
}

static void destroy(stream *st)
{
    log_reader *r = (log_reader *)st;
    r->ended = true;
    (void)uv_timer_stop(&r->timer);
    if (!r->busy) {
        dispose(r);
    }
}

static void on_timer(uv_timer_t *timer)
{
    look(timer->data);
}

static void send_chunk(log_reader *r, size_t n_bytes, bool more)
{
    Kd__LogChunk chunk = KD__LOG_CHUNK__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    chunk.has_data = 1;
    chunk.data.data = (uint8_t *)r->piece;
    chunk.data.len = n_bytes;
    reply.more = more;
    reply.body_case = KD__REPLY__BODY_LOG;
    reply.log = &chunk;
    session_reply(r->stream.session, r->stream.request_id, &reply);
}

/* The end of a file: the next attempt's, or later, or the end of the stream. */
static void at_end_of_file(log_reader *r)
{
    if (r->attempt < r->entry->job.attempts) {
        if (r->file >= 0) {
            uv_fs_t close;
            (void)uv_fs_close(r->co->loop, &close, r->file, NULL);
            uv_fs_req_cleanup(&close);
        }
        r->file = -1;
        r->offset = 0;
        r->attempt++;
        look(r);
        return;
    }
    if (!r->follow || r->final_seen) {
        send_chunk(r, 0, false);
        stream_end(&r->stream);
        return;
    }
    r->final_seen = job_state_is_final(r->entry->shown);
    (void)uv_timer_start(&r->timer, on_timer, POLL_MS, 0);
}

/* True if the stream still wants what the pool thread brought. */
static bool take_result(log_reader *r)
{
    uv_fs_req_cleanup(&r->request);
    r->busy = false;
    r->co->n_on_pool--;
    if (r->ended) {
        dispose(r);
    }
    return !r->ended;
}

static void on_read(uv_fs_t *request)
{
    log_reader *r = request->data;
    const ssize_t n_bytes = request->result;
    if (!take_result(r)) {
        return;
    }
    if (n_bytes <= 0) {
        at_end_of_file(r);
        return;
    }
    r->offset += n_bytes;
    send_chunk(r, (size_t)n_bytes, true);
    look(r);
}

static void on_opened(uv_fs_t *request)
{
    log_reader *r = request->data;
    const ssize_t file = request->result;
    r->file = file >= 0 ? (int)file : -1;
    if (!take_result(r)) {
        return;
    }
    if (file < 0) { /* an attempt that has not come to write, or never did */
        at_end_of_file(r);
    } else {
        look(r);
    }
}

/* The next piece, if there is room for it; otherwise resume() comes back. */
static void look(log_reader *r)
{
    if (r->busy || !session_has_room(r->stream.session)) {
        return;
    }
    r->request.data = r;
    r->busy = true;
    int error;
    if (r->file < 0) {
        char path[PATH_MAX];
        state_log_path(r->co->folder, r->entry->job.id, r->attempt, path);
        error = uv_fs_open(r->co->loop, &r->request, path, O_RDONLY | O_CLOEXEC, 0, on_opened);
    } else {
        const uv_buf_t piece = uv_buf_init(r->piece, sizeof r->piece);
        error = uv_fs_read(r->co->loop, &r->request, r->file, &piece, 1, r->offset, on_read);
    }
    if (error != 0) {
        r->busy = false;
        send_chunk(r, 0, false);
        stream_end(&r->stream);
        return;
    }
    r->co->n_on_pool++;
}

static void resume(stream *st)
{
    log_reader *r = (log_reader *)st;
    if (!uv_is_active((uv_handle_t *)&r->timer)) {
        look(r);
    }
}

void session_logs(session *s, uint64_t request_id, const entry *e, bool follow)
{
    coordinator *co = session_coordinator(s);
    log_reader *r = calloc(1, sizeof *r);
    if (r == NULL || uv_timer_init(co->loop, &r->timer) != 0) {
        free(r);
        session_refuse(s, request_id, KD__ERROR__CODE__INTERNAL, "no memory", NULL);
        return;
    }
    r->timer.data = r;
    r->co = co;
    r->entry = e;
    r->follow = follow;
    r->attempt = 1;
    r->file = -1;
    r->stream.resume = resume;
    r->stream.destroy = destroy;
    stream_begin(&r->stream, s, request_id);
    look(r);
}
