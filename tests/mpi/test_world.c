/* Roles, sums, step orders and agreement on failures, on any number of ranks. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/step_order.h"
#include "comm/world.h"
#include "mpi_test.h"

/* With `size` ranks: half of them replicas of the second of two teachers, rounded down. */
static kd_world *world_of(int size)
{
    kd_world *world = NULL;
    EXPECT(kd_world_create(&world) == KD_OK, "create");
    const int replicas[] = {0, size / 2};
    const kd_status st = kd_world_assign(world, size - size / 2, 2, replicas);
    EXPECT(st == KD_OK, "status %s", kd_status_name(st));
    return world;
}

static void wrong_size_is_refused_on_every_rank(int size)
{
    kd_world *world = NULL;
    EXPECT(kd_world_create(&world) == KD_OK && kd_world_size(world) == size, "create");
    kd_fault_quiet(1);
    const int replicas[] = {0, 1};
    EXPECT(kd_world_assign(world, size, 2, replicas) == KD_ERR_INVALID, "one rank too few");
    kd_fault_quiet(0);
    EXPECT(strstr(kd_fault_text(), "ranks, but the job wants") != NULL, "text: %s",
           kd_fault_text());
    EXPECT(kd_world_agree(world, KD_OK) == KD_OK, "it is still of use");
    kd_world_destroy(world);
}

static void students_come_first_and_rank_0_leads(int size, int rank)
{
    kd_world *world = world_of(size);
    const int n_students = size - size / 2;
    const kd_role role = rank < n_students ? KD_ROLE_STUDENT : KD_ROLE_TEACHER;

    EXPECT(kd_world_rank(world) == rank, "rank %d", kd_world_rank(world));
    EXPECT(kd_world_role(world) == role, "rank %d", rank);
    EXPECT(kd_world_role_rank(world) == (rank < n_students ? rank : rank - n_students), "rank %d",
           rank);
    EXPECT(kd_world_is_leader(world) == (rank == 0), "rank %d", rank);
    kd_world_destroy(world);
}

/* 1 student, then 1 replica of teacher 0, none of teacher 1, the rest of teacher 2. */
static void replicas_follow_each_other_by_teacher(int size, int rank)
{
    const int replicas[] = {1, 0, size - 2};
    kd_world *world = NULL;
    if (size < 3) {
        return;
    }
    EXPECT(kd_world_create(&world) == KD_OK && kd_world_assign(world, 1, 3, replicas) == KD_OK,
           "roles");
    EXPECT(kd_world_replicas(world, 1) == 0 && kd_world_replicas(world, 2) == size - 2, "replicas");
    if (rank > 0) {
        EXPECT(kd_world_teacher(world) == (rank == 1 ? 0 : 2), "rank %d", rank);
        EXPECT(kd_world_role_rank(world) == (rank == 1 ? 0 : rank - 2), "rank %d", rank);
    }
    kd_world_destroy(world);
}

static void leaders_bytes_reach_everyone(int size, int rank)
{
    kd_world *world = world_of(size);
    uint64_t value = rank == 0 ? 0x123456789abcdefu : 0;
    EXPECT(kd_world_broadcast(world, &value, sizeof value) == KD_OK, "broadcast");
    EXPECT(value == 0x123456789abcdefu, "found %llx", (unsigned long long)value);
    kd_world_destroy(world);
}

