/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs a static RISC-V ELF on harts, RAM and two registers, nothing else:
 *
 *      rv_run [-h HARTS] [-c CPU] [-t SECONDS] [-d GPA,LEN] [-s] ELF
 *
 * RAM is [0x80000000, +32 MiB); hart 0 starts at the entry in supervisor mode. Bytes of the SBI console go to standard
 * error. SRST ends the run: exit 0 for reason 0, 1 for reason 1 or a reset, 2 for a program that does not end. -d
 * writes that piece of memory to standard output at the end; -s turns floating point on before the start, as a program
 * for user mode expects. Registers at 0x10000000: +0 counts reads and gives back what was written to +8; a write to +16
 * raises (1) or lowers (0) the external interrupt of hart 0.
 */
#include "cpu/accels.h"

#include <elf.h>
#include <getopt.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RAM_BASE 0x80000000ull
#define RAM_SIZE (32ull << 20)

struct board {
    struct guest_mem *mem;
    struct guest_clock clock;
    const struct accel_ops *ops;
    struct accel *accel;
    _Atomic uint64_t latch;
    _Atomic int result; /* -1: runs */
};

static size_t console_write(void *opaque, const uint8_t *buf, size_t len)
{
    return fwrite(buf, 1, len, stderr);
}

static void stop(void *opaque, unsigned reason)
{
    ((struct board *)opaque)->result = reason != 0;
}

static void reset(void *opaque, unsigned reason)
{
    ((struct board *)opaque)->result = 1;
}

static uint64_t reg_read(void *opaque, uint64_t off, unsigned size)
{
    return ((struct board *)opaque)->latch;
}

static void reg_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct board *b = opaque;
    if (off == 16) {
        b->ops->set_irq(b->accel, 0, val & 1);
    } else {
        b->latch = val;
    }
}

static const struct mmio_ops reg_ops = {.read = reg_read, .write = reg_write};

static bool load_elf(struct board *b, const char *path, uint64_t *entry)
{
    char *data;
    gsize len;
    if (!g_file_get_contents(path, &data, &len, NULL) || len < sizeof(Elf64_Ehdr)) {
        return false;
    }
    const Elf64_Ehdr *eh = (const void *)data;
    const Elf64_Phdr *ph = (const void *)(data + eh->e_phoff);
    bool ok = true;
    for (unsigned i = 0; i < eh->e_phnum && ok; i++) {
        if (ph[i].p_type == PT_LOAD && ph[i].p_filesz) {
            ok = !guest_mem_write(b->mem, ph[i].p_vaddr, data + ph[i].p_offset, ph[i].p_filesz);
        }
    }
    *entry = eh->e_entry;
    g_free(data);
    return ok;
}

static void floating_point_on(struct board *b)
{
    size_t n;
    const struct accel_reg *r = b->ops->reg_table(b->accel, &n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(r[i].name, "sstatus")) {
            b->ops->set_reg(b->accel, 0, r[i].id, 3u << 13);
        }
    }
}

static void dump(struct board *b, const char *range)
{
    char *end;
    uint64_t gpa = g_ascii_strtoull(range, &end, 0), len = *end ? g_ascii_strtoull(end + 1, NULL, 0) : 0;
    const void *p = guest_ram_ptr(b->mem, gpa, len);
    if (!p || fwrite(p, 1, len, stdout) != len) {
        b->result = 2;
    }
}

int main(int argc, char **argv)
{
    struct board b = {.result = -1, .ops = accel_table[0]};
    struct accel_config c = {.harts = 1, .timebase_hz = 10000000};
    struct err e = ERR_INIT;
    const char *range = NULL;
    unsigned seconds = 20;
    bool fp = false;
    for (int o; (o = getopt(argc, argv, "h:c:t:d:s")) != -1;) {
        switch (o) {
        case 'h':
            c.harts = (unsigned)atoi(optarg);
            break;
        case 'c':
            c.cpu = optarg;
            break;
        case 't':
            seconds = (unsigned)atoi(optarg);
            break;
        case 'd':
            range = optarg;
            break;
        case 's':
            fp = true;
            break;
        default:
            return 2;
        }
    }
    b.mem = guest_mem_create();
    guest_clock_init(&b.clock, false);
    c.mem = b.mem;
    c.clock = &b.clock;
    c.host = (struct accel_host){&b, stop, reset, console_write, NULL, NULL};
    uint64_t entry;
    struct mmio_region regs = {"test", 0x10000000, 0x1000, &reg_ops, &b};
    if (guest_ram_add(b.mem, "ram", RAM_BASE, RAM_SIZE, &e) || mmio_add(b.mem, &regs, &e) ||
        !(b.accel = b.ops->create(&c, &e))) {
        fprintf(stderr, "rv_run: %s\n", err_text(&e));
        return 2;
    }
    if (optind + 1 != argc || !load_elf(&b, argv[optind], &entry)) {
        fprintf(stderr, "rv_run: cannot load '%s'\n", optind < argc ? argv[optind] : "");
        return 2;
    }
    b.ops->reset(b.accel, entry, 0);
    if (fp) {
        floating_point_on(&b);
    }
    guest_clock_start(&b.clock);
    b.ops->resume(b.accel);
    for (unsigned i = 0; b.result < 0 && i < seconds * 1000; i++) {
        usleep(1000);
    }
    b.ops->pause(b.accel);
    if (b.result < 0) {
        fprintf(stderr, "rv_run: no end after %u s\n", seconds);
        b.result = 2;
    }
    if (range) {
        dump(&b, range);
    }
    b.ops->destroy(b.accel);
    guest_mem_destroy(b.mem);
    return b.result;
}
