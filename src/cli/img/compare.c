/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR    512
#define BUF_SIZE  (2u << 20)
#define WORKERS   4
#define NO_OFFSET UINT64_MAX

enum { SAME, DIFFERENT, CANNOT_OPEN, CANNOT_READ_STATUS, CANNOT_READ };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {'f', "a-format", true},
    {'F', "b-format", true},
    {'T', "cache", true},
    {'p', "progress", false},
    {'q', "quiet", false},
    {'s', "strict", false},
    {'U', "force-share", false},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *fmt2, *cache;
    bool progress, strict;
};

/*
 * Workers take piece after piece; what counts is the first difference in the order of offsets, so a worker that finds
 * one only lowers `stop`.
 */
struct compare {
    struct tool *img;
    const struct args *args;
    struct img_disk d[2];
    uint64_t size[2], end, next;
    struct co_mutex cursor;
    struct img_progress progress;
    uint64_t stop; /* offset of the first finding; NO_OFFSET: none */
    int code;      /* exit code of that finding */
    char *text;    /* its message; owned */
    unsigned running;
    struct co *waiter;
};

struct piece {
    uint64_t off, len;
    bool data[2]; /* not known to be zero */
};

static void found(struct compare *c, uint64_t off, int code, char *text)
{
    if (off < c->stop) {
        c->stop = off;
        c->code = code;
        g_free(c->text);
        c->text = text;
    } else {
        g_free(text);
    }
}

static void found_difference(struct compare *c, uint64_t off)
{
    found(c, off, DIFFERENT, g_strdup_printf("Content mismatch at offset %" PRIu64 "!", off));
}

/* The next range in which each image is of one kind; false: nothing left. Under the cursor's lock. */
static bool next_piece(struct compare *c, struct piece *p)
{
    while (c->next < c->end && c->next < c->stop) {
        struct extent x[2];
        uint64_t off = c->next, len = c->end - off;
        for (int i = 0; i < 2; i++) {
            int depth, rc = img_disk_status(&c->d[i], off, c->end - off, &x[i], &depth);
            if (rc) {
                found(c, off, CANNOT_READ_STATUS,
                      g_strdup_printf("Sector allocation test failed for %s", c->d[i].name));
                return false;
            }
            len = min_u64(len, x[i].len);
        }
        const unsigned mask = EXT_DATA | EXT_ZERO | EXT_ALLOCATED | EXT_OFFSET | EXT_COMPRESSED | EXT_EOF;
        if (c->args->strict && off < min_u64(c->size[0], c->size[1]) && (x[0].flags & mask) != (x[1].flags & mask)) {
            found(c, off, DIFFERENT, g_strdup_printf("Strict mode: Offset %" PRIu64 " block status mismatch!", off));
            return false;
        }
        bool zero[2] = {x[0].flags & EXT_ZERO, x[1].flags & EXT_ZERO};
        len = zero[0] && zero[1] ? len : min_u64(len, BUF_SIZE);
        c->next = off + len;
        img_progress_set(&c->progress, (double)c->next * 100 / (double)max_u64(c->size[0], c->size[1]));
        if (!zero[0] || !zero[1]) {
            *p = (struct piece){.off = off, .len = len, .data = {!zero[0], !zero[1]}};
            return true;
        }
    }
    return false;
}

/* Offset of the first sector that differs (b NULL: that is not zero) in the first len bytes; NO_OFFSET: none. */
static uint64_t first_difference(const char *a, const char *b, uint64_t len)
{
    if (b ? memcmp(a, b, len) == 0 : buf_is_zero(a, len)) {
        return NO_OFFSET;
    }
    for (uint64_t i = 0; i < len; i += SECTOR) {
        size_t n = min_u64(SECTOR, len - i);
        if (b ? memcmp(a + i, b + i, n) != 0 : !buf_is_zero(a + i, n)) {
            return i;
        }
    }
    return NO_OFFSET;
}

