/* SPDX-License-Identifier: BSD-2-Clause */
/* The virt board without running harts: device tree, boot files, run states and their events. */
#include "machine/vm.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "char/char.h"
#include "guest/mem.h"
#include "machine/qtest.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <libfdt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define MIB (1ull << 20)

struct world {
    struct loop *loop;
    struct vm *vm;
    struct machine_config config;
    struct err err;
    int rc;
    bool paused;
    GString *events;               /* "NAME{data} " */
    void (*then)(struct world *w); /* [co] after the start */
};

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct world *w = opaque;
    g_string_append_printf(w->events, "%s%s ", name,
                           data ? json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN) : "");
}

static void begin(struct world *w)
{
    memset(w, 0, sizeof(*w));
    w->loop = loop_create(LOOP_AUTO, NULL);
    w->vm = vm_create(w->loop, NULL);
    w->events = g_string_new("");
    event_subscribe(w->vm->bus, on_event, w);
    w->config = (struct machine_config){.type = "virt", .accel = "qtest", .harts = 2, .ram_size = 256 * MIB};
}

static int end_vm(void *arg)
{
    vm_destroy(arg);
    return 0;
}

static void finish(struct world *w)
{
    co_run(w->loop, end_vm, w->vm);
    loop_destroy(w->loop);
    g_string_free(w->events, true);
    err_clear(&w->err);
}

static int set_and_start(void *arg)
{
    struct world *w = arg;
    w->rc = vm_set_machine(w->vm, &w->config, &w->err);
    if (w->rc == 0) {
        w->rc = vm_start(w->vm, w->paused ? VM_BEGIN_PAUSED : VM_BEGIN_RUNNING, &w->err);
    }
    if (w->rc == 0 && w->then) {
        w->then(w);
    }
    return w->rc;
}

static int start(struct world *w)
{
    return co_run(w->loop, set_and_start, w);
}

static char *temp_file(const void *data, size_t len)
{
    char *path = g_strdup("/tmp/sterna-boot-XXXXXX");
    int fd = mkstemp(path);
    assert_true(write(fd, data, len) == (ssize_t)len);
    close(fd);
    return path;
}

static void drop_file(char *path)
{
    unlink(path);
    g_free(path);
}

/* --- device tree
 * ------------------------------------------------------------------------------------------------------- */

static void *dump(struct world *w)
{
    char *path = g_strdup("/tmp/sterna-dtb-XXXXXX"), *blob;
    gsize len;
    close(mkstemp(path));
    assert_int_equal(vm_dump_dtb(w->vm, path, NULL), 0);
    assert_true(g_file_get_contents(path, &blob, &len, NULL));
    assert_int_equal(fdt_check_full(blob, len), 0);
    drop_file(path);
    return blob;
}

