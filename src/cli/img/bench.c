/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "block/options.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_FLUSH_INTERVAL = OPT_OWN, OPT_NO_DRAIN, OPT_PATTERN };

#define MAX_DEPTH 65536

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_IMAGE_OPTS,
    {'c', "count", true},
    {'d', "depth", true},
    {'f', "format", true},
    {'i', "aio", true},
    {'n', "native", false},
    {'o', "offset", true},
    {'q', "quiet", false},
    {'s', "buffer-size", true},
    {'S', "step-size", true},
    {'t', "cache", true},
    {'w', "write", false},
    {'U', "force-share", false},
    {OPT_FLUSH_INTERVAL, "flush-interval", true},
    {OPT_NO_DRAIN, "no-drain", false},
    {OPT_PATTERN, "pattern", true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *name, *cache;
    int64_t count, depth, offset, size, step, flush_interval, pattern;
    bool write, native, no_drain;
};

struct bench {
    struct tool *img;
    const struct args *args;
    struct img_disk *disk;
    uint64_t issued, offset, since_flush, in_flight;
    unsigned running;
    struct co_queue drained; /* those that wait for a flush to have the disk to itself */
    bool flushing;
    int rc;
    struct co *waiter;
};

/* --- running ---------------------------------------------------------------------------------------------------- */

/* After every so many writes a flush, which waits for those before it unless told otherwise. */
static void flush_if_due(struct bench *b)
{
    const struct args *a = b->args;
    if (!a->flush_interval || ++b->since_flush < (uint64_t)a->flush_interval) {
        return;
    }
    b->since_flush = 0;
    if (!a->no_drain) {
        while (b->flushing) {
            co_queue_wait(&b->drained);
        }
        b->flushing = true;
        while (b->in_flight && !b->rc) {
            co_queue_wait(&b->drained);
        }
    }
    int rc = edge_flush(b->disk->edge);
    b->rc = b->rc ? b->rc : rc;
    if (!a->no_drain) {
        b->flushing = false;
        co_queue_wake_all(&b->drained);
    }
}

static void worker(void *arg)
{
    struct bench *b = arg;
    const struct args *a = b->args;
    uint64_t image = img_disk_size(b->disk);
    char *buf = block_buf_alloc(b->disk->node, (size_t)a->size);
    b->rc = buf ? b->rc : -ENOMEM;
    if (buf) {
        memset(buf, (int)a->pattern, (size_t)a->size);
    }
    while (!b->rc && b->issued < (uint64_t)a->count) {
        if (b->flushing) {
            co_queue_wait(&b->drained);
            continue;
        }
        uint64_t off = b->offset;
        b->issued++;
        b->offset += (uint64_t)a->step;
        if (image <= (uint64_t)a->size) {
            b->offset = 0;
        } else {
            b->offset %= image - (uint64_t)a->size;
        }
        b->in_flight++;
        int rc = a->write ? img_disk_write(b->disk, off, (uint64_t)a->size, buf, 0)
                          : edge_read_buf(b->disk->edge, off, (uint64_t)a->size, buf);
        b->in_flight--;
        b->rc = b->rc ? b->rc : rc;
        co_queue_wake_all(&b->drained);
        flush_if_due(b);
    }
    free(buf);
    co_queue_wake_all(&b->drained);
    if (--b->running == 0) {
        co_wake(b->waiter);
    }
}

static int run(struct tool *img, const struct args *a, struct img_disk *disk)
{
    struct bench b = {.img = img, .args = a, .disk = disk, .offset = (uint64_t)a->offset, .waiter = co_self()};
    printf("Sending %" PRId64 " %s requests, %" PRId64 " bytes each, %" PRId64 " in parallel (starting at offset "
           "%" PRId64 ", step size %" PRId64 ")\n",
           a->count, a->write ? "write" : "read", a->size, a->depth, a->offset, a->step);
    if (a->flush_interval) {
        printf("Sending flush every %s%" PRId64 " requests\n", a->no_drain ? "(without draining) " : "",
               a->flush_interval);
    }
    fflush(stdout);
    uint64_t began = loop_now_ns();
    b.running = (unsigned)MIN(a->depth, MAX(a->count, 1));
    for (unsigned i = b.running; i > 0; i--) {
        co_start_later(img->loop, worker, &b);
    }
    while (b.running) {
        co_wait();
    }
    if (b.rc) {
        return tool_fail(img, "Failed request: %s", g_strerror(-b.rc));
    }
    printf("Run completed in %3.3f seconds.\n", (double)(loop_now_ns() - began) / 1e9);
    return 0;
}

