/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A saved state of every released machine type, kept in tests/move/golden: it loads, the guest's driver goes on with
 * what it had, and saved again each device's values are the same. They are only ever added: STERNA_MAKE_GOLDEN=1 writes
 * those that are not there.
 *
 *     test_golden FOLDER
 */
#include "../machine/side.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/graph.h"
#include "machine/machine.h"
#include "move/move.h"
#include "state/device.h"
#include "state/fd.h"
#include "state/section.h"
#include "state/stream.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB   (1ull << 20)
#define RAM   0x80000000ull
#define RINGS (RAM + MIB)
#define UART  0x10000000ull
#define RTC   0x101000ull
#define PLIC  0xc000000ull
#define ECAM  0x30008000ull /* slot 1 */
#define BAR   0x40000000ull

struct side {
    struct loop *loop;
    struct vm *vm;
    const char *type, *file;
    struct err e;
};

/* --- a machine ---------------------------------------------------------------------------------------------------- */

static int make(void *arg)
{
    struct side *s = arg;
    const struct machine_config c = {.type = s->type, .accel = "qtest", .harts = 2, .ram_size = 16 * MIB};
    struct node *n = NULL;
    CLEANUP_JSON struct json_object *o =
        json_tokener_parse("{\"driver\":\"null-co\",\"node-name\":\"n0\",\"size\":1048576,\"read-zeroes\":true}");
    CLEANUP_JSON struct json_object *d =
        json_tokener_parse("{\"driver\":\"virtio-blk-pci\",\"id\":\"disk0\",\"drive\":\"n0\",\"addr\":\"1\"}");
    int rc = vm_set_machine(s->vm, &c, &s->e);
    rc = rc < 0 ? rc : node_open(s->vm->graph, o, &n, &s->e);
    if (rc == 0) {
        n->monitor_owned = true;
        rc = vm_device_add(s->vm, d, &s->e);
    }
    return rc < 0 ? rc : vm_start(s->vm, VM_BEGIN_RUNNING, &s->e);
}

static void open_side(struct side *s, const char *type)
{
    *s = (struct side){.type = type};
    s->loop = loop_create(LOOP_AUTO, NULL);
    s->vm = vm_create(s->loop, NULL);
    if (co_run(s->loop, make, s) < 0) {
        fail_msg("%s: %s", type, err_text(&s->e));
    }
}

static void close_side(struct side *s)
{
    side_end(s->loop, s->vm);
    err_clear(&s->e);
}

static uint64_t rd(struct side *s, uint64_t gpa, unsigned size)
{
    uint64_t v = 0;
    assert_true(mmio_read(s->vm->mem, gpa, size, &v));
    return v;
}

static void wr(struct side *s, uint64_t gpa, uint64_t val, unsigned size)
{
    assert_true(mmio_write(s->vm->mem, gpa, size, val));
}

static uint8_t *ram(struct side *s, uint64_t gpa)
{
    return guest_ram_ptr(s->vm->mem, gpa, 16);
}

static unsigned reg(struct side *s, const char *name)
{
    size_t n;
    const struct accel_reg *r = s->vm->accel_ops->reg_table(s->vm->accel, &n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(r[i].name, name)) {
            return r[i].id;
        }
    }
    fail_msg("no register %s", name);
    return 0;
}

/* --- what its guest has done -------------------------------------------------------------------------------------- */

static void desc(uint8_t *at, uint64_t addr, uint32_t len, uint32_t flags_next)
{
    store_le64(at, addr);
    store_le32(at + 8, len);
    store_le32(at + 12, flags_next);
}

/* Reads a sector. */
static void request(struct side *s)
{
    uint8_t *avail = ram(s, RINGS + 0x1000);
    uint16_t idx = load_le16(avail + 2);
    memset(ram(s, RINGS + 0x4000), 0, 16);
    desc(ram(s, RINGS), RINGS + 0x4000, 16, 1 | 1 << 16);
    desc(ram(s, RINGS + 16), RINGS + 0x5000, 512, 3 | 2 << 16);
    desc(ram(s, RINGS + 32), RINGS + 0x4100, 1, 2);
    *ram(s, RINGS + 0x4100) = 0xee;
    store_le16(avail + 4 + 2 * (idx % 4), 0);
    store_le16(avail + 2, (uint16_t)(idx + 1));
    wr(s, BAR + 0x3000, 0, 4);
    side_settle(s->loop);
    assert_int_equal(*ram(s, RINGS + 0x4100), 0);
    assert_int_equal(load_le16(ram(s, RINGS + 0x2000) + 2), (uint16_t)(idx + 1));
}

