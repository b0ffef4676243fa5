/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory for copies of pages, kept when one is done with: the next copy finds it there already, and the kernel neither
 * brings nor empties another page. One thread at a time. */
#pragma once

#include <stdint.h>

/* Zero-initialised. */
struct page_pool {
    uint8_t *first; /* each begins with the next one's address */
};
uint8_t *page_pool_get(struct page_pool *p); /* GUEST_PAGE_SIZE bytes of anything; NULL: no memory */
void page_pool_put(struct page_pool *p, uint8_t *page);
void page_pool_empty(struct page_pool *p);
