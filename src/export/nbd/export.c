/* SPDX-License-Identifier: BSD-2-Clause */
/* Exports: nodes under names. */
#include "export/nbd/int.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/driver.h"
#include "block/inactive.h"

#include <string.h>

static char *export_describe(void *user)
{
    const struct nbd_export *exp = user;
    return g_strdup_printf("block device export '%s'", exp->id);
}

static const struct edge_user_ops export_ops = {.describe = export_describe};

/* --- what clients are told ---------------------------------------------------------------------------------------- */

uint16_t nbs_export_flags(const struct nbd_export *exp)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    flags |=
        exp->writable ? NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO : NBD_FLAG_READ_ONLY;
    if (exp->server->o.max_connections != 1) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    return (uint16_t)flags;
}

uint32_t nbs_export_min_block(const struct nbd_export *exp)
{
    const struct node *n = exp->edge->child;
    uint32_t align = n->limits.request_align;
    if (n->probed && n->drv->passes_perms) { /* raw, whose first sector is watched: as everybody else tells it */
        align = MAX(align, 512u);
    }
    return align > 1 && is_pow2(align) ? MIN(align, 65536u) : 1;
}

unsigned nbs_export_contexts(const struct nbd_export *exp)
{
    return NBS_CONTEXT_BITMAP + exp->bitmaps->len;
}

const char *nbs_export_context_name(const struct nbd_export *exp, unsigned id, GString *buf)
{
    if (id == NBS_CONTEXT_ALLOCATION) {
        return "base:allocation";
    }
    if (id == NBS_CONTEXT_DEPTH) {
        return exp->allocation_depth ? "qemu:allocation-depth" : NULL;
    }
    const struct dirty_bitmap *b = g_ptr_array_index(exp->bitmaps, id - NBS_CONTEXT_BITMAP);
    g_string_printf(buf, "qemu:dirty-bitmap:%s", b->name);
    return buf->str;
}

static bool only_exports_write(const struct node *n, const struct node *except)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if ((ed->perm & (PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE)) && ed->ops != &export_ops &&
            (!except || ed->parent != except)) {
            return false;
        }
    }
    return true;
}

