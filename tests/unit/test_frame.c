#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "wire/frame.h"

static void be_quiet(void)
{
    kd_fault_quiet(1);
}

TestSuite(frame, .init = be_quiet);

/* A frame whose payload is `n` bytes counting up from `first`; malloc'ed. */
static uint8_t *make_frame(size_t n, uint8_t first)
{
    uint8_t *bytes = malloc(KD_FRAME_HEADER_BYTES + n);
    kd_frame_write_header(bytes, n);
    for (size_t i = 0; i < n; i++) {
        bytes[KD_FRAME_HEADER_BYTES + i] = (uint8_t)(first + i);
    }
    return bytes;
}

static void expect_payload(const kd_frame *frame, size_t n, uint8_t first)
{
    cr_assert(frame->payload != NULL);
    cr_assert(eq(sz, frame->size_bytes, n));
    for (size_t i = 0; i < n; i++) {
        cr_assert(eq(u8, frame->payload[i], (uint8_t)(first + i)), "byte %zu", i);
    }
}

Test(frame, header_is_big_endian)
{
    uint8_t header[KD_FRAME_HEADER_BYTES];
    kd_frame_write_header(header, 0x012345);
    cr_expect(memcmp(header, "\x00\x01\x23\x45", 4) == 0);
}

Test(frame, two_frames_in_one_read_come_out_in_order_without_memory)
{
    uint8_t *a = make_frame(5, 10), *b = make_frame(3, 90);
    uint8_t both[4 + 5 + 4 + 3];
    memcpy(both, a, 9);
    memcpy(both + 9, b, 7);
    kd_frame_decoder d = {0};
    const uint8_t *bytes = both;
    size_t n = sizeof both;
    kd_frame frame;

    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    expect_payload(&frame, 5, 10);
    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    expect_payload(&frame, 3, 90);
    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    cr_expect(frame.payload == NULL);
    cr_expect(d.payload == NULL, "whole frames are views of the input");
    cr_expect(not(kd_frame_decoder_is_partial(&d)));
    free(a);
    free(b);
}

Test(frame, any_cut_of_the_stream_gives_the_same_frames)
{
    enum { PAYLOAD = 1500, TOTAL = 4 + PAYLOAD };

    uint8_t *stream = make_frame(PAYLOAD, 7);
    for (size_t piece = 1; piece <= TOTAL; piece += piece < 10 ? 1 : 97) {
        kd_frame_decoder d = {0};
        size_t n_frames = 0;
        for (size_t at = 0; at < TOTAL; at += piece) {
            const uint8_t *bytes = stream + at;
            size_t n = TOTAL - at < piece ? TOTAL - at : piece;
            kd_frame frame;
            do {
                cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
                if (frame.payload != NULL) {
                    expect_payload(&frame, PAYLOAD, 7);
                    n_frames++;
                }
            } while (frame.payload != NULL);
            cr_expect(eq(sz, n, 0));
        }
        cr_expect(eq(sz, n_frames, 1), "pieces of %zu", piece);
        cr_expect(d.payload == NULL, "an idle decoder holds no memory");
        kd_frame_decoder_release(&d);
    }
    free(stream);
}

static kd_status take_length(uint32_t length)
{
    const uint8_t header[4] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16),
                               (uint8_t)(length >> 8), (uint8_t)length};
    kd_frame_decoder d = {0};
    const uint8_t *bytes = header;
    size_t n = sizeof header;
    kd_frame frame = {0};
    kd_status st = kd_frame_decoder_take(&d, &bytes, &n, &frame);
    cr_expect(d.payload == NULL, "a length alone takes no memory");
    cr_expect(frame.payload == NULL);
    kd_frame_decoder_release(&d);
    return st;
}

Test(frame, length_of_zero_is_refused)
{
    cr_expect(eq(int, take_length(0), KD_ERR_PROTO));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "frame: found a length of 0 bytes, expected 1 to 4194304"));
}

Test(frame, length_above_the_limit_is_refused_and_the_limit_is_not)
{
    cr_expect(eq(int, take_length(KD_FRAME_BYTES_MAX + 1), KD_ERR_PROTO));
    cr_expect(eq(int, take_length(UINT32_MAX), KD_ERR_PROTO));
    cr_expect(eq(int, take_length(KD_FRAME_BYTES_MAX), KD_OK));
}

Test(frame, memory_follows_the_bytes_received_not_the_length_announced)
{
    uint8_t header[KD_FRAME_HEADER_BYTES];
    kd_frame_write_header(header, KD_FRAME_BYTES_MAX);
    const uint8_t payload[100] = {0};
    kd_frame_decoder d = {0};
    kd_frame frame;
    const uint8_t *bytes = header;
    size_t n = sizeof header;
    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    bytes = payload;
    n = sizeof payload;
    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    cr_expect(le(u32, d.capacity_bytes, 1024));
    cr_expect(kd_frame_decoder_is_partial(&d));
    kd_frame_decoder_release(&d);
    cr_expect(not(kd_frame_decoder_is_partial(&d)));
}

Test(frame, a_stream_that_ends_within_the_header_is_cut_off)
{
    const uint8_t half[2] = {0};
    const uint8_t *bytes = half;
    size_t n = sizeof half;
    kd_frame_decoder d = {0};
    kd_frame frame;
    cr_expect(not(kd_frame_decoder_is_partial(&d)));
    cr_assert(eq(int, kd_frame_decoder_take(&d, &bytes, &n, &frame), KD_OK));
    cr_expect(kd_frame_decoder_is_partial(&d));
}
