/* SPDX-License-Identifier: BSD-2-Clause */
/* The object "secret". */
#include "crypto/secret.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct object_kind *const kinds[] = {&secret_kind, NULL};

/* 32 times 'K' */
#define MASTER "S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s="
/* "abc", encrypted with that and "0123456789abcdef" */
#define CIPHERTEXT "jzLJ2ShWhC2tVicL+u0XfQ=="
#define IV         "MDEyMzQ1Njc4OWFiY2RlZg=="

static int add(struct object_registry *r, const char *text, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, NULL, e);
    assert_non_null(o);
    json_object_object_add(o, "qom-type", json_object_new_string("secret"));
    return object_add(r, o, e);
}

static void test_good(void **state)
{
    static const struct {
        const char *text, *data;
    } good[] = {
        {"id=s,data=abc", "abc"},
        {"id=s,data=", ""},
        {"id=s,data=YWJj,format=base64", "abc"},
        {"id=s,data=x,format=base64", ""},
        {"id=s,data=YWJj,format=raw", "YWJj"},
        {"id=s,keyid=m,iv=" IV ",format=base64,data=" CIPHERTEXT, "abc"},
        {"id=s,iv=nonsense,data=abc", "abc"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct object_registry *r = object_registry_create(NULL, kinds);
        assert_int_equal(add(r, "id=m,format=base64,data=" MASTER, &e), 0);
        int rc = add(r, good[i].text, &e);
        assert_string_equal(rc ? err_text(&e) : "", "");
        const struct secret *s = object_registry_lookup(r, "secret", "s");
        assert_int_equal(s->len, strlen(good[i].data));
        assert_memory_equal(s->data, good[i].data, s->len + 1);
        assert_null(json_object_object_get(object_registry_props(r, "s"), "data")); /* nobody may read it back */
        object_registry_destroy(r);
    }
}

static void test_bad(void **state)
{
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"id=s", "Either 'file' or 'data' must be provided"},
        {"id=s,data=a,file=b", "'file' and 'data' are mutually exclusive"},
        {"id=s,data=&&,format=base64", "Base64 data contains invalid characters"},
        {"id=s,data=x,format=foo", "Parameter 'format' does not accept value 'foo'"},
        {"id=s,keyid=m,format=base64,data=" CIPHERTEXT, "IV is required to decrypt secret"},
        {"id=s,keyid=m,iv=abcd,format=base64,data=" CIPHERTEXT, "IV should be 16 bytes in length not 3"},
        {"id=s,keyid=m,iv=!!!!,format=base64,data=" CIPHERTEXT, "Base64 data contains invalid characters"},
        {"id=s,keyid=none,iv=" IV ",format=base64,data=" CIPHERTEXT, "No secret with id 'none'"},
        {"id=s,keyid=short,iv=" IV ",format=base64,data=" CIPHERTEXT, "Key should be 32 bytes in length"},
        {"id=s,keyid=m,iv=" IV ",format=base64,data=YWJj", "Length 3 must be a multiple of block size 16"},
        {"id=s,keyid=m,iv=" IV ",data=" CIPHERTEXT, "Length 24 must be a multiple of block size 16"},
        {"id=s,keyid=m,iv=" IV ",format=base64,data=YWJjYWJjYWJjYWJjYWJjYQ==",
         "Incorrect number of padding bytes (120) found on decrypted data"},
        {"id=s,keyid=m,iv=" IV ",format=base64,data=", "Incorrect number of padding bytes (0) found on decrypted data"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct object_registry *r = object_registry_create(NULL, kinds);
        assert_int_equal(add(r, "id=m,format=base64,data=" MASTER, &e), 0);
        assert_int_equal(add(r, "id=short,data=short", &e), 0);
        assert_true(add(r, bad[i].text, &e) < 0);
        assert_string_equal(err_text(&e), bad[i].error);
        assert_null(object_registry_lookup(r, "secret", "s"));
        object_registry_destroy(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests_name("secret", tests, NULL, NULL);
}
