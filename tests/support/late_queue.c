#include "tests/support/late_queue.h"

/* The table that a back end carries is the first member. */
static late_queue *queue_of(const kd_backend *be)
{
    return (late_queue *)(uintptr_t)be->ops;
}

void late_queue_catch_up(late_queue *queue)
{
    queue->n_past = queue->n_recorded;
    queue->n_marks_past = queue->n_marked;
}

static void stop(late_queue *queue)
{
    queue->n_stops++;
    late_queue_catch_up(queue);
}

static kd_status wait_counted(kd_backend *be)
{
    late_queue *queue = queue_of(be);
    queue->n_waits++;
    stop(queue);
    return queue->ops->wait(be);
}

static void download_counted(kd_backend *be, void *host, kd_tensor src)
{
    late_queue *queue = queue_of(be);
    stop(queue);
    queue->ops->download(be, host, src);
}

static void update_noted(kd_backend *be, const kd_adamw *args)
{
    late_queue *queue = queue_of(be);
    queue->n_updates++;
    queue->n_stops_before_update = queue->n_stops;
    queue->ops->adamw(be, args);
}

static kd_event record(kd_backend *be)
{
    return (kd_event){.be = be, .number = ++queue_of(be)->n_recorded};
}

static bool is_past(kd_backend *be, kd_event event)
{
    late_queue *queue = queue_of(be);
    if (event.number > queue->n_past && queue->n_late-- <= 0) {
        late_queue_catch_up(queue);
    }
    return event.number <= queue->n_past;
}

static void wait_noted(kd_backend *be, kd_event event)
{
    late_queue *queue = queue_of(be);
    queue->waits_for = event; /* noted only: the host's own queue would be waited for here */
    if (event.be != NULL) {
        kd_backend_keep_fault(be, kd_backend_tell_fault(event.be));
    }
}

static void mark_counted(kd_backend *be, kd_marks *marks, int i)
{
    late_queue *queue = queue_of(be);
    queue->n_marked++;
    queue->ops->mark(be, marks, i);
}

/* Of one that is ahead nothing is told, and no time passes by asking. */
static bool
elapsed_late(kd_backend *be, const kd_marks *marks, int from, int to, double *seconds_out)
{
    const late_queue *queue = queue_of(be);
    return queue->n_marks_past == queue->n_marked &&
           queue->ops->marks_elapsed(be, marks, from, to, seconds_out);
}

void late_queue_take(late_queue *queue, kd_backend *be)
{
    *queue = (late_queue){.table = *be->ops, .be = be, .ops = be->ops};
    queue->table.wait = wait_counted;
    queue->table.download = download_counted;
    queue->table.adamw = update_noted;
    queue->table.event_record = record;
    queue->table.event_query = is_past;
    queue->table.event_wait = wait_noted;
    queue->table.mark = mark_counted;
    queue->table.marks_elapsed = elapsed_late;
    be->ops = &queue->table;
}

void late_queue_give_back(late_queue *queue)
{
    queue->be->ops = queue->ops;
}
