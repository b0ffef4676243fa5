/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two ways to the same commit. All at once: the stream is read from end to end, every CRC and the digest checked, RAM
 * into memory of its own. Lazy: by the index, devices now (with their CRCs), RAM when it is needed.
 */
#include "base/cleanup.h"
#include "guest/pages.h"
#include "machine/machine.h"
#include "machine/state.h"
#include "move/move.h"
#include "move/ram_in.h"
#include "move/turn.h"
#include "state/manifest.h"
#include "state/section.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

enum {
    TRIES = 5, /* to read pages of a lazy load */
    AGAIN_NS = 100000000,
};

struct vm_load {
    struct vm *vm;
    struct vm_load_opts o;
    struct move_source from;
    bool has_turn, lazy, committed, filled;
    _Atomic bool cancelled;
    uint64_t at;                     /* of the read from end to end */
    struct state_source source, now; /* by `from`'s read and read_now */
    struct state_reader *reader;
    struct state_index *index;
    struct ram_in *ram;
    GPtrArray *devices;     /* GByteArray: payloads */
    struct vm_state *state; /* after vm_load_prepare */
    _Atomic int lost;       /* errno of a page that could not be had */
};

/* --- the source as the reader wants it ------------------------------------------------------------------------------
 */

static ssize_t read_some(struct vm_load *l, int (*fn)(void *, uint64_t, void *, size_t), void *buf, size_t len,
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
    struct vm_load *l = opaque;
    ssize_t n = atomic_load(&l->cancelled) ? -ECANCELED : read_some(l, l->from.read, buf, len, l->at);
    l->at += n > 0 ? (uint64_t)n : 0;
    if (n > 0 && l->o.progress) {
        l->o.progress(l->o.opaque, l->at, l->from.size);
    }
    return n;
}

static ssize_t source_read_at(void *opaque, void *buf, size_t len, uint64_t off)
{
    struct vm_load *l = opaque;
    return read_some(l, l->from.read, buf, len, off);
}

static ssize_t source_read_now(void *opaque, void *buf, size_t len, uint64_t off)
{
    struct vm_load *l = opaque;
    return read_some(l, l->from.read_now, buf, len, off);
}

/* --- does it fit? ---------------------------------------------------------------------------------------------------
 */

static int check_manifest(struct vm_load *l, struct err *e)
{
    const struct state_manifest *m = state_reader_manifest(l->reader);
    const char *here = l->vm->machine ? l->vm->machine->release->info->name : "none", *name = l->from.name;
    const struct guest_ram *r;
    unsigned i = 0;
    if (strcmp(state_manifest_machine(m), here) != 0) {
        return err_set(e, EINVAL, "%s is the state of a machine '%s', this one is '%s'", name,
                       state_manifest_machine(m), here);
    }
    if (state_manifest_parent(m)) {
        return err_set(e, EINVAL, "%s holds only what changed since '%s': that is needed, too", name,
                       state_manifest_parent(m));
    }
    for (; (r = guest_ram_get(l->vm->mem, i)) && i < state_manifest_blocks(m); i++) {
        uint64_t pages = state_manifest_block_pages(m, i);
        if (strcmp(state_manifest_block_name(m, i), r->name) != 0 || pages != r->size >> GUEST_PAGE_BITS) {
            return err_set(e, EINVAL, "%s has %" PRIu64 " MiB of RAM '%s', this machine has %" PRIu64 " MiB of '%s'",
                           name, pages >> (20 - GUEST_PAGE_BITS), state_manifest_block_name(m, i), r->size >> 20,
                           r->name);
        }
    }
    if (r || i < state_manifest_blocks(m)) {
        return err_set(e, EINVAL, "%s has %u blocks of RAM, this machine has another number", name,
                       state_manifest_blocks(m));
    }
    return 0;
}

static int decode(struct vm_load *l, const GByteArray *payload, struct vm_state *st, bool *seen, struct err *e)
{
    CLEANUP_FREE char *path = state_device_path(payload->data, payload->len, e);
    struct vm_state_item *it = path ? vm_state_find(st, path) : NULL;
    if (!path) {
        return -EINVAL;
    }
    if (!it) {
        return err_set(e, ENOENT, "%s: the saved machine has '%s', this one has not", l->from.name, path);
    }
    seen[it - st->item] = true;
    return state_decode(state_reader_manifest(l->reader), it->section, payload, NULL, it->st, e);
}