bool nbs_export_stands_still(const struct nbd_export *exp)
{
    const struct node *n = exp->edge->child;
    if (!n->drv->passes_perms && n->file && (n->perm & PERM_WRITE)) {
        return false; /* a format may give the place of the data to others */
    }
    return only_exports_write(n, NULL) && (!n->file || only_exports_write(n->file->child, n));
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static struct dirty_bitmap *find_bitmap(struct nbd_export *exp, struct node *n, const struct nbd_bitmap_ref *ref,
                                        struct err *e)
{
    struct node *from = n;
    if (ref->node) {
        from = node_lookup(n->graph, ref->node, e);
        if (!from) {
            return NULL;
        }
    }
    struct dirty_bitmap *b = NULL;
    while (from && !b) {
        b = dirty_bitmap_find(from, ref->name);
        struct edge *below = node_filter_edge(from);
        from = ref->node ? NULL : below ? below->child : node_backing(from);
    }
    if (!b) {
        err_set(e, ENOENT, "Bitmap '%s' is not found", ref->name);
    } else if (b->busy) {
        err_set(e, EBUSY, "Bitmap '%s' is currently in use by another operation and cannot be used", ref->name);
    } else if (b->inconsistent) {
        err_set(e, EINVAL, "Bitmap '%s' is inconsistent and cannot be used", ref->name);
    } else if (!ref->node && !exp->writable && b->enabled && !n->read_only) {
        err_set(e, EINVAL, "Enabled bitmap '%s' incompatible with readonly export", ref->name);
    } else if (strlen(b->name) + strlen("qemu:dirty-bitmap:") > NBD_MAX_STRING) {
        err_set(e, EINVAL, "bitmap name '%s' too long", ref->name);
    } else {
        return b;
    }
    return NULL;
}

static int take_bitmaps(struct nbd_export *exp, const struct nbd_export_options *o, struct err *e)
{
    if (o->n_bitmaps > NBS_MAX_BITMAPS) {
        return err_set(e, EINVAL, "An export may offer at most %d bitmaps", NBS_MAX_BITMAPS);
    }
    for (size_t i = 0; i < o->n_bitmaps; i++) {
        struct dirty_bitmap *b = find_bitmap(exp, o->node, &o->bitmaps[i], e);
        if (!b) {
            return -EINVAL;
        }
        b->busy = true;
        g_ptr_array_add(exp->bitmaps, b);
    }
    return 0;
}

static void export_free(struct nbd_export *exp)
{
    for (guint i = 0; i < exp->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(exp->bitmaps, i);
        b->busy = false;
    }
    g_ptr_array_unref(exp->bitmaps);
    edge_close(exp->edge);
    g_free(exp->id);
    g_free(exp->name);
    g_free(exp->description);
    g_free(exp);
}

static int check_options(struct nbd_server *s, const struct nbd_export_options *o, struct err *e)
{
    if (strlen(o->name) > NBD_MAX_STRING) {
        return err_set(e, EINVAL, "export name '%s' too long", o->name);
    }
    if (o->description && strlen(o->description) > NBD_MAX_STRING) {
        return err_set(e, EINVAL, "description '%s' too long", o->description);
    }
    if (nbd_export_find_id(s, o->id ? o->id : o->name)) {
        return err_set(e, EEXIST, "Block export id '%s' is already in use", o->id ? o->id : o->name);
    }
    if (nbd_export_find(s, o->name)) {
        return err_set(e, EEXIST, "NBD server already has export named '%s'", o->name);
    }
    if (o->writable && o->node->read_only) {
        return err_set(e, EPERM, "Cannot export read-only node as writable");
    }
    return 0;
}

static void medium_gone(void *exp)
{
    nbd_export_shut_down(exp);
}

int nbd_export_add(struct nbd_server *s, const struct nbd_export_options *o, struct nbd_export **out, struct err *e)
{
    int rc = check_options(s, o, e);
    rc = rc ? rc : node_activate(o->node, e); /* also that of a machine that waits, to be filled before it comes */
    if (rc) {
        return rc;
    }
    struct nbd_export *exp = g_new0(struct nbd_export, 1);
    exp->server = s;
    exp->id = g_strdup(o->id ? o->id : o->name);
    exp->name = g_strdup(o->name);
    exp->description = g_strdup(o->description);
    exp->writable = o->writable;
    exp->writethrough = o->writethrough;
    exp->allocation_depth = o->allocation_depth;
    exp->bitmaps = g_ptr_array_new();
    exp->size = round_up(o->node->size, 512); /* as everybody else counts disks */
    struct edge_spec spec = {.name = "root",
                             .perm = PERM_READ | (o->writable ? PERM_WRITE : 0),
                             .shared = PERM_ALL & ~PERM_RESIZE,
                             .ops = &export_ops,
                             .user = exp};
    rc = edge_open(o->node, &spec, &exp->edge, e);
    rc = rc ? rc : take_bitmaps(exp, o, e);
    if (rc) {
        export_free(exp);
        return rc;
    }
    g_ptr_array_add(s->exports, exp);
    if (o->backend) {
        exp->watch = (struct backend_watch){.ejected = medium_gone, .opaque = exp};
        backend_watch(o->backend, &exp->watch);
    }
    if (out) {
        *out = exp;
    }
    return 0;
}

static void forget(struct nbd_export *exp)
{
    GPtrArray *clients = exp->server->clients;
    for (guint i = 0; i < clients->len; i++) {
        struct nbs_client *c = g_ptr_array_index(clients, i);
        if (c->contexts_of == exp && !c->exp) {
            nbs_forget_contexts(c);
        }
        if (c->exp == exp) {
            nbs_channel_shutdown(&c->ch);
        }
    }
}

/* Of one that is `removing`. */
static void remove_now(void *arg)
{
    struct nbd_export *exp = arg;
    struct nbd_server *s = exp->server;
    backend_unwatch(&exp->watch);
    forget(exp);
    while (exp->clients) {
        co_queue_wait(&exp->idle_waiters);
    }
    s->going++;
    g_ptr_array_remove(s->exports, exp);
    struct event_bus *bus = graph_bus(s->o.graph);
    struct json_object *data = bus ? json_object_new_object() : NULL;
    if (bus) {
        json_object_object_add(data, "id", json_object_new_string(exp->id));
    }
    export_free(exp);
    if (bus) {
        event_emit(bus, "BLOCK_EXPORT_DELETED", data);
    }
    s->going--;
    co_queue_wake_all(&s->gone_waiters);
}

int nbd_export_remove(struct nbd_export *exp, bool hard, struct err *e)
{
    if (exp->removing) {
        return err_set(e, EBUSY, "Export '%s' is already shutting down", exp->id);
    }
    if (exp->clients && !hard) {
        return err_set(e, EBUSY, "export '%s' still in use", exp->id);
    }
    exp->removing = true;
    remove_now(exp);
    return 0;
}

void nbd_export_shut_down(struct nbd_export *exp)
{
    if (!exp->removing) {
        exp->removing = true;
        co_start(exp->server->loop, remove_now, exp);
    }
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

struct nbd_export *nbd_export_find(struct nbd_server *s, const char *name)
{
    for (guint i = 0; i < s->exports->len; i++) {
        struct nbd_export *exp = g_ptr_array_index(s->exports, i);
        if (!exp->removing && !strcmp(exp->name, name)) {
            return exp;
        }
    }
    return NULL;
}

struct nbd_export *nbd_export_find_id(struct nbd_server *s, const char *id)
{
    for (guint i = 0; i < s->exports->len; i++) {
        struct nbd_export *exp = g_ptr_array_index(s->exports, i);
        if (!strcmp(exp->id, id)) {
            return exp;
        }
    }
    return NULL;
}

struct nbd_export *nbd_server_export(struct nbd_server *s, unsigned i)
{
    return i < s->exports->len ? g_ptr_array_index(s->exports, i) : NULL;
}

const char *nbd_export_id(const struct nbd_export *exp)
{
    return exp->id;
}

const char *nbd_export_name(const struct nbd_export *exp)
{
    return exp->name;
}

struct node *nbd_export_node(const struct nbd_export *exp)
{
    return exp->edge->child;
}

bool nbd_export_shutting_down(const struct nbd_export *exp)
{
    return exp->removing;
}
