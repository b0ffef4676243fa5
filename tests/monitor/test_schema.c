/* SPDX-License-Identifier: BSD-2-Clause */
/* The generated tables: the check of values, conversion of text, and the schema against what the program really has. */
#include "base/cleanup.h"
#include "base/json.h"
#include "base/objects.h"
#include "block/driver.h"
#include "config/vm_state.h"
#include "crypto/secret.h"
#include "loop/co.h"
#include "machine/vm.h"
#include "monitor/convert.h"
#include "monitor/hmp.h"
#include "monitor/wire.h"
#include "move/migrate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static struct json_object *json(const char *text)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct json_object *o = wire_parse(text, strlen(text), &e);
    assert_string_equal(err_is_set(&e) ? err_text(&e) : "", "");
    return o;
}

/* `want` is the error, or "". */
static void expect(const char *command, const char *args, const char *want)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json(args);
    const struct qmp_command *cmd = qmp_command_find(command);
    assert_non_null(cmd);
    int rc = schema_check(cmd->args, o, &e);
    assert_string_equal(err_is_set(&e) ? err_text(&e) : "", want);
    assert_int_equal(rc, want[0] ? -EINVAL : 0);
}

static void names_what_is_wrong(void **state)
{
    expect("block_resize", "{}", "Parameter 'size' is missing");
    expect("block_resize", "{'size': '1'}", "Invalid parameter type for 'size', expected: integer");
    expect("block_resize", "{'size': 1.5}", "Invalid parameter type for 'size', expected: integer");
    expect("block_resize", "{'size': 9223372036854775808}", "Invalid parameter type for 'size', expected: integer");
    expect("block_resize", "{'size': 1, 'device': 1}", "Invalid parameter type for 'device', expected: string");
    expect("block_resize", "{'size': 1, 'foo': 2}", "Parameter 'foo' is unexpected");
    expect("block_resize", "{'size': 1}", "");
    expect("query-name", "{'a': 1}", "Parameter 'a' is unexpected");
    expect("qmp_capabilities", "{'enable': 'oob'}", "Invalid parameter type for 'enable', expected: array");
    expect("qmp_capabilities", "{'enable': ['x']}", "Parameter 'enable[0]' does not accept value 'x'");
    expect("query-named-block-nodes", "{'flat': 1}", "Invalid parameter type for 'flat', expected: boolean");
}

static void names_nested_places(void **state)
{
    expect("blockdev-add", "{}", "Parameter 'driver' is missing");
    expect("blockdev-add", "{'driver': 'foo'}", "Parameter 'driver' does not accept value 'foo'");
    expect("blockdev-add", "{'driver': 'file'}", "Parameter 'filename' is missing");
    expect("blockdev-add", "{'driver': 'qcow2', 'file': {'driver': 'file'}}", "Parameter 'file.filename' is missing");
    expect("blockdev-add", "{'driver': 'qcow2', 'file': 1}",
           "Invalid parameter type for 'file', expected: BlockdevRef");
    expect("blockdev-add", "{'driver': 'null-co', 'foo': 1}", "Parameter 'foo' is unexpected");
    expect("blockdev-add", "{'driver': 'null-co', 'cache': {'direct': 'x'}}",
           "Invalid parameter type for 'cache.direct', expected: boolean");
    expect("blockdev-add", "{'driver': 'null-co', 'cache': {'foo': 1}}", "Parameter 'cache.foo' is unexpected");
    expect("blockdev-add", "{'driver': 'null-co', 'cache': 7}", "Invalid parameter type for 'cache', expected: object");
    expect("blockdev-add", "{'driver': 'null-co', 'latency-ns': -1}", "Parameter 'latency-ns' expects uint64");
    expect("blockdev-add", "{'driver': 'qcow2', 'file': 'f', 'backing': null, 'overlap-check': {'template': 'all'}}",
           "");
    expect("blockdev-add", "{'driver': 'qcow2', 'file': 'f', 'overlap-check': 'most'}",
           "Parameter 'overlap-check' does not accept value 'most'");
    expect("chardev-add", "{'id': 's', 'backend': {'type': 'socket', 'data': {'addr': {'type': 'unix', 'data': {}}}}}",
           "Parameter 'backend.data.addr.data.path' is missing");
    expect("device_add", "{'driver': 'x', 'anything': {'at': ['all']}}", "");
    expect("device_add", "{'driver': 1}", "Invalid parameter type for 'driver', expected: string");
}

