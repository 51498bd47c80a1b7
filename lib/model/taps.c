/*
 * taps.c - who listens at which point, and the calls. A layer's union of points is kept beside the
 * list, so that a point where nobody listens costs one test of a bit.
 */
#include "model/taps.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/pass.h"

static bool listens(const kd_listener *listener, kd_tap_point point, int64_t layer)
{
    return (listener->points & KD_TAP_BIT(point)) != 0 &&
           (listener->layers == NULL || listener->layers[layer]);
}

static void collect_points(kd_taps *taps, int64_t n_layers)
{
    for (int64_t layer = 0; layer < n_layers; layer++) {
        taps->points[layer] = 0;
        for (int i = 0; i < taps->n; i++) {
            const kd_listener *listener = &taps->listeners[i];
            if (listener->layers == NULL || listener->layers[layer]) {
                taps->points[layer] |= listener->points;
            }
        }
    }
}

kd_status kd_taps_create(kd_taps *taps_out, int64_t n_layers, const kd_listener *listeners, int n)
{
    kd_taps taps = {.n = n};

    taps.points = calloc((size_t)n_layers, sizeof *taps.points);
    taps.listeners = calloc((size_t)n + 1, sizeof *taps.listeners); /* never of size 0 */
    if (taps.points == NULL || taps.listeners == NULL) {
        kd_taps_release(&taps);
        return kd_fail(KD_ERR_NOMEM, "no memory for %d listeners to %lld layers", n,
                       (long long)n_layers);
    }
    if (n > 0) {
        memcpy(taps.listeners, listeners, (size_t)n * sizeof *listeners);
    }
    collect_points(&taps, n_layers);
    *taps_out = taps;
    return KD_OK;
}

void kd_taps_release(kd_taps *taps)
{
    free(taps->listeners);
    free(taps->points);
}

static void offer(const kd_taps *taps, const kd_tap *tap)
{
    for (int i = 0; i < taps->n; i++) {
        if (listens(&taps->listeners[i], tap->point, tap->layer)) {
            taps->listeners[i].at(taps->listeners[i].user, tap);
        }
    }
}

void kd_tap_backward(const kd_pass *pass,
                     kd_tap_point point,
                     int64_t layer,
                     kd_tensor value,
                     kd_tensor gradient,
                     const kd_route *route)
{
    if (!kd_tap_is_wanted(pass, point, layer)) {
        return;
    }
    const kd_tap tap = {.point = point,
                        .layer = layer,
                        .value = value,
                        .gradient = gradient,
                        .route = route,
                        .batch = &pass->batch,
                        .segments = pass->segments};
    offer(&pass->taps, &tap);
}

void kd_tap_forward(const kd_pass *pass,
                    kd_tap_point point,
                    int64_t layer,
                    kd_tensor value,
                    const kd_route *route)
{
    kd_tap_backward(pass, point, layer, value, kd_tensor_none(), route);
}
