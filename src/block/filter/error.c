/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "error": lets requests fail as rules say: by kind, range, number and chance, with an error of one's choice. The first
 * rule that applies to a request and fires decides. What fails does not reach the node below.
 */
#include "base/checked.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/filter/chance.h"
#include "block/reopen.h"

#include <errno.h>
#include <string.h>

enum kind { KIND_ANY, KIND_READ, KIND_WRITE, KIND_ZERO, KIND_DISCARD, KIND_FLUSH };
static const char *const kind_names[] = {"any", "read", "write", "zero", "discard", "flush", NULL};

enum { MAX_RULES = 1000 };

struct rule {
    int kind, error;
    double probability;
    bool ranged; /* only requests that touch the range: no flushes */
    uint64_t off, len;
    uint64_t after, count; /* lets so many pass that it applies to; fires so often */
};

struct rules {
    struct rule *list;
    unsigned n;
    struct chance chance;
};

struct error_state {
    struct rules *rules;
};

static const struct {
    const char *name;
    int number;
} errors[] = {
    {"EIO", EIO},
    {"ENOSPC", ENOSPC},
    {"EINVAL", EINVAL},
    {"EPERM", EPERM},
    {"EACCES", EACCES},
    {"EROFS", EROFS},
    {"ENOMEM", ENOMEM},
    {"EBUSY", EBUSY},
    {"EFBIG", EFBIG},
    {"EDQUOT", EDQUOT},
    {"ENOTSUP", ENOTSUP},
    {"ETIMEDOUT", ETIMEDOUT},
    {"ENODEV", ENODEV},
    {"ENOMEDIUM", ENOMEDIUM},
    {"ESHUTDOWN", ESHUTDOWN},
    {"ECONNRESET", ECONNRESET},
    {"EREMOTEIO", EREMOTEIO},
};

/* --- rules -------------------------------------------------------------------------------------------------------- */

static int parse_errno(const char *name, int *out, struct err *e)
{
    GString *known = g_string_new(NULL);
    *out = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        *out = !strcmp(name, errors[i].name) ? errors[i].number : *out;
        g_string_append_printf(known, "%s%s", i ? ", " : "", errors[i].name);
    }
    int rc = *out ? 0 : err_set(e, EINVAL, "'errno': '%s' is not one of %s", name, known->str);
    g_string_free(known, true);
    return rc;
}

static int parse_probability(struct json_object *o, double *out, struct err *e)
{
    const char *text = o ? json_object_get_string(o) : "1";
    char *end;
    *out = g_ascii_strtod(text, &end);
    return end == text || *end || !(*out >= 0 && *out <= 1)
               ? err_set(e, EINVAL, "'probability': '%s' is not a number from 0 to 1", text)
               : 0;
}

static int parse_rule(struct json_object *o, struct rule *rule, struct err *e)
{
    struct jread r = jread_init(o, "errors", e);
    rule->kind = jread_enum_or(&r, "operation", kind_names, KIND_ANY);
    const char *name = jread_str_or(&r, "errno", "EIO");
    struct json_object *probability = jread_any(&r, "probability");
    rule->off = jread_size_or(&r, "offset", 0);
    rule->len = jread_size_or(&r, "length", UINT64_MAX - rule->off);
    rule->ranged = jread_has(&r, "offset") || jread_has(&r, "length");
    rule->after = jread_size_or(&r, "after", 0);
    rule->count = jread_size_or(&r, "count", UINT64_MAX);
    int rc = jread_end(&r);
    uint64_t end;
    if (!rc && !add_ok(rule->off, rule->len, &end)) {
        rc = err_set(e, EINVAL, "'offset' and 'length' reach beyond any disk");
    }
    if (!rc && rule->ranged && rule->kind == KIND_FLUSH) {
        rc = err_set(e, EINVAL, "a flush has no 'offset' and no 'length'");
    }
    rc = rc ? rc : parse_errno(name, &rule->error, e);
    return rc ? rc : parse_probability(probability, &rule->probability, e);
}

static void rules_free(struct rules *r)
{
    if (r) {
        g_free(r->list);
        g_free(r);
    }
}

