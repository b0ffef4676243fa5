/* SPDX-License-Identifier: BSD-2-Clause */
#include "support.h"

#include "crypto/secret.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

static void *bench_object(void *opaque, const char *type, const char *id)
{
    static struct secret secret = {(const unsigned char *)BENCH_PASSWORD, sizeof(BENCH_PASSWORD) - 1};
    return !strcmp(type, "secret") && !strcmp(id, BENCH_SECRET) ? &secret : NULL;
}

static int run_in_co(void *arg)
{
    struct bench *b = arg;
    b->graph = graph_create(b->loop, NULL, NULL);
    graph_set_object_lookup(b->graph, bench_object, NULL);
    b->fn(b);
    GPtrArray *nodes = graph_nodes(b->graph);
    int left = 0;
    for (guint i = 0; i < nodes->len; i++) {
        struct node *n = g_ptr_array_index(nodes, i);
        left += !n->monitor_owned;
    }
    g_ptr_array_free(nodes, true);
    graph_destroy(b->graph);
    return left;
}

static void remove_folder(const char *dir)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;
    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_unlink(path);
    }
    if (d) {
        g_dir_close(d);
    }
    g_rmdir(dir);
}

void bench_run(void (*fn)(struct bench *b))
{
    bench_run_arg(fn, NULL);
}

void bench_run_arg(void (*fn)(struct bench *b), void *arg)
{
    struct bench b = {.fn = fn, .arg = arg};
    struct err e = ERR_INIT;
    g_snprintf(b.dir, sizeof(b.dir), "/tmp/sterna-block-XXXXXX");
    assert_non_null(g_mkdtemp(b.dir));
    b.loop = loop_create(LOOP_AUTO, &e);
    if (!b.loop) {
        fail_msg("%s", err_text(&e));
    }
    int left = co_run(b.loop, run_in_co, &b);
    loop_destroy(b.loop);
    remove_folder(b.dir);
    assert_int_equal(left, 0);
}

const char *bench_path(struct bench *b, const char *name)
{
    static char paths[8][128];
    static unsigned next;
    char *p = paths[next++ % 8];
    g_snprintf(p, sizeof(paths[0]), "%s/%s", b->dir, name);
    return p;
}

const char *bench_file(struct bench *b, const char *name, uint64_t size, int fill)
{
    const char *path = bench_path(b, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    if (fill) {
        char *buf = malloc(size);
        memset(buf, fill, size);
        assert_int_equal(pwrite(fd, buf, size, 0), size);
        free(buf);
    }
    close(fd);
    return path;
}

struct json_object *jsonf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *s = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_strdelimit(s, "'", '"');
    struct json_object *o = json_tokener_parse(s);
    if (!o) {
        fail_msg("not JSON: %s", s);
    }
    return o;
}

struct node *must_open(struct bench *b, struct json_object *opts)
{
    struct err e = ERR_INIT;
    struct node *n;
    if (node_open(b->graph, opts, &n, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(opts);
    return n;
}

const char *must_fail(struct bench *b, struct json_object *opts)
{
    static char text[512];
    struct err e = ERR_INIT;
    struct node *n;
    assert_true(node_open(b->graph, opts, &n, &e) < 0);
    assert_null(n);
    assert_true(err_is_set(&e));
    g_strlcpy(text, err_text(&e), sizeof(text));
    err_clear(&e);
    json_object_put(opts);
    return text;
}

struct edge *must_edge(struct node *n, unsigned perm, unsigned shared)
{
    struct err e = ERR_INIT;
    struct edge *ed;
    if (edge_open(n, &(struct edge_spec){"root", perm, shared}, &ed, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    return ed;
}

struct edge *rw_edge(struct node *n)
{
    return must_edge(n, PERM_ALL, PERM_ALL);
}

struct spawned {
    void (*fn)(void *arg);
    void *arg;
    int *running;
};

static void run_spawned(void *arg)
{
    struct spawned s = *(struct spawned *)arg;
    g_free(arg);
    s.fn(s.arg);
    (*s.running)--;
}

void spawn(struct bench *b, void (*fn)(void *arg), void *arg, int *running)
{
    struct spawned *s = g_new(struct spawned, 1);
    *s = (struct spawned){fn, arg, running};
    (*running)++;
    co_start_later(b->loop, run_spawned, s);
}

void wait_for(int *running)
{
    while (*running) {
        co_sleep(100000);
    }
}

uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t rnd(uint64_t *state)
{
    uint64_t x = (*state += 0x9e3779b97f4a7c15u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