static void start_driver(struct side *s)
{
    wr(s, ECAM + 0x20, BAR, 4);
    wr(s, ECAM + 4, 6, 2);
    wr(s, BAR + 20, 3, 1);
    wr(s, BAR + 8, 0, 4);
    wr(s, BAR + 12, 1u << 9 | 1u << 11, 4);
    wr(s, BAR + 8, 1, 4);
    wr(s, BAR + 12, 1, 4);
    wr(s, BAR + 20, 11, 1);
    wr(s, BAR + 24, 4, 2);
    wr(s, BAR + 32, RINGS, 4);
    wr(s, BAR + 40, RINGS + 0x1000, 4);
    wr(s, BAR + 48, RINGS + 0x2000, 4);
    wr(s, BAR + 28, 1, 2);
    wr(s, BAR + 20, 15, 1);
    wr(s, BAR + 0x2000 + 32, 0, 1); /* write through */
    request(s);
}

static void live(struct side *s)
{
    guest_clock_step(&s->vm->clock, 123456789);
    wr(s, UART + 7, 0x5a, 1);
    wr(s, UART + 2, 1, 1);
    wr(s, UART + 4, 0x10, 1);
    wr(s, UART, 'q', 1); /* comes back, and waits to be read */
    wr(s, RTC + 12, 0x7fffffff, 4);
    wr(s, RTC + 8, 1, 4);
    wr(s, RTC + 16, 1, 4);
    wr(s, PLIC + 4 * 33, 5, 4);
    wr(s, PLIC + 0x2084, 2, 4); /* source 33 for hart 1 */
    s->vm->accel_ops->set_reg(s->vm->accel, 1, reg(s, "x5"), 0x1234567890);
    s->vm->accel_ops->set_reg(s->vm->accel, 0, reg(s, "sscratch"), 77);
    memcpy(ram(s, RAM + 5 * MIB), "sterna", 7);
    start_driver(s);
}

static void lives_on(struct side *s)
{
    assert_string_equal((char *)ram(s, RAM + 5 * MIB), "sterna");
    assert_true(guest_clock_ns(&s->vm->clock) == 123456789);
    assert_int_equal(rd(s, UART + 7, 1), 0x5a);
    assert_int_equal(rd(s, UART, 1), 'q');
    assert_int_equal(rd(s, RTC + 12, 4), 0x7fffffff);
    assert_int_equal(rd(s, RTC + 24, 4), 1);
    assert_true(s->vm->accel_ops->get_reg(s->vm->accel, 1, reg(s, "x5")) == 0x1234567890);
    assert_int_equal(s->vm->accel_ops->get_reg(s->vm->accel, 0, reg(s, "sscratch")), 77);
    assert_int_equal(rd(s, BAR + 0x2000 + 32, 1), 0);
    assert_true(s->vm->accel_ops->get_reg(s->vm->accel, 1, reg(s, "sip")) & 1 << 9);
    assert_int_equal(rd(s, PLIC + 0x201004, 4), 33);
    assert_int_equal(rd(s, BAR + 0x1000, 1), 1); /* and the interrupt is gone with that */
    wr(s, PLIC + 0x201004, 33, 4);
    assert_false(s->vm->accel_ops->get_reg(s->vm->accel, 1, reg(s, "sip")) & 1 << 9);
    request(s);
}

/* --- files -------------------------------------------------------------------------------------------------------- */

static int save(void *arg)
{
    struct side *s = arg;
    struct vm_save *v = NULL;
    struct move_file *f = NULL;
    struct move_sink to;
    const struct vm_save_opts o = {.compress = true};
    int rc = vm_save_create(s->vm, &o, &v, &s->e);
    if (rc == 0) {
        vm_quiesce(s->vm);
        rc = vm_save_instant(v, &s->e);
        vm_unquiesce(s->vm);
    }
    rc = rc < 0 ? rc : move_file_create(s->file, &f, &s->e);
    if (rc == 0) {
        move_file_sink(f, &to);
        rc = vm_save_write(v, &to, &s->e);
        rc = rc < 0 ? rc : move_file_commit(f, &s->e);
    }
    move_file_close(f);
    vm_save_destroy(v);
    return rc;
}

static int load(void *arg)
{
    struct side *s = arg;
    struct vm_load *l = NULL;
    struct move_file *f = NULL;
    struct move_source from;
    const struct vm_load_opts o = {0};
    int rc = move_file_open(s->file, &f, &s->e);
    if (rc == 0) {
        move_file_source(f, &from);
        rc = vm_load_create(s->vm, &o, &from, &l, &s->e);
    }
    if (rc == 0) {
        vm_quiesce(s->vm);
        rc = vm_load_prepare(l, &s->e);
        if (rc == 0) {
            vm_load_commit(l);
        }
        vm_unquiesce(s->vm);
        rc = rc < 0 ? rc : vm_load_finish(l, &s->e);
    }
    vm_load_destroy(l);
    move_file_close(f);
    return rc;
}

static void with_file(struct side *s, const char *file, int (*fn)(void *side))
{
    s->file = file;
    if (co_run(s->loop, fn, s) < 0) {
        fail_msg("%s: %s", file, err_text(&s->e));
    }
}

static void put_json(void *o)
{
    json_object_put(o);
}

