/*
 * stream_share.c - which pairs of a student and a teacher's replica share device memory: found out by trying, once,
 * pair after pair in an order that no two ranks see differently.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/stream_slots.h"

enum { OFFER_TAG = KD_SLOT_TAGS, WORDS = KD_ARENA_ALIGN / sizeof(uint64_t) };

/* A student's memory for messages. */
typedef struct offer {
    uint64_t is_made;
    kd_memory_handle handle;
} offer;

static bool is_wanted(void)
{
    const char *wish = getenv("KD_DEVICE_SHARING");
    if (wish != NULL && strcmp(wish, "no") != 0 && strcmp(wish, "yes") != 0) {
        kd_log(KD_LOG_WARN, "KD_DEVICE_SHARING: found \"%s\", expected yes or no: taken for yes",
               wish);
    }
    return wish == NULL || strcmp(wish, "no") != 0;
}

/* What a replica writes into a student's memory: nothing that is there by chance. */
static void write_words(uint64_t words[WORDS], int replica)
{
    for (uint64_t i = 0; i < WORDS; i++) {
        words[i] = UINT64_C(0x9e3779b97f4a7c15) * (i + 1) + (uint64_t)replica;
    }
}

static kd_status send_bytes(const kd_slots *s, int peer, const void *bytes, int size)
{
    return kd_mpi_check(MPI_Send(bytes, size, MPI_BYTE, s->first_peer + peer, OFFER_TAG, s->comm),
                        "MPI_Send");
}

static kd_status receive_bytes(const kd_slots *s, int peer, void *bytes, int size)
{
    return kd_mpi_check(MPI_Recv(bytes, size, MPI_BYTE, s->first_peer + peer, OFFER_TAG, s->comm,
                                 MPI_STATUS_IGNORE),
                        "MPI_Recv");
}

/* ---- a student's side ---- */

static kd_status make_offer(const kd_slots *s, offer *offer_out)
{
    *offer_out = (offer){0};
    if (!s->staged || !is_wanted()) {
        return KD_OK;
    }
    const kd_status st = s->be->ops->memory_export(s->be, s->messages, &offer_out->handle);
    offer_out->is_made = st ? 0 : 1;
    return st == KD_ERR_NOT_FOUND ? KD_OK : st;
}

static bool has_arrived(const kd_slots *s, int replica)
{
    uint64_t words[WORDS], found[WORDS] = {0};
    write_words(words, replica);
    s->be->ops->download(s->be, found, kd_tensor_1d(s->messages, KD_F64, WORDS));
    return memcmp(words, found, sizeof words) == 0;
}

static kd_status offer_to(kd_slots *s, int peer, const offer *mine)
{
    uint64_t is_written = 0, has_come = 0;
    kd_status st = send_bytes(s, peer, mine, sizeof *mine);
    if (!st) {
        st = receive_bytes(s, peer, &is_written, sizeof is_written);
    }
    if (!st) {
        has_come = is_written != 0 && has_arrived(s, peer) ? 1 : 0;
        st = send_bytes(s, peer, &has_come, sizeof has_come);
    }
    s->direct[peer] = !st && has_come != 0;
    return st ? st : kd_backend_tell_fault(s->be);
}

static kd_status offer_to_all(kd_slots *s)
{
    offer mine;
    kd_status st = make_offer(s, &mine);
    for (int peer = 0; !st && peer < s->n_peers; peer++) {
        st = offer_to(s, peer, &mine);
    }
    return st;
}

/* ---- a replica's side ---- */

/* Writes what the student looks for; whether that was possible. */
static kd_status try_memory(kd_slots *s, int peer, const offer *theirs, uint64_t *written_out)
{
    void *memory = NULL, *words = NULL;
    kd_status st = s->be->ops->memory_import(s->be, &theirs->handle, &memory);
    if (st) {
        return st == KD_ERR_NOT_FOUND ? KD_OK : st;
    }
    s->shared[peer] = memory;
    st = kd_backend_place(s->be, KD_MEMORY_HOST, KD_ARENA_ALIGN, &words, "a try of a copy");
    if (!st) {
        write_words(words, s->number);
        (void)s->be->ops->transfer(s->be, memory, words, KD_ARENA_ALIGN, (kd_event){0});
        st = kd_backend_wait(s->be);
    }
    s->be->ops->free(s->be, words);
    *written_out = st ? 0 : 1;
    return st;
}

static kd_status take_offer(kd_slots *s, int peer)
{
    offer theirs;
    uint64_t is_written = 0, has_come = 0;
    kd_status st = receive_bytes(s, peer, &theirs, sizeof theirs);
    if (!st && theirs.is_made != 0 && s->staged && is_wanted()) {
        st = try_memory(s, peer, &theirs, &is_written);
    }
    if (!st) {
        st = send_bytes(s, peer, &is_written, sizeof is_written);
    }
    if (!st) {
        st = receive_bytes(s, peer, &has_come, sizeof has_come);
    }
    s->direct[peer] = !st && has_come != 0;
    if (!s->direct[peer]) {
        s->be->ops->free(s->be, s->shared[peer]);
        s->shared[peer] = NULL;
    }
    return st;
}

kd_status kd_slots_share(kd_slots *s)
{
    kd_status st = KD_OK;
    if (s->role == KD_ROLE_STUDENT) {
        st = offer_to_all(s);
    }
    for (int peer = 0; s->role == KD_ROLE_TEACHER && !st && peer < s->n_peers; peer++) {
        st = take_offer(s, peer);
    }
    for (int peer = 0; peer < s->n_peers; peer++) {
        s->n_direct += s->direct[peer] ? 1 : 0;
    }
    s->n_shared = s->n_direct;
    return st ? st
              : kd_mpi_check(
                    MPI_Allreduce(MPI_IN_PLACE, &s->n_shared, 1, MPI_INT, MPI_SUM, s->comm),
                    "MPI_Allreduce");
}

void kd_slots_unshare(kd_slots *s)
{
    MPI_Request all = MPI_REQUEST_NULL;
    for (int peer = 0; s->shared != NULL && peer < s->n_peers; peer++) {
        s->be->ops->free(s->be, s->shared[peer]);
    }
    if (s->is_open && s->n_shared > 0 && MPI_Ibarrier(s->comm, &all) == MPI_SUCCESS) {
        const kd_status st = kd_mpi_wait(&all, 0); /* told, and nothing else is to be done */
        (void)st;
    }
}
