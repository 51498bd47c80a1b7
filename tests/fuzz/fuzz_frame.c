/*
 * The frame decoder: however a stream is cut into reads, the same frames come out, and no more
 * memory is held than bytes were received.
 */
#include "base/log.h"
#include "tests/fuzz/driver.h"
#include "wire/frame.h"

const fuzz_input fuzz_corpus[] = {
    FUZZ_TEXT("\0\0\0\1a"),           FUZZ_TEXT("\0\0\0\5hello\0\0\0\2ab\0\0\0\1c"),
    FUZZ_TEXT("\0\0\1\0short"),       FUZZ_TEXT("\0\x40\0\0at the limit"),
    FUZZ_TEXT("\0\x40\0\1beyond it"), FUZZ_TEXT("\0\0\0\0"),
    FUZZ_TEXT("\xff\xff\xff\xff"),
};
const size_t fuzz_corpus_size = sizeof fuzz_corpus / sizeof *fuzz_corpus;

typedef struct outcome {
    size_t n_frames, n_bytes;
    uint64_t digest; /* of all payloads, FNV-1a */
    kd_status status;
} outcome;

static void add_frame(outcome *o, const kd_frame *frame)
{
    o->n_frames++;
    o->n_bytes += frame->size_bytes;
    for (size_t i = 0; i < frame->size_bytes; i++) {
        o->digest = (o->digest ^ frame->payload[i]) * UINT64_C(1099511628211);
    }
}

/* Reads of `piece` bytes each. */
static outcome decode(const uint8_t *data, size_t size, size_t piece)
{
    outcome o = {.digest = 14695981039346656037u};
    kd_frame_decoder d = {0};
    for (size_t at = 0; at < size && !o.status; at += piece) {
        const uint8_t *bytes = data + at;
        size_t n = size - at < piece ? size - at : piece;
        kd_frame frame = {0};
        do {
            o.status = kd_frame_decoder_take(&d, &bytes, &n, &frame);
            if (!o.status && frame.payload != NULL) {
                add_frame(&o, &frame);
            }
        } while (!o.status && frame.payload != NULL);
        KD_CHECK(d.capacity_bytes <= 2 * size + 512);
    }
    kd_frame_decoder_release(&d);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const outcome whole = decode(data, size, size + 1);
    for (size_t piece = 1; piece <= 7; piece += 2) {
        const outcome cut = decode(data, size, piece);
        KD_CHECK(cut.status == whole.status && cut.n_frames == whole.n_frames);
        KD_CHECK(cut.n_bytes == whole.n_bytes && cut.digest == whole.digest);
    }
    return 0;
}
