/* SPDX-License-Identifier: BSD-2-Clause */
/* "delay": makes requests take longer, each kind by a time of its own, and some by chance longer than others. */
#include "base/json.h"
#include "block/drivers.h"
#include "block/filter/chance.h"
#include "block/reopen.h"

enum kind { DELAY_READ, DELAY_WRITE, DELAY_ZERO, DELAY_DISCARD, DELAY_FLUSH, DELAY_KINDS };

struct delays {
    uint64_t ns[DELAY_KINDS], jitter_ns;
    struct chance chance;
};

struct delay_state {
    struct delays *delays;
};

static const char *const delay_options[] = {"read-latency",  "write-latency", "zero-latency", "discard-latency",
                                            "flush-latency", "jitter",        "seed",         NULL};

/* The names begin with those of the kinds, in their order, then the jitter. */
static int parse_delays(struct json_object *options, struct delays **out, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    uint64_t seed = jread_size_or(&r, "seed", 0);
    int rc = jread_end_lax(&r);
    struct delays *d = g_new0(struct delays, 1);
    for (int i = 0; !rc && i <= DELAY_KINDS; i++) {
        struct json_object *o;
        if (json_object_object_get_ex(options, delay_options[i], &o)) {
            rc = duration_parse(o, delay_options[i], i < DELAY_KINDS ? &d->ns[i] : &d->jitter_ns, e);
        }
    }
    if (rc) {
        g_free(d);
        return rc;
    }
    chance_seed(&d->chance, seed);
    *out = d;
    return 0;
}

/* Before the request; a kind that takes no longer has no jitter either. */
static void pause_for(struct node *n, enum kind kind)
{
    struct delay_state *s = n->priv;
    struct delays *d = s->delays;
    if (d->ns[kind]) {
        co_sleep(d->ns[kind] + (d->jitter_ns ? chance_below(&d->chance, d->jitter_ns + 1) : 0));
    }
}

static int delay_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    pause_for(n, DELAY_READ);
    return edge_read(n->file, off, len, v, voff, flags);
}

static int delay_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    pause_for(n, DELAY_WRITE);
    return edge_write(n->file, off, len, v, voff, flags);
}

static int delay_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    return delay_write(n, off, len, v, voff, REQ_COMPRESSED);
}

static int delay_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    pause_for(n, DELAY_ZERO);
    return edge_zero(n->file, off, len, flags);
}

static int delay_discard(struct node *n, uint64_t off, uint64_t len)
{
    pause_for(n, DELAY_DISCARD);
    return edge_discard(n->file, off, len);
}

static int delay_flush(struct node *n)
{
    pause_for(n, DELAY_FLUSH);
    return edge_flush(n->file);
}

static bool delay_supports_fua(struct node *n)
{
    return true;
}

static int delay_open(struct node *n, struct json_object *options, struct err *e)
{
    struct delay_state *s = n->priv;
    struct edge *ed;
    int rc = parse_delays(options, &s->delays, e);
    if (rc) {
        return rc;
    }
    rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    if (rc) {
        g_free(s->delays);
        return rc;
    }
    n->size = edge_size(ed);
    return 0;
}

static void delay_close(struct node *n)
{
    struct delay_state *s = n->priv;
    g_free(s->delays);
}

static int delay_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct delays *d = NULL;
    int rc = parse_delays(r->as.options, &d, e);
    r->priv = d;
    return rc;
}

static void delay_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct delay_state *s = n->priv;
    struct delays *other = r->priv;
    r->priv = s->delays;
    s->delays = other;
}

static void delay_reopen_finish(struct node *n, struct node_reopen *r)
{
    g_free(r->priv);
}

const struct block_driver delay_driver = {
    .name = "delay",
    .priv_size = sizeof(struct delay_state),
    .is_filter = true,
    .option_names = delay_options,
    .open = delay_open,
    .close = delay_close,
    .reopen_names = delay_options,
    .reopen_prepare = delay_reopen_prepare,
    .reopen_swap = delay_reopen_swap,
    .reopen_finish = delay_reopen_finish,
    .read = delay_read,
    .write = delay_write,
    .write_compressed = delay_write_compressed,
    .zero = delay_zero,
    .discard = delay_discard,
    .flush = delay_flush,
    .supports_fua = delay_supports_fua,
};
