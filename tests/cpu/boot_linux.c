/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A board of nothing but RAM and harts that boots Linux on the SBI console, to measure the accelerator by itself:
 *
 *      boot_linux [-h HARTS] [-m MIB] [-a APPEND] [-c CPU] [-t SECONDS] [-q] IMAGE [INITRD]
 *
 * Prints what the guest prints, then seconds and instructions until GUEST-UP appeared and at the end. Exits with 0 when
 * the guest shut down, 3 after SECONDS.
 */
#include "cpu/accels.h"

#include <getopt.h>
#include <glib.h>
#include <libfdt.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define RAM_BASE 0x80000000ull

struct board {
    struct guest_mem *mem;
    struct guest_clock clock;
    const struct accel_ops *ops;
    struct accel *accel;
    unsigned harts;
    uint64_t ram_mib, initrd_gpa, initrd_len;
    const char *append;
    bool quiet;
    int64_t start_us;
    size_t matched; /* characters of MARK seen so far */
    _Atomic bool done;
    pthread_mutex_t mutex;
};
static const char MARK[] = "GUEST-UP";

static uint64_t executed(const struct board *b)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < b->harts; i++) {
        sum += b->ops->instret(b->accel, i);
    }
    return sum;
}

static void report(const struct board *b, const char *what)
{
    double s = (double)(g_get_monotonic_time() - b->start_us) / 1e6, m = (double)executed(b) / 1e6;
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu =
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    fprintf(stderr, "\n%s: %.2f s, %.2f s of host CPU, %.0f M instructions, %.0f M/s, caches %zu KiB\n", what, s, cpu,
            m, m / cpu, b->ops->cache_bytes(b->accel) >> 10);
}

static size_t console_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct board *b = opaque;
    pthread_mutex_lock(&b->mutex);
    if (!b->quiet && write(1, buf, len) < 0) {
        b->quiet = true;
    }
    for (size_t i = 0; i < len; i++) {
        b->matched = buf[i] == (uint8_t)MARK[b->matched] ? b->matched + 1 : buf[i] == (uint8_t)MARK[0];
        if (b->matched == sizeof(MARK) - 1) {
            report(b, MARK);
            b->matched = 0;
        }
    }
    pthread_mutex_unlock(&b->mutex);
    return len;
}

static size_t console_read(void *opaque, uint8_t *buf, size_t len)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    ssize_t n = poll(&p, 1, 0) == 1 ? read(0, buf, len) : 0;
    return n > 0 ? (size_t)n : 0;
}

static void stop(void *opaque, unsigned reason)
{
    ((struct board *)opaque)->done = true;
}

static uint64_t load(struct board *b, const char *path, uint64_t gpa)
{
    char *data;
    gsize len;
    GError *error = NULL;
    if (!g_file_get_contents(path, &data, &len, &error)) {
        fprintf(stderr, "boot_linux: %s\n", error->message);
        exit(1);
    }
    if (guest_mem_write(b->mem, gpa, data, len)) {
        fprintf(stderr, "boot_linux: '%s' does not fit into RAM\n", path);
        exit(1);
    }
    g_free(data);
    return len;
}

static void fdt_harts(const struct board *b, void *fdt)
{
    int cpus = fdt_add_subnode(fdt, 0, "cpus");
    fdt_setprop_u32(fdt, cpus, "#address-cells", 1);
    fdt_setprop_u32(fdt, cpus, "#size-cells", 0);
    fdt_setprop_u32(fdt, cpus, "timebase-frequency", 10000000);
    for (unsigned i = b->harts; i-- > 0;) {
        char name[16];
        snprintf(name, sizeof(name), "cpu@%u", i);
        int cpu = fdt_add_subnode(fdt, cpus, name);
        fdt_setprop_string(fdt, cpu, "device_type", "cpu");
        fdt_setprop_string(fdt, cpu, "compatible", "riscv");
        fdt_setprop_string(fdt, cpu, "status", "okay");
        fdt_setprop_u32(fdt, cpu, "reg", i);
        b->ops->describe_hart(b->accel, i, fdt, cpu);
        int intc = fdt_add_subnode(fdt, cpu, "interrupt-controller");
        fdt_setprop_u32(fdt, intc, "#interrupt-cells", 1);
        fdt_setprop(fdt, intc, "interrupt-controller", NULL, 0);
        fdt_setprop_string(fdt, intc, "compatible", "riscv,cpu-intc");
        fdt_setprop_u32(fdt, intc, "phandle", i + 1);
    }
}

