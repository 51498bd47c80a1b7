#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "data/shard_writer.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/temporary.h"
#include "tests/support/tiny_train.h"

enum { N_SEQUENCES = 11 }; /* two batches and a part of one */

typedef struct held_out {
    int32_t tokens[N_SEQUENCES * TINY_TOKENS], labels[N_SEQUENCES * TINY_TOKENS];
} held_out;

static kd_status read_text(void *user, int64_t first, int64_t n, int32_t *tokens, int32_t *labels)
{
    const held_out *t = user;
    const size_t bytes = (size_t)(n * TINY_TOKENS) * sizeof *tokens;
    memcpy(tokens, t->tokens + first * TINY_TOKENS, bytes);
    memcpy(labels, t->labels + first * TINY_TOKENS, bytes);
    return KD_OK;
}

static held_out make_text(void)
{
    held_out t;
    tiny_tokens(t.tokens, N_SEQUENCES * TINY_TOKENS, 11, 9);
    tiny_tokens(t.labels, N_SEQUENCES * TINY_TOKENS, 11, 10);
    t.labels[5] = t.labels[60] = -100;
    return t;
}

static kd_sequences sequences_of(held_out *t)
{
    return (kd_sequences){.user = t, .n_sequences = N_SEQUENCES, .read = read_text};
}

/* Sums of cross-entropy and of right guesses, sequence by sequence in doubles. */
static void naive(tiny_train *t, const held_out *of, double *loss_out, double *right_out)
{
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_decoder_settings settings = {.max_batch = 1, .n_tokens = TINY_TOKENS};
    kd_decoder *decoder;
    double loss = 0.0, right = 0.0;
    cr_assert_eq(kd_decoder_create(params, &settings, &decoder), KD_OK);
    float *head = tiny_values(t->be, kd_decoder_lm_head(decoder));
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        tiny_forward(decoder, of->tokens + s * TINY_TOKENS, 1, TINY_TOKENS);
        float *hidden = tiny_values(t->be, kd_decoder_hidden(decoder));
        for (int64_t i = 0; i < TINY_TOKENS; i++) {
            const int32_t label = of->labels[s * TINY_TOKENS + i];
            double logits[11] = {0}, sum = 0.0;
            int best = 0;
            for (int v = 0; v < 11; v++) {
                for (int c = 0; c < 8; c++) {
                    logits[v] += (double)hidden[i * 8 + c] * (double)head[v * 8 + c];
                }
                sum += exp(logits[v]);
                best = logits[v] > logits[best] ? v : best;
            }
            if (label >= 0) {
                loss += log(sum) - logits[label];
                right += best == label ? 1.0 : 0.0;
            }
        }
        free(hidden);
    }
    free(head);
    kd_decoder_destroy(decoder);
    *loss_out = loss;
    *right_out = right;
}

Test(evaluate, agrees_with_the_formula_and_counts_the_last_part_of_a_batch)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    held_out text = make_text();
    const kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    const double n = N_SEQUENCES * TINY_TOKENS - 2;
    double loss, right;
    kd_evaluation e;
    naive(t, &text, &loss, &right);
    cr_assert_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_OK);
    cr_expect_eq(e.n_tokens, (uint64_t)n);
    cr_expect_float_eq(e.loss, loss / n, 1e-5);
    cr_expect_float_eq(e.perplexity, exp(loss / n), 1e-4 * e.perplexity);
    cr_expect_float_eq(e.accuracy, right / n, 1e-12);
    tiny_train_destroy(t);
}

/* What was uploaded has been read: the host arrays are free again while batches are under way. */
Test(evaluate, the_host_waits_once_for_all_batches)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    held_out text = make_text();
    const kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    kd_evaluation e;
    late_queue queue;
    late_queue_take(&queue, t->be);
    cr_assert_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_OK);
    late_queue_give_back(&queue);
    cr_expect_eq(queue.n_waits, 1, "%d", queue.n_waits);
    tiny_train_destroy(t);
}

Test(evaluate, a_bad_label_is_named_by_its_sequence_among_all)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    held_out text = make_text();
    const kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    kd_evaluation e;
    text.labels[(N_SEQUENCES - 1) * TINY_TOKENS + 3] = 11;
    kd_fault_quiet(1);
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_INVALID);
    char words[64];
    (void)snprintf(words, sizeof words, "sequence %d, label 3: found 11", N_SEQUENCES - 1);
    EXPECT_FAULT(words);
    tiny_train_destroy(t);
}

