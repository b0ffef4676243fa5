/* SPDX-License-Identifier: BSD-2-Clause */
/* The JSON of monitors: what is taken, what is refused and how, and how parsing goes on after. */
#include "base/cleanup.h"
#include "monitor/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

/* What came out, one line per message: the JSON again, or "! " and the error. */
static void collect(void *opaque, struct json_object *msg, struct err *e)
{
    GString *out = opaque;
    if (err_is_set(e)) {
        g_string_append_printf(out, "! %s\n", err_text(e));
    } else {
        wire_write(out, msg, false);
        g_string_append_c(out, '\n');
    }
    json_object_put(msg);
}

/* In pieces of every size from 1 to `max`, the result must be the same. */
static void expect_n(const char *in, size_t n, const char *want, size_t max)
{
    for (size_t piece = 1; piece <= max; piece++) {
        g_autoptr(GString) out = g_string_new(NULL);
        struct wire_parser p;
        wire_parser_init(&p, collect, out);
        for (size_t at = 0; at < n; at += piece) {
            wire_parser_feed(&p, (const uint8_t *)in + at, MIN(piece, n - at));
        }
        wire_parser_finish(&p);
        assert_string_equal(out->str, want);
    }
}

#define EXPECT(in, want) expect_n(in, sizeof(in) - 1, want, sizeof(in) - 1)

static void accepts_what_json_is(void **state)
{
    EXPECT("{}", "{}\n");
    EXPECT(" [ ] ", "[]\n");
    EXPECT("{\"a\": [1, -2, true, false, null, \"x\", {\"b\": 1.5}]}",
           "{\"a\": [1, -2, true, false, null, \"x\", {\"b\": 1.5}]}\n");
    EXPECT("{'a': 'b\"c'}", "{\"a\": \"b\\\"c\"}\n");
    EXPECT("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\'\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t'\"\n");
}

static void finds_ends_of_messages(void **state)
{
    EXPECT("{}{}[1]{\"a\":{}}", "{}\n{}\n[1]\n{\"a\": {}}\n");
    EXPECT("{}\r\n\r\n{}\n", "{}\n{}\n");
    EXPECT("1 2\ntrue null ", "1\n2\ntrue\nnull\n");
    EXPECT("{\"execute\": \"x\"", "");
    EXPECT("\"a\"\"b\"1[2]", "\"a\"\n\"b\"\n1\n[2]\n");
}

static void keeps_numbers(void **state)
{
    EXPECT("[9223372036854775807, 9223372036854775808, 18446744073709551615]",
           "[9223372036854775807, 9223372036854775808, 18446744073709551615]\n");
    EXPECT("[-9223372036854775808]", "[-9223372036854775808]\n");
    EXPECT("[18446744073709551616]", "[1.8446744073709552e+19]\n");
    EXPECT("[-9223372036854775809]", "[-9.2233720368547758e+18]\n");
    EXPECT("[1e5, 0.1, 1E-2, -0]", "[100000, 0.10000000000000001, 0.01, 0]\n");
    EXPECT("[1e400]", "[1.7976931348623157e+308]\n");
}

static void keeps_text(void **state)
{
    EXPECT("\"\\u00e9\xe2\x82\xac\\ud83d\\ude00\x7f\"", "\"\\u00E9\\u20AC\\uD83D\\uDE00\\u007F\"\n");
    EXPECT("\"\xf0\x9f\x98\x80\"", "\"\\uD83D\\uDE00\"\n");
    EXPECT("\"\\u0000\"", "\"\\u0000\"\n");
    EXPECT("\"\xc0\x80\"", "\"\\u0000\"\n");
}

static void refuses_bad_text(void **state)
{
    EXPECT("\"\\ud800\"", "! JSON parse error, \\ud800 is not a valid Unicode character\n");
    EXPECT("\"\\udc00\"", "! JSON parse error, \\udc00 is not a valid Unicode character\n");
    EXPECT("\"\\ufffe\"", "! JSON parse error, \\ufffe is not a valid Unicode character\n");
    EXPECT("\"\\u12\"", "! JSON parse error, \\u12\" is not a valid Unicode character\n");
    EXPECT("\"\\x\"", "! JSON parse error, invalid escape sequence in string\n");
    EXPECT("\"\xc3(\"", "! JSON parse error, invalid UTF-8 sequence in string\n");
    EXPECT("\"\xed\xa0\x80\"", "! JSON parse error, invalid UTF-8 sequence in string\n");
    EXPECT("\"\xc1\x81\"", "! JSON parse error, invalid UTF-8 sequence in string\n");
    EXPECT("\"\xf4\x90\x80\x80\"", "! JSON parse error, invalid UTF-8 sequence in string\n");
}

static void refuses_what_json_is_not(void **state)
{
    EXPECT("{,}", "! JSON parse error, expecting value\n");
    EXPECT("{\"a\":1,}", "! JSON parse error, expecting value\n");
    EXPECT("{\"a\" 1}", "! JSON parse error, missing : in object pair\n");
    EXPECT("{1:2}", "! JSON parse error, key is not a string in object\n");
    EXPECT("{\"a\":1 \"b\":2}", "! JSON parse error, expected separator in dict\n");
    EXPECT("[1 2]", "! JSON parse error, expected separator in list\n");
    EXPECT("[1,]", "! JSON parse error, expecting value\n");
    EXPECT("{\"a\":1,\"a\":2}", "! JSON parse error, duplicate key\n");
    EXPECT("[nul]", "! JSON parse error, invalid keyword 'nul'\n");
    EXPECT("}", "! JSON parse error, expecting value\n");
    EXPECT("{]", "! JSON parse error, expecting value\n");
}

