/* SPDX-License-Identifier: BSD-2-Clause */
/* "blkdebug": makes requests fail, or wait, at chosen moments; and shows a coarser disk than the one below (align …).
 */
#include "block/filter/blkdebug.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/debug.h"
#include "block/drivers.h"
#include "block/internal.h"

#include <string.h>

struct suspended {
    char *tag;
    struct co *co;
    bool resumed;
};

struct blkdebug_state {
    GPtrArray *rules;     /* struct debug_rule * */
    GPtrArray *suspended; /* struct suspended *, on the waiters' stacks */
    int state;
};

/* --- events ----------------------------------------------------------------------------------------------------- */

static void notify(struct block_graph *g, const char *tag, bool stopped)
{
    if (g->debug_notify) {
        g->debug_notify(g->debug_opaque, tag, stopped);
    }
    co_queue_wake_all(&g->debug_waiters);
}

static void suspend(struct node *n, const char *tag)
{
    struct blkdebug_state *s = n->priv;
    struct suspended sus = {.tag = g_strdup(tag), .co = co_self()};
    g_ptr_array_add(s->suspended, &sus);
    notify(n->graph, tag, true);
    while (!sus.resumed) {
        co_wait();
    }
    g_ptr_array_remove(s->suspended, &sus);
    g_free(sus.tag);
}

static void blkdebug_event(struct node *n, const char *name)
{
    struct blkdebug_state *s = n->priv;
    int event = debug_event_index(name), new_state = s->state;
    bool injected = false;
    char *tag = NULL;
    for (guint i = 0; i < s->rules->len; i++) {
        struct debug_rule *r = g_ptr_array_index(s->rules, i);
        if (r->event != event || (r->state && r->state != s->state)) {
            continue;
        }
        if (r->kind == RULE_SET_STATE) {
            new_state = r->new_state;
        } else if (r->kind == RULE_INJECT) {
            if (!injected) { /* the rules of this event take the place of those of an earlier one */
                for (guint j = 0; j < s->rules->len; j++) {
                    ((struct debug_rule *)g_ptr_array_index(s->rules, j))->active = false;
                }
            }
            injected = r->active = true;
        } else if (!tag) {
            tag = take(r->tag);
            g_ptr_array_remove_index(s->rules, i--);
        }
    }
    s->state = new_state;
    if (tag && !n->graph->debug_over) {
        suspend(n, tag);
    }
    g_free(tag);
}

static struct blkdebug_state *state_below(struct node *n, struct err *e)
{
    for (struct node *m = n; m;) {
        if (m->drv->debug_event) {
            return m->priv;
        }
        struct edge *ed = node_filter_edge(m) ? node_filter_edge(m) : m->file;
        m = ed ? ed->child : NULL;
    }
    err_set(e, ENOTSUP, "Node '%s' has no blkdebug node", n->name);
    return NULL;
}

int block_debug_break(struct node *n, const char *event, const char *tag, struct err *e)
{
    struct blkdebug_state *s = state_below(n, e);
    int i = debug_event_index(event);
    if (!s) {
        return -ENOTSUP;
    }
    if (i < 0) {
        return err_set(e, ENOENT, "Invalid event name '%s'", event);
    }
    struct debug_rule *r = g_new0(struct debug_rule, 1);
    r->kind = RULE_SUSPEND;
    r->event = i;
    r->tag = g_strdup(tag);
    g_ptr_array_add(s->rules, r);
    return 0;
}

/* The latest that waits, with `tag` unless that is NULL. */
static bool resume_one(struct block_graph *g, struct blkdebug_state *s, const char *tag)
{
    for (guint i = s->suspended->len; i-- > 0;) {
        struct suspended *sus = g_ptr_array_index(s->suspended, i);
        if (!sus->resumed && (!tag || !strcmp(sus->tag, tag))) {
            sus->resumed = true;
            notify(g, sus->tag, false);
            co_wake(sus->co);
            return true;
        }
    }
    return false;
}

int block_debug_resume(struct node *n, const char *tag, struct err *e)
{
    struct blkdebug_state *s = state_below(n, e);
    if (!s) {
        return -ENOTSUP;
    }
    return resume_one(n->graph, s, tag) ? 0 : err_set(e, ENOENT, "Node '%s' has nothing stopped as '%s'", n->name, tag);
}

int block_debug_remove_break(struct node *n, const char *tag, struct err *e)
{
    struct blkdebug_state *s = state_below(n, e);
    bool found = false;
    if (!s) {
        return -ENOTSUP;
    }
    for (guint i = s->rules->len; i-- > 0;) {
        struct debug_rule *r = g_ptr_array_index(s->rules, i);
        if (r->kind == RULE_SUSPEND && !strcmp(r->tag, tag)) {
            g_ptr_array_remove_index(s->rules, i);
            found = true;
        }
    }
    while (resume_one(n->graph, s, tag)) {
    }
    return found ? 0 : err_set(e, ENOENT, "Node '%s' has no breakpoint '%s'", n->name, tag);
}

