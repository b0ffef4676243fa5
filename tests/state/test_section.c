/* SPDX-License-Identifier: BSD-2-Clause */
/* State structs to bytes and back, at every version and by every policy. */
#include "world.h"

#include "base/cleanup.h"
#include "state/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PATH "/machine/toy"

/* Encodes as the policy says, with a manifest that says the same. */
static GByteArray *encode(const struct state_section *s, const struct toy_state *st, const struct state_policy *p,
                          struct state_manifest **m, struct err *e)
{
    *m = state_manifest_create("virt-0.1", "0.1.0");
    state_manifest_add_device(*m, PATH, s, p);
    return state_encode(PATH, s, st, p, e);
}

static int decode(struct state_manifest *m, const struct state_section *s, const GByteArray *b,
                  const struct state_policy *p, struct toy_state *st, struct err *e)
{
    memset(st, 0xee, sizeof(*st));
    memset(st->rx, 0, sizeof(st->rx));
    memset(st->mac, 0, sizeof(st->mac));
    return state_decode(m, s, b, p, st, e);
}

static void expect_error(int rc, struct err *e, const char *part)
{
    if (rc >= 0 || !strstr(err_text(e), part)) {
        fail_msg("expected '%s', got %d: %s", part, rc, err_text(e));
    }
    err_clear(e);
}

static void test_tables(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(state_section_check(&toy_section, &e), 0);
    assert_int_equal(state_section_check(&toy_section_1, &e), 0);
    struct state_section s = toy_section;
    struct state_field f[] = {STATE_U32(struct toy_state, word), {0}, {0}};
    s.fields = f;
    f[0].stride = 8;
    expect_error(state_section_check(&s, &e), &e, "section 'toy': 'word' has 8 bytes");
    f[0].stride = 4;
    f[0].offset = sizeof(struct toy_state) - 2;
    expect_error(state_section_check(&s, &e), &e, "does not lie in the struct");
    f[0] = (struct state_field)STATE_U32(struct toy_state, word, .min = 2, .max = 3, .since = 2);
    expect_error(state_section_check(&s, &e), &e, "default out of range");
    f[0] = (struct state_field)STATE_BYTES(struct toy_state, rx, .used = STATE_AT(struct toy_state, rx_len));
    f[1] = (struct state_field)STATE_U32(struct toy_state, rx_len);
    expect_error(state_section_check(&s, &e), &e, "stands before it");
    f[0] = f[1];
    expect_error(state_section_check(&s, &e), &e, "'rx_len' is there twice");
    f[0].name = "RX";
    expect_error(state_section_check(&s, &e), &e, "no name that can be");
    f[0] = (struct state_field)STATE_U32(struct toy_state, word, .since = 3);
    expect_error(state_section_check(&s, &e), &e, "newer than its section");
}

static void test_round_trip(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a, b;
    struct state_manifest *m;
    toy_fill(&a);
    for (int i = 0; i < 4; i++) {
        a.event = i & 1 ? 77 : 0;
        a.mac[0] = i & 2 ? 8 : 0;
        g_autoptr(GByteArray) bytes = encode(&toy_section, &a, NULL, &m, &e);
        assert_non_null(bytes);
        assert_int_equal(decode(m, &toy_section, bytes, NULL, &b, &e), 0);
        assert_int_equal(b.on, a.on);
        assert_int_equal(b.level, a.level);
        assert_int_equal(b.half, a.half);
        assert_int_equal(b.word, a.word);
        assert_true(b.big == a.big && b.skew == a.skew);
        assert_int_equal(b.rx_len, 3);
        assert_memory_equal(b.rx, a.rx, sizeof(a.rx));
        assert_int_equal(b.nqueues, 2);
        assert_true(b.queue[0].size == 1024 && b.queue[0].desc == 1ull << 40 && b.queue[0].ready);
        assert_true(b.queue[1].size == 1 && !b.queue[1].ready && b.queue[3].size == 0);
        assert_true(b.table[0] == 0 && b.table[2] == 9);
        assert_int_equal(b.seed, 4711);
        assert_int_equal(b.speed, 100);
        assert_int_equal(b.event, a.event);
        assert_memory_equal(b.mac, a.mac, 6);
        state_manifest_destroy(m);
    }
}

