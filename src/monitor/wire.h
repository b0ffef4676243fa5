/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON as it travels on a monitor's socket: an incremental parser that finds the ends of messages by itself, and the
 * writer.
 *
 * The language is QEMU's (its JSON lexer documents it): RFC 8259, and strings between single quotes. Limits on one
 * message: 64 MiB of tokens, 2 Mi tokens, 1024 levels. After an error the parser throws away what it has of the message
 * and goes on at the next structural character or control character; the byte 0xFF always gives an error and a fresh
 * start. Texts are QEMU's: "JSON parse error, expecting value". NUL characters are kept as the two bytes C0 80
 * ("modified UTF-8").
 *
 * Parsing, writing and freeing a message recurse as deep as it is nested: not for small stacks.
 */
#pragma once

#include "base/err.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#define WIRE_MAX_NESTING     1024
#define WIRE_MAX_TOKEN_BYTES (UINT64_C(64) << 20)
#define WIRE_MAX_TOKENS      (UINT64_C(2) << 20)

/* A message, which the callee owns (NULL is JSON's null when *e is not set), or an error. */
typedef void wire_message_fn(void *opaque, struct json_object *msg, struct err *e);

struct wire_parser {
    wire_message_fn *fn;
    void *opaque;
    GString *raw;    /* tokens of the message so far, white space shortened */
    size_t token_at; /* where in raw the token begins that is being read */
    int state;       /* enum lex_state */
    long braces, brackets;
    uint64_t tokens, token_bytes;
};

void wire_parser_init(struct wire_parser *p, wire_message_fn *fn, void *opaque);
void wire_parser_finish(struct wire_parser *p);
void wire_parser_reset(struct wire_parser *p);
/* fn may not feed or finish the parser. */
void wire_parser_feed(struct wire_parser *p, const uint8_t *buf, size_t n);
/* Parses one whole value. NULL is null, or an error when *e is set. */
struct json_object *wire_parse(const char *text, size_t n, struct err *e);

/* Appends; everything but printable ASCII becomes \uXXXX. Pretty: lines end with "\r\n". No newline at the end. */
void wire_write(GString *out, struct json_object *o, bool pretty);
