/*
 * Job files: any text is refused with a message or becomes a job, and then printing and parsing
 * give the same job again, and completing and checking it end well or with a message.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "job/hash.h"
#include "job/job.h"
#include "message/json.h"
#include "message/reflect.h"
#include "message/yaml.h"
#include "tests/fuzz/driver.h"

const fuzz_input fuzz_corpus[] = {
    FUZZ_TEXT("name: a\noutput: /out\nseed: 7\nafter: ['1', 2]\n"
              "data: {files: [/a.txt, \"/b \\u00e4\"], format: jsonl, held_out: 1e-1}\n"
              "student:\n  model: {type: llama, hidden_size: 64, num_layers: 2, num_heads: 4,\n"
              "          intermediate_size: 96, tied_embeddings: true}\n"
              "training: {steps: 10, dtype: f32}\n"),
    FUZZ_TEXT("teachers:\n- checkpoint: /m\n  transport: hidden\n- {}\n"
              "objective:\n  kd:\n    weight: 0.7\n    temperature:\n      kind: cosine\n"
              "      points:\n      - {step: 0, value: 8}\n      - step: 100\n        value: .5\n"),
    FUZZ_TEXT("objective: {kd: {weight: {value: .inf}}, hard: {weight: -.nan}}"),
    FUZZ_TEXT("student: {init: checkpoint, checkpoint: /s, resources: {ranks: 0}}\n"
              "training: {batch_size: 4294967295, steps: 18446744073709551615}\n"),
    FUZZ_TEXT("teachers.0.checkpoint=/m"),
    FUZZ_TEXT("objective.kd.weight={points: [{step: 1, value: 2}]}"),
    FUZZ_TEXT("data.files.0='x'"),
    FUZZ_TEXT("name: &a !t |\n  x\n---\n*a : >-\n  y\n... # end\n"),
};
const size_t fuzz_corpus_size = sizeof fuzz_corpus / sizeof *fuzz_corpus;

static void check_printed(const Kd__Job *job)
{
    kd_text text = {0};
    ProtobufCMessage *again = NULL;
    kd_yaml_print(&text, &job->base);
    KD_CHECK(!text.failed);
    kd_status st = kd_yaml_parse(text.data, text.size, "again", &kd__job__descriptor, &again);
    KD_CHECK(st == KD_OK && kd_message_equal(&job->base, again));
    kd_message_destroy(again);

    kd_text_clear(&text);
    kd_json_print(&text, &job->base, KD_JSON_DEFAULTS | KD_JSON_INDENT);
    KD_CHECK(!text.failed);
    kd_text_release(&text);
}

static void check_completed(Kd__Job *job)
{
    KD_CHECK(kd_job_resolve_paths(job, "/base") == KD_OK);
    KD_CHECK(kd_job_complete(job) == KD_OK);
    kd_status st = kd_job_check(job, NULL);
    KD_CHECK(st == KD_OK || st == KD_ERR_INVALID);
    kd_text canonical = {0};
    KD_CHECK(kd_job_canonical(job, NULL, 0, &canonical) == KD_OK);
    kd_text_release(&canonical);
}

static void check_set(const char *assignment)
{
    ProtobufCMessage *job = kd_message_create(&kd__job__descriptor);
    KD_CHECK(job != NULL);
    if (kd_yaml_set(job, assignment) == KD_OK) {
        check_printed((Kd__Job *)job);
    } else {
        KD_CHECK(protobuf_c_message_get_packed_size(job) == 0); /* as it was */
        KD_CHECK(*kd_fault_text() != '\0');
    }
    kd_message_destroy(job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Kd__Job *job = NULL;
    if (kd_job_parse((const char *)data, size, "fuzz", NULL, 0, &job) == KD_OK) {
        check_printed(job);
        check_completed(job);
        check_printed(job);
        kd_message_destroy(&job->base);
    } else {
        KD_CHECK(*kd_fault_text() != '\0');
    }
    char *assignment = strndup((const char *)data, size);
    KD_CHECK(assignment != NULL);
    check_set(assignment);
    free(assignment);
    return 0;
}
