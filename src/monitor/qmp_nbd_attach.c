/* SPDX-License-Identifier: BSD-2-Clause */
/* A monitor's connection becomes an NBD client's: a server of its own for each, with one export. */
#include "schema/qmp_export.h"

#include "base/cleanup.h"
#include "export/nbd/nbd.h"
#include "loop/co.h"
#include "monitor/monitor.h"

struct attached {
    struct mon_env *env;
    struct nbd_server *nbd;
};

static void end(struct attached *a)
{
    a->env->attached = g_slist_remove(a->env->attached, a);
    nbd_server_destroy(a->nbd);
    g_free(a);
}

static void end_entry(void *opaque)
{
    struct attached *a = opaque;
    if (g_slist_find(a->env->attached, a)) {
        end(a);
    }
}

static void client_gone(void *opaque, bool negotiated)
{
    struct attached *a = opaque;
    co_start_later(a->env->loop, end_entry, a);
}

static void take_over(void *opaque, int fd)
{
    struct attached *a = opaque;
    if (fd >= 0) {
        nbd_server_adopt(a->nbd, fd);
    } else {
        client_gone(a, false);
    }
}

void mon_end_attached(struct mon_env *env)
{
    while (env->attached) {
        end(env->attached->data);
    }
}

static int serve(struct attached *a, struct node *n, const struct qmp_nbd_attach_args *args, struct err *e)
{
    CLEANUP_FREE char *id = g_strdup_printf("nbd-attach:%s", n->name);
    struct nbd_bitmap_ref bitmap = {.name = args->bitmap};
    struct nbd_export_options o = {.id = id,
                                   .node = n,
                                   .name = args->name ? args->name : "",
                                   .writable = args->writable,
                                   .bitmaps = &bitmap,
                                   .n_bitmaps = args->bitmap ? 1 : 0};
    return nbd_export_add(a->nbd, &o, NULL, e);
}

int qmp_nbd_attach(struct mon_ctx *c, const struct qmp_nbd_attach_args *args, struct json_object **ret, struct err *e)
{
    struct node *n = node_lookup(c->env->graph, args->node_name, e);
    int rc = n ? monitor_give_away(c->mon, NULL, NULL, e) : -ENOENT;
    if (rc) {
        return rc;
    }
    struct attached *a = g_new(struct attached, 1);
    struct nbd_server_options o = {.graph = c->env->graph,
                                   .max_connections = 1,
                                   .handshake_seconds = NBD_HANDSHAKE_SECONDS,
                                   .client_gone = client_gone,
                                   .opaque = a};
    *a = (struct attached){c->env, nbd_server_create(&o)};
    c->env->attached = g_slist_prepend(c->env->attached, a);
    rc = serve(a, n, args, e);
    rc = rc ? rc : monitor_give_away(c->mon, take_over, a, e);
    if (rc) {
        end(a);
    }
    return rc;
}
