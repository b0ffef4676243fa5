/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The Supervisor Binary Interface 2.0: Base, TIME, IPI, RFENCE, HSM, SRST, DBCN, and of the legacy calls set_timer,
 * console_putchar, console_getchar and shutdown. a7 = extension, a6 = function, a0... arguments; a0 = error, a1 =
 * value.
 */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#include "base/checked.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

enum sbi_error {
    SBI_SUCCESS = 0,
    SBI_FAILED = -1,
    SBI_NOT_SUPPORTED = -2,
    SBI_INVALID_PARAM = -3,
    SBI_INVALID_ADDRESS = -5,
    SBI_ALREADY_AVAILABLE = -6
};
#define SBI_VERSION      0x02000000u
#define SBI_IMPL_VERSION 1
#define SBI_IMPL_ID      0x5354524eu /* "STRN": none of the assigned numbers */

struct sbi {
    uint64_t *arg; /* a0.. */
    unsigned fid;
    uint64_t value;
    bool leave, again; /* again: RV_MISSING is set */
};

struct sbi_ext {
    uint64_t id;
    int64_t (*call)(struct rv_hart *h, struct sbi *s);
    bool legacy; /* returns its value in a0 alone */
};

static const struct sbi_ext *find(uint64_t id);

static int64_t base(struct rv_hart *h, struct sbi *s)
{
    switch (s->fid) {
    case 0:
        s->value = SBI_VERSION;
        return SBI_SUCCESS;
    case 1:
        s->value = SBI_IMPL_ID;
        return SBI_SUCCESS;
    case 2:
        s->value = SBI_IMPL_VERSION;
        return SBI_SUCCESS;
    case 3:
        s->value = find(s->arg[0]) != NULL;
        return SBI_SUCCESS;
    case 4: /* mvendorid, marchid, mimpid: not a registered machine */
    case 5:
    case 6:
        return SBI_SUCCESS;
    default:
        return SBI_NOT_SUPPORTED;
    }
}

static int64_t timer(struct rv_hart *h, struct sbi *s)
{
    if (s->fid) {
        return SBI_NOT_SUPPORTED;
    }
    rv_timer_set(h, s->arg[0]);
    return SBI_SUCCESS;
}

/* The harts that (mask, base) of arg[0], arg[1] name; false: one of them does not exist. */
static bool hart_mask(const struct rv_hart *h, const struct sbi *s, uint64_t *out)
{
    uint64_t all = (1ull << h->a->n) - 1;
    if (s->arg[1] == ~0ull) {
        *out = all;
        return true;
    }
    if (s->arg[0] == 0) {
        *out = 0;
        return true;
    }
    if (s->arg[1] >= h->a->n || s->arg[0] & ~(all >> s->arg[1])) {
        return false;
    }
    *out = s->arg[0] << s->arg[1];
    return true;
}

static int64_t ipi(struct rv_hart *h, struct sbi *s)
{
    uint64_t mask;
    if (s->fid) {
        return SBI_NOT_SUPPORTED;
    }
    if (!hart_mask(h, s, &mask)) {
        return SBI_INVALID_PARAM;
    }
    for (unsigned i = 0; i < h->a->n; i++) {
        if (mask >> i & 1) {
            rv_hart_irq(h->a->hart[i], RV_IP_SSIP, true);
        }
    }
    return SBI_SUCCESS;
}

static void fill_fence_i(struct rv_mail *m, const void *arg)
{
    m->fence_i = true;
}

static void fill_range(struct rv_mail *m, const void *arg)
{
    const uint64_t *a = arg;
    if ((a[2] == 0 && a[3] == 0) || a[3] == ~0ull || m->ranges == RV_MAIL_RANGES) {
        m->flush_all = true;
        return;
    }
    m->range[m->ranges].start = a[2];
    m->range[m->ranges++].size = a[3];
}

static int64_t rfence(struct rv_hart *h, struct sbi *s)
{
    uint64_t mask;
    if (s->fid > 2) { /* the rest is for hypervisors */
        return SBI_NOT_SUPPORTED;
    }
    if (!hart_mask(h, s, &mask)) {
        return SBI_INVALID_PARAM;
    }
    rv_hart_request(h->a, h, mask, s->fid == 0 ? fill_fence_i : fill_range, s->arg);
    return SBI_SUCCESS;
}

