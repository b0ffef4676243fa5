/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/json.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

/* The JSON that `text` becomes, or the error's text. */
static char *keyval(const char *text, const char *implied)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = keyval_parse(text, implied, &e);
    return g_strdup(o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : err_text(&e));
}

static void expect_keyval(const char *text, const char *implied, const char *expected)
{
    CLEANUP_FREE char *got = keyval(text, implied);
    assert_string_equal(got, expected);
}

static void test_keyval(void **state)
{
    expect_keyval("", NULL, "{}");
    expect_keyval("a=1,b=x", NULL, "{\"a\":\"1\",\"b\":\"x\"}");
    expect_keyval("a=1,", NULL, "{\"a\":\"1\"}");
    expect_keyval("a=", NULL, "{\"a\":\"\"}");
    expect_keyval("a=1,a=2", NULL, "{\"a\":\"2\"}");
    expect_keyval("a=x,,y,b=,,", NULL, "{\"a\":\"x,y\",\"b\":\",\"}");
    expect_keyval("a=b=c", NULL, "{\"a\":\"b=c\"}");
    expect_keyval("a,b=2", "driver", "{\"driver\":\"a\",\"b\":\"2\"}");
    expect_keyval("driver=q,b=2", "driver", "{\"driver\":\"q\",\"b\":\"2\"}");
    expect_keyval("f.filename=x,f.o.p=y", NULL, "{\"f\":{\"filename\":\"x\",\"o\":{\"p\":\"y\"}}}");
    expect_keyval("c.0=a,c.1=b", NULL, "{\"c\":[\"a\",\"b\"]}");
    expect_keyval("c.1.x=b,c.0.x=a,c.0.y.0=z", NULL, "{\"c\":[{\"x\":\"a\",\"y\":[\"z\"]},{\"x\":\"b\"}]}");
    expect_keyval("{\"a\": 1, \"b\": [true]}", NULL, "{\"a\":1,\"b\":[true]}");
}

static void test_keyval_errors(void **state)
{
    expect_keyval("a", NULL, "Expected '=' after parameter 'a'");
    expect_keyval("a=1,b", "driver", "Expected '=' after parameter 'b'");
    expect_keyval("=1", NULL, "Invalid parameter ''");
    expect_keyval("a=1,,,b=2", NULL, "{\"a\":\"1,\",\"b\":\"2\"}");
    expect_keyval("a=1,.b=2", NULL, "Invalid parameter '.b'");
    expect_keyval("a.=1", NULL, "Invalid parameter 'a.'");
    expect_keyval("1=x", NULL, "Invalid parameter '1'");
    expect_keyval("a b=x", NULL, "Invalid parameter 'a b'");
    expect_keyval("a=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently");
    expect_keyval("a.b=2,a=1", NULL, "Parameters 'a.*' used inconsistently");
    expect_keyval("a.0=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently");
    expect_keyval("a.0=1,a.2=2", NULL, "Parameter 'a.1' missing");
    expect_keyval("{\"a\": 1", NULL, "JSON parse error: text ends within the object");
    CLEANUP_FREE char *deep = g_strnfill(100000, '.');
    for (size_t i = 0; i < 100000; i += 2) {
        deep[i] = 'a';
    }
    deep[99999] = '=';
    CLEANUP_FREE char *too_deep = keyval(deep, NULL);
    assert_true(g_str_has_suffix(too_deep, "has more than 32 parts"));
    CLEANUP_FREE char *trailing = keyval("{} x", NULL);
    assert_true(g_str_has_prefix(trailing, "JSON parse error"));
    CLEANUP_FREE char *bad = keyval("{'a' 1}", NULL);
    assert_true(g_str_has_prefix(bad, "JSON parse error at character"));
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t v;
    } cases[] = {
        {"0", 0, 0},
        {"512", 0, 512},
        {"1b", 0, 1},
        {"64k", 0, 65536},
        {"64K", 0, 65536},
        {"1M", 0, 1 << 20},
        {"1.5G", 0, UINT64_C(3) << 29},
        {"0.5k", 0, 512},
        {"2T", 0, UINT64_C(2) << 40},
        {"3P", 0, UINT64_C(3) << 50},
        {"15E", 0, UINT64_C(15) << 60},
        {"16E", -ERANGE, 0},
        {"0x1000", 0, 4096},
        {"0x", -EINVAL, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {" 1", 0, 1},
        {"1 ", -EINVAL, 0},
        {"1.", -EINVAL, 0},
        {"1.5", -EINVAL, 0},
        {"1X", -EINVAL, 0},
        {"1kk", -EINVAL, 0},
        {"k", -EINVAL, 0},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t v = 0;
        assert_int_equal(parse_size(cases[i].text, &v), cases[i].rc);
        if (!cases[i].rc) {
            assert_int_equal(v, cases[i].v);
        }
    }
}

static const char *const modes[] = {"full", "top", "none", NULL};

