/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/qtest.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "char/char.h"
#include "machine/machine.h"

#include <inttypes.h>
#include <string.h>

#define LINE_MAX_    (64u << 20) /* a write of 32 MiB in hexadecimal */
#define BLOCK_MAX    (32u << 20)
#define WORDS_MAX    4
#define DEFAULT_STEP 1000000u

struct qtest {
    struct vm *vm;
    struct chardev_port port;
    GString *line;
    bool intercept;
    FILE *log;
    int64_t opened_us; /* when somebody came */
};

/* As QEMU's log has it: I(nfo) with the time of day for OPENED, R(eceived) and S(ent) counted from there. */
static void log_line(struct qtest *q, char kind, const char *text)
{
    if (q->log) {
        int64_t us = g_get_real_time() - q->opened_us;
        fprintf(q->log, "[%c +%lld.%06lld] %s\n", kind, (long long)(us / G_USEC_PER_SEC),
                (long long)(us % G_USEC_PER_SEC), text);
        fflush(q->log);
    }
}

static void reply(struct qtest *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void reply(struct qtest *q, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_line(q, 'S', text);
    chardev_write_all(&q->port, text, strlen(text));
    chardev_write_all(&q->port, "\n", 1);
}

/* --- memory: RAM or registers, bytes in little-endian order
 * ------------------------------------------------------------- */

static uint64_t load(struct qtest *q, uint64_t addr, unsigned size)
{
    uint8_t b[8] = {0};
    uint64_t v = 0;
    if (guest_mem_read(q->vm->mem, addr, b, size) < 0) {
        return mmio_read(q->vm->mem, addr, size, &v) ? v : 0;
    }
    for (unsigned i = 0; i < size; i++) {
        v |= (uint64_t)b[i] << (8 * i);
    }
    return v;
}

static void store(struct qtest *q, uint64_t addr, unsigned size, uint64_t v)
{
    uint8_t b[8];
    for (unsigned i = 0; i < 8; i++) {
        b[i] = (uint8_t)(v >> (8 * i));
    }
    if (guest_mem_write(q->vm->mem, addr, b, size) < 0) {
        mmio_write(q->vm->mem, addr, size, v);
    }
}

static void load_block(struct qtest *q, uint64_t addr, uint8_t *buf, size_t len)
{
    if (guest_mem_read(q->vm->mem, addr, buf, len) < 0) {
        for (size_t i = 0; i < len; i++) {
            buf[i] = (uint8_t)load(q, addr + i, 1);
        }
    }
}

static void store_block(struct qtest *q, uint64_t addr, const uint8_t *buf, size_t len)
{
    if (guest_mem_write(q->vm->mem, addr, buf, len) < 0) {
        for (size_t i = 0; i < len; i++) {
            store(q, addr + i, 1, buf[i]);
        }
    }
}

/* --- commands
 * ------------------------------------------------------------------------------------------------------------- */

static bool number(const char *s, uint64_t *out)
{
    char *end;
    if (!s) {
        return false;
    }
    errno = 0;
    *out = strtoull(s, &end, 0);
    return !errno && end != s && !*end;
}

/* "b", "w", "l", "q" at the end of readX and writeX; 0: none of them. */
static unsigned size_of(char c)
{
    const char *at = c ? strchr("bwlq", c) : NULL;
    return at ? 1u << (at - "bwlq") : 0;
}

/* RAM that follows the machine: this thread must not wait for what it brings itself. */
static bool has_not_come(struct qtest *q, char **w)
{
    bool block =
        !strcmp(w[0], "read") || !strcmp(w[0], "write") || !strcmp(w[0], "memset") || g_str_has_prefix(w[0], "b64");
    bool word = !block && (g_str_has_prefix(w[0], "read") || g_str_has_prefix(w[0], "write"));
    uint64_t addr, len = sizeof(uint64_t);
    if ((!block && !word) || !number(w[1], &addr) || (block && (!number(w[2], &len) || len > BLOCK_MAX)) ||
        !guest_mem_awaits(q->vm->mem, addr, len, NULL)) {
        return false;
    }
    reply(q, "FAIL RAM at 0x%" PRIx64 " has not come yet", addr);
    return true;
}

static bool access_word(struct qtest *q, char **w)
{
    uint64_t addr, val = 0;
    bool writes = !strncmp(w[0], "write", 5);
    unsigned size = size_of(w[0][writes ? 5 : 4]);
    if (!size || strlen(w[0]) != (writes ? 6 : 5) || !number(w[1], &addr) || (writes && !number(w[2], &val))) {
        return false;
    }
    if (writes) {
        store(q, addr, size, val);
        reply(q, "OK");
    } else {
        reply(q, "OK 0x%016" PRIx64, load(q, addr, size));
    }
    return true;
}

static bool read_block(struct qtest *q, char **w, bool base64)
{
    uint64_t addr, len;
    if (!number(w[1], &addr) || !number(w[2], &len) || !len || len > BLOCK_MAX) {
        return false;
    }
    CLEANUP_FREE uint8_t *buf = g_malloc(len);
    load_block(q, addr, buf, len);
    if (base64) {
        CLEANUP_FREE char *text = g_base64_encode(buf, len);
        reply(q, "OK %s", text);
        return true;
    }
    GString *s = g_string_sized_new(2 * len + 8);
    for (uint64_t i = 0; i < len; i++) {
        g_string_append_c(s, "0123456789abcdef"[buf[i] >> 4]);
        g_string_append_c(s, "0123456789abcdef"[buf[i] & 15]);
    }
    reply(q, "OK 0x%s", s->str);
    g_string_free(s, true);
    return true;
}

/* As many of len bytes as the text has digits for; the rest are zero. */
static bool write_block(struct qtest *q, char **w)
{
    uint64_t addr, len;
    if (!number(w[1], &addr) || !number(w[2], &len) || !len || len > BLOCK_MAX || !w[3] ||
        strncmp(w[3], "0x", 2) != 0) {
        return false;
    }
    CLEANUP_FREE uint8_t *buf = g_malloc0(len);
    const char *s = w[3] + 2;
    for (uint64_t i = 0; i < len && s[0] && s[1]; i++, s += 2) {
        int hi = g_ascii_xdigit_value(s[0]), lo = g_ascii_xdigit_value(s[1]);
        if (hi < 0 || lo < 0) {
            return false;
        }
        buf[i] = (uint8_t)(hi << 4 | lo);
    }
    store_block(q, addr, buf, len);
    reply(q, "OK");
    return true;
}

static bool write_base64(struct qtest *q, char **w)
{
    uint64_t addr, len;
    gsize n;
    if (!number(w[1], &addr) || !number(w[2], &len) || !w[3]) {
        return false;
    }
    CLEANUP_FREE uint8_t *buf = g_base64_decode(w[3], &n);
    if (n != len) {
        return false;
    }
    store_block(q, addr, buf, len);
    reply(q, "OK");
    return true;
}

static bool fill_block(struct qtest *q, char **w)
{
    uint64_t addr, len, byte;
    if (!number(w[1], &addr) || !number(w[2], &len) || len > BLOCK_MAX || !number(w[3], &byte)) {
        return false;
    }
    CLEANUP_FREE uint8_t *buf = g_malloc(len + 1);
    memset(buf, (int)byte, len);
    store_block(q, addr, buf, len);
    reply(q, "OK");
    return true;
}

static bool move_clock(struct qtest *q, char **w, bool step)
{
    struct vm *vm = q->vm;
    uint64_t ns = DEFAULT_STEP;
    if ((w[1] || !step) && !number(w[1], &ns)) {
        return false;
    }
    if (step) {
        guest_clock_step(&vm->clock, ns);
    } else {
        guest_clock_set(&vm->clock, ns);
    }
    if (vm->machine) {
        vm->machine->type->clock_changed(vm->machine);
        vm->accel_ops->clock_changed(vm->accel);
    }
    reply(q, "OK %" PRIu64, guest_clock_ns(&vm->clock));
    return true;
}

static void told_irq(void *opaque, unsigned hart, bool level)
{
    struct qtest *q = opaque;
    if (loop_current() == q->vm->loop) {
        reply(q, "IRQ %s %u", level ? "raise" : "lower", hart);
    }
}

static bool intercept(struct qtest *q)
{
    if (!q->intercept && q->vm->machine) {
        q->intercept = true;
        q->vm->machine->type->watch_irq(q->vm->machine, told_irq, q);
    }
    reply(q, "OK");
    return true;
}

static bool run_words(struct qtest *q, char **w)
{
    if (has_not_come(q, w)) {
        return true;
    }
    const char *c = w[0];
    if (!strcmp(c, "read") || !strcmp(c, "b64read")) {
        return read_block(q, w, c[0] == 'b');
    }
    if (!strcmp(c, "write")) {
        return write_block(q, w);
    }
    if (!strcmp(c, "b64write")) {
        return write_base64(q, w);
    }
    if (!strcmp(c, "memset")) {
        return fill_block(q, w);
    }
    if (!strncmp(c, "read", 4) || !strncmp(c, "write", 5)) {
        return access_word(q, w);
    }
    if (!strcmp(c, "clock_step") || !strcmp(c, "clock_set")) {
        return move_clock(q, w, !strcmp(c, "clock_step"));
    }
    if (!strcmp(c, "irq_intercept_in") || !strcmp(c, "irq_intercept_out")) {
        return intercept(q);
    }
    if (!strcmp(c, "endianness")) {
        reply(q, "OK little");
        return true;
    }
    return false;
}

static void run_line(struct qtest *q, const char *text)
{
    char **w = g_strsplit(text, " ", WORDS_MAX);
    char *words[WORDS_MAX + 1] = {NULL};
    log_line(q, 'R', text);
    for (unsigned i = 0, n = 0; w[i]; i++) {
        g_strchomp(w[i]);
        if (*w[i]) {
            words[n++] = w[i];
        }
    }
    if (words[0] && !run_words(q, words)) {
        reply(q, "FAIL Unknown or malformed command '%.100s'", words[0]);
    }
    g_strfreev(w);
}

static void on_read(void *opaque, const uint8_t *buf, size_t n)
{
    struct qtest *q = opaque;
    for (size_t i = 0; i < n; i++) {
        if (buf[i] == '\n') {
            run_line(q, q->line->str);
            g_string_truncate(q->line, 0);
        } else if (q->line->len < LINE_MAX_) {
            g_string_append_c(q->line, (char)buf[i]);
        }
    }
}

static void on_event(void *opaque, enum chardev_event ev)
{
    struct qtest *q = opaque;
    if (ev == CHARDEV_OPENED) {
        g_string_truncate(q->line, 0);
        q->opened_us = g_get_real_time();
        if (q->log) {
            fprintf(q->log, "[I %lld.%06lld] OPENED\n", (long long)(q->opened_us / G_USEC_PER_SEC),
                    (long long)(q->opened_us % G_USEC_PER_SEC));
            fflush(q->log);
        }
    } else if (ev == CHARDEV_CLOSED) {
        log_line(q, 'I', "CLOSED");
    }
}

static const struct chardev_ops ops = {.read = on_read, .event = on_event};

struct qtest *qtest_create(struct vm *vm, struct chardev *c, FILE *log, struct err *e)
{
    if (!vm->clock.manual) {
        err_set(e, EINVAL, "-qtest needs -accel qtest");
        return NULL;
    }
    struct qtest *q = g_new0(struct qtest, 1);
    q->vm = vm;
    q->log = log;
    q->line = g_string_new("");
    if (chardev_attach(c, &q->port, &ops, q, e) < 0) {
        qtest_destroy(q);
        return NULL;
    }
    return q;
}

void qtest_destroy(struct qtest *q)
{
    if (!q) {
        return;
    }
    if (q->intercept) {
        q->vm->machine->type->watch_irq(q->vm->machine, NULL, NULL);
    }
    chardev_detach(&q->port);
    g_string_free(q->line, true);
    g_free(q);
}
