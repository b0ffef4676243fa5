/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/proto.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 16, TAIL = 4 };

static const char magic[] = "\x8eSTMOVE\x1a";
static const char names[PROTO_TYPES][5] = {"WANT", "ANSW", "FAIL", "REDY", "OKGO", "RUNS", "JOIN", "ALLD", "PROG"};

int proto_send_hello(struct channel *ch, unsigned flags)
{
    uint8_t b[PROTO_HELLO_BYTES] = {0};
    memcpy(b, magic, 8);
    store_le32(b + 8, PROTO_VERSION);
    store_le32(b + 12, PROTO_VERSION);
    store_le32(b + 16, flags);
    store_le32(b + 28, crc32c(0, b, 28));
    return channel_write(ch, b, sizeof(b));
}

int proto_read_hello(struct channel *ch, uint64_t deadline_ns, unsigned *flags, struct err *e)
{
    uint8_t b[PROTO_HELLO_BYTES];
    int rc = channel_read_all(ch, b, sizeof(b), deadline_ns);
    if (rc == -ETIMEDOUT) {
        return err_set(e, ETIMEDOUT, "%s: somebody came who says nothing", channel_name(ch));
    }
    if (rc < 0) {
        return err_set_errno(e, -rc, "%s: the other side went before it said anything", channel_name(ch));
    }
    if (b[0] == PROTO_TLS_FIRST_BYTE && b[1] == 3) {
        return err_set(
            e, EPROTO,
            "%s: the source speaks TLS, and here is none: set 'tls-creds' here before 'migrate-incoming', or "
            "unset it at the source",
            channel_name(ch));
    }
    if (memcmp(b, magic, 8) || load_le32(b + 28) != crc32c(0, b, 28)) {
        return err_set(e, EPROTO, "%s: what came is not a machine that is being moved", channel_name(ch));
    }
    if (load_le32(b + 8) < PROTO_VERSION || load_le32(b + 12) > PROTO_VERSION) {
        return err_set(e, ENOTSUP, "the source speaks versions %u to %u of the protocol, the destination speaks %u",
                       load_le32(b + 12), load_le32(b + 8), PROTO_VERSION);
    }
    *flags = load_le32(b + 16);
    return 0;
}

int proto_send(struct channel *ch, enum proto_type type, struct json_object *body)
{
    CLEANUP_JSON struct json_object *o = body ? body : json_object_new_object();
    size_t len;
    const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len);
    CLEANUP_FREE uint8_t *b = g_malloc0(HEAD + len + TAIL);
    memcpy(b, names[type], 4);
    store_le64(b + 8, len);
    memcpy(b + HEAD, text, len);
    store_le32(b + HEAD + len, crc32c(0, b, HEAD + len));
    return channel_write(ch, b, HEAD + len + TAIL);
}

static int broken(struct channel *ch, int rc, struct err *e)
{
    return rc == -ETIMEDOUT ? err_set(e, ETIMEDOUT, "%s: the other side does not answer", channel_name(ch))
           : rc == -ENODATA ? err_set(e, EPIPE, "%s: the other side closed the connection", channel_name(ch))
           : rc == -EBADMSG ? err_set(e, EPROTO, "%s: what came was damaged on its way", channel_name(ch))
                            : err_set_errno(e, -rc, "%s", channel_name(ch));
}

static int read_frame(struct channel *ch, char type[5], uint64_t deadline_ns, struct json_object **body, struct err *e)
{
    uint8_t head[HEAD], tail[TAIL];
    int rc = channel_read_all(ch, head, sizeof(head), deadline_ns);
    if (rc < 0) {
        return broken(ch, rc, e);
    }
    uint64_t len = load_le64(head + 8);
    if (len > PROTO_TEXT_MAX || load_le32(head + 4)) {
        return err_set(e, EPROTO, "%s: the other side's message is none", channel_name(ch));
    }
    CLEANUP_FREE char *text = g_malloc(len + 1);
    rc = channel_read_all(ch, text, len, deadline_ns);
    rc = rc < 0 ? rc : channel_read_all(ch, tail, sizeof(tail), deadline_ns);
    if (rc < 0) {
        return broken(ch, rc, e);
    }
    text[len] = '\0';
    *body = load_le32(tail) == crc32c(crc32c(0, head, HEAD), text, len) ? json_tokener_parse(text) : NULL;
    memcpy(type, head, 4);
    type[4] = '\0';
    return json_object_is_type(*body, json_type_object)
               ? 0
               : err_set(e, EPROTO, "%s: a message was damaged on its way", channel_name(ch));
}

int proto_read_either(struct channel *ch, const enum proto_type may[2], uint64_t deadline_ns, enum proto_type *type,
                      struct json_object **body, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    struct json_object *text, *runs;
    char name[5];
    int rc = read_frame(ch, name, deadline_ns, &o, e);
    if (rc < 0) {
        return rc;
    }
    if (json_object_object_get_ex(o, "error", &text)) {
        bool never = json_object_object_get_ex(o, "runs", &runs) && json_object_is_type(runs, json_type_boolean) &&
                     !json_object_get_boolean(runs);
        return err_set(e, never ? ECONNREFUSED : EREMOTEIO, "the other side says: %s", json_object_get_string(text));
    }
    *type = strcmp(name, names[may[0]]) ? may[1] : may[0];
    if (strcmp(name, names[*type])) {
        return err_set(e, EPROTO, "%s: the other side says %s where %s is due", channel_name(ch), name, names[*type]);
    }
    if (body) {
        *body = take(o);
    }
    return 0;
}

int proto_read(struct channel *ch, enum proto_type want, uint64_t deadline_ns, struct json_object **body, struct err *e)
{
    const enum proto_type may[] = {want, want};
    enum proto_type type;
    return proto_read_either(ch, may, deadline_ns, &type, body, e);
}
