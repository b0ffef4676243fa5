/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/memory.h"

#include "base/json.h"
#include "base/large.h"
#include "base/objects.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum {
    PAGE = 4096,
    PIECE = 16 * LARGE_PAGE, /* that one thread touches at a time */
    THREADS_MAX = 16,
};

/* --- memory ------------------------------------------------------------------------------------------------------- */

uint8_t *memory_map(const struct memory_policy *p, size_t size, size_t beside)
{
    uint8_t *at = large_map(size, beside, PROT_NONE);
    if (!at) {
        return NULL;
    }
    int prot = PROT_READ | PROT_WRITE;
    bool ok = p->reserve ? mmap(at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED
                         : mprotect(at, size, prot) == 0;
    if (!ok) {
        int why = errno;
        munmap(at - beside, size + 2 * beside);
        errno = why;
        return NULL;
    }
    if (p->merge) { /* a host that cannot does without, here as below */
        madvise(at, size, MADV_MERGEABLE);
    }
    if (p->no_dump) {
        madvise(at, size, MADV_DONTDUMP);
    }
    return at;
}

struct populating {
    uint8_t *at;
    size_t size;
    _Atomic size_t next;
    _Atomic int rc;
};

static int populate_piece(uint8_t *at, size_t size)
{
    if (madvise(at, size, MADV_POPULATE_WRITE) == 0) {
        return 0;
    }
    if (errno != EINVAL) {
        return -errno;
    }
    for (size_t i = 0; i < size; i += PAGE) { /* Linux before 5.14 */
        volatile uint8_t *p = at + i;
        *p = *p;
    }
    return 0;
}

static void *populate_pieces(void *opaque)
{
    struct populating *w = opaque;
    size_t from;
    while (!atomic_load(&w->rc) && (from = atomic_fetch_add(&w->next, PIECE)) < w->size) {
        int rc = populate_piece(w->at + from, MIN(PIECE, w->size - from));
        if (rc < 0) {
            atomic_store(&w->rc, rc);
        }
    }
    return NULL;
}

int memory_populate(const struct memory_policy *p, uint8_t *at, size_t size)
{
    struct populating w = {.at = at, .size = size};
    pthread_t helper[THREADS_MAX];
    unsigned n = 0;
    madvise(at, size, MADV_HUGEPAGE);
    while (n + 1 < MIN(p->threads, THREADS_MAX) && pthread_create(&helper[n], NULL, populate_pieces, &w) == 0) {
        n++;
    }
    populate_pieces(&w);
    while (n > 0) {
        pthread_join(helper[--n], NULL);
    }
    return atomic_load(&w.rc);
}

/* --- the object --------------------------------------------------------------------------------------------------- */

static int refuse_number(const char *prop, int64_t n, struct err *e)
{
    return err_set(e, EINVAL, "property '%s' of memory-backend-ram doesn't take value '%" PRId64 "'", prop, n);
}

static int check(const struct memory_backend *b, struct jread *r, struct err *e)
{
    static const char *const policies[] = {"default", "preferred", "bind", "interleave", NULL};
    int64_t threads = jread_int_or(r, "prealloc-threads", 1);
    if (r->rc == 0 && b->size == 0) {
        return refuse_number("size", 0, e);
    }
    if (r->rc == 0 && (threads < 1 || threads > UINT32_MAX)) {
        return refuse_number("prealloc-threads", threads, e);
    }
    if (jread_bool_or(r, "share", false)) {
        return err_set(e, ENOTSUP,
                       "share=on is not supported: guest RAM is memory of this program alone, as post-copy, lazy loads "
                       "and snapshots need it");
    }
    int at = jread_enum_or(r, "policy", policies, 0);
    return at ? err_set(e, ENOTSUP, "policy=%s is not supported: policy=default is all there is", policies[at]) : 0;
}

/* Whoever asks finds all of it said; but how many threads, which depends on the machine. */
static void say(struct object_make *m, const struct memory_backend *b)
{
    const struct {
        const char *name;
        bool value;
    } all[] = {{"dump", !b->policy.no_dump},
               {"merge", b->policy.merge},
               {"prealloc", b->policy.prealloc},
               {"reserve", b->policy.reserve},
               {"share", false}};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        json_object_object_add(m->props, all[i].name, json_object_new_boolean(all[i].value));
    }
    json_object_object_add(m->props, "policy", json_object_new_string("default"));
    json_object_object_add(m->props, "size", json_object_new_uint64(b->size));
}

static int backend_create(struct object_make *m, void **impl, struct err *e)
{
    struct jread r = jread_init(m->props, NULL, e);
    struct memory_backend b = {.size = jread_size(&r, "size"),
                               .policy = {.reserve = jread_bool_or(&r, "reserve", true),
                                          .merge = jread_bool_or(&r, "merge", true),
                                          .no_dump = !jread_bool_or(&r, "dump", true),
                                          .prealloc = jread_bool_or(&r, "prealloc", false),
                                          .threads = (unsigned)jread_int_or(&r, "prealloc-threads", 0)}};
    int rc = check(&b, &r, e), end = jread_end_lax(&r);
    rc = rc < 0 ? rc : end;
    if (rc == 0) {
        say(m, &b);
        *impl = g_memdup2(&b, sizeof(b));
    }
    return rc;
}

static bool backend_in_use(void *impl)
{
    return ((struct memory_backend *)impl)->used;
}

static const char *const backend_props[] = {
    "size",
    "prealloc",
    "prealloc-threads",
    "merge",
    "dump",
    "reserve",
    "share",
    "policy",
    "x-use-canonical-path-for-ramblock-id", /* RAM has one name in a stream, whatever it is made of */
    NULL,
};

const struct object_kind memory_backend_ram_kind = {
    .name = "memory-backend-ram",
    .props = backend_props,
    .create = backend_create,
    .destroy = g_free,
    .in_use = backend_in_use,
};
