/*
 * step_order.c - a ring of broadcasts under way, one for each step from the one taken last to the lead.
 *
 * All are of one size, though most carry no change: a broadcast whose size depended on what is in it would
 * need another before it.
 */
#include "comm/step_order.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/mpi_world.h"

#define PATIENCE_NS 10000000u /* a teacher that is ahead waits for the students' step */

/* What is broadcast, byte for byte: all ranks are of one build. */
typedef struct packet {
    uint64_t step;
    uint64_t kind; /* a kd_order_kind */
    uint64_t version;
    char changes[KD_ORDER_TEXT_BYTES];
    uint64_t groups[]; /* (n_teachers) */
} packet;

struct kd_order_stream {
    kd_world *world;
    kd_order_settings settings;
    uint64_t next_step; /* to be taken */
    uint64_t end_step;  /* from here on nothing was posted */
    uint64_t
        n_ring; /* lead + 2: the one for step n at n mod n_ring, the one taken last among them */
    size_t packet_bytes;
    uint8_t *packets;      /* (n_ring, packet_bytes) */
    MPI_Request *requests; /* (n_ring); MPI_REQUEST_NULL: it is here */
};

static packet *packet_of(const kd_order_stream *stream, uint64_t step)
{
    return (packet *)(stream->packets + step % stream->n_ring * stream->packet_bytes);
}

static MPI_Request *request_of(const kd_order_stream *stream, uint64_t step)
{
    return &stream->requests[step % stream->n_ring];
}

/* The leader's. */
static void write_order(kd_order_stream *stream, uint64_t step, const kd_order_wish *wish)
{
    packet *order = packet_of(stream, step);
    const char *changes = wish->changes != NULL ? wish->changes : "";
    const size_t n = strlen(changes);
    KD_CHECK(n < sizeof order->changes);
    order->step = step;
    order->kind = (uint64_t)wish->kind;
    memset(order->changes, 0, sizeof order->changes);
    memcpy(order->changes, changes, n);
    order->version = stream->settings.groups_of(stream->settings.user, step, order->groups);
}

/* Sends, or gets ready for, the order of the next step that has none. */
static kd_status post(kd_order_stream *stream, const kd_order_wish *wish)
{
    const uint64_t step = stream->end_step;
    if (kd_world_is_leader(stream->world)) {
        write_order(stream, step, wish);
    }
    const kd_status st =
        kd_mpi_check(MPI_Ibcast(packet_of(stream, step), (int)stream->packet_bytes, MPI_BYTE, 0,
                                stream->world->everyone, request_of(stream, step)),
                     "MPI_Ibcast");
    stream->end_step += st ? 0 : 1;
    return st;
}

static bool is_sound(const packet *order, uint64_t step)
{
    return order->step == step && order->kind <= KD_ORDER_STOP &&
           memchr(order->changes, '\0', sizeof order->changes) != NULL;
}

static kd_step_order view(const kd_order_stream *stream, uint64_t step)
{
    const packet *order = packet_of(stream, step);
    return (kd_step_order){.step = step,
                           .kind = (kd_order_kind)order->kind,
                           .version = order->version,
                           .groups = order->groups,
                           .changes = order->changes};
}

static kd_status take_memory(kd_order_stream *stream)
{
    const size_t n_ring = (size_t)stream->n_ring;
    stream->packet_bytes = sizeof(packet) + (size_t)stream->settings.n_teachers * sizeof(uint64_t);
    stream->packets = calloc(n_ring, stream->packet_bytes);
    stream->requests = malloc(n_ring * sizeof(MPI_Request));
    for (size_t i = 0; stream->requests != NULL && i < n_ring; i++) {
        stream->requests[i] = MPI_REQUEST_NULL;
    }
    if (stream->packets == NULL || stream->requests == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for step orders with a lead of %d",
                       stream->settings.lead);
    }
    return KD_OK;
}

static kd_status post_first(kd_order_stream *stream)
{
    const kd_order_wish go_on = {.kind = KD_ORDER_CONTINUE};
    kd_status st = KD_OK;
    for (int i = 0; !st && i < stream->settings.lead; i++) {
        st = post(stream, &go_on);
    }
    for (uint64_t step = stream->next_step; !st && step < stream->end_step; step++) {
        st = kd_mpi_wait(request_of(stream, step), PATIENCE_NS);
    }
    return st;
}

kd_status kd_order_stream_create(kd_world *world,
                                 const kd_order_settings *settings,
                                 kd_order_stream **stream_out)
{
    KD_CHECK(settings->lead >= 1 && settings->lead <= KD_ORDER_LEAD_MAX);
    KD_CHECK(settings->n_teachers >= 0);
    if (settings->n_teachers > KD_ORDER_TEACHERS_MAX) {
        return kd_fail(KD_ERR_INVALID, "teachers: found %d, expected at most %d",
                       settings->n_teachers, KD_ORDER_TEACHERS_MAX);
    }
    kd_order_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for step orders");
    }
    *stream = (kd_order_stream){.world = world,
                                .settings = *settings,
                                .next_step = settings->first_step,
                                .end_step = settings->first_step,
                                .n_ring = (uint64_t)settings->lead + 2};
    kd_status st = take_memory(stream);
    if (!st) {
        st = post_first(stream);
    }
    if (st) {
        kd_order_stream_destroy(stream);
        return st;
    }
    *stream_out = stream;
    return KD_OK;
}

void kd_order_stream_destroy(kd_order_stream *stream)
{
    if (stream == NULL) {
        return;
    }
    for (uint64_t i = 0; stream->requests != NULL && i < stream->n_ring; i++) {
        (void)MPI_Wait(&stream->requests[i], MPI_STATUS_IGNORE);
    }
    free(stream->requests);
    free(stream->packets);
    free(stream);
}

kd_status kd_order_stream_next(kd_order_stream *stream,
                               uint64_t step,
                               const kd_order_wish *wish,
                               kd_step_order *order_out)
{
    KD_CHECK(step == stream->next_step);
    KD_CHECK(wish != NULL || !kd_world_is_leader(stream->world));
    kd_status st = post(stream, wish);
    if (!st) {
        st = kd_mpi_wait(request_of(stream, step), PATIENCE_NS);
    }
    if (st) {
        return st;
    }
    const packet *order = packet_of(stream, step);
    if (!is_sound(order, step)) {
        return kd_fail(KD_ERR_PROTO, "step order: found step %llu kind %llu, expected step %llu",
                       (unsigned long long)order->step, (unsigned long long)order->kind,
                       (unsigned long long)step);
    }
    stream->next_step++;
    *order_out = view(stream, step);
    return KD_OK;
}

bool kd_order_stream_peek(kd_order_stream *stream, uint64_t step, kd_step_order *order_out)
{
    int here = 0;
    if (step < stream->next_step || step >= stream->end_step ||
        MPI_Test(request_of(stream, step), &here, MPI_STATUS_IGNORE) != MPI_SUCCESS || !here ||
        !is_sound(packet_of(stream, step), step)) {
        return false;
    }
    *order_out = view(stream, step);
    return true;
}
