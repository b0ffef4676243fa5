/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/lineage.h"

#include "base/cleanup.h"
#include "move/objects.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { SAME_HOPS = 8 };

struct level {
    struct lineage *c;
    struct move_source from;
    uint64_t at;                     /* of the read from end to end */
    struct state_source source, now; /* by `from`'s read and read_now */
    struct state_reader *reader;
    struct state_index *index;
};

struct lineage {
    struct vm *vm;
    GPtrArray *levels; /* struct level * */
    uint64_t done;
    int (*watch)(void *opaque, uint64_t done);
    void *opaque;
};

static struct level *level(const struct lineage *c, unsigned i)
{
    return g_ptr_array_index(c->levels, i);
}

unsigned lineage_levels(const struct lineage *c)
{
    return c->levels->len;
}

struct state_reader *lineage_reader(const struct lineage *c, unsigned i)
{
    return level(c, i)->reader;
}

const struct state_index *lineage_index(const struct lineage *c, unsigned i)
{
    return level(c, i)->index;
}

const char *lineage_name(const struct lineage *c, unsigned i)
{
    return level(c, i)->from.name;
}

uint64_t lineage_bytes(const struct lineage *c, unsigned i)
{
    return level(c, i)->from.size;
}

uint64_t lineage_size(const struct lineage *c)
{
    uint64_t sum = 0;
    for (guint i = 0; i < c->levels->len; i++) {
        sum += level(c, i)->from.size;
    }
    return sum;
}

bool lineage_has_read_now(const struct lineage *c)
{
    for (guint i = 0; i < c->levels->len; i++) {
        if (!level(c, i)->from.read_now) {
            return false;
        }
    }
    return true;
}

bool lineage_can_be_lazy(const struct lineage *c)
{
    bool can = lineage_has_read_now(c);
    for (guint i = 0; can && i < c->levels->len; i++) {
        can = state_index_has_crcs(level(c, i)->index);
    }
    return can;
}

void lineage_watch(struct lineage *c, int (*fn)(void *opaque, uint64_t done), void *opaque)
{
    c->watch = fn;
    c->opaque = opaque;
}

/* --- the sources as readers want them ------------------------------------------------------------------------------
 */

static ssize_t read_some(const struct level *l, int (*fn)(void *, uint64_t, void *, size_t), void *buf, size_t len,
                         uint64_t off)
{
    if (off >= l->from.size) {
        return 0;
    }
    len = MIN(len, l->from.size - off);
    int rc = fn(l->from.opaque, off, buf, len);
    return rc < 0 ? rc : (ssize_t)len;
}

static ssize_t source_read(void *opaque, void *buf, size_t len)
{
    struct level *l = opaque;
    struct lineage *c = l->c;
    ssize_t n = read_some(l, l->from.read, buf, len, l->at);
    l->at += n > 0 ? (uint64_t)n : 0;
    c->done += n > 0 ? (uint64_t)n : 0;
    int rc = n > 0 && c->watch ? c->watch(c->opaque, c->done) : 0;
    return rc < 0 ? rc : n;
}

static ssize_t source_read_at(void *opaque, void *buf, size_t len, uint64_t off)
{
    const struct level *l = opaque;
    return read_some(l, l->from.read, buf, len, off);
}

static ssize_t source_read_now(void *opaque, void *buf, size_t len, uint64_t off)
{
    const struct level *l = opaque;
    return read_some(l, l->from.read_now, buf, len, off);
}

/* --- opening -------------------------------------------------------------------------------------------------------
 */

static int add_level(struct lineage *c, const struct move_source *from, bool whole, struct err *e)
{
    struct level *l = g_new0(struct level, 1);
    l->c = c;
    l->from = *from;
    l->source = (struct state_source){source_read, source_read_at, from->size, l, from->name};
    l->now = (struct state_source){NULL, source_read_now, from->size, l, from->name};
    g_ptr_array_add(c->levels, l);
    l->reader = state_reader_create(&l->source, e);
    int rc = l->reader ? objects_check_ram(c->vm, state_reader_manifest(l->reader), from->name, e) : -EINVAL;
    if (rc == 0 && !whole) {
        l->index = state_index_read(l->reader, e);
        rc = l->index ? 0 : -EINVAL;
    }
    return rc;
}