/* Enough elements for several chunks, the last one short. */
static void sums_are_over_all_students(int size, int rank)
{
    const int64_t n = ((int64_t)4 << 20) + 17;
    kd_world *world = world_of(size);
    if (kd_world_role(world) == KD_ROLE_STUDENT) {
        const kd_reduce reduce = kd_world_reduce(world);
        const int n_students = kd_world_students(world);
        float *values = malloc((size_t)n * sizeof *values);
        EXPECT(values != NULL, "no memory");
        for (int64_t i = 0; i < n; i++) {
            values[i] = (float)(i % 1000 + rank);
        }
        EXPECT(reduce.n_ranks == n_students && reduce.rank == rank, "rank %d", reduce.rank);
        EXPECT(reduce.sum_f32(reduce.user, values, n) == KD_OK, "sum");
        for (int64_t i = 0; i < n; i++) {
            const int64_t expected = i % 1000 * n_students + n_students * (n_students - 1) / 2;
            EXPECT(values[i] == (float)expected, "element %lld: %g", (long long)i,
                   (double)values[i]);
        }
        double one = 1.0;
        EXPECT(reduce.sum_f64(reduce.user, &one, 1) == KD_OK && one == n_students, "%g", one);
        /* A double would round this one. */
        int64_t counts[2] = {((int64_t)1 << 60) / n_students + 1, rank};
        EXPECT(reduce.sum_i64(reduce.user, counts, 2) == KD_OK, "sum of counts");
        EXPECT(counts[0] == (((int64_t)1 << 60) / n_students + 1) * n_students &&
                   counts[1] == n_students * (n_students - 1) / 2,
               "%lld, %lld", (long long)counts[0], (long long)counts[1]);
        free(values);
    }
    kd_world_destroy(world);
}

static void sums_repeat_bit_for_bit(int size, int rank)
{
    enum { N = 100000 };

    kd_world *world = world_of(size);
    if (kd_world_role(world) == KD_ROLE_STUDENT) {
        const kd_reduce reduce = kd_world_reduce(world);
        float *values = malloc(2 * N * sizeof *values);
        EXPECT(values != NULL, "no memory");
        for (int i = 0; i < N; i++) {
            values[i] = values[N + i] = 1.0f / (float)(i * 7 + rank * 13 + 1);
        }
        EXPECT(reduce.sum_f32(reduce.user, values, N) == KD_OK, "first");
        EXPECT(reduce.sum_f32(reduce.user, values + N, N) == KD_OK, "second");
        EXPECT(memcmp(values, values + N, N * sizeof *values) == 0, "sums differ");
        free(values);
    }
    kd_world_destroy(world);
}

static void agree_passes_when_all_are_fine(int size)
{
    kd_world *world = world_of(size);
    EXPECT(kd_world_agree(world, KD_OK) == KD_OK, "agree");
    kd_world_destroy(world);
}

static void lowest_failing_rank_gives_the_reason(int size, int rank)
{
    kd_world *world = world_of(size);
    const int first_bad = size / 2; /* it and those above fail, each in its own way */
    kd_status mine = KD_OK;

    kd_fault_quiet(1);
    if (rank == first_bad) {
        mine = kd_fail(KD_ERR_NOT_FOUND, "no such shard");
    } else if (rank > first_bad) {
        mine = kd_fail(KD_ERR_IO, "disk on fire");
    }
    const kd_status all = kd_world_agree(world, mine);
    kd_fault_quiet(0);
    EXPECT(all == KD_ERR_NOT_FOUND, "found %s", kd_status_name(all));
    EXPECT(strstr(kd_fault_text(), "no such shard") != NULL, "text: %s", kd_fault_text());
    kd_world_destroy(world);
}

enum { FIRST = 7, LAST = 40 };

/* A mask for each of two teachers, of the step alone; each step is asked for once, in order. */
static uint64_t groups_of_step(void *user, uint64_t step, uint64_t *groups_out)
{
    uint64_t *next = user;
    EXPECT(step == (*next)++, "step %llu", (unsigned long long)step);
    groups_out[0] = step * step;
    groups_out[1] = step + 100;
    return step + 5;
}

static kd_order_stream *orders_of(kd_world *world, int lead, uint64_t *next)
{
    *next = FIRST;
    kd_order_stream *orders = NULL;
    const kd_order_settings settings = {
        .first_step = FIRST,
        .lead = lead,
        .n_teachers = 2,
        .groups_of = kd_world_is_leader(world) ? groups_of_step : NULL,
        .user = next,
    };
    EXPECT(kd_order_stream_create(world, &settings, &orders) == KD_OK, "create");
    return orders;
}

static void too_many_teachers_are_refused(int size)
{
    kd_world *world = world_of(size);
    kd_order_stream *orders = NULL;
    const kd_order_settings settings = {.lead = 1, .n_teachers = KD_ORDER_TEACHERS_MAX + 1};
    kd_fault_quiet(1);
    EXPECT(kd_order_stream_create(world, &settings, &orders) == KD_ERR_INVALID, "too many");
    kd_fault_quiet(0);
    EXPECT(orders == NULL, "untouched");
    kd_world_destroy(world);
}