static int64_t hsm_start(struct rv_hart *h, const struct sbi *s)
{
    if (s->arg[0] >= h->a->n) {
        return SBI_INVALID_PARAM;
    }
    if (!guest_ram_ptr(h->a->c.mem, s->arg[1], 2) || s->arg[1] & 1) {
        return SBI_INVALID_ADDRESS;
    }
    struct rv_hart *o = h->a->hart[s->arg[0]];
    int64_t rc = SBI_ALREADY_AVAILABLE;
    pthread_mutex_lock(&o->mutex);
    if (o->hsm == RV_HSM_STOPPED) {
        o->start_pc = s->arg[1];
        o->start_opaque = s->arg[2];
        o->hsm = RV_HSM_START_PENDING;
        rc = SBI_SUCCESS;
    }
    pthread_cond_broadcast(&o->cond);
    pthread_mutex_unlock(&o->mutex);
    return rc;
}

static int64_t hsm(struct rv_hart *h, struct sbi *s)
{
    switch (s->fid) {
    case 0:
        return hsm_start(h, s);
    case 1:
        pthread_mutex_lock(&h->mutex);
        h->hsm = RV_HSM_STOPPED;
        pthread_mutex_unlock(&h->mutex);
        s->leave = true;
        return SBI_SUCCESS;
    case 2: {
        if (s->arg[0] >= h->a->n) {
            return SBI_INVALID_PARAM;
        }
        struct rv_hart *o = h->a->hart[s->arg[0]];
        pthread_mutex_lock(&o->mutex);
        s->value = o->hsm;
        pthread_mutex_unlock(&o->mutex);
        return SBI_SUCCESS;
    }
    case 3: {
        uint32_t type = (uint32_t)s->arg[0];
        if (type != 0 && type != 0x80000000u) {
            return type < 0x80000000u && type >= 0x10000000u ? SBI_NOT_SUPPORTED : SBI_INVALID_PARAM;
        }
        if (type && (!guest_ram_ptr(h->a->c.mem, s->arg[1], 2) || s->arg[1] & 1)) {
            return SBI_INVALID_ADDRESS;
        }
        pthread_mutex_lock(&h->mutex);
        h->hsm = RV_HSM_SUSPENDED;
        h->wfi = true;
        pthread_mutex_unlock(&h->mutex);
        s->leave = true;
        if (type) { /* wakes as after a start */
            h->pc = s->arg[1];
            h->satp = 0;
            h->sstatus &= ~RV_SR_SIE;
            s->value = s->arg[2];
            rv_tlb_flush(h);
            return (int64_t)h->id;
        }
        return SBI_SUCCESS;
    }
    default:
        return SBI_NOT_SUPPORTED;
    }
}

static int64_t srst(struct rv_hart *h, struct sbi *s)
{
    const struct accel_host *host = &h->a->c.host;
    uint32_t type = (uint32_t)s->arg[0], reason = (uint32_t)s->arg[1];
    if (s->fid) {
        return SBI_NOT_SUPPORTED;
    }
    if (type > 2 || reason > 1) {
        return type >= 0xf0000000u || reason >= 0xe0000000u ? SBI_NOT_SUPPORTED : SBI_INVALID_PARAM;
    }
    void (*ask)(void *, unsigned) = type == 0 ? host->shutdown : host->reset;
    if (!ask) {
        return SBI_NOT_SUPPORTED;
    }
    pthread_mutex_lock(&h->mutex);
    h->hsm = RV_HSM_STOPPED;
    pthread_mutex_unlock(&h->mutex);
    s->leave = true;
    ask(host->opaque, reason);
    return SBI_SUCCESS;
}

