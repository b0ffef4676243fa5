/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/torn.h"

#include <glib.h>

struct state_torn {
    GHashTable *pages; /* struct torn_page */
};

struct torn_page {
    uint64_t page;
    unsigned block;
};

static guint torn_page_hash(gconstpointer p)
{
    const struct torn_page *t = p;
    return (guint)(t->page * 31 + t->block);
}

static gboolean torn_page_equal(gconstpointer a, gconstpointer b)
{
    const struct torn_page *x = a, *y = b;
    return x->page == y->page && x->block == y->block;
}

struct state_torn *state_torn_create(void)
{
    struct state_torn *t = g_new(struct state_torn, 1);
    t->pages = g_hash_table_new_full(torn_page_hash, torn_page_equal, g_free, NULL);
    return t;
}

void state_torn_destroy(struct state_torn *t)
{
    if (t) {
        g_hash_table_unref(t->pages);
        g_free(t);
    }
}

void state_torn_add(struct state_torn *t, unsigned block, uint64_t page)
{
    const struct torn_page p = {page, block};
    g_hash_table_add(t->pages, g_memdup2(&p, sizeof(p)));
}

void state_torn_mend(struct state_torn *t, unsigned block, uint64_t page, uint32_t pages)
{
    for (uint32_t i = 0; i < pages && g_hash_table_size(t->pages); i++) {
        g_hash_table_remove(t->pages, &(struct torn_page){page + i, block});
    }
}

bool state_torn_any(const struct state_torn *t, unsigned *block, uint64_t *page)
{
    GHashTableIter i;
    gpointer key;
    g_hash_table_iter_init(&i, t->pages);
    bool found = g_hash_table_iter_next(&i, &key, NULL);
    if (found) {
        const struct torn_page *p = key;
        *block = p->block;
        *page = p->page;
    }
    return found;
}
