/*
 * store_op.c - a request is copied into one block, counted and then filled by the same walk, so that the
 * store's thread shares nothing with the loop.
 */
#include "daemon/store_op.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Copies into one block: a first pass with data NULL counts, the second copies. */
typedef struct packer {
    char *data;
    size_t used;
} packer;

static const void *pack(packer *p, const void *bytes, size_t n_bytes)
{
    if (bytes == NULL) {
        return NULL;
    }
    char *at = p->data == NULL ? NULL : p->data + p->used;
    p->used += n_bytes;
    if (at != NULL && n_bytes > 0) {
        memcpy(at, bytes, n_bytes);
    }
    return at;
}

static const char *pack_string(packer *p, const char *string)
{
    return pack(p, string, string == NULL ? 0 : strlen(string) + 1);
}

static void pack_all(packer *p, store_job *row, store_event *event, store_step *step)
{
    row->token = pack_string(p, row->token);
    row->spec = pack(p, row->spec, row->spec_bytes);
    row->name = pack_string(p, row->name);
    row->output = pack_string(p, row->output);
    row->reason = pack_string(p, row->reason);
    row->last_step = pack(p, row->last_step, row->last_step_bytes);
    event->text = pack_string(p, event->text);
    event->kind = pack_string(p, event->kind);
    step->bytes = pack(p, step->bytes, step->n_bytes);
}

store_op *store_op_create(store_op_kind kind,
                          const store_job *row,
                          const store_event *event,
                          const store_step *step)
{
    store_op *op = calloc(1, sizeof *op);
    if (op == NULL) {
        goto err_no_memory;
    }
    const store_job no_row = {0};
    const store_event no_event = {0};
    const store_step no_step = {0};
    store_job counted_row = row == NULL ? no_row : *row;
    store_event counted_event = event == NULL ? no_event : *event;
    store_step counted_step = step == NULL ? no_step : *step;
    op->kind = kind;
    op->has_event = event != NULL;
    op->row = counted_row;
    op->event = counted_event;
    op->step = counted_step;

    packer p = {0};
    pack_all(&p, &counted_row, &counted_event, &counted_step);
    p.data = malloc(p.used + 1);
    if (p.data == NULL) {
        goto err_free_op;
    }
    op->owned = p.data;
    p.used = 0;
    pack_all(&p, &op->row, &op->event, &op->step);
    return op;

err_free_op:
    free(op);
err_no_memory:
    (void)kd_fail(KD_ERR_NOMEM, "store: no memory for a request");
    return NULL;
}

void store_op_destroy(store_op *op)
{
    if (op == NULL) {
        return;
    }
    for (size_t i = 0; i < op->n_found; i++) {
        if (op->kind == STORE_OP_READ_EVENTS) {
            free((char *)op->events[i].kind);
            free((char *)op->events[i].text);
        } else {
            free((uint8_t *)op->steps[i].bytes);
        }
    }
    free(op->events);
    free(op->steps);
    free(op->owned);
    free(op);
}

void store_op_answer(const store_op *op)
{
    if (op->done != NULL) {
        op->done(op->context, op->status);
    }
    if (op->events_done != NULL) {
        op->events_done(op->context, op->status, op->events, op->n_found);
    }
    if (op->steps_done != NULL) {
        op->steps_done(op->context, op->status, op->steps, op->n_found);
    }
}

/* One more zeroed element; lists grow by doubling at powers of two. */
static void *grow(void **list, size_t n, size_t element_bytes)
{
    if ((n & (n - 1)) == 0) {
        void *grown = realloc(*list, (n == 0 ? 1 : 2 * n) * element_bytes);
        if (grown == NULL) {
            return NULL;
        }
        *list = grown;
    }
    char *at = (char *)*list + n * element_bytes;
    memset(at, 0, element_bytes);
    return at;
}

kd_status store_op_found_event(store_op *op, const store_event *event)
{
    void *list = op->events;
    store_event *at = grow(&list, op->n_found, sizeof *at);
    op->events = list;
    if (at == NULL) {
        goto err;
    }
    *at = *event;
    at->kind = strdup(event->kind);
    at->text = strdup(event->text);
    op->n_found++;
    if (at->kind != NULL && at->text != NULL) {
        return KD_OK;
    }
err:
    return kd_fail(KD_ERR_NOMEM, "store: no memory for the events of job %llu",
                   (unsigned long long)op->job_id);
}

kd_status store_op_found_step(store_op *op, const store_step *step)
{
    void *list = op->steps;
    store_step *at = grow(&list, op->n_found, sizeof *at);
    op->steps = list;
    if (at == NULL) {
        goto err;
    }
    *at = *step;
    uint8_t *bytes = malloc(step->n_bytes + 1);
    at->bytes = bytes;
    op->n_found++;
    if (bytes != NULL) {
        memcpy(bytes, step->bytes, step->n_bytes);
        return KD_OK;
    }
err:
    return kd_fail(KD_ERR_NOMEM, "store: no memory for the steps of job %llu",
                   (unsigned long long)op->job_id);
}