static int parse_rules(struct json_object *options, struct rules **out, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    struct json_object *list = jread_any(&r, "errors");
    uint64_t seed = jread_size_or(&r, "seed", 0);
    int rc = jread_end_lax(&r);
    if (!rc && list && !json_object_is_type(list, json_type_array)) {
        rc = err_set(e, EINVAL, "Invalid parameter type for 'errors', expected: array");
    }
    size_t n = rc || !list ? 0 : json_object_array_length(list);
    if (!rc && n > MAX_RULES) {
        rc = err_set(e, EINVAL, "'errors' has more than %d rules", MAX_RULES);
    }
    if (rc) {
        return rc;
    }
    struct rules *rules = g_new0(struct rules, 1);
    rules->list = g_new0(struct rule, n + 1);
    chance_seed(&rules->chance, seed);
    for (; !rc && rules->n < n; rules->n++) {
        rc = parse_rule(json_object_array_get_idx(list, rules->n), &rules->list[rules->n], e);
    }
    if (rc) {
        rules_free(rules);
        return rc;
    }
    *out = rules;
    return 0;
}

static bool applies(const struct rule *r, enum kind kind, uint64_t off, uint64_t len)
{
    return (r->kind == KIND_ANY || r->kind == (int)kind) &&
           (!r->ranged || (kind != KIND_FLUSH && ranges_overlap(r->off, r->len, off, len)));
}

/* 0, or the error that the request gets. */
static int judge(struct node *n, enum kind kind, uint64_t off, uint64_t len)
{
    struct error_state *s = n->priv;
    for (unsigned i = 0; i < s->rules->n; i++) {
        struct rule *r = &s->rules->list[i];
        if (!r->count || !applies(r, kind, off, len)) {
            continue;
        }
        if (r->after) {
            r->after--;
        } else if (chance_happens(&s->rules->chance, r->probability)) {
            r->count--;
            return -r->error;
        }
    }
    return 0;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static int error_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int rc = judge(n, KIND_READ, off, len);
    return rc ? rc : edge_read(n->file, off, len, v, voff, flags);
}

static int error_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int rc = judge(n, KIND_WRITE, off, len);
    return rc ? rc : edge_write(n->file, off, len, v, voff, flags);
}

static int error_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    return error_write(n, off, len, v, voff, REQ_COMPRESSED);
}

static int error_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int rc = judge(n, KIND_ZERO, off, len);
    return rc ? rc : edge_zero(n->file, off, len, flags);
}

static int error_discard(struct node *n, uint64_t off, uint64_t len)
{
    int rc = judge(n, KIND_DISCARD, off, len);
    return rc ? rc : edge_discard(n->file, off, len);
}

static int error_flush(struct node *n)
{
    int rc = judge(n, KIND_FLUSH, 0, 0);
    return rc ? rc : edge_flush(n->file);
}

static bool error_supports_fua(struct node *n)
{
    return true;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static int error_open(struct node *n, struct json_object *options, struct err *e)
{
    struct error_state *s = n->priv;
    struct edge *ed;
    int rc = parse_rules(options, &s->rules, e);
    if (rc) {
        return rc;
    }
    rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    if (rc) {
        rules_free(s->rules);
        return rc;
    }
    n->size = edge_size(ed);
    return 0;
}

static void error_close(struct node *n)
{
    struct error_state *s = n->priv;
    rules_free(s->rules);
}

static int error_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct rules *rules = NULL;
    int rc = parse_rules(r->as.options, &rules, e);
    r->priv = rules;
    return rc;
}

static void error_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct error_state *s = n->priv;
    struct rules *other = r->priv;
    r->priv = s->rules;
    s->rules = other;
}

static void error_reopen_finish(struct node *n, struct node_reopen *r)
{
    rules_free(r->priv);
}

static const char *const error_options[] = {"errors", "seed", NULL};

const struct block_driver error_driver = {
    .name = "error",
    .priv_size = sizeof(struct error_state),
    .is_filter = true,
    .option_names = error_options,
    .open = error_open,
    .close = error_close,
    .reopen_names = error_options,
    .reopen_prepare = error_reopen_prepare,
    .reopen_swap = error_reopen_swap,
    .reopen_finish = error_reopen_finish,
    .read = error_read,
    .write = error_write,
    .write_compressed = error_write_compressed,
    .zero = error_zero,
    .discard = error_discard,
    .flush = error_flush,
    .supports_fua = error_supports_fua,
};
