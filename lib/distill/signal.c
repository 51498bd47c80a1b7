/*
 * signal.c - collects what losses read, then sorts it into messages and groups.
 *
 * Groups can be known only when every loss has planned, and must come out the same on ranks that plan in
 * another order: hence two passes, and a sort by what a signal is.
 */
#include "distill/signal.h"

#include <stdlib.h>

#include "base/log.h"

void kd_signal_plan_release(kd_signal_plan *plan)
{
    free(plan->signals);
    free(plan->messages);
    *plan = (kd_signal_plan){0};
}

static kd_signal *find(const kd_signal_plan *plan, int teacher, kd_signal_kind kind, int64_t layer)
{
    for (int i = 0; i < plan->n_signals; i++) {
        kd_signal *signal = &plan->signals[i];
        if (signal->teacher == teacher && signal->kind == kind && signal->layer == layer) {
            return signal;
        }
    }
    return NULL;
}

const kd_signal *
kd_signal_plan_find(const kd_signal_plan *plan, int teacher, kd_signal_kind kind, int64_t layer)
{
    return find(plan, teacher, kind, layer);
}

static bool is_same_form(const kd_signal *a, const kd_signal *b)
{
    return a->dtype == b->dtype && a->rows == b->rows && a->columns == b->columns;
}

bool kd_signal_plan_holds(const kd_signal_plan *plan, const kd_signal *signal)
{
    const kd_signal *present = find(plan, signal->teacher, signal->kind, signal->layer);
    return present != NULL && is_same_form(present, signal) &&
           (signal->readers & ~present->readers) == 0;
}

static kd_status grow(kd_signal_plan *plan)
{
    if (plan->n_signals < plan->n_room) {
        return KD_OK;
    }
    const int n_room = plan->n_room > 0 ? 2 * plan->n_room : 8;
    kd_signal *signals = realloc(plan->signals, (size_t)n_room * sizeof *signals);
    if (signals == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a plan of %d signals", n_room);
    }
    plan->signals = signals;
    plan->n_room = n_room;
    return KD_OK;
}

kd_status kd_signal_plan_add(kd_signal_plan *plan, const kd_signal *signal, int reader)
{
    KD_CHECK(plan->messages == NULL && signal->teacher >= 0 && reader >= 0 && reader < 64);
    KD_CHECK(signal->rows > 0 && signal->columns > 0);
    KD_CHECK(signal->kind < KD_SIGNAL_TAP ||
             (KD_SIGNAL_TAPS & KD_TAP_BIT(signal->kind - KD_SIGNAL_TAP)) != 0);
    const uint64_t bit = UINT64_C(1) << reader;
    kd_signal *present = find(plan, signal->teacher, signal->kind, signal->layer);
    if (present != NULL) {
        KD_CHECK(is_same_form(present, signal));
        present->readers |= bit;
        return KD_OK;
    }
    const kd_status st = grow(plan);
    if (st) {
        return st;
    }
    kd_signal *added = &plan->signals[plan->n_signals++];
    *added = *signal;
    added->readers = bit;
    return KD_OK;
}

/* By teacher, by who reads it, and within a group by kind and layer: the same on both sides. */
static int compare(const void *left, const void *right)
{
    const kd_signal *a = left, *b = right;
    if (a->teacher != b->teacher) {
        return a->teacher < b->teacher ? -1 : 1;
    }
    if (a->readers != b->readers) {
        return a->readers < b->readers ? -1 : 1;
    }
    if (a->kind != b->kind) {
        return a->kind < b->kind ? -1 : 1;
    }
    return a->layer < b->layer ? -1 : a->layer > b->layer;
}

/* Places a signal at the end of its teacher's message, in the last group or in a new one. */
static kd_status place(kd_message_plan *message, kd_signal *signal)
{
    kd_signal_group *last = message->n_groups > 0 ? &message->groups[message->n_groups - 1] : NULL;
    if (last == NULL || last->readers != signal->readers) {
        if (message->n_groups == KD_SIGNAL_GROUPS_MAX) {
            return kd_fail(KD_ERR_INVALID,
                           "teachers.%d: found more than %d groups of signals, which different "
                           "losses read",
                           signal->teacher, KD_SIGNAL_GROUPS_MAX);
        }
        last = &message->groups[message->n_groups++];
        *last = (kd_signal_group){signal->readers, message->message_bytes, 0};
    }
    kd_arena arena = {.used = message->message_bytes};
    signal->group = message->n_groups - 1;
    signal->offset_bytes = arena.used;
    signal->size_bytes =
        (size_t)signal->rows * (size_t)signal->columns * kd_dtype_bytes(signal->dtype);
    (void)kd_arena_carve(&arena, signal->size_bytes);
    message->message_bytes = arena.used;
    last->size_bytes = arena.used - last->offset_bytes;
    return KD_OK;
}

kd_status kd_signal_plan_lay_out(kd_signal_plan *plan, int n_teachers)
{
    KD_CHECK(plan->messages == NULL);
    plan->messages = calloc((size_t)n_teachers + 1, sizeof *plan->messages);
    if (plan->messages == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the messages of %d teachers", n_teachers);
    }
    plan->n_teachers = n_teachers;
    if (plan->n_signals > 0) {
        qsort(plan->signals, (size_t)plan->n_signals, sizeof *plan->signals, compare);
    }
    for (int i = 0; i < plan->n_signals; i++) {
        kd_signal *signal = &plan->signals[i];
        KD_CHECK(signal->teacher < n_teachers);
        const kd_status st = place(&plan->messages[signal->teacher], signal);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

uint64_t kd_signal_plan_mask(const kd_signal_plan *plan, int teacher, uint64_t losses)
{
    KD_CHECK(teacher >= 0 && teacher < plan->n_teachers);
    const kd_message_plan *message = &plan->messages[teacher];
    uint64_t mask = 0;
    for (int g = 0; g < message->n_groups; g++) {
        if ((message->groups[g].readers & losses) != 0) {
            mask |= UINT64_C(1) << g;
        }
    }
    return mask;
}

size_t kd_message_plan_bytes(const kd_message_plan *plan, uint64_t groups)
{
    size_t bytes = 0;
    for (int g = 0; g < plan->n_groups; g++) {
        bytes += (groups >> g & 1) != 0 ? plan->groups[g].size_bytes : 0;
    }
    return bytes;
}

size_t kd_message_plan_slots_bytes(const kd_message_plan *plan, int depth)
{
    return (size_t)depth * plan->message_bytes;
}

kd_tensor kd_signal_view(const kd_signal *signal, void *message, int64_t rows)
{
    KD_CHECK(rows > 0 && rows <= signal->rows);
    return kd_tensor_2d((uint8_t *)message + signal->offset_bytes, signal->dtype, rows,
                        signal->columns);
}