bool block_debug_is_suspended(struct node *n, const char *tag)
{
    struct blkdebug_state *s = state_below(n, NULL);
    for (guint i = 0; s && i < s->suspended->len; i++) {
        struct suspended *sus = g_ptr_array_index(s->suspended, i);
        if (!strcmp(sus->tag, tag) && !sus->resumed) {
            return true;
        }
    }
    return false;
}

void block_debug_wait_suspended(struct node *n, const char *tag)
{
    while (!block_debug_is_suspended(n, tag) && !n->graph->debug_over) {
        co_queue_wait(&n->graph->debug_waiters);
    }
}

void block_debug_end(struct block_graph *g)
{
    g->debug_over = true;
    for (guint i = 0; i < g->nodes->len; i++) {
        const struct node *n = g_ptr_array_index(g->nodes, i);
        struct blkdebug_state *s = n->drv == &blkdebug_driver ? n->priv : NULL;
        while (s && s->suspended && resume_one(g, s, NULL)) {
        }
    }
    co_queue_wake_all(&g->debug_waiters);
}

/* --- open and close --------------------------------------------------------------------------------------------- */

static int read_limits(struct node *n, struct json_object *options, const char **config, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    struct block_limits *l = &n->limits;
    uint64_t align = jread_size_or(&r, "align", 1);
    uint64_t max_transfer = jread_size_or(&r, "max-transfer", 0), opt_zero = jread_size_or(&r, "opt-write-zero", 0);
    uint64_t opt_discard = jread_size_or(&r, "opt-discard", 0);
    l->max_zero = jread_size_or(&r, "max-write-zero", 0);
    l->max_discard = jread_size_or(&r, "max-discard", 0);
    *config = jread_str_or(&r, "config", NULL);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (!is_pow2(align) || align > 1u << 20) {
        return err_set(e, EINVAL, "Cannot meet constraints with align %" G_GUINT64_FORMAT, align);
    }
    const struct {
        const char *name;
        uint64_t value;
    } multiples[] = {{"max-transfer", max_transfer},
                     {"opt-write-zero", opt_zero},
                     {"max-write-zero", l->max_zero},
                     {"opt-discard", opt_discard},
                     {"max-discard", l->max_discard}};
    for (size_t i = 0; i < G_N_ELEMENTS(multiples); i++) {
        if (multiples[i].value % align || multiples[i].value > INT32_MAX) {
            return err_set(e, EINVAL, "Cannot meet constraints with %s %" G_GUINT64_FORMAT, multiples[i].name,
                           multiples[i].value);
        }
    }
    l->request_align = (uint32_t)align;
    l->max_transfer = (uint32_t)max_transfer;
    l->zero_align = (uint32_t)opt_zero;
    return 0;
}

static int read_perm_list(struct json_object *options, const char *key, unsigned *out, struct err *e)
{
    static const char *const names[] = {"consistent-read", "write", "write-unchanged", "resize"};
    struct json_object *list;
    *out = 0;
    if (!json_object_object_get_ex(options, key, &list)) {
        return 0;
    }
    size_t count = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < count; i++) {
        const char *s = json_object_get_string(json_object_array_get_idx(list, i));
        unsigned bit = 0;
        for (unsigned j = 0; s && j < G_N_ELEMENTS(names); j++) {
            bit |= strcmp(s, names[j]) ? 0 : 1u << j;
        }
        if (!bit) {
            return err_set(e, EINVAL, "Invalid parameter '%s' in '%s'", s ? s : "null", key);
        }
        *out |= bit;
    }
    return 0;
}

struct config_call {
    const char *path;
    GPtrArray *rules;
    struct err *e;
};

static int read_config_blocking(void *arg)
{
    struct config_call *c = arg;
    return debug_rules_read_file(c->path, c->rules, c->e);
}

static int blkdebug_open(struct node *n, struct json_object *options, struct err *e)
{
    struct blkdebug_state *s = n->priv;
    struct edge *ed;
    unsigned perm, unshared;
    const char *config = NULL;
    bool image = json_object_object_get_ex(options, "image", NULL);
    int rc = read_perm_list(options, "take-child-perms", &perm, e);
    if (!rc) {
        rc = read_perm_list(options, "unshare-child-perms", &unshared, e);
    }
    if (!rc) {
        rc = node_open_child(n, options, &(struct edge_spec){image ? "image" : "file", perm, PERM_ALL & ~unshared}, &ed,
                             e);
    }
    if (!rc) {
        rc = read_limits(n, options, &config, e);
    }
    if (rc < 0) {
        return rc;
    }
    GPtrArray *rules = g_ptr_array_new_with_free_func(debug_rule_free);
    if (config && *config) {
        struct config_call c = {config, rules, e};
        rc = co_work(read_config_blocking, &c);
    }
    if (!rc) {
        rc = debug_rules_read(options, rules, e);
    }
    if (rc < 0) {
        g_ptr_array_free(rules, true);
        return rc;
    }
    s->rules = rules;
    s->suspended = g_ptr_array_new();
    s->state = 1;
    n->size = edge_size(ed);
    blkdebug_event(n, "none");
    return 0;
}

static void blkdebug_close(struct node *n)
{
    struct blkdebug_state *s = n->priv;
    g_ptr_array_free(s->rules, true);
    g_ptr_array_free(s->suspended, true);
}

