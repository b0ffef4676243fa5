/* SPDX-License-Identifier: BSD-2-Clause */
#include "image.h"

#include "base/cleanup.h"
#include "crypto/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 200 };

uint8_t fuzz_byte(const struct input *in, size_t i)
{
    return in->data[in->size - 1 - i % in->size];
}

static void *find_object(void *opaque, const char *type, const char *id)
{
    static struct secret key = {(const unsigned char *)FUZZ_PASSWORD, sizeof(FUZZ_PASSWORD) - 1},
                         other = {(const unsigned char *)"another", 7};
    if (strcmp(type, "secret") != 0) {
        return NULL;
    }
    return !strcmp(id, FUZZ_SECRET) ? &key : !strcmp(id, FUZZ_OTHER_SECRET) ? &other : NULL;
}

struct run {
    struct input *in;
    void (*fn)(struct input *in);
};

static int run_in_co(void *arg)
{
    struct run *r = arg;
    struct input *in = r->in;
    in->graph = graph_create(co_loop(), NULL, NULL);
    graph_set_object_lookup(in->graph, find_object, NULL);
    r->fn(in);
    graph_destroy(in->graph);
    return 0;
}

void fuzz_run(struct input *in, void (*fn)(struct input *in))
{
    static struct loop *l;
    if (!l) {
        l = loop_create(LOOP_EPOLL, NULL);
    }
    if (l) {
        co_run(l, run_in_co, &(struct run){in, fn});
    }
}

struct json_object *fuzz_options(const char *text)
{
    struct json_object *o = json_tokener_parse(text);
    if (!o) {
        abort(); /* the harness itself is broken */
    }
    return o;
}

struct node *fuzz_open(struct input *in, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, args);
    va_end(args);
    CLEANUP_JSON struct json_object *o = fuzz_options(text);
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *n = NULL;
    if (node_open(in->graph, o, &n, &e) < 0 && !err_is_set(&e)) {
        abort(); /* a refusal says why */
    }
    return n;
}

/* --- using an image ----------------------------------------------------------------------------------------------- */

static void walk(struct node *n)
{
    struct extent x;
    uint64_t off = 0;
    for (int i = 0; i < STEPS && off < n->size; i++, off += x.len) {
        if (node_status(n, true, off, n->size - off, &x) < 0) {
            break;
        }
    }
}

void fuzz_read(struct input *in)
{
    uint64_t size = edge_size(in->ed);
    for (uint64_t off = 0, i = 0; off < size && i < 8; off += size / 7 + 1, i++) {
        edge_read_buf(in->ed, off, MIN((uint64_t)FUZZ_BUF / 4, size - off), in->buf);
    }
}

static void change(struct input *in)
{
    uint64_t size = edge_size(in->ed);
    for (unsigned i = 0; i < 12 && size; i++) {
        uint64_t off = (fuzz_byte(in, i) * UINT64_C(0x9e3779b97f4a7c15) >> 20) % size,
                 n = MIN((uint64_t)FUZZ_BUF >> i % 4, size - off);
        switch (i % 6) {
        case 2:
            edge_zero(in->ed, off, n, fuzz_byte(in, i) & 1 ? REQ_MAY_UNMAP : 0);
            break;
        case 3:
            edge_discard(in->ed, off, n);
            break;
        case 4:
            edge_write_buf(in->ed, off & ~UINT64_C(0xffff), MIN(n, 65536), in->buf, REQ_COMPRESSED);
            break;
        case 5:
            edge_flush(in->ed);
            break;
        default:
            edge_write_buf(in->ed, off, n, in->buf, 0);
            break;
        }
    }
}

static void resize(struct input *in)
{
    uint64_t size = edge_size(in->ed);
    if (size < 1 << 20) {
        edge_truncate(in->ed, size / 1024 * 512, true, PREALLOC_OFF, NULL);
        edge_truncate(in->ed, size / 512 * 512 + 65536, true, in->size & 1 ? PREALLOC_METADATA : PREALLOC_OFF, NULL);
    }
}

/* What is written can be read, however damaged the image: a sector, so that it is in one place. */
static void echo(struct input *in)
{
    uint8_t sector[512], got[512];
    uint64_t sectors = edge_size(in->ed) / 512;
    for (unsigned i = 0; i < 4 && sectors; i++) {
        uint64_t off = fuzz_byte(in, 14 + i) * UINT64_C(0x9e3779b97f4a7c15) % sectors * 512;
        memset(sector, 'e' + (int)i, sizeof(sector));
        if (edge_write_buf(in->ed, off, sizeof(sector), sector, 0) == 0 &&
            edge_read_buf(in->ed, off, sizeof(got), got) == 0 && memcmp(got, sector, sizeof(got)) != 0) {
            abort();
        }
    }
}

bool fuzz_check(struct node *n, unsigned fix)
{
    struct check_result r = {.text = g_string_new(NULL)};
    int rc = n->drv->check(n, &r, fix, NULL);
    g_string_free(r.text, TRUE);
    return rc == 0 && !r.corruptions && !r.check_errors;
}

void fuzz_still_sound(struct node *n)
{
    struct check_result r = {.text = g_string_new(NULL)};
    int rc = n->drv->check(n, &r, 0, NULL);
    if (rc < 0 || r.corruptions || r.check_errors) {
        fprintf(stderr, "it was sound: %s%s\n", rc < 0 ? strerror(-rc) : "", r.text->str);
        abort();
    }
    g_string_free(r.text, TRUE);
}

void fuzz_use(struct input *in, struct node *n, void (*more)(struct input *in, struct node *n))
{
    struct driver_info info = {0};
    node_get_info(n, &info);
    json_object_put(n->drv->specific_info(n));
    walk(n);
    if (edge_open(n, &(struct edge_spec){"fuzz", n->read_only ? PERM_READ : PERM_ALL, PERM_ALL}, &in->ed, NULL) < 0) {
        return;
    }
    in->buf = g_malloc0(FUZZ_BUF);
    fuzz_read(in);
    if (!n->read_only) {
        change(in);
        resize(in);
        echo(in);
    }
    if (more) {
        more(in, n);
    }
    fuzz_read(in);
    edge_close(in->ed);
    g_free(in->buf);
}
