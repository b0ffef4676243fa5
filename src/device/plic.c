/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/plic.h"

#include <glib.h>
#include <stdatomic.h>

struct context {
    _Atomic uint32_t enable[PLIC_WORDS];
    _Atomic uint32_t threshold;
    _Atomic uint32_t stale; /* changes that the output does not show yet; nonzero: somebody is at it */
};

struct plic {
    struct guest_mem *mem;
    uint64_t gpa;
    unsigned harts;
    void (*set)(void *opaque, unsigned hart, bool level);
    void *opaque;
    _Atomic uint32_t level[PLIC_WORDS], claimed[PLIC_WORDS];
    _Atomic uint32_t priority[PLIC_WORDS * 32];
    struct context ctx[PLIC_MAX_HARTS];
};

/* Bits of word w that belong to a source. */
static uint32_t valid_bits(unsigned w)
{
    uint32_t valid = w == PLIC_WORDS - 1 ? (uint32_t)((2ull << (PLIC_SOURCES % 32)) - 1) : ~0u;
    return w == 0 ? valid & ~1u : valid;
}

/* The source that context c would get now; 0: none. Lowest number wins among equals. */
static unsigned best_source(struct plic *p, unsigned c)
{
    unsigned best = 0;
    uint32_t best_prio = p->ctx[c].threshold;
    for (unsigned w = 0; w < PLIC_WORDS; w++) {
        uint32_t bits = p->level[w] & ~p->claimed[w] & p->ctx[c].enable[w];
        for (; bits; bits &= bits - 1) {
            unsigned n = w * 32 + (unsigned)__builtin_ctz(bits);
            uint32_t prio = p->priority[n];
            if (prio > best_prio) {
                best = n;
                best_prio = prio;
            }
        }
    }
    return best;
}

/* Whoever finds `stale` at zero computes the output until nobody has added to it meanwhile: outputs never go back in
 * time, and nobody waits. */
static void update(struct plic *p, unsigned c)
{
    struct context *x = &p->ctx[c];
    if (atomic_fetch_add(&x->stale, 1) != 0) {
        return;
    }
    uint32_t seen;
    do {
        seen = x->stale;
        bool out = best_source(p, c) != 0;
        if (p->set) {
            p->set(p->opaque, c, out);
        }
    } while (!atomic_compare_exchange_strong(&x->stale, &seen, 0));
}

void plic_refresh(struct plic *p)
{
    for (unsigned c = 0; c < p->harts; c++) {
        update(p, c);
    }
}

static void set_line(void *opaque, unsigned n, bool level)
{
    struct plic *p = opaque;
    uint32_t bit = 1u << (n % 32);
    uint32_t old = level ? atomic_fetch_or(&p->level[n / 32], bit) : atomic_fetch_and(&p->level[n / 32], ~bit);
    if (!(old & bit) == level) {
        for (unsigned c = 0; c < p->harts; c++) {
            if (p->ctx[c].enable[n / 32] & bit) {
                update(p, c);
            }
        }
    }
}

struct irq_line plic_line(struct plic *p, unsigned n)
{
    return (struct irq_line){set_line, p, n};
}

static unsigned claim(struct plic *p, unsigned c)
{
    for (;;) {
        unsigned n = best_source(p, c);
        if (!n) {
            return 0;
        }
        uint32_t bit = 1u << (n % 32);
        if (!(atomic_fetch_or(&p->claimed[n / 32], bit) & bit)) {
            plic_refresh(p);
            return n;
        }
    }
}

static void complete(struct plic *p, unsigned c, uint32_t n)
{
    uint32_t bit = 1u << (n % 32);
    if (n == 0 || n > PLIC_SOURCES || !(p->ctx[c].enable[n / 32] & bit)) {
        return;
    }
    atomic_fetch_and(&p->claimed[n / 32], ~bit);
    plic_refresh(p);
}

static uint64_t plic_read(void *opaque, uint64_t off, unsigned size)
{
    struct plic *p = opaque;
    if (off < 4 * (PLIC_SOURCES + 1)) {
        return p->priority[off / 4];
    }
    if (off >= 0x1000 && off < 0x1000 + 4 * PLIC_WORDS) {
        unsigned w = (unsigned)(off - 0x1000) / 4;
        return p->level[w] & ~p->claimed[w];
    }
    if (off >= 0x2000 && off < 0x2000 + 0x80ull * p->harts) {
        unsigned w = (unsigned)(off & 0x7f) / 4;
        return w < PLIC_WORDS ? p->ctx[(off - 0x2000) / 0x80].enable[w] : 0;
    }
    if (off >= 0x200000 && off < 0x200000 + 0x1000ull * p->harts) {
        unsigned c = (unsigned)(off - 0x200000) / 0x1000;
        switch (off & 0xfff) {
        case 0:
            return p->ctx[c].threshold;
        case 4:
            return claim(p, c);
        default:
            return 0;
        }
    }
    return 0;
}

static void plic_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct plic *p = opaque;
    if (off >= 4 && off < 4 * (PLIC_SOURCES + 1)) {
        p->priority[off / 4] = (uint32_t)val & PLIC_PRIO_MAX;
        plic_refresh(p);
    } else if (off >= 0x2000 && off < 0x2000 + 0x80ull * p->harts) {
        unsigned w = (unsigned)(off & 0x7f) / 4, c = (unsigned)(off - 0x2000) / 0x80;
        if (w < PLIC_WORDS) {
            p->ctx[c].enable[w] = (uint32_t)val & valid_bits(w);
            update(p, c);
        }
    } else if (off >= 0x200000 && off < 0x200000 + 0x1000ull * p->harts) {
        unsigned c = (unsigned)(off - 0x200000) / 0x1000;
        if ((off & 0xfff) == 0) {
            p->ctx[c].threshold = (uint32_t)val & PLIC_PRIO_MAX;
            update(p, c);
        } else if ((off & 0xfff) == 4) {
            complete(p, c, (uint32_t)val);
        }
    }
}