static const char *const blkdebug_options[] = {
    "image",       "config",      "align",        "max-transfer", "opt-write-zero",   "max-write-zero",
    "opt-discard", "max-discard", "inject-error", "set-state",    "take-child-perms", "unshare-child-perms",
    NULL};

/* Beside what else is said of it. */
static void set_file(struct json_object *options, const char *key, const char *filename)
{
    struct json_object *o;
    if (!json_object_object_get_ex(options, key, &o) || !json_object_is_type(o, json_type_object)) {
        o = json_object_new_object();
        json_object_object_add(options, key, o);
    }
    json_object_object_add(o, "filename", json_object_new_string(filename));
}

/* "blkdebug:CONFIG:IMAGE"; CONFIG may be empty. Any other name is the image's. */
static int blkdebug_parse_filename(const char *filename, struct json_object *options, struct err *e)
{
    if (!g_str_has_prefix(filename, "blkdebug:")) {
        set_file(options, "image", filename);
        return 0;
    }
    const char *config = filename + strlen("blkdebug:"), *colon = strchr(config, ':');
    if (!colon) {
        return err_set(e, EINVAL, "blkdebug requires both config file and image path");
    }
    if (colon > config) {
        CLEANUP_FREE char *path = g_strndup(config, (size_t)(colon - config));
        json_object_object_add(options, "config", json_object_new_string(path));
    }
    set_file(options, "image", colon + 1);
    return 0;
}

static char *blkdebug_plain_name(struct node *n)
{
    for (const char *const *k = blkdebug_options; *k; k++) {
        if (strcmp(*k, "image") && strcmp(*k, "config") && json_object_object_get_ex(n->options, *k, NULL)) {
            return NULL;
        }
    }
    struct json_object *config = json_object_object_get(n->options, "config");
    return g_strdup_printf("blkdebug:%s:%s", config ? json_object_get_string(config) : "", n->file->child->filename);
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static int check_rules(struct node *n, unsigned op, uint64_t off, uint64_t len)
{
    struct blkdebug_state *s = n->priv;
    for (guint i = 0; i < s->rules->len; i++) {
        struct debug_rule *r = g_ptr_array_index(s->rules, i);
        if (!r->active || !(r->ops & op)) {
            continue;
        }
        if (r->offset >= 0 && ((uint64_t)r->offset < off || (uint64_t)r->offset >= off + len)) { /* a flush has none */
            continue;
        }
        int rc = -r->error;
        bool now = r->immediately;
        if (r->once) {
            g_ptr_array_remove_index(s->rules, i);
        }
        if (!now) {
            co_yield ();
        }
        return rc;
    }
    return 0;
}

/* With `align` the last request may reach past the child's end. */
static uint64_t clip(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t size = edge_size(n->file);
    return off >= size ? 0 : min_u64(len, size - off);
}

static int blkdebug_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int rc = check_rules(n, IO_READ_OP, off, len);
    uint64_t part = clip(n, off, len);
    if (!rc) {
        rc = edge_read(n->file, off, part, v, voff, flags);
    }
    if (!rc && part < len) {
        iovs_fill(v, voff + part, 0, len - part);
    }
    return rc;
}

static int blkdebug_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int rc = check_rules(n, IO_WRITE_OP, off, len);
    return rc ? rc : edge_write(n->file, off, clip(n, off, len), v, voff, flags);
}

static int blkdebug_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int rc = check_rules(n, IO_ZERO_OP, off, len);
    return rc ? rc : edge_zero(n->file, off, clip(n, off, len), flags);
}

static int blkdebug_discard(struct node *n, uint64_t off, uint64_t len)
{
    int rc = check_rules(n, IO_DISCARD_OP, off, len);
    return rc ? rc : edge_discard(n->file, off, clip(n, off, len));
}

static int blkdebug_flush(struct node *n)
{
    int rc = check_rules(n, IO_FLUSH_OP, 0, 0);
    return rc ? rc : edge_flush(n->file);
}

static int blkdebug_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    int rc = check_rules(n, IO_STATUS_OP, off, len);
    return rc ? rc : node_status(n->file->child, want_zero, off, len, out);
}

static bool blkdebug_supports_fua(struct node *n)
{
    return true;
}

static const char *const blkdebug_schemes[] = {"blkdebug", NULL};

const struct block_driver blkdebug_driver = {
    .name = "blkdebug",
    .priv_size = sizeof(struct blkdebug_state),
    .is_filter = true,
    .option_names = blkdebug_options,
    .schemes = blkdebug_schemes,
    .parse_filename = blkdebug_parse_filename,
    .plain_name = blkdebug_plain_name,
    .open = blkdebug_open,
    .reopen_names = (const char *const[]){NULL},
    .close = blkdebug_close,
    .read = blkdebug_read,
    .write = blkdebug_write,
    .zero = blkdebug_zero,
    .discard = blkdebug_discard,
    .flush = blkdebug_flush,
    .status = blkdebug_status,
    .supports_fua = blkdebug_supports_fua,
    .debug_event = blkdebug_event,
};
