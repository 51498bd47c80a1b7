#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "data/order.h"
#include "data/shard_writer.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

enum { T = 8, N_WINDOWS = 37, N = T * N_WINDOWS + 3 };

static kd_shard shard;

/* Token i is i, so a window tells where it was taken. */
static void make_shard(uint32_t n)
{
    const kd_shard_info info = {.vocab_size = 1000};
    kd_shard_writer writer;
    cr_assert(eq(int, kd_shard_writer_open(&writer, "s", &info, "train"), KD_OK));
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(eq(int, kd_shard_writer_add(&writer, &i, 1), KD_OK));
    }
    cr_assert(eq(int, kd_shard_writer_commit(&writer), KD_OK));
    kd_shard_close(&shard);
    cr_assert(eq(int, kd_shard_open(&shard, "s"), KD_OK));
}

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    make_shard(N);
}

static void leave(void)
{
    kd_shard_close(&shard);
    temporary_leave();
}

TestSuite(order, .init = enter, .fini = leave);

static kd_order shuffled(uint64_t seed)
{
    kd_order order;
    cr_assert(eq(int, kd_order_shuffled(&order, &shard, T, seed), KD_OK));
    return order;
}

Test(order, a_shard_of_n_tokens_has_n_minus_1_over_t_windows)
{
    kd_order order;
    cr_expect(eq(u64, shuffled(1).n_windows, N_WINDOWS));
    make_shard(2 * T); /* the last window lacks its last label */
    cr_expect(eq(u64, shuffled(1).n_windows, 1));
    make_shard(2 * T + 1);
    cr_assert(eq(int, kd_order_held_out(&order, &shard, T), KD_OK));
    cr_expect(eq(u64, order.n_windows, 2));
}

Test(order, each_epoch_shows_each_window_once)
{
    const kd_order order = shuffled(3);
    for (uint64_t epoch = 0; epoch < 5; epoch++) {
        bool seen[N_WINDOWS] = {false};
        for (uint64_t i = 0; i < N_WINDOWS; i++) {
            const uint64_t window = kd_order_index(&order, epoch * N_WINDOWS + i);
            cr_assert(lt(u64, window, N_WINDOWS));
            cr_assert(not(seen[window]));
            seen[window] = true;
        }
    }
}

static int n_equal(const kd_order *a, uint64_t from_a, const kd_order *b, uint64_t from_b)
{
    int n = 0;
    for (uint64_t i = 0; i < N_WINDOWS; i++) {
        n += kd_order_index(a, from_a + i) == kd_order_index(b, from_b + i);
    }
    return n;
}

Test(order, epochs_and_seeds_have_orders_of_their_own)
{
    const kd_order a = shuffled(3), again = shuffled(3), b = shuffled(4);
    cr_expect(eq(int, n_equal(&a, 0, &again, 0), N_WINDOWS));
    cr_expect(lt(int, n_equal(&a, 0, &b, 0), N_WINDOWS / 3));
    cr_expect(lt(int, n_equal(&a, 0, &a, N_WINDOWS), N_WINDOWS / 3));
}

Test(order, a_batch_holds_the_windows_of_its_sequences_and_shifted_labels)
{
    const kd_order order = shuffled(5);
    int32_t tokens[4 * T + 1], labels[4 * T + 1];
    tokens[4 * T] = labels[4 * T] = -7;
    kd_batch_read(&shard, &order, N_WINDOWS - 2, 4, tokens, labels); /* over the epoch's end */
    for (uint64_t b = 0; b < 4; b++) {
        const int32_t first = (int32_t)kd_order_index(&order, N_WINDOWS - 2 + b) * T;
        for (int i = 0; i < T; i++) {
            cr_expect(eq(i32, tokens[b * T + i], first + i));
            cr_expect(eq(i32, labels[b * T + i], first + i + 1));
        }
    }
    cr_expect(tokens[4 * T] == -7 && labels[4 * T] == -7);
}

Test(order, a_batch_is_the_same_however_it_is_cut)
{
    const kd_order order = shuffled(6);
    int32_t whole[6 * T], whole_labels[6 * T], cut[6 * T], cut_labels[6 * T];
    kd_batch_read(&shard, &order, 11, 6, whole, whole_labels);
    kd_batch_read(&shard, &order, 13, 4, cut + 2 * T, cut_labels + 2 * T);
    kd_batch_read(&shard, &order, 11, 2, cut, cut_labels);
    cr_expect(memcmp(whole, cut, sizeof whole) == 0);
    cr_expect(memcmp(whole_labels, cut_labels, sizeof whole) == 0);
}

/* Of any text the same windows, each once; the first of them from all of its parts. */
Test(order, a_sample_of_held_out_text_is_spread_over_the_whole)
{
    enum { N_ALL = 1000, N_PARTS = 10 };

    const kd_shard large = {.n_tokens = N_ALL * T + 1}; /* only counted */
    kd_order order, again;
    int n_of_part[N_PARTS] = {0};
    bool seen[N_ALL] = {false};
    cr_assert(eq(int, kd_order_held_out(&order, &large, T), KD_OK));
    cr_assert(eq(int, kd_order_held_out(&again, &large, T), KD_OK));
    for (uint64_t i = 0; i < N_ALL; i++) {
        const uint64_t window = kd_order_index(&order, i);
        cr_assert(eq(u64, kd_order_index(&again, i), window));
        cr_assert(not(seen[window]));
        seen[window] = true;
        n_of_part[window * N_PARTS / N_ALL] += i < 100;
    }
    for (int part = 0; part < N_PARTS; part++) { /* 10 expected; chance alone leaves 2 to 22 */
        cr_expect(n_of_part[part] >= 2 && n_of_part[part] <= 22, "%d of part %d", n_of_part[part],
                  part);
    }
}

Test(order, a_shard_without_a_window_is_refused_with_both_sizes)
{
    kd_order order = {.n_windows = 42};
    make_shard(T);
    cr_expect(eq(int, kd_order_shuffled(&order, &shard, T, 0), KD_ERR_INVALID));
    EXPECT_FAULT("no sequence of 8 tokens: found 8 tokens");
    cr_expect(eq(int, kd_order_held_out(&order, &shard, T), KD_ERR_INVALID));
    make_shard(0);
    cr_expect(eq(int, kd_order_held_out(&order, &shard, T), KD_ERR_INVALID));
    cr_expect(eq(u64, order.n_windows, 42));
}
