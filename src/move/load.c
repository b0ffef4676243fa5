/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two ways to the same commit. All at once: the stream is read from end to end, every CRC and the digest checked, RAM
 * into memory of its own. Lazy: by the index, devices now (with their CRCs), RAM when it is needed.
 * A state that holds only what changed is read with those that it is based on.
 */
#include "base/cleanup.h"
#include "guest/pages.h"
#include "machine/run.h"
#include "move/first.h"
#include "move/lineage.h"
#include "move/migrate.h"
#include "move/objects.h"
#include "move/ram_in.h"
#include "move/turn.h"
#include "state/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

enum {
    TRIES = 5, /* to read pages of a lazy load */
    AGAIN_NS = 100000000,
    STOP_NS = 1000000000, /* until the machine stands that was asked to */
};

struct vm_load {
    struct vm *vm;
    struct vm_load_opts o;
    bool has_turn, lazy, committed, filled;
    _Atomic bool cancelled;
    struct lineage *lineage;
    const char *name; /* the state's */
    struct ram_in *ram;
    struct first *first; /* lazy */
    struct objects_in objects;
    _Atomic int lost; /* errno of a page that could not be had */
};

static const struct state_manifest *manifest_of(const struct vm_load *l)
{
    return state_reader_manifest(lineage_reader(l->lineage, 0));
}

