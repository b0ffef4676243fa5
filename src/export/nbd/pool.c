/* SPDX-License-Identifier: BSD-2-Clause */
#include "export/nbd/int.h"

#include <stdlib.h>

enum { SMALLEST = 4096, KEEP = 32 << 20 };

struct nbs_spare {
    struct nbs_spare *next;
};

static unsigned class_of(size_t len)
{
    unsigned i = 0;
    while (((size_t)SMALLEST << i) < len) {
        i++;
    }
    return i;
}

void *nbs_pool_get(struct nbs_pool *p, size_t len)
{
    unsigned i = class_of(len);
    size_t size = (size_t)SMALLEST << i;
    struct nbs_spare *s = p->spare[i];
    if (s) {
        p->spare[i] = s->next;
        p->kept -= size;
        return s;
    }
    void *buf = NULL;
    return posix_memalign(&buf, SMALLEST, size) ? NULL : buf;
}

void nbs_pool_put(struct nbs_pool *p, void *buf, size_t len)
{
    unsigned i = class_of(len);
    size_t size = (size_t)SMALLEST << i;
    struct nbs_spare *s = buf;
    if (!s) {
        return;
    }
    if (p->kept + size > KEEP) {
        free(s);
        return;
    }
    s->next = p->spare[i];
    p->spare[i] = s;
    p->kept += size;
}

void nbs_pool_finish(struct nbs_pool *p)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(p->spare); i++) {
        while (p->spare[i]) {
            struct nbs_spare *s = p->spare[i];
            p->spare[i] = s->next;
            free(s);
        }
    }
    p->kept = 0;
}