static void compare_piece(struct compare *c, const struct piece *p, char *const buf[2])
{
    const char *held[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        if (!p->data[i]) {
            continue;
        }
        int rc = img_disk_read(&c->d[i], p->off, p->len, buf[i]);
        if (rc) {
            found(c, p->off, CANNOT_READ,
                  g_strdup_printf("Error while reading offset %" PRIu64 " of %s: %s", p->off, c->d[i].name,
                                  g_strerror(-rc)));
            return;
        }
        held[i] = buf[i];
    }
    uint64_t at = held[0] ? first_difference(held[0], held[1], p->len) : first_difference(held[1], NULL, p->len);
    if (at != NO_OFFSET) {
        found_difference(c, p->off + at);
    }
}

static void worker(void *arg)
{
    struct compare *c = arg;
    char *buf[2] = {block_buf_alloc(c->d[0].node, BUF_SIZE), block_buf_alloc(c->d[1].node, BUF_SIZE)};
    if (!buf[0] || !buf[1]) {
        found(c, c->next, CANNOT_READ, g_strdup("out of memory"));
    }
    for (bool more = buf[0] && buf[1]; more;) {
        struct piece p;
        co_lock(&c->cursor);
        more = next_piece(c, &p);
        co_unlock(&c->cursor);
        if (more) {
            compare_piece(c, &p, buf);
        }
    }
    free(buf[0]);
    free(buf[1]);
    if (--c->running == 0) {
        co_wake(c->waiter);
    }
}

static void compare_range(struct compare *c, uint64_t from, uint64_t to)
{
    c->next = from;
    c->end = to;
    c->waiter = co_self();
    c->running = WORKERS;
    for (int i = 0; i < WORKERS; i++) {
        co_start(c->img->loop, worker, c);
    }
    while (c->running) {
        co_wait();
    }
}

static void say(struct compare *c, const char *text)
{
    if (!c->args->common.quiet) {
        puts(text);
    }
}

static int compare_disks(struct compare *c)
{
    c->size[0] = img_disk_size(&c->d[0]);
    c->size[1] = img_disk_size(&c->d[1]);
    uint64_t both = min_u64(c->size[0], c->size[1]), all = max_u64(c->size[0], c->size[1]);
    if (c->args->strict && both != all) {
        say(c, "Strict mode: Image size mismatch!");
        return DIFFERENT;
    }
    compare_range(c, 0, both);
    if (c->stop == NO_OFFSET && both != all) {
        say(c, "Warning: Image size mismatch!"); /* what is beyond must read as zero */
        compare_range(c, both, all);
    }
    if (c->stop == NO_OFFSET) {
        say(c, "Images are identical.");
        return SAME;
    }
    if (c->code == DIFFERENT) {
        say(c, c->text);
    } else {
        tool_fail(c->img, "%s", c->text);
    }
    return c->code;
}

static int run(struct tool *img, const struct args *a, char **names)
{
    struct compare c = {.img = img, .args = a, .stop = NO_OFFSET};
    const char *fmt[] = {a->common.fmt, a->fmt2};
    bool progress = a->progress && !a->common.quiet, opened = true;
    for (int i = 0; i < 2 && opened; i++) {
        struct img_open how = {.fmt = fmt[i], .image_opts = a->common.image_opts, .force_share = a->common.force_share};
        if (!tool_parse_cache(a->cache, &how.cache)) {
            tool_fail(img, "Invalid source cache option: %s", a->cache);
            opened = false;
        } else {
            opened = img_disk_open(img, names[i], &how, &c.d[i]);
        }
    }
    int rc = CANNOT_OPEN;
    if (opened) {
        img_progress_start(&c.progress, progress);
        rc = compare_disks(&c);
        img_progress_end(&c.progress);
    } else if (progress) {
        putchar('\n'); /* the end of a line that was not begun */
    }
    g_free(c.text);
    img_disk_drop(&c.d[0]);
    img_disk_drop(&c.d[1]);
    return rc;
}

int img_compare(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.cache = "writeback"};
    int key;
    while ((key = img_next(img, &o, &a.common)) > OPTS_END) {
        switch (key) {
        case 'F':
            a.fmt2 = o.value;
            break;
        case 'T':
            a.cache = o.value;
            break;
        case 'p':
            a.progress = true;
            break;
        default:
            a.strict = true;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a.common);
    }
    unsigned n;
    char **names = opts_operands(&o, &n);
    if (n != 2) {
        return img_fail_usage(img, "Expecting two image file names");
    }
    return run(img, &a, names);
}