/* All objects' state, checked; the machine held still. */
static struct vm_state *decode_all(struct vm_load *l, struct err *e)
{
    struct vm_state *st = vm_state_create(l->vm);
    CLEANUP_FREE bool *seen = g_new0(bool, st->n + 1);
    int rc = 0;
    for (guint i = 0; rc == 0 && i < l->devices->len; i++) {
        rc = decode(l, g_ptr_array_index(l->devices, i), st, seen, e);
    }
    for (unsigned i = 0; rc == 0 && i < st->n; i++) {
        if (!seen[i]) {
            rc = err_set(e, ENOENT, "%s: the saved machine has no '%s', this one has", l->from.name, st->item[i].path);
        }
    }
    rc = rc < 0 ? rc : vm_state_check(st, e);
    if (rc < 0) {
        err_wrap(e, "%s", l->from.name);
        vm_state_destroy(take(st));
    }
    return st;
}

static int check_devices(struct vm_load *l, struct err *e)
{
    vm_quiesce(l->vm);
    struct vm_state *st = decode_all(l, e);
    vm_unquiesce(l->vm);
    vm_state_destroy(st);
    return st ? 0 : -EINVAL;
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

static int read_everything(struct vm_load *l, struct err *e)
{
    struct state_chunk c;
    int rc;
    l->ram = ram_in_create(l->vm, e);
    if (!l->ram) {
        return -ENOMEM;
    }
    while ((rc = state_read_next(l->reader, &c)) > 0) {
        if (c.type == STATE_RAMP) {
            rc = ram_in_chunk(l->ram, l->reader);
        } else if (c.type == STATE_DEVS) {
            const GByteArray *p = state_read_payload(l->reader, STATE_DEVICE_MAX);
            if (p) {
                GByteArray *own = g_byte_array_sized_new(p->len);
                g_ptr_array_add(l->devices, g_byte_array_append(own, p->data, p->len));
            }
        }
        if (rc < 0) {
            break;
        }
    }
    return rc < 0 ? state_reader_error(l->reader, e) : 0;
}

static int read_by_index(struct vm_load *l, struct err *e)
{
    unsigned n;
    l->index = state_index_read(l->reader, e);
    if (!l->index) {
        return -EINVAL;
    }
    const struct state_chunk *c = state_index_chunks(l->index, &n);
    for (unsigned i = 0; i < n; i++) {
        if (c[i].type == STATE_DEVS) {
            GByteArray *p = state_index_payload(l->reader, &c[i], STATE_DEVICE_MAX, e);
            if (!p) {
                return -EINVAL;
            }
            g_ptr_array_add(l->devices, p);
        } else if (c[i].type != STATE_MANI && !state_type_ancillary(c[i].type)) {
            return err_set(e, ENOTSUP,
                           "%s holds something that this release does not know and that must not be ignored",
                           l->from.name);
        }
    }
    return 0;
}

int vm_load_create(struct vm *vm, const struct vm_load_opts *o, const struct move_source *from, struct vm_load **out,
                   struct err *e)
{
    struct vm_load *l = g_new0(struct vm_load, 1);
    l->vm = vm;
    l->o = *o;
    l->from = *from;
    l->devices = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    l->source = (struct state_source){source_read, source_read_at, from->size, l, from->name};
    l->now = (struct state_source){NULL, source_read_now, from->size, l, from->name};
    move_turn_take(vm);
    l->has_turn = true;
    l->lazy = o->lazy && from->read_now && pages_can_fill(vm->pages);
    l->reader = state_reader_create(&l->source, e);
    int rc = l->reader ? check_manifest(l, e) : -EINVAL;
    if (rc == 0) {
        rc = l->lazy ? read_by_index(l, e) : read_everything(l, e);
    }
    rc = rc < 0 ? rc : check_devices(l, e);
    if (rc < 0) {
        vm_load_destroy(l);
        return rc;
    }
    *out = l;
    return 0;
}

bool vm_load_is_lazy(const struct vm_load *l)
{
    return l->lazy;
}

/* --- pages of a lazy load: on the page thread and on a worker -------------------------------------------------------
 */

static int fetch_once(struct vm_load *l, unsigned block, uint64_t first, unsigned n, uint8_t *buf)
{
    int rc = 0;
    for (unsigned i = 0, part; rc == 0 && i < n; i += part) {
        uint64_t page = first + i;
        const struct state_run *run = state_index_find(l->index, block, page);
        uint8_t *to = buf + (size_t)i * GUEST_PAGE_SIZE;
        part = 1;
        if (run) {
            part = (unsigned)MIN(n - i, run->page + run->pages - page);
            rc = state_index_read_pages(&l->now, l->index, run, (uint32_t)(page - run->page), part, to);
        } else {
            memset(to, 0, GUEST_PAGE_SIZE);
        }
    }
    return rc;
}

static int fetch(void *opaque, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool urgent)
{
    struct vm_load *l = opaque;
    int rc = fetch_once(l, block, first, n, buf);
    for (unsigned i = 1; rc < 0 && i < TRIES && !atomic_load(&l->cancelled); i++) {
        nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
        rc = fetch_once(l, block, first, n, buf);
    }
    return rc;
}

/* The page thread keeps whoever needs the page until the loop has had time to stop the others. */
static void lose(void *opaque, unsigned block, uint64_t page, int rc)
{
    struct vm_load *l = opaque;
    if (!atomic_exchange(&l->lost, -rc)) {
        vm_internal_error(l->vm);
        nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
    }
}

struct piece {
    struct vm_load *l;
    unsigned block, n;
    uint64_t page;
};

static int fill_piece(void *opaque)
{
    const struct piece *p = opaque;
    return pages_fill(p->l->vm->pages, p->block, p->page, p->n);
}

/* What the index does not have is zero, as are pages that never come. */
static int fill_all(struct vm_load *l)
{
    uint64_t n;
    const struct state_run *run = state_index_runs(l->index, &n);
    struct piece p = {l};
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        uint64_t page = run[i].page, end = page + run[i].pages;
        if (p.n && p.block == run[i].block) { /* the piece before may have reached into this run */
            page = MAX(page, p.page + p.n);
        }
        for (; rc == 0 && page < end && run[i].kind != STATE_PAGES_ZERO; page += p.n) {
            uint64_t left = (guest_ram_get(l->vm->mem, run[i].block)->size >> GUEST_PAGE_BITS) - page;
            p = (struct piece){l, run[i].block, (unsigned)MIN(PAGES_FILL_MAX, left), page};
            rc = atomic_load(&l->cancelled) ? -ECANCELED : co_work(fill_piece, &p);
            rc = atomic_load(&l->lost) ? -atomic_load(&l->lost) : rc;
        }
        if (l->o.progress) {
            l->o.progress(l->o.opaque, run[i].offset, l->from.size);
        }
    }
    return rc;
}

