/*
 * live.c - a list of changes in the order they came, which is also that of their steps, and three places in
 * it: now, ahead by the lead, and its end, which a new change is tried on.
 *
 * The disk comes before the order: a rank that was told of a change that the file does not hold would end in
 * other weights than the run that resumes.
 */
#include "worker/live.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "job/job.h"
#include "message/fields.h"
#include "message/json.h"
#include "message/path.h"
#include "message/reflect.h"
#include "message/yaml.h"

/* Of the changes in their file: the job's own stands before them. */
enum { FIRST_LINE = 2 };

/* On an error the job may be changed, but is valid as a message. */
static kd_status assign(Kd__Job *job, const char *path, const char *value)
{
    const kd_status st = kd_path_set(&job->base, path, value, NULL);
    return st ? st : kd_job_complete(job);
}

/* What losses and teachers a run has is settled when it starts: a change makes none of them. */
static kd_status check_is_there(const Kd__Job *job, const char *path)
{
    kd_status st = KD_OK;
    char *holder = strdup(path);
    if (holder == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", path);
    }
    for (char *dot = strchr(holder, '.'); !st && dot != NULL; dot = strchr(dot + 1, '.')) {
        kd_path_place place = {0};
        *dot = '\0';
        st = kd_path_find(&kd__job__descriptor, holder, &place);
        if (!st && (place.flags & KD_FIELD_LIVE) == 0 && !kd_path_is_set(&job->base, holder)) {
            st = kd_fail(KD_ERR_INVALID, "%s: is not in the job: cannot be added while it runs",
                         holder);
        }
        *dot = '.';
    }
    free(holder);
    return st;
}

kd_status live_check(const Kd__Job *job, const char *path, const char *value)
{
    kd_path_place place = {0};
    kd_status st = kd_path_find(&kd__job__descriptor, path, &place);
    if (st) {
        return st;
    }
    if ((place.flags & KD_FIELD_LIVE) == 0) {
        return kd_fail(KD_ERR_INVALID, "%s: does not change while a job runs", path);
    }
    st = check_is_there(job, path);
    if (st) {
        return st;
    }
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", path);
    }
    st = assign(copy, path, value);
    if (!st) {
        st = kd_job_check(copy, NULL);
    }
    kd_message_destroy(&copy->base);
    return st;
}

static kd_status values_open(const Kd__Job *job, live_values *values_out)
{
    live_values values = {.job = (Kd__Job *)kd_message_copy(&job->base)};
    if (values.job == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the job's values");
    }
    *values_out = values;
    return KD_OK;
}

static void values_close(live_values *values)
{
    if (values->job != NULL) {
        kd_message_destroy(&values->job->base);
    }
    *values = (live_values){0};
}

/* Makes all changes that act in `step` or before it. */
static kd_status values_reach(live_values *values, const live *l, uint64_t step)
{
    while (values->n_changes < l->n_changes && l->changes[values->n_changes]->step <= step) {
        const Kd__Change *change = l->changes[values->n_changes];
        const kd_status st = assign(values->job, change->path, change->value);
        if (st) {
            return st;
        }
        values->n_changes++;
    }
    return KD_OK;
}

/* The step that the change recorded last acts in; 0 without one. */
static uint64_t last_step(const live *l)
{
    return l->n_changes > 0 ? l->changes[l->n_changes - 1]->step : 0;
}

/* Takes the change over, also when it fails. */
static kd_status add(live *l, Kd__Change *change)
{
    if (l->n_changes == l->n_room) {
        const size_t n_room = l->n_room > 0 ? 2 * l->n_room : 16;
        Kd__Change **changes = realloc(l->changes, n_room * sizeof(Kd__Change *));
        if (changes == NULL) {
            kd_message_destroy(&change->base);
            return kd_fail(KD_ERR_NOMEM, "no memory for %zu changes", n_room);
        }
        l->changes = changes;
        l->n_room = n_room;
    }
    l->changes[l->n_changes++] = change;
    return KD_OK;
}

static kd_status add_line(live *l, const char *line, size_t size, const char *name)
{
    ProtobufCMessage *message = NULL;
    const kd_status st = kd_yaml_parse(line, size, name, &kd__change__descriptor, &message);
    if (st) {
        return st;
    }
    Kd__Change *change = (Kd__Change *)message;
    if (!change->has_step || change->path == NULL || change->value == NULL) {
        kd_message_destroy(message);
        return kd_fail(KD_ERR_PROTO, "%s: expected a step, a path and a value", name);
    }
    if (change->step < last_step(l)) {
        const kd_status disorder =
            kd_fail(KD_ERR_PROTO, "%s: found step %llu, expected at least %llu, as before it", name,
                    (unsigned long long)change->step, (unsigned long long)last_step(l));
        kd_message_destroy(message);
        return disorder;
    }
    return add(l, change);
}