/* Adds the sums of the ranks that came before. */
static kd_status add_f64(void *user, double *values, int64_t n)
{
    double *sums = user;
    for (int64_t i = 0; i < n; i++) {
        sums[i] += values[i];
        values[i] = sums[i];
    }
    return KD_OK;
}

Test(evaluate, ranks_share_the_batches)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    held_out text = make_text();
    const kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    double sums[KD_VOCAB_SUMS] = {0};
    kd_evaluation one, last;
    cr_assert_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &one), KD_OK);
    for (int rank = 0; rank < 2; rank++) {
        const kd_reduce reduce = {.user = sums, .rank = rank, .n_ranks = 2, .sum_f64 = add_f64};
        cr_assert_eq(kd_trainer_evaluate(t->trainer, &sequences, &reduce, &last), KD_OK);
    }
    cr_expect_eq(last.n_tokens, one.n_tokens);
    cr_expect_float_eq(last.loss, one.loss, 1e-9);
    cr_expect_eq(last.accuracy, one.accuracy);
    tiny_train_destroy(t);
}

Test(evaluate, a_shard_is_read_in_its_order, .init = temporary_enter, .fini = temporary_leave)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const kd_shard_info info = {.vocab_size = 11};
    const kd_reduce alone = kd_reduce_single();
    uint32_t ids[5 * TINY_TOKENS + 1];
    kd_shard_writer writer;
    kd_shard shard;
    kd_order order;
    kd_evaluation e;
    held_out text;

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        ids[i] = (uint32_t)(i * 7 % 11);
    }
    cr_assert_eq(kd_shard_writer_open(&writer, "s", &info, "test"), KD_OK);
    cr_assert_eq(kd_shard_writer_add(&writer, ids, sizeof ids / sizeof *ids), KD_OK);
    cr_assert_eq(kd_shard_writer_commit(&writer), KD_OK);
    cr_assert_eq(kd_shard_open(&shard, "s"), KD_OK);
    cr_assert_eq(kd_order_held_out(&order, &shard, TINY_TOKENS), KD_OK);
    kd_shard_sequences of = {.shard = &shard, .order = &order};
    const kd_sequences sequences = kd_sequences_of_shard(&of);
    cr_assert_eq(sequences.n_sequences, 5);
    cr_assert_eq(sequences.read(sequences.user, 1, 2, text.tokens, text.labels), KD_OK);
    const uint64_t window = kd_order_index(&order, 1);
    cr_expect_eq(text.tokens[0], (int32_t)ids[window * TINY_TOKENS]);
    cr_expect_eq(text.labels[0], (int32_t)ids[window * TINY_TOKENS + 1]);
    cr_assert_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_OK);
    cr_expect_eq(e.n_tokens, 5 * TINY_TOKENS);
    kd_shard_close(&shard);
    tiny_train_destroy(t);
}

static kd_status cannot_read(void *user, int64_t first, int64_t n, int32_t *tokens, int32_t *labels)
{
    (void)user;
    (void)first;
    (void)n;
    (void)tokens;
    (void)labels;
    return kd_fail(KD_ERR_IO, "the disk is gone");
}

Test(evaluate, what_cannot_be_evaluated_is_refused)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    held_out text = make_text();
    kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    kd_evaluation e = {.loss = -7.0};
    kd_fault_quiet(1);

    sequences.n_sequences = 0;
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_INVALID);
    sequences.n_sequences = N_SEQUENCES;
    text.tokens[40] = 11;
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_INVALID);
    text.tokens[40] = 0;
    for (int i = 0; i < N_SEQUENCES * TINY_TOKENS; i++) {
        text.labels[i] = -100;
    }
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_INVALID);
    sequences.read = cannot_read;
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_IO);
    cr_expect_eq(e.loss, -7.0);
    tiny_train_destroy(t);
}

Test(evaluate, a_loss_that_is_not_finite_is_refused)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_parameter *norm = kd_parameters_find(params, KD_PARAM_FINAL_NORM, 0);
    held_out text = make_text();
    const kd_sequences sequences = sequences_of(&text);
    const kd_reduce alone = kd_reduce_single();
    const float bad = INFINITY;
    kd_evaluation e = {.loss = -7.0};
    kd_fault_quiet(1);
    kd_parameters_write(params, norm->offset, &bad, 1);
    cr_expect_eq(kd_trainer_evaluate(t->trainer, &sequences, &alone, &e), KD_ERR_INVALID);
    cr_expect(strstr(kd_fault_text(), "is not a number, expected") != NULL, "%s", kd_fault_text());
    cr_expect_eq(e.loss, -7.0);
    tiny_train_destroy(t);
}
