#include "comm/step_order.h"

#include <stdlib.h>

#include "base/log.h"
#include "comm/mpi_world.h"

#define PATIENCE_NS 10000000u /* a teacher that is ahead waits for the students' step */

typedef struct broadcast {
    MPI_Request request; /* MPI_REQUEST_NULL: none under way */
    int64_t step;        /* as sent; compared on arrival     */
    int64_t kind;        /* a kd_order_kind                  */
} broadcast;

struct kd_order_stream {
    kd_world *world;
    uint64_t next_step;
    uint64_t lead;
    broadcast ring[]; /* lead + 1; the one for step n at n mod (lead + 1) */
};

kd_status
kd_order_stream_create(kd_world *world, uint64_t first_step, int lead, kd_order_stream **stream_out)
{
    KD_CHECK(lead >= 1);
    const size_t n_ring = (size_t)lead + 1;
    kd_order_stream *stream = malloc(sizeof *stream + n_ring * sizeof *stream->ring);
    if (stream == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for step orders with a lead of %d", lead);
    }
    stream->world = world;
    stream->next_step = first_step;
    stream->lead = (uint64_t)lead;
    for (uint64_t i = 0; i < n_ring; i++) {
        /* What the first `lead` steps find; the slot of first_step + lead is written before it is read. */
        const uint64_t step = first_step + i;
        stream->ring[step % n_ring] =
            (broadcast){MPI_REQUEST_NULL, (int64_t)step, KD_ORDER_CONTINUE};
    }
    *stream_out = stream;
    return KD_OK;
}

void kd_order_stream_destroy(kd_order_stream *stream)
{
    if (stream == NULL) {
        return;
    }
    for (uint64_t i = 0; i <= stream->lead; i++) {
        (void)MPI_Wait(&stream->ring[i].request, MPI_STATUS_IGNORE);
    }
    free(stream);
}

kd_status kd_order_stream_next(kd_order_stream *stream,
                               uint64_t step,
                               kd_order_kind wish,
                               kd_step_order *order_out)
{
    KD_CHECK(step == stream->next_step);
    broadcast *ahead = &stream->ring[(step + stream->lead) % (stream->lead + 1)];
    broadcast *now = &stream->ring[step % (stream->lead + 1)];

    ahead->step = (int64_t)(step + stream->lead);
    ahead->kind = (int64_t)wish;
    kd_status st = kd_mpi_check(
        MPI_Ibcast(&ahead->step, 2, MPI_INT64_T, 0, stream->world->everyone, &ahead->request),
        "MPI_Ibcast");
    if (st) {
        return st;
    }
    st = kd_mpi_wait(&now->request, PATIENCE_NS);
    if (st) {
        return st;
    }
    if (now->step != (int64_t)step || now->kind < KD_ORDER_CONTINUE || now->kind > KD_ORDER_STOP) {
        return kd_fail(KD_ERR_PROTO, "step order: found step %lld kind %lld, expected step %llu",
                       (long long)now->step, (long long)now->kind, (unsigned long long)step);
    }
    stream->next_step++;
    *order_out = (kd_step_order){step, (kd_order_kind)now->kind};
    return KD_OK;
}