/* Whole lines, JSON each, which is YAML too; the first has that number in its file. */
static kd_status add_lines(live *l, const char *text, const char *name, int number)
{
    for (; *text != '\0'; number++) {
        kd_text where = {0};
        const size_t n = strcspn(text, "\n");
        kd_text_printf(&where, "%s, line %d", name, number);
        const kd_status st = add_line(l, text, n, where.failed ? name : where.data);
        kd_text_release(&where);
        if (st) {
            return st;
        }
        text += n + (text[n] == '\n');
    }
    return KD_OK;
}

/* All ranks: what the leader's file holds. */
static kd_status
read_shared(kd_world *world, const Kd__Job *job, const live_file_owner *owner, char **text_out)
{
    char *mine = NULL;
    kd_status st = kd_world_agree(
        world, kd_world_is_leader(world) ? live_file_read(job->output, owner, &mine) : KD_OK);
    if (!st) {
        st = kd_world_share_text(world, mine, text_out);
    }
    free(mine);
    return st;
}

/* live_check(), for callers who say more of a fault than its text, and log that. */
static kd_status check_quietly(const Kd__Job *job, const char *path, const char *value)
{
    const int quiet = kd_fault_quiet(1);
    const kd_status st = live_check(job, path, value);
    (void)kd_fault_quiet(quiet);
    return st;
}

/*
 * Makes `last` what it is after all changes, each held against the values before it: a run goes through
 * all of them. They were possible once, but the job may be another now, or the file edited.
 */
static kd_status reach_last(live *l)
{
    for (size_t i = 0; i < l->n_changes; i++) {
        const Kd__Change *change = l->changes[i];
        kd_status st = check_quietly(l->last.job, change->path, change->value);
        if (st) {
            return kd_fail(st, "changes.jsonl, line %zu: %s=%s: %s", i + FIRST_LINE, change->path,
                           change->value, kd_fault_text());
        }
        st = assign(l->last.job, change->path, change->value);
        if (st) {
            return st;
        }
        l->last.n_changes++;
    }
    return KD_OK;
}

static void log_changes(const live *l)
{
    for (size_t i = 0; i < l->n_changes; i++) {
        const Kd__Change *change = l->changes[i];
        kd_log(KD_LOG_INFO, "changes.jsonl: step %llu: %s becomes %s",
               (unsigned long long)change->step, change->path, change->value);
    }
}

kd_status
live_begin(const Kd__Job *job, const char *lines, const live_file_owner *owner, live *live_out)
{
    live l = {.leads = owner != NULL, .file_bytes = strlen(lines)};
    kd_status st = add_lines(&l, lines, "changes.jsonl", FIRST_LINE);
    if (!st) {
        st = values_open(job, &l.now);
    }
    if (!st) {
        st = values_open(job, &l.ahead);
    }
    if (!st) {
        st = values_open(job, &l.last);
    }
    if (!st) {
        st = reach_last(&l);
    }
    if (st) {
        live_close(&l);
        return st;
    }
    if (owner != NULL) {
        l.owner = *owner;
        log_changes(&l);
    }
    *live_out = l;
    return KD_OK;
}

kd_status
live_open(kd_world *world, const Kd__Job *job, const live_file_owner *owner, live *live_out)
{
    char *text = NULL;
    kd_status st = read_shared(world, job, owner, &text);
    if (!st) {
        KD_CHECK(text != NULL);
        st = live_begin(job, text, kd_world_is_leader(world) ? owner : NULL, live_out);
    }
    free(text);
    return st;
}

void live_close(live *l)
{
    for (size_t i = 0; i < l->n_changes; i++) {
        kd_message_destroy(&l->changes[i]->base);
    }
    free(l->changes);
    values_close(&l->now);
    values_close(&l->ahead);
    values_close(&l->last);
    if (l->held != NULL) {
        kd_message_destroy(&l->held->base);
    }
    *l = (live){0};
}

/* Why the line of a change finds no room. */
typedef enum room {
    ROOM_ENOUGH,
    ROOM_OF_ORDER_ENDS, /* what an order carries */
    ROOM_OF_FILE_ENDS,  /* what the file may hold */
} room;

/* The line of a change, at the end of `lines` if it finds room there and in the file. */
static room add_change_line(const live *l, kd_text *lines, const Kd__Change *change)
{
    kd_text line = {0};
    kd_json_print(&line, &change->base, KD_JSON_SET_ONLY);
    kd_text_add(&line, "\n");
    room found = ROOM_ENOUGH;
    if (l->file_bytes + lines->size + line.size > LIVE_FILE_BYTES_MAX) {
        found = ROOM_OF_FILE_ENDS;
    } else if (line.failed || lines->size + line.size >= KD_ORDER_TEXT_BYTES) {
        found = ROOM_OF_ORDER_ENDS;
    } else {
        kd_text_add(lines, line.data);
    }
    kd_text_release(&line);
    return found;
}

