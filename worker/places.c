/* places.c - memory is looked at between steps: a back end belongs to the thread of the training. */
#include "worker/places.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "train/device.h"
#include "worker/step_parts.h"

#define TIMES_EVERY_S 0.5 /* a heartbeat may have them; steps may be much shorter */

kd_status places_add(places *p, const kd_backend *be, const char *role)
{
    char text[KD_DEVICE_TEXT_BYTES];
    role_place *at = realloc(p->at, (p->n + 1) * sizeof *at);
    if (at == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the places of a rank");
    }
    p->at = at;
    at[p->n].be = be;
    (void)snprintf(at[p->n].role, sizeof at[p->n].role, "%s", role);
    p->n++;
    kd_device_text(be, text);
    kd_log(KD_LOG_INFO, "%s on %s", role, text);
    return KD_OK;
}

void places_release(places *p)
{
    free(p->at);
    *p = (places){0};
}

static uint64_t bytes_in_use(const kd_backend *be)
{
    const kd_memory_usage usage = be->ops->memory_usage(be);
    return usage.held_bytes + usage.scratch_bytes + usage.products_bytes;
}

/* Texts are those of the caller, one for each place. */
static void report(const places *p,
                   rank_link *link,
                   char (*texts)[KD_DEVICE_TEXT_BYTES],
                   Kd__RankStatus *reports,
                   Kd__RankStatus **list)
{
    Kd__Heartbeat heartbeat = KD__HEARTBEAT__INIT;
    step_parts parts;
    for (size_t i = 0; i < p->n; i++) {
        kd_device_text(p->at[i].be, texts[i]);
        kd__rank_status__init(&reports[i]);
        reports[i].role = p->at[i].role;
        reports[i].device = texts[i];
        reports[i].has_memory_bytes = 1;
        reports[i].memory_bytes = bytes_in_use(p->at[i].be);
        list[i] = &reports[i];
    }
    if (p->has_times) {
        step_parts_fill(&parts, &p->times);
        reports[0].parts = parts.list;
        reports[0].n_parts = KD_STEP_PARTS;
    }
    heartbeat.places = list;
    heartbeat.n_places = p->n;
    rank_link_set_places(link, &heartbeat);
}

void places_set_times(places *p, const kd_step_times *times)
{
    p->times = *times;
    p->told_at_s = p->has_times ? p->told_at_s : 0.0; /* the first ones at once */
    p->has_times = p->has_later_times = true;
}

void places_tell(places *p, rank_link *link)
{
    const double now_s = kd_clock_monotonic_s();
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->n; i++) {
        bytes += bytes_in_use(p->at[i].be);
    }
    const bool has_times = p->has_later_times && now_s - p->told_at_s >= TIMES_EVERY_S;
    if (link == NULL || p->n == 0 || (bytes == p->told_bytes && !has_times)) {
        return;
    }
    char(*texts)[KD_DEVICE_TEXT_BYTES] = calloc(p->n, sizeof *texts);
    Kd__RankStatus *reports = calloc(p->n, sizeof *reports);
    Kd__RankStatus **list = calloc(p->n, sizeof *list);
    if (texts != NULL && reports != NULL && list != NULL) { /* else at the next chance */
        report(p, link, texts, reports, list);
        p->told_bytes = bytes;
        p->told_at_s = now_s;
        p->has_later_times = false;
    }
    free(list);
    free(reports);
    free(texts);
}