static int check_devices(struct vm_load *l, struct err *e)
{
    vm_quiesce(l->vm);
    int rc = objects_in_prepare(&l->objects, manifest_of(l), e);
    vm_unquiesce(l->vm);
    return rc;
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

static int on_progress(void *opaque, uint64_t done)
{
    struct vm_load *l = opaque;
    if (l->o.progress) {
        l->o.progress(l->o.opaque, MIN(done, lineage_size(l->lineage)), lineage_size(l->lineage));
    }
    return atomic_load(&l->cancelled) ? -ECANCELED : 0;
}

/* Of a parent only RAM counts. */
static int read_level(struct vm_load *l, unsigned level, struct err *e)
{
    struct state_reader *r = lineage_reader(l->lineage, level);
    struct state_chunk c;
    int rc;
    while ((rc = state_read_next(r, &c)) > 0) {
        if (c.type == STATE_RAMP) {
            rc = ram_in_chunk(l->ram, r);
        } else if (c.type == STATE_DEVS && level == 0) {
            const GByteArray *p = state_read_payload(r, STATE_DEVICE_MAX);
            if (p) {
                objects_in_add(&l->objects, p);
            }
        }
        if (rc < 0) {
            break;
        }
    }
    return rc < 0 ? state_reader_error(r, e) : 0;
}

/* From the oldest on. */
static int read_everything(struct vm_load *l, struct err *e)
{
    l->ram = ram_in_create(l->vm, e);
    int rc = l->ram ? ram_in_preallocate(l->ram, e) : -ENOMEM;
    if (rc == 0) {
        ram_in_expect_all(l->ram);
    }
    lineage_watch(l->lineage, on_progress, l);
    for (unsigned i = lineage_levels(l->lineage); rc == 0 && i-- > 0;) {
        rc = read_level(l, i, e);
    }
    return rc;
}

static int read_by_index(struct vm_load *l, struct err *e)
{
    g_autoptr(GByteArray) used = NULL;
    unsigned n;
    const struct state_chunk *c = state_index_chunks(lineage_index(l->lineage, 0), &n);
    for (unsigned i = 0; i < n; i++) {
        if (c[i].type == STATE_DEVS) {
            GByteArray *p = state_index_payload(lineage_reader(l->lineage, 0), &c[i], STATE_DEVICE_MAX, e);
            if (!p) {
                return -EINVAL;
            }
            objects_in_add(&l->objects, p);
            g_byte_array_unref(p);
        } else if (c[i].type == STATE_RFST && !used) { /* a hint, which a load can do without */
            CLEANUP_ERR struct err no = ERR_INIT;
            used = state_index_payload(lineage_reader(l->lineage, 0), &c[i], STATE_FIRST_MAX, &no);
        } else if (c[i].type != STATE_MANI && !state_type_ancillary(c[i].type)) {
            return err_set(e, ENOTSUP,
                           "%s holds something that this release does not know and that must not be ignored", l->name);
        }
    }
    l->first = first_create(l->vm, used);
    return 0;
}

static int map_everything(struct vm_load *l, struct err *e)
{
    int rc = read_by_index(l, e);
    l->ram = rc == 0 ? ram_in_create(l->vm, e) : NULL;
    return rc < 0 ? rc : l->ram ? ram_in_map(l->ram, l->lineage, e) : -ENOMEM;
}

/* The turn is ours. */
static int open_lineage(struct vm_load *l, const struct move_source *from, struct err *e)
{
    l->lazy = l->o.lazy && !l->o.map && from->read_now && pages_can_fill(l->vm->pages);
    int rc = lineage_open(l->vm, from, !l->lazy && !l->o.map, &l->lineage, e);
    if (rc == 0 && l->lazy && !lineage_can_be_lazy(l->lineage)) {
        lineage_close(take(l->lineage));
        l->lazy = false;
        rc = lineage_open(l->vm, from, true, &l->lineage, e);
    }
    return rc < 0 ? rc : objects_in_check_manifest(&l->objects, manifest_of(l), e);
}

int vm_load_create(struct vm *vm, const struct vm_load_opts *o, const struct move_source *from, struct vm_load **out,
                   struct err *e)
{
    int rc = migrate_check_none(vm, e);
    if (rc < 0) {
        return rc;
    }
    struct vm_load *l = g_new0(struct vm_load, 1);
    l->vm = vm;
    l->o = *o;
    l->name = from->name;
    objects_in_init(&l->objects, vm, from->name);
    l->objects.state_allow = o->state_allow;
    l->objects.force_drop = o->force_drop;
    move_turn_take(vm, NULL);
    l->has_turn = true;
    rc = open_lineage(l, from, e);
    if (rc == 0) {
        rc = l->lazy ? read_by_index(l, e) : l->o.map ? map_everything(l, e) : read_everything(l, e);
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

/* For one page alone several times, as it is the last resort. */
static int fetch(void *opaque, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool urgent)
{
    struct vm_load *l = opaque;
    int rc = lineage_read(l->lineage, block, first, n, buf, true);
    if (urgent && rc == 0) {
        first_add(l->first, block, first, n);
    }
    for (unsigned i = 1; rc < 0 && n == 1 && i < TRIES && !atomic_load(&l->cancelled); i++) {
        nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
        rc = lineage_read(l->lineage, block, first, n, buf, true);
    }
    return rc;
}

/* Any thread. */
static void lose(void *opaque, unsigned block, uint64_t page, int rc)
{
    struct vm_load *l = opaque;
    const struct guest_ram *r = guest_ram_get(l->vm->mem, block);
    if (!atomic_exchange(&l->lost, -rc) && !atomic_load(&l->cancelled)) {
        log_error(l->vm->log,
                  "%s: RAM '%s' at 0x%" PRIx64 " could not be read: %s; the machine stops, 'cont' tries again", l->name,
                  r->name, r->gpa + (page << GUEST_PAGE_BITS),
                  rc == -EBADMSG ? "its checksum is wrong" : g_strerror(-rc));
    }
    vm_io_error(l->vm);
}

struct piece {
    struct vm_load *l;
    unsigned block, n;
    uint64_t page;
};

static int fill_piece(void *opaque)
{
    const struct piece *p = opaque;
    struct pages *pages = p->l->vm->pages;
    int rc = pages_fill(pages, p->block, p->page, p->n);
    for (unsigned i = 0, n = rc < 0 ? p->n : 0; i < n; i++) { /* which is it? */
        rc = pages_fill(pages, p->block, p->page + i, 1);
        if (rc < 0) {
            lose(p->l, p->block, p->page + i, rc);
            return rc;
        }
    }
    return rc;
}

static int fill(struct vm_load *l, struct piece *p)
{
    int rc = atomic_load(&l->cancelled) ? -ECANCELED : co_work(fill_piece, p);
    return atomic_load(&l->lost) ? -atomic_load(&l->lost) : rc;
}

/* What the machine used first the last time. */
static int fill_first(struct vm_load *l)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < first_count(l->first); i++) {
        struct state_run r = first_get(l->first, i);
        for (uint32_t done = 0; rc == 0 && done < r.pages; done += PAGES_FILL_MAX) {
            struct piece p = {l, r.block, MIN(PAGES_FILL_MAX, r.pages - done), r.page + done};
            rc = fill(l, &p);
        }
    }
    return rc;
}

/* The pages with data of one level; those that are there already cost nothing. */
static int fill_level(struct vm_load *l, unsigned level, uint64_t done)
{
    uint64_t n;
    const struct state_run *run = state_index_runs(lineage_index(l->lineage, level), &n);
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
            rc = fill(l, &p);
        }
        if (l->o.progress) {
            l->o.progress(l->o.opaque, MIN(done + run[i].offset, lineage_size(l->lineage)), lineage_size(l->lineage));
        }
    }
    return rc;
}

