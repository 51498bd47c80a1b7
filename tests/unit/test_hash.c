#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <inttypes.h>
#include <string.h>

#include "job/hash.h"
#include "tests/unit/job_fixture.h"

TestSuite(hash, .init = be_quiet);

static uint64_t hash_of(const Kd__Job *job)
{
    kd_text text = {0};
    cr_assert(eq(int, kd_job_canonical(job, NULL, 0, &text), KD_OK));
    const uint64_t hash = kd_job_canonical_hash(text.data);
    kd_text_release(&text);
    return hash;
}

static uint64_t hash_with(const char *set)
{
    Kd__Job *job = complete(&set, set != NULL);
    const uint64_t hash = hash_of(job);
    destroy(job);
    return hash;
}

/* Whether each of these changes leaves the least job's hash as it is. */
static void expect_each(const char *const *sets, size_t n, bool same)
{
    const uint64_t hash = hash_with(NULL);
    for (size_t i = 0; i < n; i++) {
        cr_expect(eq(int, hash_with(sets[i]) == hash, same), "%s", sets[i]);
    }
}

static kd_text canonical_with(const char *set)
{
    Kd__Job *job = complete(&set, set != NULL);
    kd_text text = {0};
    cr_assert(eq(int, kd_job_canonical(job, NULL, 0, &text), KD_OK));
    destroy(job);
    return text;
}

/* A later version that changes either of these orphans every checkpoint there is. */
Test(hash, the_text_and_the_number_of_a_job_stay_the_same_for_ever)
{
    kd_text text = canonical_with(NULL);
    cr_expect(eq(str, text.data,
                 "v1\n"
                 "seed=3\n"
                 "student.model.hidden_size=64\n"
                 "student.model.intermediate_size=96\n"
                 "student.model.num_experts=4\n"
                 "student.model.num_heads=4\n"
                 "student.model.num_layers=2\n"
                 "teachers=1 element\n"
                 "training.steps=100\n"));
    const uint64_t hash = kd_job_canonical_hash(text.data);
    cr_expect(hash == UINT64_C(0xf6df9ed15fa79369), "found %016" PRIx64, hash);
    cr_expect(eq(u64, hash, hash_with(NULL)));
    kd_text_release(&text);
}

Test(hash, a_field_at_its_default_changes_nothing)
{
    const char *const same[] = {"training.batch_size=16",
                                "training.decay=cosine",
                                "data.text_field=text",
                                "student.model.type=mixtral",
                                "student.model.norm_eps=0.000001",
                                "student.model.num_kv_heads=4",
                                "student.model.head_dim=16",
                                "student.seed=3",
                                "objective.kd.scale_by_t2=true",
                                "teachers.0.name=teacher",
                                "teachers.0.transport=auto"};
    expect_each(same, sizeof same / sizeof *same, true);
}

Test(hash, paths_what_may_change_and_who_computes_it_are_left_out)
{
    const char *const same[] = {"name=other",
                                "output=/else",
                                "after=['7']",
                                "data.files=[/b.txt]",
                                "teachers.0.checkpoint=/m2",
                                "teachers.0.name=renamed",
                                "objective.kd.temperature=2",
                                "objective.hard.weight={points: [{step: 1, value: 2}]}",
                                "evaluation.every_steps=5",
                                "checkpoint.keep=9",
                                "limits.max_restarts=9",
                                "student.resources={ranks: 2, threads: 2}",
                                "teachers.0.stream_depth=3",
                                "teachers.0.verify=full",
                                "student.verify=full",
                                "teachers.0.resources={ranks: 1, threads: 4}"};
    expect_each(same, sizeof same / sizeof *same, true);
}