/* What is printed is what was saved, and can be made into the same bytes again. */
static void test_values(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a;
    struct state_manifest *m;
    toy_fill(&a);
    a.event = 3;
    g_autoptr(GByteArray) bytes = encode(&toy_section, &a, NULL, &m, &e);
    struct state_device *d = state_device_read(m, bytes->data, bytes->len, &e);
    assert_non_null(d);
    CLEANUP_JSON struct json_object *o = state_device_json(d);
    assert_string_equal(
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
        "{\"path\":\"/machine/toy\",\"section\":\"toy\",\"version\":2,\"values\":{\"on\":true,\"level\":15,\"half\":"
        "48879,\"word\":3735928559,\"big\":18446744073709551614,\"skew\":-5,\"rx_len\":3,\"rx\":\"00ff7a\",\"nqueues\":"
        "2,\"queue\":[{\"size\":1024,\"desc\":1099511627776,\"ready\":true},{\"size\":1,\"desc\":0,\"ready\":false}],"
        "\"table\":[0,0,9],\"seed\":4711,\"speed\":100},\"subsections\":{\"event\":{\"event\":3}}}");
    g_autoptr(GByteArray) again = state_device_write(d, &e);
    assert_int_equal(again->len, bytes->len);
    assert_memory_equal(again->data, bytes->data, bytes->len);
    json_object_object_add(d->parts[0].values, "level", json_object_new_int(16));
    assert_null(state_device_write(d, &e));
    assert_string_equal(err_text(&e), "device '/machine/toy': 'toy': 'level' is 16, which is not within 0 to 15");
    state_device_destroy(d);
    state_manifest_destroy(m);
}

static void test_ranges(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a, b;
    struct state_manifest *m;
    toy_fill(&a);
    a.level = 16;
    assert_null(encode(&toy_section, &a, NULL, &m, &e));
    expect_error(-1, &e, "device '/machine/toy': 'level' is 16, which is not within 0 to 15");
    state_manifest_destroy(m);
    a.level = 0;
    a.skew = -6;
    assert_null(encode(&toy_section, &a, NULL, &m, &e));
    expect_error(-1, &e, "'skew' is -6, which is not within -5 to 5");
    state_manifest_destroy(m);
    a.skew = 0;
    a.rx_len = 17;
    assert_null(encode(&toy_section, &a, NULL, &m, &e));
    expect_error(-1, &e, "'rx_len' is 17, which is not within 0 to 16");
    state_manifest_destroy(m);
    a.rx_len = 0;
    a.queue[1].size = 1025;
    assert_null(encode(&toy_section, &a, NULL, &m, &e));
    expect_error(-1, &e, "'queue', element 1: 'size' is 1025");
    state_manifest_destroy(m);

    /* The same in what comes in: the schema there allows more than the table here. */
    struct state_field f[G_N_ELEMENTS((struct state_field[]){STATE_U8(struct toy_state, level)}) + 1] = {
        STATE_U8(struct toy_state, level), {0}};
    struct state_field g[] = {STATE_U8(struct toy_state, level, .max = 3), {0}};
    struct state_section wide = {.name = "toy", .version = 1, .min_version = 1, .size = sizeof(a), .fields = f};
    struct state_section narrow = wide;
    narrow.fields = g;
    a.level = 4;
    g_autoptr(GByteArray) bytes = encode(&wide, &a, NULL, &m, &e);
    expect_error(decode(m, &narrow, bytes, NULL, &b, &e), &e, "'level' is 4, which is not within 0 to 3");
    state_manifest_destroy(m);
}

static const struct state_compat release_1[] = {
    {.section = "toy", .version = 1, .subsections = (const char *const[]){"event", NULL}}, {NULL}};

