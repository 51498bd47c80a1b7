/*
 * store_thread.c - the loop appends, the thread takes all that is there and commits it as one: the disk's
 * rate of syncs bounds commits, not requests. Steps alone are in no hurry, and wait for company.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "daemon/store_op.h"

/* A queue of ops in order. */
typedef struct op_list {
    store_op *first, **end;
} op_list;

/*
 * Between the loop and the thread stand two lists under one lock: what is to do and what is done.
 * The database belongs to the thread from its start to its end.
 */
struct store {
    database *db;
    uv_thread_t thread;
    uv_async_t wake_loop;
    uv_mutex_t lock;
    uv_cond_t wake_thread;
    op_list todo, done; /* under lock */
    bool hurry;         /* under lock: something in todo does not want to wait */
    bool closing;       /* under lock */
    bool broken;        /* the thread's: a commit failed */
    bool told;          /* the loop's: on_failed was called */
    void (*on_failed)(void *context);
    void *context;
};

static void list_reset(op_list *list)
{
    *list = (op_list){.first = NULL, .end = &list->first};
}

static store_op *list_take(op_list *list)
{
    store_op *first = list->first;
    list_reset(list);
    return first;
}

static void list_append(op_list *list, store_op *ops)
{
    *list->end = ops;
    while (*list->end != NULL) {
        list->end = &(*list->end)->next;
    }
}

/* Called with the lock held; lets go of it while it waits. NULL: closing, and nothing is left. */
static store_op *wait_for_batch(store *s)
{
    while (s->todo.first == NULL && !s->closing) {
        uv_cond_wait(&s->wake_thread, &s->lock);
    }
    const uint64_t until_ns = uv_hrtime() + (uint64_t)STORE_LAZY_MS * 1000000;
    for (uint64_t now_ns = uv_hrtime(); !s->hurry && !s->closing && now_ns < until_ns;
         now_ns = uv_hrtime()) {
        (void)uv_cond_timedwait(&s->wake_thread, &s->lock, until_ns - now_ns);
    }
    s->hurry = false;
    return list_take(&s->todo);
}

/* All of a batch shares its fate: either every op of it is on disk, or none. */
static void commit(store *s, store_op *batch)
{
    kd_status st = KD_ERR_IO;
    if (!s->broken) {
        st = database_commit(s->db, batch);
        s->broken = st != KD_OK;
    }
    for (store_op *op = batch; op != NULL; op = op->next) {
        op->status = st;
    }
}

static void run_thread(void *context)
{
    store *s = context;
    uv_mutex_lock(&s->lock);
    for (store_op *batch = wait_for_batch(s); batch != NULL; batch = wait_for_batch(s)) {
        uv_mutex_unlock(&s->lock);
        commit(s, batch);
        uv_mutex_lock(&s->lock);
        list_append(&s->done, batch);
        (void)uv_async_send(&s->wake_loop);
    }
    uv_mutex_unlock(&s->lock);
}

static void answer_all(store *s)
{
    uv_mutex_lock(&s->lock);
    store_op *op = list_take(&s->done);
    uv_mutex_unlock(&s->lock);
    while (op != NULL) {
        store_op *next = op->next;
        const kd_status st = op->status;
        store_op_answer(op);
        store_op_destroy(op);
        if (st && !s->told) {
            s->told = true;
            s->on_failed(s->context);
        }
        op = next;
    }
}

static void on_wake_loop(uv_async_t *handle)
{
    answer_all(handle->data);
}

static void on_async_closed(uv_handle_t *handle)
{
    free(handle->data);
}

kd_status store_open(uv_loop_t *loop,
                     const char *folder,
                     void (*on_failed)(void *context),
                     void *context,
                     store **store_out)
{
    store *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "store: no memory");
    }
    s->on_failed = on_failed;
    s->context = context;
    list_reset(&s->todo);
    list_reset(&s->done);
    kd_status st = database_open(folder, &s->db);
    if (st) {
        goto err_free;
    }
    st = KD_ERR_IO;
    if (uv_mutex_init(&s->lock) != 0) {
        goto err_close_db;
    }
    if (uv_cond_init(&s->wake_thread) != 0) {
        goto err_destroy_lock;
    }
    if (uv_async_init(loop, &s->wake_loop, on_wake_loop) != 0) {
        goto err_destroy_cond;
    }
    s->wake_loop.data = s;
    if (uv_thread_create(&s->thread, run_thread, s) != 0) {
        goto err_close_async;
    }
    *store_out = s;
    return KD_OK;

