/*
 * hello.c - versions are compared before anything else is believed, and named in the refusal: two programs
 * of one cluster are not always updated together.
 */
#include "wire/hello.h"

#include "base/log.h"

static kd_status check_protocol(uint32_t protocol, const char *program)
{
    if (protocol == KD_PROTOCOL_VERSION) {
        return KD_OK;
    }
    return kd_fail(KD_ERR_PROTO, "protocol: %s speaks version %u, this side speaks version %u",
                   program != NULL && *program != '\0' ? program : "the peer", protocol,
                   KD_PROTOCOL_VERSION);
}

kd_status kd_hello_send(kd_connection *c, Kd__Hello__Role role, const char *program)
{
    Kd__Hello hello = KD__HELLO__INIT;
    hello.has_protocol = 1;
    hello.protocol = KD_PROTOCOL_VERSION;
    hello.has_role = 1;
    hello.role = role;
    hello.program = (char *)program; /* only read */
    return kd_connection_send(c, &hello.base);
}

kd_status kd_hello_check(const uint8_t *payload, size_t size_bytes, Kd__Hello **hello_out)
{
    Kd__Hello *hello = kd__hello__unpack(NULL, size_bytes, payload);
    if (hello == NULL || !hello->has_protocol || !hello->has_role) {
        kd__hello__free_unpacked(hello, NULL);
        return kd_fail(KD_ERR_PROTO, "the first frame is no hello");
    }
    /* Before all else: a hello of another version may hold anything, but these two fields stay. */
    kd_status st = check_protocol(hello->protocol, hello->program);
    if (!st && hello->role != KD__HELLO__ROLE__PERSON && hello->role != KD__HELLO__ROLE__RANK) {
        st = kd_fail(KD_ERR_PROTO, "hello: found role %d, expected %d or %d", (int)hello->role,
                     (int)KD__HELLO__ROLE__PERSON, (int)KD__HELLO__ROLE__RANK);
    }
    if (st) {
        kd__hello__free_unpacked(hello, NULL);
        return st;
    }
    *hello_out = hello;
    return KD_OK;
}

static Kd__HelloReply make_reply(const char *program)
{
    Kd__HelloReply reply = KD__HELLO_REPLY__INIT;
    reply.has_protocol = 1;
    reply.protocol = KD_PROTOCOL_VERSION;
    reply.program = (char *)program; /* only read */
    return reply;
}

kd_status kd_hello_accept(kd_connection *c, const char *program)
{
    const Kd__HelloReply reply = make_reply(program);
    return kd_connection_send(c, &reply.base);
}

void kd_hello_refuse(kd_connection *c, const char *program, Kd__Error__Code code, const char *text)
{
    Kd__Error error = KD__ERROR__INIT;
    error.has_code = 1;
    error.code = code;
    error.text = (char *)text; /* only read */
    Kd__HelloReply reply = make_reply(program);
    reply.error = &error;
    if (kd_connection_send(c, &reply.base)) {
        kd_connection_close(c);
    } else {
        kd_connection_close_after_flush(c);
    }
}

kd_status kd_hello_reply_check(const uint8_t *payload, size_t size_bytes)
{
    Kd__HelloReply *reply = kd__hello_reply__unpack(NULL, size_bytes, payload);
    if (reply == NULL || !reply->has_protocol) {
        kd__hello_reply__free_unpacked(reply, NULL);
        return kd_fail(KD_ERR_PROTO, "the first frame is no answer to a hello");
    }
    kd_status st = check_protocol(reply->protocol, reply->program);
    if (!st && reply->error != NULL) {
        const char *text = reply->error->text;
        st = kd_fail(KD_ERR_STATE, "refused: %s", text != NULL ? text : "without a reason");
    }
    kd__hello_reply__free_unpacked(reply, NULL);
    return st;
}