static int add_parent(struct lineage *c, struct err *e)
{
    const struct level *l = level(c, c->levels->len - 1);
    const struct state_manifest *m = state_reader_manifest(l->reader);
    const char *name = state_manifest_parent(m);
    struct move_source from = {0};
    if (c->levels->len == LINEAGE_MAX) {
        return err_set(e, ELOOP, "%s has more than %d parents", level(c, 0)->from.name, LINEAGE_MAX - 1);
    }
    int rc = l->from.open_parent ? l->from.open_parent(l->from.opaque, m, &from, e)
                                 : err_set(e, ENOTSUP, "%s holds only what changed since '%s': that is needed, too",
                                           l->from.name, name);
    if (rc == 0) {
        rc = add_level(c, &from, false, e);
        rc = rc < 0 ? rc : state_index_check_parent(level(c, c->levels->len - 1)->index, m, from.name, e);
    }
    return rc < 0 ? err_wrap(e, "'%s', on which %s is based", name, l->from.name) : 0;
}

int lineage_open(struct vm *vm, const struct move_source *from, bool whole, struct lineage **out, struct err *e)
{
    struct lineage *c = g_new0(struct lineage, 1);
    c->vm = vm;
    c->levels = g_ptr_array_new();
    int rc = add_level(c, from, whole, e);
    while (rc == 0 && state_manifest_parent(state_reader_manifest(level(c, c->levels->len - 1)->reader))) {
        rc = add_parent(c, e);
    }
    if (rc < 0) {
        lineage_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void lineage_close(struct lineage *c)
{
    if (!c) {
        return;
    }
    for (guint i = 0; i < c->levels->len; i++) {
        struct level *l = level(c, i);
        state_index_destroy(l->index);
        state_reader_destroy(l->reader);
        if (i && l->from.close) {
            l->from.close(l->from.opaque);
        }
        g_free(l);
    }
    g_ptr_array_unref(c->levels);
    g_free(c);
}

/* --- reading -------------------------------------------------------------------------------------------------------
 */

struct piece {
    unsigned block, n;
    uint64_t first;
};

/* The uppermost level from `i` on that has the piece's first page; cuts the piece to what that level has in one run. */
static const struct state_run *find_run(const struct lineage *c, unsigned *i, struct piece *p)
{
    for (; *i < c->levels->len; ++*i) {
        const struct state_run *r = state_index_next(level(c, *i)->index, p->block, p->first);
        if (r && r->page <= p->first) {
            p->n = (unsigned)MIN(p->n, r->page + r->pages - p->first);
            return r;
        }
        p->n = r ? (unsigned)MIN(p->n, r->page - p->first) : p->n;
    }
    return NULL;
}

/* As it is seen from level `i`. */
static int read_from(const struct lineage *c, unsigned i, struct piece p, uint8_t *buf, bool now, unsigned hops)
{
    int rc = 0;
    for (struct piece part = p; rc == 0 && p.n; p.first += part.n, p.n -= part.n) {
        unsigned at = i;
        part = p;
        const struct state_run *r = find_run(c, &at, &part);
        if (!r) {
            memset(buf, 0, (size_t)part.n * GUEST_PAGE_SIZE);
        } else if (r->kind == STATE_PAGES_SAME) {
            part = (struct piece){r->other_block, part.n, r->other_page + (part.first - r->page)};
            rc = hops ? read_from(c, at, part, buf, now, hops - 1) : -ELOOP;
        } else {
            const struct level *l = level(c, at);
            rc = state_index_read_pages(now ? &l->now : &l->source, l->index, r, (uint32_t)(part.first - r->page),
                                        part.n, buf);
        }
        buf += (size_t)part.n * GUEST_PAGE_SIZE;
    }
    return rc;
}

int lineage_place(const struct lineage *c, unsigned block, uint64_t first, unsigned *n, uint64_t *offset, bool *zero)
{
    struct piece p = {block, *n, first};
    unsigned at = 0;
    const struct state_run *r = find_run(c, &at, &p);
    const struct level *l = r ? level(c, at) : NULL;
    *n = p.n;
    *zero = !r || r->kind == STATE_PAGES_ZERO;
    *offset = r ? r->offset + (first - r->page) * GUEST_PAGE_SIZE : 0;
    return l && l->from.fd && r->kind == STATE_PAGES_RAW && *offset % GUEST_PAGE_SIZE == 0 ? *l->from.fd : -1;
}

int lineage_read(const struct lineage *c, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool now)
{
    return read_from(c, 0, (struct piece){block, n, first}, buf, now, SAME_HOPS);
}