/* What no index has is zero, as are pages that never come. */
static int fill_all(struct vm_load *l)
{
    uint64_t done = 0;
    int rc = fill_first(l);
    for (unsigned i = 0; rc == 0 && i < lineage_levels(l->lineage); i++) {
        rc = fill_level(l, i, done);
        done += lineage_bytes(l->lineage, i);
    }
    return rc;
}

/* --- the steps ------------------------------------------------------------------------------------------------------
 */

int vm_load_prepare(struct vm_load *l, struct err *e)
{
    int rc = objects_in_prepare(&l->objects, manifest_of(l), e);
    if (rc < 0) {
        return rc;
    }
    return l->lazy ? pages_prepare_fill(l->vm->pages, &(struct pages_source){l, fetch, lose}, e) : 0;
}

const GPtrArray *vm_load_dropped(const struct vm_load *l)
{
    return l->objects.dropped;
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
    objects_in_commit(&l->objects);
    l->committed = true;
}

/* It may have gone on and have been stopped again since. */
static bool is_stuck(const struct vm_load *l, unsigned times_run)
{
    return !atomic_load(&l->cancelled) && l->vm->times_run == times_run;
}

/* The machine has been asked to stop, if it runs: until somebody makes it go on. */
static void wait_for_cont(struct vm_load *l)
{
    if (l->o.stuck) {
        l->o.stuck(l->o.opaque, true);
    }
    unsigned before = l->vm->times_run;
    uint64_t end = loop_now_ns() + STOP_NS;
    while (is_stuck(l, before) && l->vm->state == RUN_RUNNING && co_queue_wait_until(&l->vm->run_waiters, end)) {
    }
    while (is_stuck(l, before) && l->vm->state != RUN_RUNNING) {
        co_queue_wait(&l->vm->run_waiters);
    }
    atomic_store(&l->lost, 0);
    if (l->o.stuck) {
        l->o.stuck(l->o.opaque, false);
    }
}

int vm_load_finish(struct vm_load *l, struct err *e)
{
    if (!l->lazy || l->filled) {
        return 0;
    }
    while (fill_all(l) < 0) {
        if (!atomic_load(&l->cancelled)) {
            wait_for_cont(l);
        }
        if (!atomic_load(&l->cancelled)) {
            continue;
        }
        if (!l->vm->quit_requested) {
            vm_stop(l->vm, RUN_INTERNAL_ERROR);
        }
        return err_set(e, ECANCELED, "loading the machine was cancelled");
    }
    pages_end(l->vm->pages);
    first_keep(l->first);
    l->filled = true;
    return 0;
}

void vm_load_cancel(struct vm_load *l)
{
    atomic_store(&l->cancelled, true);
    co_queue_wake_all(&l->vm->run_waiters);
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
    first_destroy(l->first);
    objects_in_finish(&l->objects);
    lineage_close(l->lineage);
    g_free(l);
}