/* --- arguments -------------------------------------------------------------------------------------------------- */

static bool plain_number(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 0);
    return g_ascii_isdigit(*text) && !*end && !errno && *out >= min && *out <= max;
}

static bool set_number(struct tool *img, struct args *a, int key, const char *value)
{
    static const int64_t sizes[] = {1, INT_MAX}, steps[] = {0, INT_MAX}, offsets[] = {0, INT64_MAX};
    const struct {
        int key;
        int64_t min, max, *out;
        const char *error;
    } plain[] = {
        {'c', 0, INT_MAX, &a->count, "Invalid request count specified"},
        {'d', 1, MAX_DEPTH, &a->depth, "Invalid queue depth specified"},
        {OPT_FLUSH_INTERVAL, 0, INT_MAX, &a->flush_interval, "Invalid flush interval specified"},
        {OPT_PATTERN, 0, 255, &a->pattern, "Invalid pattern byte specified"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(plain); i++) {
        if (plain[i].key == key) {
            bool ok = plain_number(value, plain[i].min, plain[i].max, plain[i].out);
            if (!ok) {
                tool_fail(img, "%s", plain[i].error);
            }
            return ok;
        }
    }
    switch (key) {
    case 'o':
        return img_number(img, "offset", value, offsets, &a->offset);
    case 's':
        return img_number(img, "buffer size", value, sizes, &a->size);
    default:
        return img_number(img, "step_size", value, steps, &a->step);
    }
}

static bool is_aio(const char *name)
{
    static const char *const names[] = {"threads", "native", "io_uring", NULL};
    return g_strv_contains(names, name);
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        if (key == 'w') {
            a->write = true;
        } else if (key == OPT_NO_DRAIN) {
            a->no_drain = true;
        } else if (key == 't') {
            a->cache = o->value;
        } else if (key == 'i' && !is_aio(o->value)) {
            return tool_fail(img, "Invalid aio option: %s", o->value);
        } else if (key == 'i' || key == 'n') {
            a->native = key == 'n' || strcmp(o->value, "native") == 0; /* which way I/O goes is the loop's choice */
        } else if (!set_number(img, a, key, o->value)) {
            return 1;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    a->name = img_one_operand(img, o);
    if (!a->name) {
        return 1;
    }
    if (!a->write && a->flush_interval) {
        return tool_fail(img, "--flush-interval is only available in write tests");
    }
    if (a->flush_interval && a->flush_interval < a->depth) {
        return tool_fail(img, "Flush interval can't be smaller than depth");
    }
    a->step = a->step ? a->step : a->size;
    return -1;
}

int img_bench(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.count = 75000, .depth = 64, .size = 4096, .cache = "writeback"};
    int rc = parse(img, &o, &a);
    if (rc >= 0) {
        return rc;
    }
    struct img_open how = {.fmt = a.common.fmt,
                           .image_opts = a.common.image_opts,
                           .force_share = a.common.force_share,
                           .writable = a.write};
    if (!tool_parse_cache(a.cache, &how.cache)) {
        return tool_fail(img, "Invalid cache mode");
    }
    if (a.native && !how.cache.direct && !a.common.image_opts && !path_has_protocol(a.name)) {
        return tool_fail(img,
                         "Could not open '%s': aio=native was specified, but it requires cache.direct=on, which was "
                         "not specified.",
                         a.name);
    }
    struct img_disk d;
    if (!img_disk_open(img, a.name, &how, &d)) {
        return 1;
    }
    rc = run(img, &a, &d);
    int closed = img_disk_close(&d);
    return closed && rc == 0 ? tool_fail(img, "Failed request: %s", g_strerror(-closed)) : rc;
}
