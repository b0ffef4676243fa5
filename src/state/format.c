/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/format.h"

#include "base/checked.h"
#include "base/endian.h"
#include "state/manifest.h"

#include <inttypes.h>
#include <string.h>
#include <zstd.h>

void state_type_text(uint32_t type, char out[5])
{
    for (int i = 0; i < 4; i++) {
        char c = (char)(type >> 8 * i);
        out[i] = g_ascii_isalpha(c) ? c : '?';
    }
    out[4] = 0;
}

bool state_type_ok(uint32_t type)
{
    char t[5];
    state_type_text(type, t);
    return !strchr(t, '?') && g_ascii_isupper(t[2]);
}

void state_run_store(uint8_t *p, const struct state_run *r)
{
    store_le64(p, r->page);
    store_le32(p + 8, r->pages);
    p[12] = (uint8_t)(r->live ? STATE_PAGES_LIVE : r->kind);
    p[13] = 0;
    store_le16(p + 14, (uint16_t)r->other_block);
    store_le64(p + 16, r->bytes);
    store_le64(p + 24, r->other_page);
}

static int check_pages(const struct state_manifest *m, unsigned block, uint64_t page, uint32_t pages, struct err *e)
{
    if (block >= state_manifest_blocks(m)) {
        return err_set(e, EINVAL, "there is no RAM block %u", block);
    }
    if (!range_ok(page, pages, state_manifest_block_pages(m, block))) {
        return err_set(e, EINVAL, "pages %" PRIu64 " and on do not lie in RAM block '%s'", page,
                       state_manifest_block_name(m, block));
    }
    return 0;
}

int state_run_check(const struct state_run *r, const struct state_manifest *m, struct err *e)
{
    bool data = state_run_has_data(r), same = r->kind == STATE_PAGES_SAME;
    uint64_t raw = (uint64_t)r->pages * STATE_PAGE;
    if (!r->pages || r->kind >= STATE_PAGE_KINDS || (data && r->pages > STATE_RUN_PAGES_MAX)) {
        return err_set(e, EINVAL, "a run of %" PRIu32 " pages of kind %u", r->pages, r->kind);
    }
    bool fits = r->kind == STATE_PAGES_RAW    ? r->bytes == raw
                : r->kind == STATE_PAGES_ZSTD ? r->bytes > 0 && r->bytes <= ZSTD_COMPRESSBOUND(raw)
                                              : r->bytes == 0;
    if (!fits || (!same && (r->other_block || r->other_page))) {
        return err_set(e, EINVAL, "a run of %" PRIu32 " pages of kind %u with %" PRIu64 " bytes", r->pages, r->kind,
                       r->bytes);
    }
    int rc = check_pages(m, r->block, r->page, r->pages, e);
    rc = rc < 0 || !same ? rc : check_pages(m, r->other_block, r->other_page, r->pages, e);
    if (rc == 0 && same && r->block == r->other_block && ranges_overlap(r->page, r->pages, r->other_page, r->pages)) {
        return err_set(e, EINVAL, "pages %" PRIu64 " and on are said to be like themselves", r->page);
    }
    return rc;
}

int state_run_load(const uint8_t *p, unsigned block, const struct state_manifest *m, struct state_run *r, struct err *e)
{
    bool live = p[12] == STATE_PAGES_LIVE;
    *r = (struct state_run){.block = block,
                            .page = load_le64(p),
                            .pages = load_le32(p + 8),
                            .kind = live ? STATE_PAGES_RAW : p[12],
                            .live = live,
                            .other_block = load_le16(p + 14),
                            .bytes = load_le64(p + 16),
                            .other_page = load_le64(p + 24)};
    return p[13] ? err_set(e, EINVAL, "a run with something where zero should be") : state_run_check(r, m, e);
}

uint64_t state_runs_live(const struct state_run *runs, unsigned n)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < n; i++) {
        pages += runs[i].live ? runs[i].pages : 0;
    }
    return pages;
}

int64_t state_frame_pages(const void *frame, size_t len)
{
    unsigned long long n = ZSTD_getFrameContentSize(frame, len);
    bool ok = n != ZSTD_CONTENTSIZE_ERROR && n != ZSTD_CONTENTSIZE_UNKNOWN && n % STATE_PAGE == 0 &&
              n <= (uint64_t)STATE_RUN_PAGES_MAX * STATE_PAGE;
    return ok ? (int64_t)(n / STATE_PAGE) : -EINVAL;
}

int state_run_unpack(const struct state_run *r, const void *frame, void *dst, struct err *e)
{
    size_t want = (size_t)r->pages * STATE_PAGE, n = ZSTD_decompress(dst, want, frame, r->bytes);
    if (ZSTD_isError(n) || n != want) {
        return err_set(e, EINVAL, "pages %" PRIu64 " and on cannot be decompressed: %s", r->page,
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "too few bytes");
    }
    return 0;
}

