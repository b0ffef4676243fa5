/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/page_pool.h"

#include "guest/mem.h"

#include <stdlib.h>
#include <string.h>

uint8_t *page_pool_get(struct page_pool *p)
{
    uint8_t *page = p->first;
    if (!page) {
        return malloc(GUEST_PAGE_SIZE);
    }
    memcpy(&p->first, page, sizeof(p->first));
    return page;
}

void page_pool_put(struct page_pool *p, uint8_t *page)
{
    memcpy(page, &p->first, sizeof(p->first));
    p->first = page;
}

void page_pool_empty(struct page_pool *p)
{
    while (p->first) {
        free(page_pool_get(p));
    }
}
