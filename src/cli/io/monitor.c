/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/io/monitor.h"

#include "cli/io/io.h"

#include <errno.h>

/* One line, which lives until the last request that it began has ended. */
struct exercise {
    struct io io;
    struct edge *own; /* NULL: a backend's edge is used */
    const char *line;
    struct caller *caller; /* until the line has been run */
};

struct caller {
    struct co *co;
    bool done;
    int rc;
};

static void run(void *arg)
{
    struct exercise *x = arg;
    struct caller *c = x->caller;
    unsigned perm = x->io.edge->own_perm;
    c->rc = io_run(&x->io, x->line);
    edge_set_perm(x->io.edge, perm, x->io.edge->own_shared, NULL);
    x->io.out = x->io.errors = NULL;
    c->done = true;
    co_wake(c->co);
    io_wait_settled(&x->io);
    edge_close(x->own);
    node_unref(x->io.node);
    g_free(x);
}

static int own_edge(struct exercise *x, struct node *n, GString *errors)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct edge_spec spec = {"root", PERM_READ, PERM_ALL};
    int rc = edge_open(n, &spec, &x->own, &e);
    if (rc) {
        g_string_append_printf(errors, "%s\n", err_text(&e));
    }
    return rc;
}

int io_monitor_run(struct block_graph *g, struct backend *b, struct node *n, const char *line, GString *out,
                   GString *errors)
{
    struct exercise *x = g_new0(struct exercise, 1);
    int rc = b ? 0 : own_edge(x, n, errors);
    if (rc) {
        g_free(x);
        return rc;
    }
    x->io.edge = b ? b->root : x->own;
    x->io.node = x->io.image = node_ref(x->io.edge->child);
    x->io.out = out;
    x->io.errors = errors;
    x->io.writethrough = b && !b->write_cache;
    x->line = line;
    struct caller c = {.co = co_self()};
    x->caller = &c;
    co_start(graph_loop(g), run, x);
    while (!c.done) {
        co_wait();
    }
    return c.rc;
}
