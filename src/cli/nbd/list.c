/* SPDX-License-Identifier: BSD-2-Clause */
/* --list: what another server offers. */
#include "cli/nbd/client.h"

#include "export/nbd/proto.h"

#include <stdio.h>
#include <string.h>

static void print_flags(uint16_t flags)
{
    static const char *const names[] = {
        [1] = "readonly", [2] = "flush", [3] = "fua",    [4] = "rotational", [5] = "trim",      [6] = "zeroes",
        [7] = "df",       [8] = "multi", [9] = "resize", [10] = "cache",     [11] = "fast-zero"};
    printf("  flags: 0x%x (", flags);
    for (unsigned i = 1; i < G_N_ELEMENTS(names); i++) {
        if (flags & 1u << i) {
            printf(" %s", names[i]);
        }
    }
    printf(" )\n");
}

static void print_block(const char *name, uint32_t size)
{
    if (size) {
        printf("  %s block: %u\n", name, size);
    }
}

static void print_export(const struct nbd_peer_export *x)
{
    printf(" export: '%s'\n", x->name);
    if (*x->description) {
        printf("  description: %s\n", x->description);
    }
    if (x->known && x->flags & NBD_FLAG_HAS_FLAGS) {
        printf("  size:  %" G_GUINT64_FORMAT "\n", x->size);
        print_flags(x->flags);
    }
    print_block("min", x->min_block);
    print_block("opt", x->preferred_block);
    print_block("max", x->max_block);
    if (x->contexts->len) {
        printf("  available meta contexts: %u\n", x->contexts->len);
        for (guint i = 0; i < x->contexts->len; i++) {
            printf("   %s\n", (const char *)x->contexts->pdata[i]);
        }
    }
}

static int list(const struct nbd_args *a, struct tls_creds *tls, GPtrArray *exports, struct err *e)
{
    struct nbd_peer p;
    int rc = nbd_peer_connect(&p, a, e);
    const char *hostname = a->tls_hostname ? a->tls_hostname : a->socket ? NULL : a->bind ? a->bind : "0.0.0.0";
    rc = rc ? rc : nbd_peer_hello(&p, tls, hostname, true, e);
    rc = rc ? rc : nbd_peer_list(&p, exports, e);
    nbd_peer_close(&p);
    return rc;
}

int nbd_list(void *serve)
{
    struct nbd_serve *s = serve;
    struct tls_creds *tls = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autoptr(GPtrArray) exports = g_ptr_array_new_with_free_func(nbd_peer_export_free);
    int rc = nbd_setup_objects(s->tool, s->args, &tls, &e);
    rc = rc ? rc : list(s->args, tls, exports, &e);
    if (rc) {
        return tool_fail(s->tool, "%s", err_text(&e));
    }
    printf("exports available: %u\n", exports->len);
    for (guint i = 0; i < exports->len; i++) {
        print_export(g_ptr_array_index(exports, i));
    }
    return 0;
}