/* --- the steps ------------------------------------------------------------------------------------------------------
 */

int vm_load_prepare(struct vm_load *l, struct err *e)
{
    l->state = decode_all(l, e);
    if (!l->state) {
        return -EINVAL;
    }
    return l->lazy ? pages_prepare_fill(l->vm->pages, &(struct pages_source){l, fetch, lose}, e) : 0;
}

void vm_load_commit(struct vm_load *l)
{
    struct guest_ram *r;
    if (l->lazy) {
        pages_empty(l->vm->pages);
    } else {
        ram_in_replace(l->ram);
    }
    for (unsigned i = 0; (r = guest_ram_get(l->vm->mem, i)); i++) {
        guest_mem_mark_written(l->vm->mem, r->gpa, r->size);
    }
    vm_state_put(l->state);
    l->committed = true;
}

int vm_load_finish(struct vm_load *l, struct err *e)
{
    if (!l->lazy || l->filled) {
        return 0;
    }
    int rc = fill_all(l);
    if (rc == -ECANCELED) {
        return err_set(e, ECANCELED, "loading the machine was cancelled");
    }
    if (rc < 0) {
        if (!atomic_exchange(&l->lost, -rc)) {
            vm_internal_error(l->vm);
        }
        return err_set(e, -rc, "%s: RAM could not be read: %s", l->from.name, g_strerror(-rc));
    }
    pages_end(l->vm->pages);
    l->filled = true;
    return 0;
}

void vm_load_cancel(struct vm_load *l)
{
    atomic_store(&l->cancelled, true);
}

void vm_load_destroy(struct vm_load *l)
{
    if (!l) {
        return;
    }
    if (l->has_turn) {
        pages_end(l->vm->pages);
        move_turn_give(l->vm);
    }
    ram_in_destroy(l->ram);
    vm_state_destroy(l->state);
    state_index_destroy(l->index);
    state_reader_destroy(l->reader);
    g_ptr_array_unref(l->devices);
    g_free(l);
}