static uint64_t make_fdt(const struct board *b)
{
    static const size_t size = 65536;
    void *fdt = g_malloc0(size);
    fdt_create_empty_tree(fdt, (int)size);
    fdt_setprop_string(fdt, 0, "compatible", "riscv-virtio");
    fdt_setprop_string(fdt, 0, "model", "bare");
    fdt_setprop_u32(fdt, 0, "#address-cells", 2);
    fdt_setprop_u32(fdt, 0, "#size-cells", 2);
    fdt_harts(b, fdt);
    int mem = fdt_add_subnode(fdt, 0, "memory@80000000");
    fdt_setprop_string(fdt, mem, "device_type", "memory");
    fdt_setprop_u64(fdt, mem, "reg", RAM_BASE);
    fdt_appendprop_u64(fdt, mem, "reg", b->ram_mib << 20);
    int chosen = fdt_add_subnode(fdt, 0, "chosen");
    fdt_setprop_string(fdt, chosen, "bootargs", b->append);
    if (b->initrd_len) {
        fdt_setprop_u64(fdt, chosen, "linux,initrd-start", b->initrd_gpa);
        fdt_setprop_u64(fdt, chosen, "linux,initrd-end", b->initrd_gpa + b->initrd_len);
    }
    fdt_pack(fdt);
    uint64_t gpa = RAM_BASE + (b->ram_mib << 20) - (2u << 20);
    guest_mem_write(b->mem, gpa, fdt, fdt_totalsize(fdt));
    g_free(fdt);
    return gpa;
}

static int usage(void)
{
    fprintf(stderr, "boot_linux [-h HARTS] [-m MIB] [-a APPEND] [-c CPU] [-t SECONDS] [-q] IMAGE [INITRD]\n");
    return 1;
}

int main(int argc, char **argv)
{
    struct board b = {
        .harts = 1, .ram_mib = 512, .append = "console=hvc0 earlycon=sbi run=true", .ops = accel_table[0]};
    struct accel_config c = {.timebase_hz = 10000000};
    unsigned seconds = 120;
    for (int o; (o = getopt(argc, argv, "h:m:a:c:t:q")) != -1;) {
        switch (o) {
        case 'h':
            b.harts = (unsigned)atoi(optarg);
            break;
        case 'm':
            b.ram_mib = (uint64_t)atoi(optarg);
            break;
        case 'a':
            b.append = optarg;
            break;
        case 'c':
            c.cpu = optarg;
            break;
        case 't':
            seconds = (unsigned)atoi(optarg);
            break;
        case 'q':
            b.quiet = true;
            break;
        default:
            return usage();
        }
    }
    if (optind >= argc) {
        return usage();
    }
    struct err e = ERR_INIT;
    pthread_mutex_init(&b.mutex, NULL);
    b.mem = guest_mem_create();
    guest_clock_init(&b.clock, false);
    c.harts = b.harts;
    c.mem = b.mem;
    c.clock = &b.clock;
    c.host = (struct accel_host){&b, stop, stop, console_write, console_read, NULL};
    if (guest_ram_add(b.mem, "ram", RAM_BASE, b.ram_mib << 20, &e) || !(b.accel = b.ops->create(&c, &e))) {
        fprintf(stderr, "boot_linux: %s\n", err_text(&e));
        return 1;
    }
    b.start_us = g_get_monotonic_time();
    load(&b, argv[optind], RAM_BASE + 0x200000);
    if (optind + 1 < argc) {
        b.initrd_gpa = RAM_BASE + 0x8000000;
        b.initrd_len = load(&b, argv[optind + 1], b.initrd_gpa);
    }
    b.ops->reset(b.accel, RAM_BASE + 0x200000, make_fdt(&b));
    guest_clock_start(&b.clock);
    b.ops->resume(b.accel);
    for (unsigned i = 0; !b.done && i < seconds * 20; i++) {
        usleep(50000);
    }
    report(&b, "end");
    b.ops->pause(b.accel);
    b.ops->destroy(b.accel);
    guest_mem_destroy(b.mem);
    return b.done ? 0 : 3;
}
