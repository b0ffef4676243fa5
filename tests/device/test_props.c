/* SPDX-License-Identifier: BSD-2-Clause */
/* Classes, properties, what goes wrong with them, and their help. */
#include "world.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

struct attempt {
    struct world *w;
    const char *json;
    int rc;
    struct err e;
};

static void try_it(void *arg)
{
    struct attempt *a = arg;
    struct device *d = NULL;
    struct json_object *o = json_tokener_parse(a->json);
    a->rc = device_create(&a->w->board, o, 0, &d, &a->e);
    if (a->rc == 0) {
        a->rc = device_realize(d, &a->e);
        device_destroy(d);
    }
    json_object_put(o);
}

static void open_disk(void *arg)
{
    world_open_disk(arg, NULL, NULL);
}

static void wrong_properties_are_named(void **state)
{
    static const char *const cases[][2] = {
        {"{\"driver\":\"virtio-blk-pcii\",\"drive\":\"disk\"}", "did you mean 'virtio-blk-pci'?"},
        {"{\"drive\":\"disk\"}", "'driver' is missing"},
        {"{\"driver\":\"virtio-blk-pci\",\"drivee\":\"disk\"}", "did you mean 'drive'?"},
        {"{\"driver\":\"virtio-blk-pci\"}", "drive property not set"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"nope\"}", "can't find value 'nope'"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"addr\":\"40\"}", "doesn't take value '40'"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"bus\":\"pci.9\"}", "Bus 'pci.9' not found"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"discard\":\"perhaps\"}", "expects 'on' or 'off'"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"werror\":\"retry\"}", "does not accept value 'retry'"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"logical_block_size\":\"3000\"}", "powers of two"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"queue-size\":100}", "not a power of two"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"queue-size\":4096}", "from 2 to 1024"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"iothread\":\"io7\"}", "no object iothread 'io7'"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"id\":\"7x\"}", "expects an identifier"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"disable-modern\":true}", "only the modern"},
        {"{\"driver\":\"virtio-blk-pci\",\"drive\":7}", "expected: string"},
        {"{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\",\"bus\":\"virtio-mmio-bus.9\"}", "not found"},
        {"{\"driver\":\"virtio-rng-pci\",\"rng\":\"nope\"}", "Device 'nope' not found"},
        {"{\"driver\":\"virtio-rng-pci\",\"period\":0}", "from 1 to"},
        {"{\"driver\":\"virtio-rng-device\",\"max-bytes\":0}", "from 1 to"},
        {"{\"driver\":\"virtio-rng-device\",\"bus\":\"virtio-mmio-bus.9\"}", "not found"},
    };
    struct world w;
    world_init(&w);
    world_run(&w, open_disk, &w);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct attempt a = {&w, cases[i][0], 0, ERR_INIT};
        world_run(&w, try_it, &a);
        assert_true(a.rc < 0);
        if (!strstr(err_text(&a.e), cases[i][1])) {
            fail_msg("%s: %s", cases[i][0], err_text(&a.e));
        }
        err_clear(&a.e);
    }
    struct attempt good = {&w, "{\"driver\":\"virtio-blk\",\"drive\":\"disk\",\"addr\":\"0x1f.0\",\"serial\":\"s\"}", 0,
                           ERR_INIT};
    world_run(&w, try_it, &good); /* and nothing of the failures is left behind */
    assert_int_equal(good.rc, 0);
    world_finish(&w);
}

static void values_and_defaults(void **state)
{
    struct world w;
    struct device *d = NULL;
    world_init(&w);
    struct json_object *o = json_tokener_parse("{\"driver\":\"virtio-blk-pci\",\"id\":\"d\",\"drive\":\"x\",\"logical_"
                                               "block_size\":\"4k\",\"addr\":\"06.1\",\"event_idx\":\"off\"}");
    assert_int_equal(device_create(&w.board, o, 0, &d, NULL), 0);
    assert_int_equal(device_int(d, "logical_block_size"), 4096);
    assert_int_equal(device_int(d, "addr"), 6 * 8 + 1);
    assert_false(device_bool(d, "event_idx"));
    assert_true(device_bool(d, "indirect_desc"));
    assert_null(device_str(d, "serial"));
    assert_string_equal(d->path, "/machine/peripheral/d");
    device_destroy(d);
    json_object_put(o);
    world_finish(&w);
}

struct again {
    struct world *w;
    struct json_object *first, *second;
};

/* Made, and made again from what it says of itself. */
static void make_twice(void *arg)
{
    struct again *a = arg;
    struct device *d = NULL;
    struct json_object *o =
        json_tokener_parse("{\"driver\":\"virtio-blk\",\"id\":\"d\",\"drive\":\"disk\",\"queue-size\":\"256\","
                           "\"discard\":\"on\",\"werror\":\"stop\"}");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(device_create(&a->w->board, i ? a->first : o, 0, &d, NULL), 0);
        assert_int_equal(device_realize(d, NULL), 0);
        *(i ? &a->second : &a->first) = device_options(d);
        device_destroy(d);
    }
    json_object_put(o);
}

static void options_make_it_again(void **state)
{
    struct world w;
    world_init(&w);
    world_run(&w, open_disk, &w);
    struct again a = {.w = &w};
    world_run(&w, make_twice, &a);
    struct json_object *want =
        json_tokener_parse("{\"driver\":\"virtio-blk-pci\",\"id\":\"d\",\"drive\":\"disk\",\"queue-size\":256,"
                           "\"werror\":\"stop\",\"addr\":\"00.0\"}");
    json_object_object_add(want, "addr", json_object_get(json_object_object_get(a.first, "addr")));
    if (!json_object_equal(a.first, want)) {
        fail_msg("%s", json_object_to_json_string(a.first));
    }
    assert_true(json_object_is_type(json_object_object_get(a.first, "addr"), json_type_string));
    assert_true(json_object_equal(a.first, a.second));
    json_object_put(want);
    json_object_put(a.first);
    json_object_put(a.second);
    world_finish(&w);
}

static void help_names_everything(void **state)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    device_help(f);
    fclose(f);
    for (unsigned i = 0; device_classes[i]; i++) {
        char *want = g_strdup_printf("name \"%s\", bus %s", device_classes[i]->name, device_classes[i]->bus);
        assert_non_null(strstr(text, want));
        g_free(want);
    }
    free(text);
    for (unsigned i = 0; device_classes[i]; i++) {
        f = open_memstream(&text, &len);
        device_class_help(device_classes[i], f);
        fclose(f);
        const struct device_prop *p;
        for (unsigned j = 0; (p = device_class_prop(device_classes[i], j)); j++) {
            char *want = g_strdup_printf("\n  %s=<", p->name);
            assert_non_null(strstr(text, want));
            g_free(want);
        }
        struct json_object *list = device_class_properties(device_classes[i]);
        assert_true(json_object_array_length(list) >= 5);
        json_object_put(list);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_properties_are_named),
        cmocka_unit_test(values_and_defaults),
        cmocka_unit_test(options_make_it_again),
        cmocka_unit_test(help_names_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