err_close_async: /* its callback frees s */
    uv_cond_destroy(&s->wake_thread);
    uv_mutex_destroy(&s->lock);
    database_close(s->db);
    uv_close((uv_handle_t *)&s->wake_loop, on_async_closed);
    return kd_fail(KD_ERR_IO, "store: cannot start a thread");
err_destroy_cond:
    uv_cond_destroy(&s->wake_thread);
err_destroy_lock:
    uv_mutex_destroy(&s->lock);
err_close_db:
    database_close(s->db);
    (void)kd_fail(st, "store: cannot make its lock");
err_free:
    free(s);
    return st;
}

kd_status store_load(store *s,
                     kd_status (*visit)(void *context, const store_job *row),
                     void *context,
                     uint64_t *last_seq_out)
{
    /* The thread waits for its first op, so the database is free to be read here. */
    return database_load(s->db, visit, context, last_seq_out);
}

void store_close(store *s)
{
    if (s == NULL) {
        return;
    }
    uv_mutex_lock(&s->lock);
    s->closing = true;
    uv_cond_signal(&s->wake_thread);
    uv_mutex_unlock(&s->lock);
    (void)uv_thread_join(&s->thread);
    answer_all(s);
    while (s->todo.first != NULL) { /* callbacks may have asked for more */
        store_op *batch = list_take(&s->todo);
        commit(s, batch);
        list_append(&s->done, batch);
        answer_all(s);
    }
    uv_cond_destroy(&s->wake_thread);
    uv_mutex_destroy(&s->lock);
    database_close(s->db);
    uv_close((uv_handle_t *)&s->wake_loop, on_async_closed);
}

static void enqueue(store *s, store_op *op, bool hurry)
{
    uv_mutex_lock(&s->lock);
    list_append(&s->todo, op);
    s->hurry = s->hurry || hurry;
    uv_cond_signal(&s->wake_thread);
    uv_mutex_unlock(&s->lock);
}

static kd_status request(store *s, store_op *op, store_done done, void *context)
{
    if (op == NULL) {
        return KD_ERR_NOMEM;
    }
    op->done = done;
    op->context = context;
    enqueue(s, op, op->kind != STORE_OP_PUT_STEP);
    return KD_OK;
}

kd_status store_insert_job(store *s,
                           const store_job *row,
                           const store_event *event,
                           store_done done,
                           void *context)
{
    return request(s, store_op_create(STORE_OP_INSERT_JOB, row, event, NULL), done, context);
}

kd_status store_update_job(store *s,
                           const store_job *row,
                           const store_event *event,
                           store_done done,
                           void *context)
{
    return request(s, store_op_create(STORE_OP_UPDATE_JOB, row, event, NULL), done, context);
}

kd_status store_put_step(store *s, uint64_t job_id, const store_step *step)
{
    store_op *op = store_op_create(STORE_OP_PUT_STEP, NULL, NULL, step);
    if (op != NULL) {
        op->job_id = job_id;
    }
    return request(s, op, NULL, NULL);
}

kd_status store_barrier(store *s, store_done done, void *context)
{
    return request(s, store_op_create(STORE_OP_BARRIER, NULL, NULL, NULL), done, context);
}

static store_op *create_read(store_op_kind kind, uint64_t job_id, uint64_t from, size_t limit)
{
    store_op *op = store_op_create(kind, NULL, NULL, NULL);
    if (op != NULL) {
        op->job_id = job_id;
        op->from = from;
        op->limit = limit;
    }
    return op;
}

kd_status store_read_events(store *s,
                            uint64_t job_id,
                            uint64_t after_seq,
                            size_t limit,
                            store_events_done done,
                            void *context)
{
    store_op *op = create_read(STORE_OP_READ_EVENTS, job_id, after_seq, limit);
    if (op != NULL) {
        op->events_done = done;
    }
    return request(s, op, NULL, context);
}

kd_status store_read_steps(store *s,
                           uint64_t job_id,
                           uint64_t from_step,
                           size_t limit,
                           store_steps_done done,
                           void *context)
{
    store_op *op = create_read(STORE_OP_READ_STEPS, job_id, from_step, limit);
    if (op != NULL) {
        op->steps_done = done;
    }
    return request(s, op, NULL, context);
}