static int64_t dbcn(struct rv_hart *h, struct sbi *s)
{
    const struct accel_host *host = &h->a->c.host;
    if (s->fid == 2) {
        uint8_t byte = (uint8_t)s->arg[0];
        if (host->console_write) {
            host->console_write(host->opaque, &byte, 1);
        }
        return SBI_SUCCESS;
    }
    if (s->fid > 2) {
        return SBI_NOT_SUPPORTED;
    }
    uint64_t len = s->arg[0], gpa = s->arg[1];
    uint8_t *p = s->arg[2] ? NULL : guest_ram_ptr(h->a->c.mem, gpa, len);
    if (!p) {
        return SBI_INVALID_PARAM;
    }
    for (uint64_t at = gpa & RV_PAGE_MASK; at < gpa + len; at += GUEST_PAGE_SIZE) {
        if (guest_mem_is_missing(h->a->c.mem, at)) {
            rv_trap_set(h, RV_MISSING, at);
            s->again = true;
            return 0;
        }
    }
    if (s->fid == 0) {
        guest_mem_will_read(h->a->c.mem, gpa, len);
        s->value = host->console_write ? host->console_write(host->opaque, p, len) : len;
    } else {
        guest_mem_will_write(h->a->c.mem, gpa, len);
        s->value = host->console_read ? host->console_read(host->opaque, p, len) : 0;
        guest_mem_mark_written(h->a->c.mem, gpa, s->value);
    }
    return SBI_SUCCESS;
}

static int64_t legacy_timer(struct rv_hart *h, struct sbi *s)
{
    rv_timer_set(h, s->arg[0]);
    return 0;
}

static int64_t legacy_putchar(struct rv_hart *h, struct sbi *s)
{
    s->fid = 2;
    return dbcn(h, s);
}

static int64_t legacy_getchar(struct rv_hart *h, struct sbi *s)
{
    const struct accel_host *host = &h->a->c.host;
    uint8_t byte;
    return host->console_read && host->console_read(host->opaque, &byte, 1) == 1 ? byte : -1;
}

static int64_t legacy_shutdown(struct rv_hart *h, struct sbi *s)
{
    uint64_t none[2] = {0, 0};
    s->arg = none;
    s->fid = 0;
    return srst(h, s);
}

static const struct sbi_ext exts[] = {
    {0x10, base, false},       {0x54494d45, timer, false}, {0x735049, ipi, false},     {0x52464e43, rfence, false},
    {0x48534d, hsm, false},    {0x53525354, srst, false},  {0x4442434e, dbcn, false},  {0, legacy_timer, true},
    {1, legacy_putchar, true}, {2, legacy_getchar, true},  {8, legacy_shutdown, true},
};

static const struct sbi_ext *find(uint64_t id)
{
    for (unsigned i = 0; i < sizeof(exts) / sizeof(exts[0]); i++) {
        if (exts[i].id == id) {
            return &exts[i];
        }
    }
    return NULL;
}

bool rv_sbi_call(struct rv_hart *h)
{
    struct sbi s = {.arg = &h->x[10], .fid = (unsigned)min_u64(h->x[16], UINT32_MAX)};
    const struct sbi_ext *x = find(h->x[17]);
    rv_fp_leave(h); /* console and machine callbacks are the host's code */
    int64_t rc = x ? x->call(h, &s) : SBI_NOT_SUPPORTED;
    rv_fp_enter(h);
    if (s.again) {
        h->pc -= 4;
        h->instret--;
        return false;
    }
    h->x[10] = (uint64_t)rc;
    if (!x || !x->legacy) {
        h->x[11] = s.value;
    }
    return !s.leave;
}

char *rv_sbi_describe(const struct rv_accel *a)
{
    GString *out = g_string_new(NULL);
    g_string_append_printf(out, "firmware sbi %u.%u\n", SBI_VERSION >> 24, SBI_VERSION & 0xffffff);
    g_string_append_printf(out, "firmware implementation 0x%x version %u\n", SBI_IMPL_ID, SBI_IMPL_VERSION);
    for (unsigned i = 0; i < sizeof(exts) / sizeof(exts[0]); i++) {
        g_string_append_printf(out, "firmware extension 0x%" PRIx64 "\n", exts[i].id);
    }
    return g_string_free(out, false);
}