static void goes_on_after_garbage(void **state)
{
    EXPECT("\xff{}", "! JSON parse error, stray '\xff'\n{}\n");
    EXPECT("{\"a\":\xff\"b\"}{}", "! JSON parse error, stray '\xff'\n! JSON parse error, expecting value\n{}\n");
    EXPECT("{\"a\": \xff\n{}", "! JSON parse error, stray '\xff'\n{}\n");
    EXPECT("garbage #\n{}", "! JSON parse error, invalid keyword 'garbage'\n! JSON parse error, stray '#'\n{}\n");
    EXPECT("01{}", "! JSON parse error, stray '01'\n{}\n");
    EXPECT("{\"a\": \"b\x01\"\n{}", "! JSON parse error, stray '\"b\x01'\n{}\n");
    expect_n("\0{}", 3, "! JSON parse error, stray ''\n{}\n", 3);
}

static void limits_nesting(void **state)
{
    g_autoptr(GString) in = g_string_new(NULL);
    g_autoptr(GString) want = g_string_new(NULL);
    for (int i = 0; i < WIRE_MAX_NESTING; i++) {
        g_string_append_c(in, '[');
    }
    for (int i = 0; i < WIRE_MAX_NESTING; i++) {
        g_string_append_c(in, ']');
    }
    g_string_assign(want, in->str);
    g_string_append_c(want, '\n');
    expect_n(in->str, in->len, want->str, 3);
    g_string_prepend_c(in, '[');
    g_string_assign(want, "! JSON nesting depth limit exceeded\n");
    for (int i = 0; i < WIRE_MAX_NESTING; i++) {
        g_string_append(want, "! JSON parse error, expecting value\n");
    }
    expect_n(in->str, in->len, want->str, 3);
}

static void limits_tokens(void **state)
{
    g_autoptr(GString) in = g_string_new("[");
    g_autoptr(GString) out = g_string_new(NULL);
    struct wire_parser p;
    for (uint64_t i = 0; i < WIRE_MAX_TOKENS / 2; i++) {
        g_string_append(in, "1,");
    }
    g_string_append(in, "\xff{}");
    wire_parser_init(&p, collect, out);
    wire_parser_feed(&p, (const uint8_t *)in->str, in->len);
    wire_parser_finish(&p);
    assert_string_equal(out->str, "! JSON token count limit exceeded\n! JSON parse error, stray '\xff'\n{}\n");
}

static void takes_megabytes(void **state)
{
    g_autoptr(GString) in = g_string_new("{\"a\": \"");
    g_autoptr(GString) out = g_string_new(NULL);
    struct wire_parser p;
    for (int i = 0; i < 3 << 20; i++) {
        g_string_append_c(in, 'x');
    }
    g_string_append(in, "\"}{}");
    wire_parser_init(&p, collect, out);
    wire_parser_feed(&p, (const uint8_t *)in->str, in->len);
    assert_int_equal(out->len, in->len + 2);     /* two newlines */
    assert_true(p.raw->allocated_len < 1 << 20); /* the memory is given back */
    wire_parser_finish(&p);
}

static void refuses_too_many_bytes(void **state)
{
    g_autoptr(GString) out = g_string_new(NULL);
    struct wire_parser p;
    size_t piece = 1 << 20;
    CLEANUP_FREE uint8_t *buf = g_malloc(piece);
    memset(buf, 'x', piece);
    wire_parser_init(&p, collect, out);
    wire_parser_feed(&p, (const uint8_t *)"[\"", 2);
    for (uint64_t n = 0; n <= WIRE_MAX_TOKEN_BYTES; n += piece) {
        wire_parser_feed(&p, buf, piece);
    }
    wire_parser_feed(&p, (const uint8_t *)"\"]\n{}", 5);
    wire_parser_finish(&p);
    assert_string_equal(out->str, "! JSON token size limit exceeded\n! JSON parse error, expecting value\n{}\n");
}

static void writes_pretty(void **state)
{
    g_autoptr(GString) out = g_string_new(NULL);
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *text = "{\"a\": [1, {\"b\": {}}], \"c\": []}";
    CLEANUP_JSON struct json_object *o = wire_parse(text, strlen(text), &e);
    wire_write(out, o, true);
    assert_string_equal(out->str,
                        "{\r\n    \"a\": [\r\n        1,\r\n        {\r\n            \"b\": {\r\n            }\r\n"
                        "        }\r\n    ],\r\n    \"c\": [\r\n    ]\r\n}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_what_json_is),   cmocka_unit_test(finds_ends_of_messages),
        cmocka_unit_test(keeps_numbers),          cmocka_unit_test(keeps_text),
        cmocka_unit_test(refuses_bad_text),       cmocka_unit_test(refuses_what_json_is_not),
        cmocka_unit_test(goes_on_after_garbage),  cmocka_unit_test(limits_nesting),
        cmocka_unit_test(limits_tokens),          cmocka_unit_test(takes_megabytes),
        cmocka_unit_test(refuses_too_many_bytes), cmocka_unit_test(writes_pretty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