static char *nested(unsigned depth)
{
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < depth; i++) {
        g_string_append(s, "{'driver': 'raw', 'file': ");
    }
    g_string_append(s, "'leaf'");
    for (unsigned i = 0; i < depth; i++) {
        g_string_append_c(s, '}');
    }
    return g_string_free(s, FALSE);
}

static int check_deep(void *arg)
{
    CLEANUP_FREE char *most = nested(256);
    CLEANUP_FREE char *more = nested(257);
    expect("blockdev-add", most, "");
    expect("blockdev-add", more, "Parameters are nested too deeply");
    return 0;
}

/* On a coroutine's small stack. */
static void survives_deep_options(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct loop *l = loop_create(LOOP_AUTO, &e);
    assert_non_null(l);
    co_run(l, check_deep, NULL);
    loop_destroy(l);
}

static void expect_converted(const char *command, const char *keyval, const char *want)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = keyval_parse(keyval, "driver", &e);
    assert_non_null(o);
    CLEANUP_JSON struct json_object *c = schema_convert(qmp_command_find(command)->args, o, &e);
    g_autoptr(GString) out = g_string_new(NULL);
    if (c) {
        wire_write(out, c, false);
    }
    assert_string_equal(c ? out->str : err_text(&e), want);
}

static void converts_text(void **state)
{
    expect_converted("blockdev-add", "null-co,size=4096,read-zeroes=on,node-name=7",
                     "{\"read-zeroes\": true, \"node-name\": \"7\", \"driver\": \"null-co\", \"size\": 4096}");
    expect_converted(
        "blockdev-add", "qcow2,file.driver=file,file.filename=1,file.read-only=off",
        "{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"1\", \"read-only\": false}}");
    expect_converted("blockdev-add", "qcow2,file=1,backing=2",
                     "{\"backing\": \"2\", \"driver\": \"qcow2\", \"file\": \"1\"}");
    expect_converted("blockdev-add", "null-co,size=0x10", "{\"driver\": \"null-co\", \"size\": 16}");
    expect_converted("blockdev-add", "null-co,size=x", "Parameter 'size' expects integer");
    expect_converted("blockdev-add", "null-co,read-only=maybe", "Parameter 'read-only' expects 'on' or 'off'");
    expect_converted("device_add", "virtio-blk-pci,drive=7", "{\"driver\": \"virtio-blk-pci\", \"drive\": \"7\"}");
}

/* --- the schema against the program
 * ------------------------------------------------------------------------------------ */

static void commands_are_sorted(void **state)
{
    for (const struct qmp_command *c = qmp_commands; c[0].name && c[1].name; c++) {
        assert_true(strcmp(c[0].name, c[1].name) < 0);
        assert_ptr_equal(qmp_command_find(c->name), c);
    }
    assert_null(qmp_command_find("no-such-command"));
    for (const struct qmp_event *v = qmp_events; v[0].name && v[1].name; v++) {
        assert_true(strcmp(v[0].name, v[1].name) < 0);
    }
}

/* Every name that the introspection uses is defined there, once; every command and event is there. */
static void introspection_is_closed(void **state)
{
    static const char *const refs[] = {"arg-type", "ret-type", "element-type", NULL};
    CLEANUP_JSON struct json_object *all = json(qmp_schema_json);
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    size_t n = json_object_array_length(all);
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(all, i);
        assert_true(g_hash_table_add(names, (char *)hmp_str(o, "name")));
    }
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(all, i);
        for (const char *const *r = refs; *r; r++) {
            assert_true(!hmp_any(o, *r) || g_hash_table_contains(names, hmp_str(o, *r)));
        }
        struct json_object *lists[] = {hmp_any(o, "members"), hmp_any(o, "variants")};
        for (size_t k = 0; k < G_N_ELEMENTS(lists); k++) {
            for (size_t m = 0; lists[k] && m < json_object_array_length(lists[k]); m++) {
                struct json_object *member = json_object_array_get_idx(lists[k], m);
                assert_true(!hmp_any(member, "type") || g_hash_table_contains(names, hmp_str(member, "type")));
            }
        }
    }
    for (const struct qmp_command *c = qmp_commands; c->name; c++) {
        assert_true(g_hash_table_contains(names, c->name));
    }
    for (const struct qmp_event *v = qmp_events; v->name; v++) {
        assert_true(g_hash_table_contains(names, v->name));
    }
}

