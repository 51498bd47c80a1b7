/*
 * Frames of a peer: any bytes are refused or become a message that can be shown; a job that passes
 * its check can be written as job.yaml and read again.
 */
#include "base/log.h"
#include "job/job.h"
#include "message/json.h"
#include "message/reflect.h"
#include "message/yaml.h"
#include "proto/control.pb-c.h"
#include "proto/worker.pb-c.h"
#include "tests/fuzz/driver.h"
#include "wire/hello.h"

/* Field number << 3 | wire type (0 number, 1 eight bytes, 2 length and bytes). */
const fuzz_input fuzz_corpus[] = {
    FUZZ_TEXT("\x08\x01\x10\x00\x1a\x04test"),            /* Hello */
    FUZZ_TEXT("\x08\x01\x12\x03new\x1a\x00"),             /* HelloReply */
    FUZZ_TEXT("\x08\x07\x22\x02\x08\x05"),                /* Request: show */
    FUZZ_TEXT("\x08\x07\x42\x04\x08\x05\x10\x01"),        /* Request: metrics */
    FUZZ_TEXT("\x08\x07\x12I"                             /* Request: submit */
              "\x0a\x44"                                  /* Job */
              "\x12\x04/out"                              /* output */
              "*\x04\x0a\x02/a"                           /* data: files */
              "2\x0c\x1a\x0a\x18\x10 \x01(\x02@\x10H\x02" /* student: model */
              ":\x04\x12\x02/m"                           /* teachers */
              "B\x1e\x0a\x1c\x0a\x09\x09\x00\x00\x00\x00\x00\x00\xe0\x3f\x12\x0f\x10\x01\x1a\x0b"
              "\x08\x05\x11\x00\x00\x00\x00\x00\x00\x00@" /* objective: kd */
              "J\x02\x08\x0a"                             /* training: steps */
              "\x12\x01t" /* token */),
    FUZZ_TEXT("\x0a\x0d\x08\x01\x10\x01\x18\x00 \x02*\x00\x32\x01h"), /* RankMessage: hello */
};
const size_t fuzz_corpus_size = sizeof fuzz_corpus / sizeof *fuzz_corpus;

static void check_shown(const ProtobufCMessage *message)
{
    kd_text text = {0};
    kd_json_print(&text, message, KD_JSON_DEFAULTS);
    KD_CHECK(!text.failed && text.size >= 2);
    kd_text_release(&text);
    if (!kd_message_has_unknown(message)) {
        ProtobufCMessage *copy = kd_message_copy(message);
        KD_CHECK(copy != NULL && kd_message_equal(message, copy));
        kd_message_destroy(copy);
    }
}

static void check_job(Kd__Job *job)
{
    KD_CHECK(kd_job_complete(job) == KD_OK);
    if (kd_job_check(job, NULL) != KD_OK) {
        return;
    }
    kd_text text = {0};
    Kd__Job *again = NULL;
    kd_yaml_print(&text, &job->base);
    KD_CHECK(kd_job_parse(text.data, text.size, "job.yaml", NULL, 0, &again) == KD_OK);
    kd_message_destroy(&again->base);
    kd_text_release(&text);
}

static void check_hello(const uint8_t *data, size_t size)
{
    Kd__Hello *hello = NULL;
    if (kd_hello_check(data, size, &hello) == KD_OK) {
        KD_CHECK(hello->protocol == KD_PROTOCOL_VERSION);
        check_shown(&hello->base);
        kd__hello__free_unpacked(hello, NULL);
    }
    kd_status st = kd_hello_reply_check(data, size);
    KD_CHECK(st == KD_OK || st == KD_ERR_PROTO || st == KD_ERR_STATE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_hello(data, size);
    Kd__Request *request = kd__request__unpack(NULL, size, data);
    if (request != NULL) {
        check_shown(&request->base);
        if (request->body_case == KD__REQUEST__BODY_SUBMIT && request->submit->job != NULL) {
            check_job(request->submit->job);
        }
        kd__request__free_unpacked(request, NULL);
    }
    Kd__RankMessage *rank = kd__rank_message__unpack(NULL, size, data);
    if (rank != NULL) {
        check_shown(&rank->base);
        kd__rank_message__free_unpacked(rank, NULL);
    }
    return 0;
}
