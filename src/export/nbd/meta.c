/* SPDX-License-Identifier: BSD-2-Clause */
/* Which metadata contexts an export has, and which a client selects. */
#include "export/nbd/int.h"

#include "base/endian.h"

#include <string.h>

void nbs_forget_contexts(struct nbs_client *c)
{
    g_array_set_size(c->contexts, 0);
    c->contexts_of = NULL;
}

/* "base:", "qemu:" and "qemu:dirty-bitmap:" stand for all that begin so, in LIST only. */
static bool matches(const char *query, size_t len, const char *name, bool wildcards)
{
    static const char *const all[] = {"base:", "qemu:", "qemu:dirty-bitmap:"};
    if (len == strlen(name) && !memcmp(query, name, len)) {
        return true;
    }
    for (size_t i = 0; wildcards && i < G_N_ELEMENTS(all); i++) {
        if (len == strlen(all[i]) && !memcmp(query, all[i], len) && g_str_has_prefix(name, all[i])) {
            return true;
        }
    }
    return false;
}

struct reader {
    const uint8_t *p;
    uint32_t left;
};

/* A length and a string of it; NULL: does not fit. */
static const char *read_string(struct reader *r, uint32_t *len)
{
    if (r->left < 4) {
        return NULL;
    }
    *len = load_be32(r->p);
    if (*len > r->left - 4) {
        return NULL;
    }
    const char *s = (const char *)r->p + 4;
    r->p += 4 + (size_t)*len;
    r->left -= 4 + *len;
    return s;
}

/* Marks what the queries name. 0, or what is wrong with them as a type of reply. */
static uint32_t read_queries(struct reader *r, const struct nbd_export *exp, bool list, GByteArray *wanted)
{
    if (r->left < 4) {
        return NBD_REP_ERR_INVALID;
    }
    uint32_t n = load_be32(r->p);
    if (n > NBS_MAX_QUERIES) {
        return NBD_REP_ERR_TOO_BIG;
    }
    r->p += 4;
    r->left -= 4;
    g_autoptr(GString) buf = g_string_new(NULL);
    memset(wanted->data, list && !n, wanted->len);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len;
        const char *query = read_string(r, &len);
        if (!query) {
            return NBD_REP_ERR_INVALID;
        }
        for (unsigned id = 0; len <= NBD_MAX_STRING && id < wanted->len; id++) {
            const char *name = wanted->data[id] ? NULL : nbs_export_context_name(exp, id, buf);
            if (name && matches(query, len, name, list)) {
                wanted->data[id] = 1;
            }
        }
    }
    return r->left ? NBD_REP_ERR_INVALID : 0;
}

static void put_contexts(struct nbs_client *c, uint32_t opt, const struct nbd_export *exp, const GByteArray *wanted)
{
    g_autoptr(GString) buf = g_string_new(NULL);
    g_autoptr(GByteArray) payload = g_byte_array_new();
    for (uint32_t id = 0; id < wanted->len; id++) {
        const char *name = wanted->data[id] ? nbs_export_context_name(exp, id, buf) : NULL;
        if (!name) {
            continue;
        }
        uint8_t head[4];
        store_be32(head, opt == NBD_OPT_SET_META_CONTEXT ? id : 0);
        g_byte_array_set_size(payload, 0);
        g_byte_array_append(payload, head, sizeof(head));
        g_byte_array_append(payload, (const guint8 *)name, (guint)strlen(name));
        nbs_rep(c, opt, NBD_REP_META_CONTEXT, payload->data, payload->len);
        if (opt == NBD_OPT_SET_META_CONTEXT) {
            g_array_append_val(c->contexts, id);
        }
    }
    nbs_rep(c, opt, NBD_REP_ACK, NULL, 0);
}

void nbs_meta_context(struct nbs_client *c, uint32_t opt, const uint8_t *data, uint32_t len)
{
    bool list = opt == NBD_OPT_LIST_META_CONTEXT;
    if (!list) {
        nbs_forget_contexts(c);
    }
    if (c->mode == NBS_SIMPLE) {
        nbs_rep_err(c, opt, NBD_REP_ERR_INVALID, "request option '%s' when structured reply is not negotiated",
                    nbd_opt_text(opt));
        return;
    }
    struct reader r = {data, len};
    uint32_t name_len;
    const char *text = read_string(&r, &name_len);
    if (!text || name_len > NBD_MAX_STRING) {
        nbs_rep_err(c, opt, NBD_REP_ERR_INVALID, "Inconsistent lengths in option %s", nbd_opt_text(opt));
        return;
    }
    if (memchr(text, 0, name_len)) {
        nbs_rep_err(c, opt, NBD_REP_ERR_INVALID, "Unexpected embedded NUL in option %s", nbd_opt_text(opt));
        return;
    }
    g_autofree char *name = g_strndup(text, name_len);
    struct nbd_export *exp = nbd_export_find(c->server, name);
    if (!exp) {
        nbs_rep_absent(c, opt, name);
        return;
    }
    g_autoptr(GByteArray) wanted = g_byte_array_new();
    g_byte_array_set_size(wanted, nbs_export_contexts(exp));
    uint32_t bad = read_queries(&r, exp, list, wanted);
    if (bad) {
        nbs_rep_err(c, opt, bad,
                    bad == NBD_REP_ERR_TOO_BIG ? "too many queries in option %s" : "Inconsistent lengths in option %s",
                    nbd_opt_text(opt));
        return;
    }
    if (!list) {
        c->contexts_of = exp;
    }
    put_contexts(c, opt, exp, wanted);
}