static const struct schema_type *variant(const struct schema_type *t, const char *value)
{
    for (const struct schema_variant *v = t->variants; v->value; v++) {
        if (!strcmp(v->value, value)) {
            return v->type;
        }
    }
    return NULL;
}

static bool has_member(const struct schema_type *t, const char *name)
{
    for (const struct schema_member *m = t->members; m->name; m++) {
        if (!strcmp(m->name, name)) {
            return true;
        }
    }
    return false;
}

/* Options that are not for users: made by code alone. */
static bool is_internal(const char *option)
{
    /* filename: of null-co:// names; host, port, path: nbd's of old, on command lines alone */
    static const char *const internal[] = {"filename", "for-check", "host", "port", "path", NULL};
    return g_strv_contains(internal, option);
}

/* Everything that a driver takes can be said to blockdev-add, and the other way round. */
static void block_drivers_match(void **state)
{
    const struct schema_type *options = qmp_command_find("blockdev-add")->args;
    for (const struct schema_variant *v = options->variants; v->value; v++) {
        const struct block_driver *drv = driver_find(v->value);
        assert_non_null(drv);
        for (const struct schema_member *m = v->type->members; m->name; m++) {
            bool implied = !strcmp(m->name, "file") || !strcmp(m->name, "backing");
            bool known = implied || (drv->option_names && g_strv_contains(drv->option_names, m->name));
            if (!known) {
                fail_msg("driver '%s' does not take '%s'", v->value, m->name);
            }
        }
    }
    for (const struct block_driver *const *d = block_drivers; *d; d++) {
        const struct schema_type *t = variant(options, (*d)->name);
        if (!t && !strstr((*d)->name, "_top")) {
            fail_msg("driver '%s' is not in schema/blockdev.json", (*d)->name);
        }
        for (const char *const *o = (*d)->option_names; t && o && *o; o++) {
            if (!has_member(t, *o) && !is_internal(*o)) {
                fail_msg("option '%s' of driver '%s' is not in schema/blockdev.json", *o, (*d)->name);
            }
        }
    }
}

static void object_types_match(void **state)
{
    const struct schema_type *options = qmp_command_find("object-add")->args;
    size_t n = 0, kinds = 0;
    for (const struct schema_variant *v = options->variants; v->value; v++, n++) {
        bool found = false;
        for (const struct object_kind *const *k = object_kinds; *k; k++) {
            found |= !strcmp((*k)->name, v->value);
        }
        assert_true(found);
    }
    while (object_kinds[kinds]) {
        kinds++;
    }
    assert_int_equal(n, kinds);
}

/* --- handlers return what the schema says --------------------------------------------------------------------------
 */

static int call_all(void *arg)
{
    struct mon_env *env = arg;
    for (const struct qmp_command *cmd = qmp_commands; cmd->name; cmd++) {
        if (!g_str_has_prefix(cmd->name, "query-") && strcmp(cmd->name, "qom-list-types")) {
            continue;
        }
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_JSON struct json_object *ret = NULL;
        struct mon_ctx c = {.env = env};
        if (qmp_call(&c, cmd->name, NULL, &ret, &e) || schema_check(cmd->returns, ret, &e)) {
            fail_msg("%s: %s", cmd->name, err_text(&e));
        }
    }
    return 0;
}

