/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/nic.h"

#include "base/cleanup.h"
#include "device/device.h"

#include <string.h>

/* The end of what begins at `at`: a comma that is not doubled, or the end of the text. */
static const char *part_end(const char *at)
{
    while (*at && (*at != ',' || at[1] == ',')) {
        at += *at == ',' ? 2 : 1;
    }
    return at;
}

/* The part's value, commas undoubled, when it is `key=value`; g_malloc'd. */
static char *value_of(const char *part, size_t len, const char *key)
{
    size_t n = strlen(key);
    if (len <= n || strncmp(part, key, n) != 0 || part[n] != '=') {
        return NULL;
    }
    GString *v = g_string_new_len(part + n + 1, (gssize)(len - n - 1));
    g_string_replace(v, ",,", ",", 0);
    return g_string_free(v, FALSE);
}

struct nic {
    GString *netdev; /* its options */
    char *id, *model, *mac;
};

static void nic_clear(struct nic *n)
{
    g_string_free(n->netdev, TRUE);
    g_free(n->id);
    g_free(n->model);
    g_free(n->mac);
}

static void take_part(struct nic *n, const char *part, size_t len)
{
    static const char *const keys[] = {"id", "model", "mac"};
    char **const into[] = {&n->id, &n->model, &n->mac};
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        char *v = value_of(part, len, keys[i]);
        if (v) {
            g_free(*into[i]);
            *into[i] = v;
            return;
        }
    }
    if (n->netdev->len) {
        g_string_append_c(n->netdev, ',');
    }
    g_string_append_len(n->netdev, part, (gssize)len);
}

static void choose_id(struct nic *n, struct net *net)
{
    for (unsigned i = 0; !n->id; i++) {
        char *id = g_strdup_printf("nic%u", i);
        n->id = netdev_find(net, id) ? NULL : id;
        if (!n->id) {
            g_free(id);
        }
    }
    g_string_append_printf(n->netdev, ",id=%s", n->id);
}

static int check_model(const char *model, struct err *e)
{
    const struct device_class *c = device_class_find(model);
    return c && c->category && !strcmp(c->category, "network")
               ? 0
               : err_set(e, EINVAL,
                         "Unsupported NIC model: %s; there are virtio-net-pci (virtio) and virtio-net-device", model);
}

static void put(struct json_object *o, const char *key, const char *text)
{
    if (text) {
        json_object_object_add(o, key, json_object_new_string(text));
    }
}

int nic_add(struct net *net, const char *text, struct json_object **card, struct err *e)
{
    struct nic n = {.netdev = g_string_new(NULL)};
    *card = NULL;
    if (!strcmp(text, "none")) {
        nic_clear(&n);
        return 0;
    }
    for (const char *at = text, *end; *at; at = *end ? end + 1 : end) {
        end = part_end(at);
        take_part(&n, at, (size_t)(end - at));
    }
    const char *model = !n.model || !strcmp(n.model, "virtio") ? "virtio-net-pci" : n.model;
    choose_id(&n, net);
    int rc = check_model(model, e);
    rc = rc < 0 ? rc : netdev_add_text(net, n.netdev->str, e);
    if (rc == 0) {
        *card = json_object_new_object();
        put(*card, "driver", model);
        put(*card, "netdev", n.id);
        put(*card, "mac", n.mac);
    }
    nic_clear(&n);
    return rc;
}