/* Each pair of jobs does the same: what the second says more, nobody reads. */
Test(hash, what_other_fields_leave_without_a_meaning_is_left_out)
{
    const char *const pairs[][2] = {
        {NULL, "data.text_field=body"},
        {"student.model={type: llama, hidden_size: 64, num_layers: 2, num_heads: 4, "
         "intermediate_size: 8}",
         "student.model={type: llama, hidden_size: 64, num_layers: 2, num_heads: 4, "
         "intermediate_size: 8, experts_per_token: 1}"},
        {"training={steps: 1, decay: constant}",
         "training={steps: 1, decay: constant, final_learning_rate_ratio: 0.5}"},
    };
    const char *const meant[][2] = {
        {"data={files: [/a.txt], format: jsonl}",
         "data={files: [/a.txt], format: jsonl, text_field: body}"},
        {NULL, "student.model.experts_per_token=1"},
        {NULL, "training.final_learning_rate_ratio=0.5"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        cr_expect(eq(u64, hash_with(pairs[i][0]), hash_with(pairs[i][1])), "%s", pairs[i][1]);
        cr_expect(ne(u64, hash_with(meant[i][0]), hash_with(meant[i][1])), "%s", meant[i][1]);
    }
}

Test(hash, what_a_resume_relies_on_changes_it)
{
    const char *const different[] = {"seed=4",
                                     "data.sequence_length=64",
                                     "data={files: [/a.txt], format: jsonl, text_field: body}",
                                     "student.model.num_layers=3",
                                     "student.model.num_kv_heads=2",
                                     "student.seed=4",
                                     "teachers=[]",
                                     "teachers.0.transport=logits",
                                     "training.steps=101",
                                     "training.decay=linear",
                                     "training.micro_batch_size=8"};
    expect_each(different, sizeof different / sizeof *different, false);
}

Test(hash, it_survives_the_wire)
{
    Kd__Job *job = complete((const char *[]){"training.micro_batch_size=4"}, 1);
    const uint64_t hash = hash_of(job);
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    cr_assert(copy != NULL);
    cr_assert(eq(int, kd_job_complete(copy), KD_OK));
    cr_expect(eq(u64, hash_of(copy), hash));
    destroy(job);
    destroy(copy);
}

Test(hash, contents_stand_beside_the_fields_and_change_it)
{
    Kd__Job *job = complete(NULL, 0);
    const kd_job_content contents[] = {{"teachers.0.checkpoint", 0xabc, false},
                                       {"data.files.0", 1, false}};
    const kd_job_content others[] = {{"teachers.0.checkpoint", 0xabd, true},
                                     {"data.files.0", 1, false}};
    kd_text text = {0}, other = {0}, difference = {0};
    cr_assert(eq(int, kd_job_canonical(job, contents, 2, &text), KD_OK));
    cr_assert(eq(int, kd_job_canonical(job, others, 2, &other), KD_OK));
    cr_expect(strncmp(text.data, "v1\ndata.files.0=content 0000000000000001\nseed=3\n", 48) == 0);
    cr_expect(ne(u64, kd_job_canonical_hash(text.data), hash_of(job)));
    cr_expect(ne(u64, kd_job_canonical_hash(text.data), kd_job_canonical_hash(other.data)));
    cr_expect(kd_job_canonical_differs(text.data, other.data, &difference));
    cr_expect(eq(str, difference.data,
                 "teachers.0.checkpoint: found content 0000000000000abc, the checkpoint was made "
                 "with content "
                 "0000000000000abd of every byte"));
    kd_text_release(&text);
    kd_text_release(&other);
    kd_text_release(&difference);
    destroy(job);
}

Test(hash, the_first_field_that_differs_is_named_with_both_values)
{
    static const struct {
        const char *found, *expected, *difference;
    } cases[] = {
        {NULL, NULL, NULL},
        {"training.steps=200", NULL, "training.steps: found 200, the checkpoint was made with 100"},
        {"training.dtype=f32", NULL,
         "training.dtype: found f32, the checkpoint was made with its default"},
        {NULL, "training.decay=linear",
         "training.decay: found its default, the checkpoint was made with linear"},
        {"teachers=[]", NULL,
         "teachers: found its default, the checkpoint was made with 1 element"},
        {"data={files: [/a.txt], format: jsonl, text_field: \"a\\nb=c\"}",
         "data={files: [/a.txt], format: jsonl}",
         "data.text_field: found \"a\\nb=c\", the checkpoint was made with its default"},
        {"training={steps: 1, beta1: 0.5}", NULL,
         "training.beta1: found 0.5, the checkpoint was made with its default"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kd_text found = canonical_with(cases[i].found);
        kd_text expected = canonical_with(cases[i].expected);
        kd_text difference = {0};
        cr_expect(eq(int, kd_job_canonical_differs(found.data, expected.data, &difference),
                     cases[i].difference != NULL));
        cr_expect(eq(str, difference.data != NULL ? difference.data : "",
                     (char *)(cases[i].difference != NULL ? cases[i].difference : "")));
        kd_text_release(&found);
        kd_text_release(&expected);
        kd_text_release(&difference);
    }
    kd_text difference = {0};
    /* The text is another because another share of it was held out. */
    cr_expect(kd_job_canonical_differs("v1\ndata.files=content 1\ndata.held_out=0.5\n",
                                       "v1\ndata.files=content 2\nseed=1\n", &difference));
    cr_expect(eq(str, difference.data,
                 "data.held_out: found 0.5, the checkpoint was made with its default"));
    kd_text_clear(&difference);
    cr_expect(kd_job_canonical_differs("v1\nseed=3\n", "v2\nseed=3\n", &difference));
    cr_expect(eq(str, difference.data, "job: found its form v1, the checkpoint was made with v2"));
    kd_text_clear(&difference);
    cr_expect(kd_job_canonical_differs("v1\nseed=3\n", "v1\nseed=3", &difference));
    kd_text_release(&difference);
}