static int add_things(void *arg)
{
    static const char *const lines[][2] = {
        {"blockdev-add", "{'driver': 'null-co', 'node-name': 'n0', 'size': 65536}"},
        {"blockdev-add", "{'driver': 'raw', 'node-name': 'n1', 'file': 'n0'}"},
        {"object-add", "{'qom-type': 'iothread', 'id': 'io'}"},
        {"object-add", "{'qom-type': 'throttle-group', 'id': 't', 'limits': {'bps-total': 1000}}"},
        {"object-add", "{'qom-type': 'secret', 'id': 's', 'data': 'aGk=', 'format': 'base64'}"},
        {"chardev-add", "{'id': 'c', 'backend': {'type': 'null', 'data': {}}}"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_JSON struct json_object *args = json(lines[i][1]);
        struct mon_ctx c = {.env = arg};
        if (qmp_call(&c, lines[i][0], args, NULL, &e)) {
            fail_msg("%s: %s", lines[i][0], err_text(&e));
        }
    }
    return 0;
}

static int make_backend(void *arg)
{
    struct mon_env *env = arg;
    struct backend *b;
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(backend_create(env->graph, "drive0", &b, &e), 0);
    assert_int_equal(backend_insert(b, node_find(env->graph, "n1"), true, false, &e), 0);
    return 0;
}

static int remove_things(void *arg)
{
    struct mon_env *env = arg;
    backend_destroy(backend_find(env->graph, "drive0"));
    static const char *const lines[][2] = {
        {"blockdev-del", "{'node-name': 'n1'}"}, {"blockdev-del", "{'node-name': 'n0'}"},
        {"object-del", "{'id': 'io'}"},          {"object-del", "{'id': 't'}"},
        {"object-del", "{'id': 's'}"},           {"chardev-remove", "{'id': 'c'}"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_JSON struct json_object *args = json(lines[i][1]);
        struct mon_ctx c = {.env = env};
        if (qmp_call(&c, lines[i][0], args, NULL, &e)) {
            fail_msg("%s: %s", lines[i][0], err_text(&e));
        }
    }
    return 0;
}

static int close_state(void *arg)
{
    vm_state_close(arg);
    return 0;
}

static int destroy_vm(void *arg)
{
    migrate_end(arg);
    vm_destroy(arg);
    return 0;
}

static void answers_match(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct loop *l = loop_create(LOOP_AUTO, &e);
    struct vm *vm = vm_create(l, NULL);
    struct mon_env env = {
        .loop = l, .bus = vm->bus, .graph = vm->graph, .jobs = vm->jobs, .vm = vm, .chardevs = vm->chardevs};
    env.objects = object_registry_create(l, object_kinds);
    graph_set_object_lookup(vm->graph, object_registry_lookup, env.objects);
    const struct vm_state_options so = {.release = "test", .vm = vm, .objects = env.objects, .nbd = &env.nbd};
    assert_int_equal(vm_state_open(&so, &env.state, NULL), 0);
    co_run(l, call_all, &env);
    co_run(l, add_things, &env);
    co_run(l, make_backend, &env);
    co_run(l, call_all, &env);
    const struct secret *s = object_registry_lookup(env.objects, "secret", "s");
    assert_int_equal(s->len, 2);
    assert_memory_equal(s->data, "hi", 3);
    assert_null(object_registry_lookup(env.objects, "secret", "t"));
    assert_non_null(graph_object(vm->graph, "throttle-group", "t"));
    co_run(l, remove_things, &env);
    co_run(l, close_state, env.state);
    env.state = NULL;
    env.vm = NULL;
    struct mon_ctx c = {.env = &env};
    assert_int_equal(qmp_call(&c, "cont", NULL, NULL, &e), -ENOENT); /* a daemon has no machine */
    assert_int_equal(e.cls, ERR_COMMAND_NOT_FOUND);
    co_run(l, destroy_vm, vm);
    object_registry_destroy(env.objects);
    loop_destroy(l);
}

/* --- the human monitor's tables
 * --------------------------------------------------------------------------------------- */

static void hmp_names_are_unique(const struct hmp_command *const *tables)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (; *tables; tables++) {
        for (const struct hmp_command *c = *tables; c->name; c++) {
            g_auto(GStrv) all = g_strsplit(c->name, "|", -1);
            for (char **n = all; *n; n++) {
                assert_true(g_hash_table_add(names, g_strdup(*n)));
            }
            assert_non_null(c->args_type);
            assert_non_null(c->params);
            assert_true(c->help && c->help[0]);
            assert_non_null(c->call);
        }
    }
}

static void human_tables_are_sound(void **state)
{
    hmp_names_are_unique(hmp_tables);
    hmp_names_are_unique(hmp_info_tables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_what_is_wrong),   cmocka_unit_test(names_nested_places),
        cmocka_unit_test(survives_deep_options), cmocka_unit_test(converts_text),
        cmocka_unit_test(commands_are_sorted),   cmocka_unit_test(introspection_is_closed),
        cmocka_unit_test(block_drivers_match),   cmocka_unit_test(object_types_match),
        cmocka_unit_test(answers_match),         cmocka_unit_test(human_tables_are_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