static const struct mmio_ops plic_ops = {plic_read, plic_write, 4, 4};

struct plic *plic_create(struct guest_mem *m, uint64_t gpa, unsigned harts, struct err *e)
{
    struct plic *p = g_new0(struct plic, 1);
    p->mem = m;
    p->gpa = gpa;
    p->harts = harts < PLIC_MAX_HARTS ? harts : PLIC_MAX_HARTS;
    const struct mmio_region r = {"plic", gpa, PLIC_SIZE, &plic_ops, p};
    if (mmio_add(m, &r, e) < 0) {
        g_free(p);
        return NULL;
    }
    return p;
}

void plic_destroy(struct plic *p)
{
    if (p) {
        mmio_remove(p->mem, &plic_ops, p, p->gpa);
        g_free(p);
    }
}

void plic_reset(struct plic *p)
{
    for (unsigned n = 0; n < PLIC_WORDS * 32; n++) {
        p->priority[n] = 0;
    }
    for (unsigned w = 0; w < PLIC_WORDS; w++) {
        p->claimed[w] = 0;
        for (unsigned c = 0; c < p->harts; c++) {
            p->ctx[c].enable[w] = 0;
        }
    }
    for (unsigned c = 0; c < p->harts; c++) {
        p->ctx[c].threshold = 0;
    }
    plic_refresh(p);
}

void plic_connect(struct plic *p, void (*set)(void *opaque, unsigned hart, bool level), void *opaque)
{
    p->set = set;
    p->opaque = opaque;
}

/* --- state ------------------------------------------------------------------------------------------------------- */

struct plic_ctx_state {
    uint32_t enable[PLIC_WORDS];
    uint8_t threshold;
};

struct plic_st {
    uint8_t priority[PLIC_SOURCES + 1];
    uint32_t claimed[PLIC_WORDS];
    uint32_t contexts;
    struct plic_ctx_state context[PLIC_MAX_HARTS];
};

static const struct state_field context_fields[] = {
    STATE_U32S(struct plic_ctx_state, enable, .help = "a bit per source"),
    STATE_U8(struct plic_ctx_state, threshold, .max = PLIC_PRIO_MAX),
    {0},
};
static const struct state_field fields[] = {
    STATE_U8S(struct plic_st, priority, .max = PLIC_PRIO_MAX),
    STATE_U32S(struct plic_st, claimed, .help = "a bit per source"),
    STATE_U32(struct plic_st, contexts, .min = 1, .max = PLIC_MAX_HARTS),
    STATE_STRUCTS(struct plic_st, context, context_fields, .used = STATE_AT(struct plic_st, contexts)),
    {0},
};
static const char *const derived[] = {"level", "pending", "output", NULL};

static void state_get(void *object, void *st)
{
    struct plic *p = object;
    struct plic_st *s = st;
    for (unsigned n = 0; n <= PLIC_SOURCES; n++) {
        s->priority[n] = (uint8_t)p->priority[n];
    }
    s->contexts = p->harts;
    for (unsigned w = 0; w < PLIC_WORDS; w++) {
        s->claimed[w] = p->claimed[w];
        for (unsigned c = 0; c < p->harts; c++) {
            s->context[c].enable[w] = p->ctx[c].enable[w];
        }
    }
    for (unsigned c = 0; c < p->harts; c++) {
        s->context[c].threshold = (uint8_t)p->ctx[c].threshold;
    }
}

static int state_check(void *object, const void *st, struct err *e)
{
    const struct plic *p = object;
    const struct plic_st *s = st;
    if (s->contexts != p->harts) {
        return err_set(e, EINVAL, "it is of a machine with %u harts, this one has %u: see -smp", s->contexts, p->harts);
    }
    bool good = s->priority[0] == 0;
    for (unsigned n = 1; n <= PLIC_SOURCES; n++) {
        good = good && s->priority[n] <= PLIC_PRIO_MAX;
    }
    for (unsigned w = 0; w < PLIC_WORDS; w++) {
        good = good && !(s->claimed[w] & ~valid_bits(w));
        for (unsigned c = 0; c < p->harts; c++) {
            good = good && !(s->context[c].enable[w] & ~valid_bits(w)) && s->context[c].threshold <= PLIC_PRIO_MAX;
        }
    }
    return good ? 0 : err_set(e, EINVAL, "a priority or an interrupt source that there is not");
}

static void state_put(void *object, const void *st)
{
    struct plic *p = object;
    const struct plic_st *s = st;
    for (unsigned n = 0; n <= PLIC_SOURCES; n++) {
        p->priority[n] = s->priority[n];
    }
    for (unsigned w = 0; w < PLIC_WORDS; w++) {
        p->claimed[w] = s->claimed[w];
        for (unsigned c = 0; c < p->harts; c++) {
            p->ctx[c].enable[w] = s->context[c].enable[w];
        }
    }
    for (unsigned c = 0; c < p->harts; c++) {
        p->ctx[c].threshold = s->context[c].threshold;
    }
    plic_refresh(p);
}

const struct state_section plic_state = {
    .name = "plic",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct plic_st),
    .fields = fields,
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};