static void test_jread(void **state)
{
    CLEANUP_JSON struct json_object *o = json_tokener_parse(
        "{\"s\": \"text\", \"b\": true, \"on\": \"on\", \"i\": -5, \"si\": \"7\", \"z\": \"4k\", \"zi\": 4096,"
        " \"m\": \"top\", \"any\": [1], \"big\": 18446744073709551615}");
    CLEANUP_ERR struct err e = ERR_INIT;
    struct jread r = jread_init(o, NULL, &e);
    assert_string_equal(jread_str(&r, "s"), "text");
    assert_string_equal(jread_str_or(&r, "t", "dflt"), "dflt");
    assert_true(jread_bool_or(&r, "b", false));
    assert_true(jread_bool_or(&r, "on", false));
    assert_true(jread_bool_or(&r, "absent", true));
    assert_int_equal(jread_int(&r, "i"), -5);
    assert_int_equal(jread_int(&r, "si"), 7);
    assert_int_equal(jread_int_or(&r, "absent", 3), 3);
    assert_int_equal(jread_size(&r, "z"), 4096);
    assert_int_equal(jread_size_or(&r, "zi", 0), 4096);
    assert_int_equal(jread_size(&r, "big"), UINT64_MAX);
    assert_int_equal(jread_enum_or(&r, "m", modes, 0), 1);
    assert_int_equal(jread_enum_or(&r, "n", modes, 2), 2);
    assert_int_equal(json_object_array_length(jread_any(&r, "any")), 1);
    assert_true(jread_has(&r, "s"));
    assert_false(jread_has(&r, "nope"));
    assert_int_equal(jread_end(&r), 0);
    assert_false(err_is_set(&e));
}

enum get { STR, BOOL, INT, SIZE, ENUM, NONE };

static void expect_error(const char *json, enum get get, const char *expected)
{
    CLEANUP_JSON struct json_object *o = json_tokener_parse(json);
    CLEANUP_ERR struct err e = ERR_INIT;
    struct jread r = jread_init(o, NULL, &e);
    switch (get) {
    case STR:
        assert_non_null(jread_str(&r, "x"));
        break;
    case BOOL:
        jread_bool_or(&r, "x", false);
        break;
    case INT:
        jread_int(&r, "x");
        break;
    case SIZE:
        jread_size(&r, "x");
        break;
    case ENUM:
        jread_enum_or(&r, "x", modes, 0);
        break;
    case NONE:
        break;
    }
    jread_str(&r, "a later problem does not replace the first");
    assert_int_equal(jread_end(&r), -EINVAL);
    assert_string_equal(err_text(&e), expected);
}

static void test_jread_errors(void **state)
{
    expect_error("{}", STR, "Parameter 'x' is missing");
    expect_error("{}", INT, "Parameter 'x' is missing");
    expect_error("{\"x\": 1}", STR, "Invalid parameter type for 'x', expected: string");
    expect_error("{\"x\": 1}", BOOL, "Invalid parameter type for 'x', expected: boolean");
    expect_error("{\"x\": \"maybe\"}", BOOL, "Parameter 'x' expects 'on' or 'off'");
    expect_error("{\"x\": true}", INT, "Invalid parameter type for 'x', expected: integer");
    expect_error("{\"x\": 1.5}", INT, "Invalid parameter type for 'x', expected: integer");
    expect_error("{\"x\": \"1z\"}", INT, "Parameter 'x' expects an integer");
    expect_error("{\"x\": 18446744073709551615}", INT, "Parameter 'x' is out of range");
    expect_error("{\"x\": -1}", SIZE, "Parameter 'x' expects a non-negative number");
    expect_error("{\"x\": \"99E\"}", SIZE, "Parameter 'x' is out of range");
    expect_error("{\"x\": \"bottom\"}", ENUM, "Parameter 'x' does not accept value 'bottom'");
}

static void test_jread_unexpected(void **state)
{
    CLEANUP_JSON struct json_object *o = json_tokener_parse("{\"x\": 1, \"y\": 2}");
    CLEANUP_ERR struct err e = ERR_INIT;
    struct jread r = jread_init(o, "blockdev 'd0'", &e);
    jread_int(&r, "x");
    assert_int_equal(jread_end(&r), -EINVAL);
    assert_string_equal(err_text(&e), "blockdev 'd0': Parameter 'y' is unexpected");
    r = jread_init(o, NULL, NULL);
    jread_int(&r, "x");
    assert_int_equal(jread_end_lax(&r), 0);
    r = jread_init(NULL, NULL, NULL); /* no object is one without keys */
    assert_int_equal(jread_end(&r), 0);
    CLEANUP_JSON struct json_object *copy = json_clone(o);
    assert_ptr_not_equal(copy, o);
    assert_true(json_object_equal(copy, o));
    assert_null(json_clone(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keyval), cmocka_unit_test(test_keyval_errors), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_jread),  cmocka_unit_test(test_jread_errors),  cmocka_unit_test(test_jread_unexpected),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