/* --- which run counts --------------------------------------------------------------------------------------------- */

struct item {
    struct state_run run;
    guint seq; /* in the order of the stream */
};

static int by_place(gconstpointer a, gconstpointer b)
{
    const struct item *x = a, *y = b;
    return x->run.block != y->run.block ? (x->run.block < y->run.block ? -1 : 1)
           : x->run.page != y->run.page ? (x->run.page < y->run.page ? -1 : 1)
                                        : (x->seq > y->seq) - (x->seq < y->seq);
}

static bool is_settled(const GArray *runs)
{
    for (guint i = 1; i < runs->len; i++) {
        const struct state_run *a = &g_array_index(runs, struct state_run, i - 1), *b = a + 1;
        if (a->block > b->block || (a->block == b->block && a->page + a->pages > b->page)) {
            return false;
        }
    }
    return true;
}

/* The part of a run from page `from` to before `to`. */
static struct state_run cut(const struct state_run *r, uint64_t from, uint64_t to)
{
    struct state_run c = *r;
    uint64_t skip = from - r->page;
    c.page = from;
    c.pages = (uint32_t)(to - from);
    if (r->kind == STATE_PAGES_RAW) {
        c.offset += skip * STATE_PAGE;
        c.bytes = (uint64_t)c.pages * STATE_PAGE;
        c.crc += skip;
    } else if (r->kind == STATE_PAGES_ZSTD) {
        c.skip += (uint32_t)skip;
    } else if (r->kind == STATE_PAGES_SAME) {
        c.other_page += skip;
    }
    return c;
}

/* Those that hold the page now: a heap, the newest on top. */
static void push(GArray *heap, const struct item *it)
{
    g_array_append_val(heap, it);
    for (guint i = heap->len - 1; i > 0;) {
        guint up = (i - 1) / 2;
        const struct item **h = (const struct item **)(void *)heap->data;
        if (h[up]->seq >= h[i]->seq) {
            break;
        }
        const struct item *x = h[up];
        h[up] = h[i];
        h[i] = x;
        i = up;
    }
}

static void pop(GArray *heap)
{
    const struct item **h = (const struct item **)(void *)heap->data;
    guint n = heap->len - 1;
    h[0] = h[n];
    g_array_set_size(heap, n);
    for (guint i = 0;;) {
        guint l = 2 * i + 1, top = i;
        top = l < n && h[l]->seq > h[top]->seq ? l : top;
        top = l + 1 < n && h[l + 1]->seq > h[top]->seq ? l + 1 : top;
        if (top == i) {
            break;
        }
        const struct item *x = h[top];
        h[top] = h[i];
        h[i] = x;
        i = top;
    }
}

static void sweep(const GArray *items, GArray *out)
{
    GArray *heap = g_array_new(FALSE, FALSE, sizeof(struct item *));
    uint64_t pos = 0;
    for (guint i = 0, last = G_MAXUINT; i < items->len || heap->len;) {
        const struct item *next = i < items->len ? &g_array_index(items, struct item, i) : NULL;
        const struct item *top = heap->len ? g_array_index(heap, struct item *, 0) : NULL;
        if (top && top->run.page + top->run.pages <= pos) {
            pop(heap);
            continue;
        }
        if (next && (!top || (next->run.block == top->run.block && next->run.page <= pos))) {
            pos = top ? pos : next->run.page;
            push(heap, next);
            i++;
            continue;
        }
        uint64_t end = top->run.page + top->run.pages;
        if (next && next->run.block == top->run.block) {
            end = min_u64(end, next->run.page);
        }
        if (last == top->seq) { /* something older began here: the run goes on */
            struct state_run *r = &g_array_index(out, struct state_run, out->len - 1);
            *r = cut(&top->run, r->page, end);
        } else {
            struct state_run r = cut(&top->run, pos, end);
            g_array_append_val(out, r);
        }
        last = top->seq;
        pos = end;
    }
    g_array_unref(heap);
}

void state_runs_settle(GArray *runs)
{
    if (is_settled(runs)) {
        return;
    }
    GArray *items = g_array_sized_new(FALSE, FALSE, sizeof(struct item), runs->len);
    for (guint i = 0; i < runs->len; i++) {
        struct item it = {.run = g_array_index(runs, struct state_run, i), .seq = i};
        g_array_append_val(items, it);
    }
    g_array_sort(items, by_place);
    g_array_set_size(runs, 0);
    sweep(items, runs);
    g_array_unref(items);
}