static void test_older_reader(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a, b;
    struct state_manifest *m;
    struct state_policy p = {
        .compat = release_1, .reader = "virt-0.1", .dropped = g_ptr_array_new_with_free_func(g_free)};
    toy_fill(&a);
    a.event = 6;
    g_autoptr(GByteArray) bytes = encode(&toy_section, &a, &p, &m, &e);
    assert_non_null(bytes);
    assert_int_equal(decode(m, &toy_section_1, bytes, NULL, &b, &e), 0);
    assert_int_equal(b.event, 6);
    /* and we read it ourselves, with the default for what it lacks: version 1 is blocked unless that is lifted */
    expect_error(decode(m, &toy_section, bytes, NULL, &b, &e), &e,
                 "version 1 is blocked: half was saved wrongly; state-allow=toy-half lifts that");
    struct state_policy allow = {.allow = (const char *const[]){"toy-half", NULL}};
    assert_int_equal(decode(m, &toy_section, bytes, &allow, &b, &e), 0);
    assert_int_equal(b.speed, 100);
    state_manifest_destroy(m);

    a.mac[0] = 1;
    assert_null(encode(&toy_section, &a, &p, &m, &e));
    expect_error(-1, &e,
                 "device '/machine/toy': subsection 'acme/mac' of section 'toy' is needed and virt-0.1 does not "
                 "read it: the guest would lose its address; naming it in force-drop saves without it");
    state_manifest_destroy(m);
    a.speed = 10;
    p.force_drop = (const char *const[]){"acme/mac", NULL};
    assert_null(encode(&toy_section, &a, &p, &m, &e));
    expect_error(-1, &e,
                 "field 'speed' came with version 2 of section 'toy' and is in use, virt-0.1 reads version 1: "
                 "the guest would lose its speed");
    state_manifest_destroy(m);
    p.force_drop = (const char *const[]){"toy:acme/mac", "speed", NULL};
    g_ptr_array_set_size(p.dropped, 0);
    g_autoptr(GByteArray) less = encode(&toy_section, &a, &p, &m, &e);
    assert_non_null(less);
    assert_int_equal(p.dropped->len, 2);
    assert_string_equal(p.dropped->pdata[0], "/machine/toy: speed: its speed");
    assert_string_equal(p.dropped->pdata[1], "/machine/toy: acme/mac: its address");
    assert_int_equal(decode(m, &toy_section_1, less, NULL, &b, &e), 0);
    state_manifest_destroy(m);
    g_ptr_array_unref(p.dropped);
}

static void test_newer_writer(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a, b;
    struct state_manifest *m;
    toy_fill(&a);
    g_autoptr(GByteArray) bytes = encode(&toy_section, &a, NULL, &m, &e);
    expect_error(decode(m, &toy_section_1, bytes, NULL, &b, &e), &e,
                 "device '/machine/toy': section 'toy' is in version 2, this program reads up to 1");
    const struct state_policy as_first = {.compat = (const struct state_compat[]){{"toy", 1, NULL}, {NULL}}};
    expect_error(decode(m, &toy_section, bytes, &as_first, &b, &e), &e, "this program reads up to 1");
    state_manifest_destroy(m);

    /* A subsection and a field that came without a new version. */
    struct state_section extra = toy_section;
    extra.version = 1;
    extra.fields = toy_section_1.fields;
    a.mac[0] = 1;
    g_autoptr(GByteArray) sub = encode(&extra, &a, NULL, &m, &e);
    expect_error(decode(m, &toy_section_1, sub, NULL, &b, &e), &e,
                 "this program does not know subsection 'acme/mac' of section 'toy': the guest would lose its address");
    /* Who reads as the first release did says the same. */
    const struct state_policy first = {
        .compat = (const struct state_compat[]){{"toy", 1, (const char *const[]){"event", NULL}}, {NULL}}};
    extra.blocked = NULL;
    expect_error(decode(m, &extra, sub, &first, &b, &e), &e,
                 "this program does not know subsection 'acme/mac' of section 'toy': the guest would lose its address");
    struct state_policy p = {.force_drop = (const char *const[]){"acme/mac", NULL}, .dropped = g_ptr_array_new()};
    assert_int_equal(decode(m, &toy_section_1, sub, &p, &b, &e), 0);
    assert_int_equal(p.dropped->len, 1);
    g_free(p.dropped->pdata[0]);
    g_ptr_array_unref(p.dropped);
    state_manifest_destroy(m);

    struct state_section few = toy_section_1;
    struct state_field f[] = {STATE_BOOL(struct toy_state, on), {0}};
    few.fields = f;
    g_autoptr(GByteArray) full = encode(&toy_section_1, &a, NULL, &m, &e);
    expect_error(decode(m, &few, full, NULL, &b, &e), &e, "this program does not know its field 'level'");
    state_manifest_destroy(m);
    g_autoptr(GByteArray) little = encode(&few, &a, NULL, &m, &e);
    expect_error(decode(m, &toy_section_1, little, NULL, &b, &e), &e, "its field 'level' is missing");
    state_manifest_destroy(m);
}