static void add_device(GHashTable *all, const struct state_reader *r, const GByteArray *payload)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_device *d = state_device_read(state_reader_manifest(r), payload->data, payload->len, &e);
    if (!d) {
        fail_msg("%s", err_text(&e));
    }
    g_hash_table_insert(all, g_strdup(d->path), state_device_json(d));
    state_device_destroy(d);
}

/* Path → what is said of each device in a file. */
static GHashTable *devices_of(const char *file)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_fd fd;
    assert_int_equal(state_fd_open(&fd, file, &e), 0);
    struct state_source src = state_fd_source(&fd);
    struct state_reader *r = state_reader_create(&src, &e);
    GHashTable *all = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, put_json);
    struct state_chunk c;
    assert_non_null(r);
    while (state_read_next(r, &c) == 1) {
        const GByteArray *b = c.type == STATE_DEVS ? state_read_payload(r, STATE_DEVICE_MAX) : NULL;
        if (b) {
            add_device(all, r, b);
        }
    }
    assert_int_equal(state_reader_error(r, &e), 0);
    state_reader_destroy(r);
    state_fd_finish(&fd);
    return all;
}

/* Fields that a reader may do without have come since, and may come. */
static bool still_says(struct json_object *now, struct json_object *kept)
{
    if (!json_object_is_type(kept, json_type_object) || !json_object_is_type(now, json_type_object)) {
        return json_object_equal(now, kept);
    }
    json_object_object_foreach(kept, key, value)
    {
        struct json_object *other;
        if (!json_object_object_get_ex(now, key, &other) || !still_says(other, value)) {
            return false;
        }
    }
    return true;
}

static void same_devices(const char *kept, const char *now)
{
    GHashTable *a = devices_of(kept), *b = devices_of(now);
    GHashTableIter it;
    gpointer path, device;
    assert_true(g_hash_table_size(a) == 9);
    assert_int_equal(g_hash_table_size(a), g_hash_table_size(b));
    g_hash_table_iter_init(&it, a);
    while (g_hash_table_iter_next(&it, &path, &device)) {
        if (!still_says(g_hash_table_lookup(b, path), device)) {
            fail_msg("%s: saved again, %s is different", kept, (char *)path);
        }
    }
    g_hash_table_destroy(a);
    g_hash_table_destroy(b);
}

static void kept_states_load(void **state)
{
    const char *folder = *state;
    for (const struct machine_release *r = machine_releases; r->info; r++) {
        struct side s;
        CLEANUP_FREE char *file = g_strdup_printf("%s/%s.state", folder, r->info->name);
        CLEANUP_FREE char *dir = g_dir_make_tmp("sterna-golden-XXXXXX", NULL);
        CLEANUP_FREE char *again = g_strdup_printf("%s/again", dir);
        if (getenv("STERNA_MAKE_GOLDEN") && !g_file_test(file, G_FILE_TEST_EXISTS)) {
            open_side(&s, r->info->name);
            live(&s);
            with_file(&s, file, save);
            close_side(&s);
        }
        open_side(&s, r->info->name);
        with_file(&s, file, load);
        with_file(&s, again, save);
        same_devices(file, again);
        lives_on(&s);
        close_side(&s);
        unlink(again);
        rmdir(dir);
    }
}

static void write_whole(const char *file, const char *data, gsize len)
{
    CLEANUP_CLOSE int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
}

/* Refused, whichever byte it is, and the machine goes on as if nothing had been. */
static void a_changed_byte_is_refused(void **state)
{
    const char *name = machine_releases[0].info->name;
    CLEANUP_FREE char *file = g_strdup_printf("%s/%s.state", (const char *)*state, name), *data = NULL;
    CLEANUP_FREE char *dir = g_dir_make_tmp("sterna-golden-XXXXXX", NULL);
    CLEANUP_FREE char *changed = g_strdup_printf("%s/changed", dir);
    CLEANUP_FREE uint8_t *then = g_malloc(16 * MIB);
    struct side s;
    gsize len;
    assert_true(g_file_get_contents(file, &data, &len, NULL));
    open_side(&s, name);
    live(&s);
    memcpy(then, ram(&s, RAM), 16 * MIB);
    s.file = changed;
    for (gsize i = 0; i < len; i += getenv("STERNA_LONG") ? 1 : 7) {
        data[i] ^= (char)(1 << i % 8);
        write_whole(changed, data, len);
        data[i] ^= (char)(1 << i % 8);
        if (co_run(s.loop, load, &s) >= 0 || !err_is_set(&s.e)) {
            fail_msg("%s: loaded with another byte at %zu", file, i);
        }
        err_clear(&s.e);
    }
    assert_memory_equal(ram(&s, RAM), then, 16 * MIB);
    lives_on(&s);
    close_side(&s);
    unlink(changed);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_changed_byte_is_refused, argc > 1 ? argv[1] : NULL),
        cmocka_unit_test_prestate(kept_states_load, argc > 1 ? argv[1] : NULL),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
