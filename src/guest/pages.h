/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM that is watched page by page: kept as it was at an instant while the guest goes on changing it, or filled while
 * the guest already uses it.
 *
 * What catches the accesses is userfaultfd(2), whoever they come from: an access waits in the kernel until the *page
 * thread* has dealt with it. That thread waits for nothing but its descriptor, the engine's mutex and, for pages that
 * are to come, the caller's `fetch`. Harts look before, get such pages themselves (guest_mem_fetch()), and so can be
 * paused when there is nothing to be had; devices on the loop ask the page thread and look again later
 * (guest_mem_awaits()), so that the loop waits for nothing. Where only faults from user mode are allowed, accesses by
 * the kernel itself would fail; therefore guest_mem_will_write() and _will_read(). Where there is no userfaultfd,
 * harts' stores are seen by the accelerator, which looks at store_guard, and devices' by guest_mem_will_write(): that
 * is enough for keeping RAM, not for filling it. The built-in accelerator sees them at less cost than the kernel does,
 * and is preferred for keeping.
 *
 *      IDLE --watch--> WATCHED --freeze--> FROZEN --end--> IDLE         keeping
 *      IDLE --prepare_fill--> READY --empty--> FILLING --end--> IDLE    filling
 *      IDLE --fill_gaps--> FILLING --end--> IDLE                        filling what is missing, by who has it
 *
 * Threads: the loop thread, unless it says any.
 */
#pragma once

#include "guest/mem.h"

struct pages;

enum pages_way {
    /* As STERNA_PAGES says ("uffd"; "user": with faults from user mode only; "soft"), else userfaultfd if it can be
     * had, else the accelerator. */
    PAGES_AUTO,
    PAGES_SEEN, /* as STERNA_PAGES says, else the accelerator, which sees every store: no system call for a page */
    PAGES_UFFD,
    PAGES_SOFT,
};

/* An error: STERNA_PAGES has another value than those. Asked for when a machine is made. */
int pages_check_wish(struct err *e);

/* One per guest_mem, made before harts run, gone after they are. Costs nothing while idle. */
struct pages *pages_create(struct guest_mem *m);
void pages_destroy(struct pages *p); /* from any state; NULL is fine */
/* PAGES_UFFD or PAGES_SOFT: what the last watch chose. */
enum pages_way pages_way(const struct pages *p);

/* --- keeping -------------------------------------------------------------------------------------------------------
 */

/* Allocates, starts the page thread. The machine is quiesced: nothing that the kernel writes for a device is under way.
 */
int pages_watch(struct pages *p, enum pages_way way, struct err *e);
/* Protects most of RAM while the guest runs, so that little is left for the instant. Optional. Any thread. */
void pages_protect_ahead(struct pages *p);
/*
 * The instant. Quiesced. From here on pages_take() gives every page as it is now. The caller tells the accelerator
 * (dirty_log_changed) before harts run again. Failing leaves it WATCHED.
 */
int pages_freeze(struct pages *p, struct err *e);

enum pages_taken { PAGE_TAKEN_BEFORE, PAGE_ZERO, PAGE_DATA };
/*
 * Pages [first, first + n) of a block that have not been taken before: what[i] says so, those with data are copied to
 * buf + i * GUEST_PAGE_SIZE. They may change from now on. Any thread, one at a time. -ENOMEM: there was no memory for
 * a copy once, RAM as it was is lost.
 */
int pages_take(struct pages *p, unsigned block, uint64_t first, unsigned n, uint8_t *buf, uint8_t *what);
/* The same of pages that nobody needs: they may change from now on. Any thread, one at a time. */
void pages_pass(struct pages *p, unsigned block, uint64_t first, uint64_t n);
/* Bytes of copies made for the guest and not yet taken. Above pages_set_limit() whoever needs more of them is slowed
 * down, but never stopped. Any thread. */
uint64_t pages_copied(struct pages *p);
void pages_set_limit(struct pages *p, uint64_t bytes);
/* The first page at or after *block, *page of which there is a copy; false: none. Any thread. */
bool pages_next_copy(struct pages *p, unsigned *block, uint64_t *page);

/* --- filling -------------------------------------------------------------------------------------------------------
 */

struct pages_source {
    void *opaque;
    /*
     * Data of `n` pages at `first` into buf. On harts' threads and the page thread (`urgent`), and for pages_fill() on
     * that thread; all may be in here at once. Negative errno: it cannot be had; when n > 1 each is then asked for.
     */
    int (*fetch)(void *opaque, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool urgent);
    /* A page that is needed could not be had: nobody sees anything else, who needs it waits and asks again. Same
     * threads. */
    void (*failed)(void *opaque, unsigned block, uint64_t page, int rc);
    /*
     * For pages_fill_gaps(), in the place of both: somebody needs the page and waits until pages_put() brings it; told
     * again whenever he looks. Any thread; must not wait.
     */
    void (*want)(void *opaque, unsigned block, uint64_t page);
};
/* Whether this host lets us. */
bool pages_can_fill(struct pages *p);
/* Quiesced: everything that could fail. RAM is as it was until pages_empty(). The source is copied. */
int pages_prepare_fill(struct pages *p, const struct pages_source *s, struct err *e);
/* Quiesced, after that: all of RAM is given up and comes from the source from now on. */
void pages_empty(struct pages *p);
/* Makes [first, first + n) be there, n <= PAGES_FILL_MAX. Any thread, one at a time. Negative errno: not all of it. */
enum { PAGES_FILL_MAX = 256 };
int pages_fill(struct pages *p, unsigned block, uint64_t first, unsigned n);

/*
 * Quiesced: RAM stays as it is but for the pages of each block whose byte in missing[block] is nonzero: those are given
 * up and come by pages_put(). All the others must have been touched, be it that they were read. The source is copied.
 */
int pages_fill_gaps(struct pages *p, const struct pages_source *s, uint8_t *const *missing, struct err *e);
/* These have come; NULL: they are zero. How many of them were missing, or a negative errno. Loop thread. With
 * pages_prepare_fill(), too: they are not asked for then. */
int pages_put(struct pages *p, unsigned block, uint64_t first, unsigned n, const uint8_t *data);
uint64_t pages_missing(const struct pages *p); /* any thread */

/* --- both ----------------------------------------------------------------------------------------------------------
 */

/* Back to IDLE: copies are dropped, pages that did not come are zeroes. The guest may run, unless there are such. */
void pages_end(struct pages *p);