static void test_absent_section(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct toy_state a;
    const struct state_compat none[] = {{.section = "toy"}, {NULL}};
    const struct state_policy p = {.compat = none, .reader = "virt-0.1"};
    toy_fill(&a);
    assert_null(state_encode(PATH, &toy_section, &a, &p, &e));
    expect_error(-1, &e, "virt-0.1 has no device with section 'toy'");
}

/* Any bytes at all as a device's payload: refused, or taken with every value in its range. */
static void test_nonsense(void **state)
{
    struct toy_state a, b;
    struct state_manifest *m;
    toy_fill(&a);
    a.event = a.mac[0] = 1;
    g_autoptr(GByteArray) bytes = encode(&toy_section, &a, NULL, &m, NULL);
    unsigned refused = 0, taken = 0;
    for (guint i = 0; i < bytes->len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            CLEANUP_ERR struct err e = ERR_INIT;
            bytes->data[i] ^= (uint8_t)(1 << bit);
            int rc = decode(m, &toy_section, bytes, NULL, &b, &e);
            bytes->data[i] ^= (uint8_t)(1 << bit);
            assert_true(rc < 0 ? err_is_set(&e) : b.level <= 15 && b.rx_len <= 16 && b.nqueues <= 4 && b.skew >= -5);
            *(rc < 0 ? &refused : &taken) += 1;
        }
    }
    assert_true(refused > 100 && taken > 100);
    for (guint n = 0; n < bytes->len; n++) {
        GByteArray part = {.data = bytes->data, .len = n};
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = decode(m, &toy_section, &part, NULL, &b, &e);
        assert_true(rc < 0 || b.event == 0 || b.mac[0] == 0); /* it may end between two subsections */
    }
    state_manifest_destroy(m);
}

static void test_hash(void **state)
{
    CLEANUP_FREE char *a = state_schema_hash(&toy_section), *b = state_schema_hash(&toy_section_1);
    struct state_section same = toy_section;
    CLEANUP_FREE char *c = state_schema_hash(&same);
    assert_int_equal(strlen(a), 64);
    assert_string_not_equal(a, b);
    assert_string_equal(a, c);
}

static void expect_schema(const char *text, const char *part)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(text);
    struct state_schema *s = state_schema_parse(o, &e);
    if (part) {
        assert_null(s);
        expect_error(-1, &e, part);
    } else {
        assert_non_null(s);
    }
    state_schema_destroy(s);
}

static void test_schemas(void **state)
{
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[]}", NULL);
    expect_schema("{\"section\":\"X\",\"version\":1,\"fields\":[]}", "it is not a name");
    expect_schema("{\"section\":\"x\",\"fields\":[]}", "there is no version");
    expect_schema("{\"section\":\"x\",\"version\":1}", "there is no list 'fields'");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"u9\"}]}", "type 'u9'");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"u8\",\"count\":0}]}",
                  "field 'a': count 0 is not within");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"u8\",\"count\":99999999}]}",
                  "count 99999999 is not within");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"u8\",\"used\":\"b\"}]}",
                  "no number named 'b' stands before it");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"struct\",\"fields\":[]}]}",
                  "the struct is empty");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[{\"name\":\"a\",\"type\":\"u8\"},{\"name\":\"a\","
                  "\"type\":\"u8\"}]}",
                  "field 'a' is there twice");
    expect_schema("{\"section\":\"x\",\"version\":1,\"fields\":[],\"subsections\":[{\"name\":\"s\",\"fields\":[]},"
                  "{\"name\":\"s\",\"fields\":[]}]}",
                  "subsection 's' is there twice");
    GString *deep = g_string_new("{\"section\":\"x\",\"version\":1,\"fields\":");
    for (int i = 0; i < 10; i++) {
        g_string_append(deep, "[{\"name\":\"a\",\"type\":\"struct\",\"fields\":");
    }
    g_string_append(deep, "[{\"name\":\"a\",\"type\":\"u8\"}]");
    for (int i = 0; i < 10; i++) {
        g_string_append(deep, "}]");
    }
    g_string_append(deep, "}");
    expect_schema(deep->str, "nested deeper");
    g_string_free(deep, TRUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),         cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_values),
        cmocka_unit_test(test_ranges),         cmocka_unit_test(test_older_reader), cmocka_unit_test(test_newer_writer),
        cmocka_unit_test(test_absent_section), cmocka_unit_test(test_nonsense),     cmocka_unit_test(test_hash),
        cmocka_unit_test(test_schemas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