typedef enum verdict {
    VERDICT_MADE,
    VERDICT_REFUSED, /* with a line in the log     */
    VERDICT_LATER,   /* this order has no room left */
} verdict;

/* Where a wish that is made for `step` acts: never before one that was recorded earlier. */
static uint64_t step_of_act(const live *l, uint64_t step)
{
    return step > last_step(l) ? step : last_step(l);
}

/* Whether what is wished may be, from `step` on; if not, that is told. */
static bool is_possible(const live *l, const Kd__RankOrder *wish, uint64_t step)
{
    if (check_quietly(l->last.job, wish->path, wish->value)) {
        kd_log(KD_LOG_WARN, "not changed: %s", kd_fault_text());
        return false;
    }
    if (step >= l->last.job->training->steps) {
        kd_log(KD_LOG_WARN, "not changed: %s: no step is left that it could act in", wish->path);
        return false;
    }
    return true;
}

static verdict verdict_without_room(room found, const kd_text *lines, const Kd__RankOrder *wish)
{
    if (found == ROOM_OF_FILE_ENDS) {
        kd_log(KD_LOG_WARN, "not changed: %s: changes.jsonl would hold more than %u bytes",
               wish->path, LIVE_FILE_BYTES_MAX);
        return VERDICT_REFUSED;
    }
    if (lines->size > 0) {
        return VERDICT_LATER;
    }
    kd_log(KD_LOG_WARN, "not changed: %s: the value is too long", wish->path);
    return VERDICT_REFUSED;
}

/* One change for `step` or later: to `lines` and to the list. */
static kd_status
try_change(live *l, const Kd__RankOrder *wish, uint64_t step, kd_text *lines, verdict *verdict_out)
{
    Kd__Change view = KD__CHANGE__INIT;
    *verdict_out = VERDICT_REFUSED;
    view.has_step = 1;
    view.step = step_of_act(l, step);
    view.path = wish->path;
    view.value = wish->value;
    if (!is_possible(l, wish, view.step)) {
        return KD_OK;
    }
    const room found = add_change_line(l, lines, &view);
    if (found != ROOM_ENOUGH) {
        *verdict_out = verdict_without_room(found, lines, wish);
        return KD_OK;
    }
    Kd__Change *change = (Kd__Change *)kd_message_copy(&view.base);
    if (change == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory for a change", wish->path);
    }
    kd_status st = add(l, change);
    if (!st) {
        st = values_reach(&l->last, l, UINT64_MAX);
    }
    if (!st) {
        st = values_reach(&l->ahead, l, step);
        *verdict_out = VERDICT_MADE;
    }
    return st;
}

static Kd__RankOrder *next_wish(live *l, rank_link *link)
{
    Kd__RankOrder *wish = l->held;
    l->held = NULL;
    return wish != NULL ? wish : rank_link_take_change(link);
}

static kd_status collect(live *l, rank_link *link, uint64_t step, kd_text *lines)
{
    kd_status st = KD_OK;
    verdict made = VERDICT_MADE;
    while (!st && made != VERDICT_LATER) {
        Kd__RankOrder *wish = next_wish(l, link);
        if (wish == NULL) {
            return KD_OK;
        }
        st = try_change(l, wish, step, lines, &made);
        if (!st && made == VERDICT_MADE) {
            kd_log(KD_LOG_INFO, "step %llu: %s becomes %s", (unsigned long long)last_step(l),
                   wish->path, wish->value);
        }
        if (!st && made == VERDICT_LATER) {
            l->held = wish;
        } else {
            kd_message_destroy(&wish->base);
        }
    }
    return st;
}

kd_status live_collect(live *l, rank_link *link, uint64_t step, kd_text *lines)
{
    kd_status st = live_plan(l, step);
    if (!st) {
        st = collect(l, link, step, lines);
    }
    if (!st && lines->failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for the changes of step %llu",
                     (unsigned long long)step);
    }
    if (st || lines->size == 0) {
        return st;
    }
    l->file_bytes += lines->size;
    return live_file_append(l->ahead.job->output, &l->owner, lines);
}

kd_status live_plan(live *l, uint64_t step)
{
    return values_reach(&l->ahead, l, step);
}

kd_status live_take(live *l, const kd_step_order *order)
{
    kd_status st = KD_OK;
    if (!l->leads) { /* the leader has them already */
        st = add_lines(l, order->changes, "step order", 1);
    }
    if (!st) {
        st = values_reach(&l->now, l, order->step);
    }
    if (!st && l->now.n_changes != order->version) {
        st = kd_fail(KD_ERR_PROTO, "step %llu: found %zu changes so far, the leader %llu",
                     (unsigned long long)order->step, l->now.n_changes,
                     (unsigned long long)order->version);
    }
    return st;
}
