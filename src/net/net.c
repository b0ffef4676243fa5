/* SPDX-License-Identifier: BSD-2-Clause */
#include "net/net.h"

#include "base/cleanup.h"
#include "base/id.h"
#include "base/json.h"

#include <string.h>

struct net {
    struct loop *loop;
    struct log *log;
    GPtrArray *netdevs; /* struct netdev * */
    unsigned macs;
};

static const struct netdev_kind *const kinds[] = {&netdev_user, NULL};

struct net *net_create(struct loop *l, struct log *log)
{
    struct net *n = g_new0(struct net, 1);
    n->loop = l;
    n->log = log;
    n->netdevs = g_ptr_array_new();
    return n;
}

static void netdev_free(struct netdev *d)
{
    json_object_put(d->opts);
    g_free(d->card_name);
    g_free(d->id);
    g_free(d);
}

void net_destroy(struct net *n)
{
    if (!n) {
        return;
    }
    for (guint i = 0; i < n->netdevs->len; i++) {
        struct netdev *d = g_ptr_array_index(n->netdevs, i);
        d->kind->destroy(d);
        netdev_free(d);
    }
    g_ptr_array_free(n->netdevs, true);
    g_free(n);
}

struct loop *net_loop(const struct net *n)
{
    return n->loop;
}

struct log *net_log(const struct net *n)
{
    return n->log;
}

void net_next_mac(struct net *n, uint8_t mac[6])
{
    const uint8_t first[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    memcpy(mac, first, 6);
    mac[5] = (uint8_t)(first[5] + n->macs++);
}

struct netdev *netdev_get(struct net *n, unsigned i)
{
    return i < n->netdevs->len ? g_ptr_array_index(n->netdevs, i) : NULL;
}

struct netdev *netdev_find(struct net *n, const char *id)
{
    struct netdev *d;
    for (unsigned i = 0; (d = netdev_get(n, i)); i++) {
        if (!strcmp(d->id, id)) {
            return d;
        }
    }
    return NULL;
}

/* --- adding, deleting --------------------------------------------------------------------------------------------- */

static int check_keys(const struct netdev_kind *k, struct json_object *opts, struct err *e)
{
    json_object_object_foreach(opts, key, value)
    {
        if (strcmp(key, "type") != 0 && strcmp(key, "id") != 0 && !g_strv_contains(k->props, key)) {
            return err_set(e, EINVAL, "Parameter '%s' is unexpected", key);
        }
    }
    return 0;
}

int netdev_add(struct net *n, struct json_object *opts, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    const char *type = jread_str(&r, "type"), *id = jread_str(&r, "id");
    const struct netdev_kind *kind = NULL;
    int rc = jread_end_lax(&r);
    for (unsigned i = 0; rc == 0 && kinds[i]; i++) {
        kind = !strcmp(kinds[i]->name, type) ? kinds[i] : kind;
    }
    if (rc < 0) {
        return rc;
    }
    if (!kind) {
        return err_set(e, EINVAL, "Parameter 'type' does not accept value '%s': the one netdev there is is 'user'",
                       type);
    }
    if (!id_wellformed(id)) {
        return err_set(e, EINVAL, "Parameter 'id' expects an identifier");
    }
    if (netdev_find(n, id)) {
        return err_set(e, EEXIST, "Duplicate ID '%s' for netdev", id);
    }
    rc = check_keys(kind, opts, e);
    if (rc < 0) {
        return rc;
    }
    struct netdev *d = g_new0(struct netdev, 1);
    d->kind = kind;
    d->net = n;
    d->id = g_strdup(id);
    d->opts = json_clone(opts);
    rc = kind->create(d, d->opts, e);
    if (rc < 0) {
        netdev_free(d);
        return rc;
    }
    g_ptr_array_add(n->netdevs, d);
    return 0;
}

int netdev_add_text(struct net *n, const char *text, struct err *e)
{
    if (*text == '{') {
        CLEANUP_JSON struct json_object *json = keyval_parse(text, "type", e);
        return json ? netdev_add(n, json, e) : -EINVAL;
    }
    g_autoptr(GString) rest = g_string_new(NULL);
    struct json_object *forwards = json_object_new_array();
    while (*text) {
        size_t len = 0;
        while (text[len] && (text[len] != ',' || text[len + 1] == ',')) {
            len += text[len] == ',' ? 2 : 1;
        }
        CLEANUP_FREE char *part = g_strndup(text, len);
        if (g_str_has_prefix(part, "hostfwd=")) {
            struct json_object *rule = json_object_new_object();
            json_object_object_add(rule, "str", json_object_new_string(part + strlen("hostfwd=")));
            json_object_array_add(forwards, rule);
        } else {
            g_string_append_printf(rest, "%s%s", rest->len ? "," : "", part);
        }
        text += len + (text[len] == ',');
    }
    CLEANUP_JSON struct json_object *o = keyval_parse(rest->str, "type", e);
    if (!o || json_object_array_length(forwards) == 0) {
        json_object_put(forwards);
    } else {
        json_object_object_add(o, "hostfwd", forwards);
    }
    return o ? netdev_add(n, o, e) : -EINVAL;
}

int netdev_del(struct net *n, const char *id, struct err *e)
{
    struct netdev *d = netdev_find(n, id);
    if (!d) {
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", id);
    }
    const struct net_card_ops *ops = d->card_ops;
    void *card = d->card;
    g_ptr_array_remove(n->netdevs, d);
    d->kind->destroy(d);
    netdev_free(d);
    if (ops) {
        ops->gone(card);
    }
    return 0;
}

int net_set_link(struct net *n, const char *name, bool up, struct err *e)
{
    struct netdev *d;
    for (unsigned i = 0; (d = netdev_get(n, i)); i++) {
        if (!strcmp(d->id, name) || !g_strcmp0(d->card_name, name)) {
            d->link_down = !up;
            if (d->card_ops) {
                d->card_ops->link_changed(d->card);
            }
            return 0;
        }
    }
    return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", name);
}

/* --- cards and frames --------------------------------------------------------------------------------------------- */

int netdev_plug(struct netdev *d, const struct net_card_ops *ops, void *card, const char *name, struct err *e)
{
    if (d->card_ops) {
        return err_set(e, EBUSY, "netdev '%s' is in use by '%s'; each card needs one of its own", d->id, d->card_name);
    }
    d->card_ops = ops;
    d->card = card;
    d->card_name = g_strdup(name);
    return 0;
}

void netdev_unplug(struct netdev *d)
{
    if (d) {
        d->card_ops = NULL;
        d->card = NULL;
        g_free(take(d->card_name));
    }
}

bool netdev_link_up(const struct netdev *d)
{
    return !d->link_down;
}

void netdev_send(struct netdev *d, const uint8_t *frame, size_t len)
{
    if (d && !d->link_down) {
        d->kind->send(d, frame, len);
    }
}

void netdev_receive(struct netdev *d, const uint8_t *frame, size_t len)
{
    if (d->card_ops && !d->link_down && len <= NET_FRAME_MAX) {
        d->card_ops->receive(d->card, frame, len);
    }
}