/* What the leader wants at the boundary before a step, or expects of it later. */
static kd_order_kind kind_wished_at(uint64_t step)
{
    return step % 3 == 0 ? KD_ORDER_SAVE : KD_ORDER_CONTINUE;
}

static kd_order_wish wish_at(uint64_t step, char text[32])
{
    (void)snprintf(text, 32, "change %llu", (unsigned long long)step);
    return (kd_order_wish){.kind = kind_wished_at(step), .changes = step % 2 == 0 ? text : NULL};
}

static void expect_order(const kd_step_order *order, uint64_t step, int lead)
{
    const uint64_t asked_at = step - (uint64_t)lead;
    const bool first = step < FIRST + (uint64_t)lead; /* nobody asked for it */
    char text[32] = "";
    const kd_order_wish wish = wish_at(asked_at, text);
    EXPECT(order->step == step && order->kind == (first ? KD_ORDER_CONTINUE : wish.kind),
           "step %llu lead %d: kind %d", (unsigned long long)step, lead, (int)order->kind);
    EXPECT(order->groups[0] == step * step && order->groups[1] == step + 100, "step %llu",
           (unsigned long long)step);
    EXPECT(order->version == step + 5, "step %llu", (unsigned long long)step);
    EXPECT(strcmp(order->changes, first || wish.changes == NULL ? "" : text) == 0, "\"%s\"",
           order->changes);
}

/* The wish at the boundary before step n is the order for step n + lead, everywhere. */
static void orders_come_lead_steps_after_the_wish(int size, int rank, int lead)
{
    kd_world *world = world_of(size);
    uint64_t next;
    kd_order_stream *orders = orders_of(world, lead, &next);
    for (uint64_t step = FIRST; step < LAST; step++) {
        char text[32];
        const kd_order_wish wish = wish_at(step, text);
        kd_step_order order;
        EXPECT(kd_order_stream_next(orders, step, rank == 0 ? &wish : NULL, &order) == KD_OK,
               "next");
        expect_order(&order, step, lead);
    }
    kd_order_stream_destroy(orders);
    kd_world_destroy(world);
}

/* All orders that have come may be looked at, those that have not may not; looking takes nothing. */
static void orders_may_be_looked_at_as_they_arrive(int size, int rank, int lead)
{
    kd_world *world = world_of(size);
    uint64_t next;
    kd_order_stream *orders = orders_of(world, lead, &next);
    for (uint64_t step = FIRST; step < LAST; step++) {
        char text[32];
        const kd_order_wish wish = wish_at(step, text);
        kd_step_order order;
        EXPECT(kd_order_stream_next(orders, step, rank == 0 ? &wish : NULL, &order) == KD_OK,
               "next");
        EXPECT(!kd_order_stream_peek(orders, step, &order), "taken already");
        for (uint64_t later = step + 1; later < step + (uint64_t)lead; later++) {
            /* It was sent before this step's last one, but a message needs its time. */
            while (!kd_order_stream_peek(orders, later, &order)) {
            }
            expect_order(&order, later, lead);
        }
        EXPECT(!kd_order_stream_peek(orders, step + (uint64_t)lead + 1, &order), "not yet sent");
    }
    kd_order_stream_destroy(orders);
    kd_world_destroy(world);
}

int main(int argc, char **argv)
{
    int provided = 0, size = 0, rank = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);

    wrong_size_is_refused_on_every_rank(size);
    students_come_first_and_rank_0_leads(size, rank);
    replicas_follow_each_other_by_teacher(size, rank);
    leaders_bytes_reach_everyone(size, rank);
    sums_are_over_all_students(size, rank);
    sums_repeat_bit_for_bit(size, rank);
    agree_passes_when_all_are_fine(size);
    lowest_failing_rank_gives_the_reason(size, rank);
    too_many_teachers_are_refused(size);
    for (int lead = 1; lead <= 4; lead++) {
        orders_come_lead_steps_after_the_wish(size, rank, lead);
        orders_may_be_looked_at_as_they_arrive(size, rank, lead);
    }
    MPI_Finalize();
    return 0;
}