static void expect_cells(const void *fdt, const char *path, const char *prop, const uint32_t *cells, int n)
{
    int len, at = fdt_path_offset(fdt, path);
    if (at < 0) {
        fail_msg("no node %s", path);
    }
    const fdt32_t *v = fdt_getprop(fdt, at, prop, &len);
    if (!v || len != 4 * n) {
        fail_msg("%s:%s: %d bytes", path, prop, len);
    }
    for (int i = 0; i < n; i++) {
        if (fdt32_to_cpu(v[i]) != cells[i]) {
            fail_msg("%s:%s[%d] is %x, not %x", path, prop, i, fdt32_to_cpu(v[i]), cells[i]);
        }
    }
}
#define EXPECT(fdt, path, prop, ...)                                                                                   \
    expect_cells(fdt, path, prop, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

static uint32_t phandle(const void *fdt, const char *path)
{
    return fdt_get_phandle(fdt, fdt_path_offset(fdt, path));
}

static void tree_is_that_of_qemus_board(void **state)
{
    struct world w;
    begin(&w);
    w.paused = true;
    assert_int_equal(start(&w), 0);
    CLEANUP_FREE void *t = dump(&w);
    uint32_t plic = phandle(t, "/soc/plic@c000000");
    EXPECT(t, "/memory@80000000", "reg", 0, 0x80000000, 0, 256 * MIB);
    EXPECT(t, "/cpus", "timebase-frequency", 10000000);
    EXPECT(t, "/soc/serial@10000000", "reg", 0, 0x10000000, 0, 0x100);
    EXPECT(t, "/soc/serial@10000000", "interrupts", 10);
    EXPECT(t, "/soc/serial@10000000", "interrupt-parent", plic);
    EXPECT(t, "/soc/serial@10000000", "clock-frequency", 3686400);
    EXPECT(t, "/soc/rtc@101000", "interrupts", 11);
    EXPECT(t, "/soc/plic@c000000", "reg", 0, 0xc000000, 0, 0x600000);
    EXPECT(t, "/soc/plic@c000000", "riscv,ndev", 96);
    EXPECT(t, "/soc/plic@c000000", "interrupts-extended", phandle(t, "/cpus/cpu@0/interrupt-controller"), 9,
           phandle(t, "/cpus/cpu@1/interrupt-controller"), 9);
    EXPECT(t, "/soc/virtio_mmio@10001000", "interrupts", 1);
    EXPECT(t, "/soc/virtio_mmio@10008000", "interrupts", 8);
    EXPECT(t, "/soc/pci@30000000", "reg", 0, 0x30000000, 0, 0x10000000);
    EXPECT(t, "/soc/pci@30000000", "bus-range", 0, 0xff);
    EXPECT(t, "/soc/pci@30000000", "interrupt-map-mask", 0x1800, 0, 0, 7);
    EXPECT(t, "/soc/pci@30000000", "ranges", 0x1000000, 0, 0, 0, 0x3000000, 0, 0x10000, 0x2000000, 0, 0x40000000, 0,
           0x40000000, 0, 0x40000000, 0x3000000, 4, 0, 4, 0, 4, 0);
    EXPECT(t, "/poweroff", "value", 0x5555);
    EXPECT(t, "/poweroff", "regmap", phandle(t, "/soc/test@100000"));
    EXPECT(t, "/reboot", "value", 0x7777);
    EXPECT(t, "/cpus/cpu-map/cluster0/core1", "cpu", phandle(t, "/cpus/cpu@1"));
    const fdt32_t *map = fdt_getprop(t, fdt_path_offset(t, "/soc/pci@30000000"), "interrupt-map", NULL);
    assert_int_equal(fdt32_to_cpu(map[5]), 32);
    assert_int_equal(fdt32_to_cpu(map[6 * 7 + 5]), 32); /* slot 1, INTD */
    assert_int_equal(fdt_path_offset(t, "/soc/clint@2000000"), -FDT_ERR_NOTFOUND);
    /* Linux names disks in this order */
    int first = fdt_path_offset(t, "/soc/virtio_mmio@10008000"), last = fdt_path_offset(t, "/soc/virtio_mmio@10001000");
    assert_true(first < last);
    finish(&w);
}

static void rng_seed_is_new_each_time(void **state)
{
    struct world w;
    begin(&w);
    w.paused = true;
    assert_int_equal(start(&w), 0);
    CLEANUP_FREE void *a = dump(&w);
    CLEANUP_FREE void *b = dump(&w);
    int la, lb;
    const void *sa = fdt_getprop(a, fdt_path_offset(a, "/chosen"), "rng-seed", &la);
    const void *sb = fdt_getprop(b, fdt_path_offset(b, "/chosen"), "rng-seed", &lb);
    assert_int_equal(la, 32);
    assert_int_equal(lb, 32);
    assert_memory_not_equal(sa, sb, 32);
    finish(&w);
}

/* --- boot files
 * -------------------------------------------------------------------------------------------------------- */

static uint8_t *make_image(size_t len, uint64_t image_size)
{
    uint8_t *img = g_malloc0(len);
    memset(img + 64, 0x13, len - 64);
    store_le64(img + 8, 0x200000);
    store_le64(img + 16, image_size);
    memcpy(img + 0x30, "RISCV\0\0\0RSC\x05", 12);
    return img;
}

static void image_and_initrd_are_placed(void **state)
{
    struct world w;
    CLEANUP_FREE uint8_t *img = make_image(100000, 3 * MIB);
    char *kernel = temp_file(img, 100000), *initrd = temp_file("initrd!", 7);
    begin(&w);
    w.paused = true;
    w.config.kernel = kernel;
    w.config.initrd = initrd;
    w.config.append = "quiet splash";
    assert_int_equal(start(&w), 0);
    assert_memory_equal(guest_ram_ptr(w.vm->mem, 0x80200000, 100000), img, 100000);
    const uint64_t at = 0x80200000 + 128 * MIB;
    assert_memory_equal(guest_ram_ptr(w.vm->mem, at, 7), "initrd!", 7);
    const void *t = guest_ram_ptr(w.vm->mem, 0x80000000 + 254 * MIB, 2 * MIB);
    assert_int_equal(fdt_check_full(t, 2 * MIB), 0);
    EXPECT(t, "/chosen", "linux,initrd-start", 0, (uint32_t)at);
    EXPECT(t, "/chosen", "linux,initrd-end", 0, (uint32_t)at + 7);
    assert_string_equal(fdt_getprop(t, fdt_path_offset(t, "/chosen"), "bootargs", NULL), "quiet splash");
    finish(&w);
    drop_file(kernel);
    drop_file(initrd);
}

static void gzipped_image_is_unpacked(void **state)
{
    struct world w;
    CLEANUP_FREE uint8_t *img = make_image(100000, 0);
    char *kernel = temp_file("", 0);
    gzFile z = gzopen(kernel, "wb");
    gzwrite(z, img, 100000);
    gzclose(z);
    begin(&w);
    w.paused = true;
    w.config.kernel = kernel;
    assert_int_equal(start(&w), 0);
    assert_memory_equal(guest_ram_ptr(w.vm->mem, 0x80200000, 100000), img, 100000);
    finish(&w);
    struct stat st;
    assert_int_equal(stat(kernel, &st), 0);
    assert_int_equal(truncate(kernel, st.st_size - 20), 0);
    begin(&w);
    w.config.kernel = kernel;
    assert_true(start(&w) < 0);
    assert_non_null(strstr(err_text(&w.err), "truncated"));
    finish(&w);
    drop_file(kernel);
}

static void expect_failure(struct world *w, const char *text)
{
    assert_true(start(w) < 0);
    if (!strstr(err_text(&w->err), text)) {
        fail_msg("'%s' does not say '%s'", err_text(&w->err), text);
    }
    finish(w);
}

static void bad_boot_files_are_named(void **state)
{
    struct world w;
    CLEANUP_FREE uint8_t *img = make_image(4096, 300 * MIB);
    char *big = temp_file(img, 4096), *junk = temp_file(img, 8), *empty = temp_file("", 0);
    memset(img + 0x30, 0, 16);
    char *foreign = temp_file(img, 4096);
    begin(&w);
    w.config.kernel = "/nonexistent/Image";
    expect_failure(&w, "could not load kernel '/nonexistent/Image': No such file");
    begin(&w);
    w.config.kernel = "/tmp";
    expect_failure(&w, "not a regular file");
    begin(&w);
    w.config.kernel = empty;
    expect_failure(&w, "the file is empty");
    begin(&w);
    w.config.kernel = junk;
    expect_failure(&w, "truncated: 8 bytes");
    begin(&w);
    w.config.kernel = foreign;
    expect_failure(&w, "is not a RISC-V kernel");
    begin(&w);
    w.config.kernel = big;
    expect_failure(&w, "does not fit");
    begin(&w);
    w.config.initrd = empty;
    expect_failure(&w, "-initrd only allowed with -kernel");
    begin(&w);
    w.config.dtb = foreign;
    expect_failure(&w, "is not a device tree");
    begin(&w);
    w.config.harts = 9;
    expect_failure(&w, "Invalid SMP CPUs 9");
    begin(&w);
    w.config.type = "vitr";
    expect_failure(&w, "did you mean 'virt'?");
    begin(&w);
    w.config.options = json_tokener_parse("{\"dumpdbt\":\"x\"}");
    expect_failure(&w, "did you mean 'dumpdtb'?");
    json_object_put(w.config.options);
    begin(&w);
    w.config.accel = "kvm";
    expect_failure(&w, "invalid accelerator kvm");
    drop_file(big);
    drop_file(junk);
    drop_file(empty);
    drop_file(foreign);
}

static void users_tree_gets_chosen(void **state)
{
    struct world w;
    begin(&w);
    w.paused = true;
    assert_int_equal(start(&w), 0);
    CLEANUP_FREE void *t = dump(&w);
    finish(&w);
    CLEANUP_FREE uint8_t *img = make_image(4096, 0);
    fdt_setprop_inplace_u32(t, fdt_path_offset(t, "/cpus"), "timebase-frequency", 4711);
    char *dtb = temp_file(t, fdt_totalsize(t)), *kernel = temp_file(img, 4096);
    begin(&w);
    w.paused = true;
    w.config.dtb = dtb;
    w.config.kernel = kernel;
    w.config.append = "hello";
    assert_int_equal(start(&w), 0);
    const void *own = guest_ram_ptr(w.vm->mem, 0x80000000 + 254 * MIB, 2 * MIB);
    EXPECT(own, "/cpus", "timebase-frequency", 4711);
    assert_string_equal(fdt_getprop(own, fdt_path_offset(own, "/chosen"), "bootargs", NULL), "hello");
    finish(&w);
    drop_file(dtb);
    drop_file(kernel);
}

/* --- run states
 * --------------------------------------------------------------------------------------------------------- */

static void expect_events(struct world *w, const char *want)
{
    assert_string_equal(w->events->str, want);
    g_string_truncate(w->events, 0);
}

static void walk_states(struct world *w)
{
    struct vm *vm = w->vm;
    assert_int_equal(vm->state, RUN_PRELAUNCH);
    expect_events(w, "");
    assert_int_equal(vm_cont(vm, NULL), 0);
    assert_int_equal(vm_cont(vm, NULL), 0);
    assert_int_equal(vm->state, RUN_RUNNING);
    expect_events(w, "RESUME ");
    vm_stop(vm, RUN_PAUSED);
    vm_stop(vm, RUN_PAUSED);
    assert_int_equal(vm->state, RUN_PAUSED);
    expect_events(w, "STOP ");
    vm_quiesce(vm);
    vm_quiesce(vm);
    assert_int_equal(vm_unquiesce(vm), 0);
    assert_int_equal(vm_unquiesce(vm), 0); /* it is stopped anyhow */
    assert_int_equal(vm_cont(vm, NULL), 0);
    vm_quiesce(vm);
    assert_true(vm_unquiesce(vm) > 0);
    expect_events(w, "RESUME ");
    vm_reset(vm, false);
    assert_int_equal(vm->state, RUN_RUNNING);
    expect_events(w, "RESET{\"guest\":false,\"reason\":\"host-qmp-system-reset\"} ");
    vm_powerdown(vm);
    expect_events(w, "POWERDOWN ");
    vm_stop(vm, RUN_IO_ERROR);
    assert_int_equal(vm_cont(vm, NULL), 0);
    vm_stop(vm, RUN_INTERNAL_ERROR);
    assert_true(vm_cont(vm, &w->err) < 0);
    assert_string_equal(err_text(&w->err), "Resetting the Virtual Machine is required");
    vm_reset(vm, false);
    assert_int_equal(vm->state, RUN_PRELAUNCH);
    assert_int_equal(vm_cont(vm, NULL), 0);
}

static void run_states_and_events(void **state)
{
    struct world w;
    begin(&w);
    w.paused = true;
    w.then = walk_states;
    assert_int_equal(start(&w), 0);
    finish(&w);
}

static void let_it_happen(struct world *w)
{
    for (unsigned i = 0; i < 50; i++) {
        loop_turn(w->loop, false);
        usleep(100);
    }
}

static void guest_powers_off(void **state)
{
    struct world w;
    begin(&w);
    assert_int_equal(start(&w), 0);
    g_string_truncate(w.events, 0);
    mmio_write(w.vm->mem, 0x100000, 4, 0x33333 + (6u << 16)); /* fail, exit code 9 */
    loop_run(w.loop);
    assert_true(w.vm->quit_requested);
    assert_int_equal(w.vm->exit_code, 9);
    expect_events(&w, "SHUTDOWN{\"guest\":true,\"reason\":\"guest-shutdown\"} STOP ");
    finish(&w);
}

static void no_shutdown_stays(void **state)
{
    struct world w;
    begin(&w);
    w.vm->no_shutdown = true;
    assert_int_equal(start(&w), 0);
    mmio_write(w.vm->mem, 0x100000, 4, 0x5555);
    let_it_happen(&w);
    assert_false(w.vm->quit_requested);
    assert_int_equal(w.vm->state, RUN_SHUTDOWN);
    finish(&w);
}

static void no_reboot_ends(void **state)
{
    struct world w;
    begin(&w);
    w.vm->no_reboot = true;
    assert_int_equal(start(&w), 0);
    g_string_truncate(w.events, 0);
    mmio_write(w.vm->mem, 0x100000, 4, 0x7777);
    loop_run(w.loop);
    assert_int_equal(w.vm->exit_code, 0);
    expect_events(&w, "SHUTDOWN{\"guest\":true,\"reason\":\"guest-reset\"} STOP ");
    finish(&w);
}

static void guest_resets(void **state)
{
    struct world w;
    CLEANUP_FREE uint8_t *img = make_image(4096, 0);
    char *kernel = temp_file(img, 4096);
    begin(&w);
    w.config.kernel = kernel;
    assert_int_equal(start(&w), 0);
    memset(guest_ram_ptr(w.vm->mem, 0x80200000, 4096), 0xff, 4096);
    g_string_truncate(w.events, 0);
    mmio_write(w.vm->mem, 0x100000, 4, 0x7777);
    let_it_happen(&w);
    expect_events(&w, "RESET{\"guest\":true,\"reason\":\"guest-reset\"} ");
    assert_int_equal(w.vm->state, RUN_RUNNING);
    assert_memory_equal(guest_ram_ptr(w.vm->mem, 0x80200000, 4096), img, 4096); /* loaded again */
    finish(&w);
    drop_file(kernel);
}

/* The text of fw_cfg's file "bootorder", its only one. */
static void expect_boot_order(struct world *w, const char *want)
{
    char got[64] = "";
    mmio_write(w->vm->mem, 0x10100008, 2, 0x2000);
    for (unsigned i = 0; i <= strlen(want); i++) {
        uint64_t c = 0;
        mmio_read(w->vm->mem, 0x10100000, 1, &c);
        got[i] = (char)c;
    }
    assert_string_equal(got, want);
}

static void add_and_delete(struct world *w)
{
    struct json_object *node = json_tokener_parse("{\"driver\":\"null-co\",\"node-name\":\"n\",\"size\":1048576}");
    struct json_object *dev =
        json_tokener_parse("{\"driver\":\"virtio-blk-pci\",\"id\":\"d\",\"drive\":\"n\",\"bootindex\":1}");
    struct node *n;
    uint64_t id;
    assert_int_equal(node_open(w->vm->graph, node, &n, NULL), 0);
    n->monitor_owned = true;
    assert_int_equal(vm_device_add(w->vm, dev, &w->err), 0);
    assert_true(mmio_read(w->vm->mem, 0x30008000, 4, &id));
    assert_int_equal(id, 0x10421af4);
    assert_int_equal(vm_device_add(w->vm, dev, &w->err), -EEXIST);
    assert_string_equal(err_text(&w->err), "Duplicate device ID 'd'");
    g_string_truncate(w->events, 0);
    vm_reset(w->vm, false);
    expect_boot_order(w, "/pci@30000000/scsi@1/disk@0,0");
    json_object_object_add(dev, "id", json_object_new_string("second"));
    assert_int_equal(vm_device_add(w->vm, dev, &w->err), -EBUSY);
    assert_non_null(strstr(err_text(&w->err), "bootindex 1 has already been used by 'd'"));
    g_string_truncate(w->events, 0);
    assert_int_equal(vm_device_del(w->vm, "d", NULL), 0);
    expect_events(w, "DEVICE_DELETED{\"device\":\"d\",\"path\":\"\\/machine\\/peripheral\\/d\"} ");
    assert_int_equal(vm_device_del(w->vm, "d", &w->err), -ENODEV);
    assert_int_equal(w->err.cls, ERR_DEVICE_NOT_FOUND);
    assert_true(mmio_read(w->vm->mem, 0x30008000, 4, &id));
    assert_int_equal(id, 0xffffffff);
    json_object_put(node);
    json_object_put(dev);
}

static void devices_come_and_go(void **state)
{
    struct world w;
    begin(&w);
    w.then = add_and_delete;
    assert_int_equal(start(&w), 0);
    finish(&w);
}

/* --- qtest
 * -------------------------------------------------------------------------------------------------------------- */

static void talk(struct world *w, int fd, const char *say, const char *want)
{
    char got[512] = "";
    size_t n = 0;
    assert_true(write(fd, say, strlen(say)) == (ssize_t)strlen(say));
    for (unsigned i = 0; i < 120000 && n < strlen(want); i++) {
        loop_turn(w->loop, false);
        ssize_t r = recv(fd, got + n, sizeof(got) - 1 - n, MSG_DONTWAIT);
        n += r > 0 ? (size_t)r : 0;
        usleep(r > 0 ? 0 : 500);
    }
    assert_string_equal(got, want);
}

static void qtest_works_the_registers(void **state)
{
    struct world w;
    int sv[2];
    begin(&w);
    assert_int_equal(start(&w), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
    CLEANUP_FREE char *text = g_strdup_printf("{\"id\":\"q\",\"backend\":\"socket\",\"fd\":\"%d\"}", sv[0]);
    struct json_object *o = json_tokener_parse(text);
    struct chardev *c = chardev_create(w.loop, o, &w.err);
    assert_string_equal(w.err.text ? w.err.text : "", "");
    assert_non_null(c);
    struct qtest *q = qtest_create(w.vm, c, NULL, &w.err);
    assert_non_null(q);
    talk(&w, sv[1], "endianness\n", "OK little\n");
    talk(&w, sv[1], "writel 0x80001000 0xdeadbeef\nreadq 0x80001000\n", "OK\nOK 0x00000000deadbeef\n");
    talk(&w, sv[1], "write 0x80002000 4 0x01020304\nread 0x80002001 2\n", "OK\nOK 0x0203\n");
    talk(&w, sv[1], "memset 0x80002000 2 0xaa\nb64read 0x80002000 3\n", "OK\nOK qqoD\n");
    talk(&w, sv[1], "readl 0x30000000\n", "OK 0x0000000000081b36\n");
    talk(&w, sv[1], "readb 0x10000005\n", "OK 0x0000000000000060\n");
    talk(&w, sv[1], "clock_step 1000\nclock_step 500\n", "OK 1000\nOK 1500\n");
    /* the UART's transmitter-empty interrupt, through the PLIC, to hart 1 */
    talk(&w, sv[1], "irq_intercept_in x\nwritel 0xc000028 1\nwritel 0xc002080 0x400\n", "OK\nOK\nOK\n");
    talk(&w, sv[1], "writeb 0x10000001 2\n", "IRQ raise 1\nOK\n");
    talk(&w, sv[1], "readl 0xc201004\n", "IRQ lower 1\nOK 0x000000000000000a\n");
    talk(&w, sv[1], "dance\n", "FAIL Unknown or malformed command 'dance'\n");
    talk(&w, sv[1], "readl\n", "FAIL Unknown or malformed command 'readl'\n");
    qtest_destroy(q);
    chardev_destroy(c);
    close(sv[1]);
    json_object_put(o);
    finish(&w);
}

static void machine_none_runs_nothing(void **state)
{
    struct world w;
    begin(&w);
    w.config.type = "none";
    assert_int_equal(start(&w), 0);
    assert_int_equal(w.vm->state, RUN_RUNNING);
    assert_true(vm_dump_dtb(w.vm, "/tmp/x", NULL) < 0);
    finish(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_is_that_of_qemus_board),
        cmocka_unit_test(rng_seed_is_new_each_time),
        cmocka_unit_test(image_and_initrd_are_placed),
        cmocka_unit_test(gzipped_image_is_unpacked),
        cmocka_unit_test(bad_boot_files_are_named),
        cmocka_unit_test(users_tree_gets_chosen),
        cmocka_unit_test(run_states_and_events),
        cmocka_unit_test(guest_powers_off),
        cmocka_unit_test(no_shutdown_stays),
        cmocka_unit_test(no_reboot_ends),
        cmocka_unit_test(guest_resets),
        cmocka_unit_test(devices_come_and_go),
        cmocka_unit_test(qtest_works_the_registers),
        cmocka_unit_test(machine_none_runs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
