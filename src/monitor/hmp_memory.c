/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest memory and arithmetic. */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "loop/co.h"
#include "machine/vm.h"

#include <inttypes.h>

enum {
    DUMP_MAX = 1 << 20,
    COMES_NS = 100000000, /* how long a page that is still to come is waited for */
};

static void print_char(struct mon_ctx *c, uint8_t ch)
{
    switch (ch) {
    case '\'':
        mon_printf(c, "'\\''");
        break;
    case '\\':
        mon_printf(c, "'\\\\'");
        break;
    case '\n':
        mon_printf(c, "'\\n'");
        break;
    case '\r':
        mon_printf(c, "'\\r'");
        break;
    default:
        mon_printf(c, ch >= 32 && ch <= 126 ? "'%c'" : "'\\x%02x'", ch);
        break;
    }
}

static uint64_t load(const uint8_t *p, unsigned size)
{
    switch (size) {
    case 1:
        return *p;
    case 2:
        return load_le16(p);
    case 4:
        return load_le32(p);
    default:
        return load_le64(p);
    }
}

static int64_t sign_extend(uint64_t v, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return (int64_t)(v << shift) >> shift;
}

/* One item of a dump; columns as wide as the widest value. */
static void print_item(struct mon_ctx *c, int format, uint64_t v, unsigned size)
{
    static const int octal[] = {0, 3, 6, 0, 11, 0, 0, 0, 22};
    static const int decimal[] = {0, 3, 5, 0, 10, 0, 0, 0, 20};
    mon_printf(c, " ");
    switch (format) {
    case 'o':
        mon_printf(c, "%#*" PRIo64, octal[size] + 1, v);
        break;
    case 'u':
        mon_printf(c, "%*" PRIu64, decimal[size], v);
        break;
    case 'd':
        mon_printf(c, "%*" PRId64, decimal[size] + 1, sign_extend(v, size));
        break;
    case 'c':
        print_char(c, (uint8_t)v);
        break;
    default:
        mon_printf(c, "0x%0*" PRIx64, (int)size * 2, v);
        break;
    }
}

static void look_again(void *opaque)
{
    co_queue_wake_all(opaque);
}

/* A page of a lazy load is soon there; one that follows a machine, or cannot be read, may be long. [co] */
static bool comes(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    struct co_queue waiter = {0};
    struct loop_event *came = loop_event_create(co_loop(), look_again, &waiter);
    uint64_t end = loop_now_ns() + COMES_NS;
    bool late = false;
    while (guest_mem_awaits(m, gpa, len, came) && !late) {
        late = !co_queue_wait_until(&waiter, end);
    }
    guest_mem_forget(m, came);
    loop_event_destroy(came);
    return !late;
}

static int xp(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    int format = (int)hmp_int(args, "format");
    unsigned size = format == 'c' ? 1 : (unsigned)hmp_int(args, "size");
    uint64_t left = (uint64_t)hmp_int(args, "count") * size;
    uint64_t gpa = (uint64_t)hmp_int(args, "addr");
    struct vm *vm = c->env->vm;
    if (!vm || !vm->mem) {
        return err_set(e, ENODEV, "No memory");
    }
    if (left > DUMP_MAX) {
        return err_set(e, EINVAL, "at most %d bytes at a time", DUMP_MAX);
    }
    while (left) {
        uint8_t buf[16];
        uint64_t n = MIN(left, format == 'c' ? 8 : sizeof(buf));
        mon_printf(c, "%016" PRIx64 ":", gpa);
        if (!comes(vm->mem, gpa, n)) {
            mon_printf(c, " not here yet\n");
            return 0;
        }
        if (guest_mem_read(vm->mem, gpa, buf, n)) {
            mon_printf(c, " Cannot access memory\n");
            return 0;
        }
        for (uint64_t i = 0; i < n; i += size) {
            print_item(c, format, load(buf + i, size), size);
        }
        mon_printf(c, "\n");
        gpa += n;
        left -= n;
    }
    return 0;
}

static int print(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    uint64_t v = (uint64_t)hmp_int(args, "val");
    switch (hmp_int(args, "format")) {
    case 'o':
        mon_printf(c, "%#" PRIo64 "\n", v);
        break;
    case 'u':
        mon_printf(c, "%" PRIu64 "\n", v);
        break;
    case 'c':
        print_char(c, (uint8_t)v);
        mon_printf(c, "\n");
        break;
    case 'd':
        mon_printf(c, "%" PRId64 "\n", (int64_t)v);
        break;
    default:
        mon_printf(c, "%#" PRIx64 "\n", v);
        break;
    }
    return 0;
}

const struct hmp_command hmp_memory_commands[] = {
    {"xp", "fmt:/,addr:l", "/fmt addr", "physical memory dump starting at 'addr'", xp},
    {"print|p", "fmt:/,val:l", "/fmt expr", "print expression value (use $reg for CPU register access)", print},
    {NULL},
};
