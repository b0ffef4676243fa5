/* SPDX-License-Identifier: BSD-2-Clause */
/* The two sides: opened, failed, opened again, and which of them is read. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/events.h"
#include "base/json.h"
#include "block/internal.h"
#include "block/options.h"

#include <inttypes.h>

enum { MAX_NESTED = 8 };

const char *const lc_side_names[2] = {"source", "destination"};

/* --- opening ------------------------------------------------------------------------------------------------------ */

/* A live copy may be a side of another one, but not of itself. */
static int check_nesting(struct lc *s, struct err *e)
{
    struct block_graph *g = s->n->graph;
    unsigned opening = 0;
    for (guint i = 0; i < g->nodes->len; i++) {
        const struct node *n = g_ptr_array_index(g->nodes, i);
        opening += n->drv == s->n->drv && !n->opened;
    }
    return opening > MAX_NESTED ? err_set(e, ELOOP, "Live copies stand on each other more than %d deep", MAX_NESTED)
                                : 0;
}

struct open_call {
    struct lc *s;
    int i;
    struct node *out;
    struct err *e;
};

/* By the name in the head. */
static int open_named(void *arg)
{
    struct open_call *c = arg;
    struct lc *s = c->s;
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    CLEANUP_FREE char *name = node_path_combine(s->file->child, s->head.name[c->i]);
    if (!name) {
        return err_set(c->e, EINVAL, "The name '%s' is relative, but to what is not known", s->head.name[c->i]);
    }
    options_inherit(o, s->n->options, false);
    json_object_object_add(o, "active", json_object_new_boolean(!s->n->inactive));
    json_object_object_add(o, "driver", json_object_new_string(s->head.fmt[c->i]));
    if (s->n->read_only) {
        json_object_object_add(o, "read-only", json_object_new_boolean(true));
    } else if (c->i == s->live) { /* will do as long as nobody writes */
        json_object_object_add(o, "auto-read-only", json_object_new_boolean(true));
    }
    return node_open_filename(s->n->graph, name, o, &c->out, c->e);
}

static int attach(struct lc *s, int i, struct edge **out, struct err *e)
{
    struct edge_spec spec = {lc_side_names[i], PERM_READ, PERM_READ | PERM_WRITE_SAME};
    if (json_has(s->n->options, lc_side_names[i], NULL)) {
        CLEANUP_JSON struct json_object *o = json_clone(s->n->options); /* inactive as we are, whenever */
        json_object_object_add(o, "active", json_object_new_boolean(!s->n->inactive));
        return node_open_child(s->n, o, &spec, out, e);
    }
    struct open_call c = {.s = s, .i = i, .e = e};
    int rc = block_on_new_stack(graph_loop(s->n->graph), open_named, &c);
    if (rc == 0) {
        rc = node_attach_child(s->n, c.out, &spec, out, e);
        node_unref(c.out);
    }
    return rc;
}

static int check_side(struct lc *s, int i, struct edge *ed, struct err *e)
{
    uint64_t size = edge_size(ed), want = s->head.size;
    /* Formats that count sectors round up. */
    if (size != want && (i == SRC || size != round_up(want, 512))) {
        return err_set(e, EINVAL, "It has %" PRIu64 " bytes, but the disk that is copied has %" PRIu64, size, want);
    }
    if (s->n->read_only) {
        return 0;
    }
    if (ed->child->read_only) {
        return i == s->live ? 0 : err_set(e, EACCES, "It is read-only, but it must be written to");
    }
    return edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_READ | PERM_WRITE_SAME, e);
}

/* What the user asks to be discarded or zeroed must suit both. */
static void update_limits(struct lc *s)
{
    uint32_t unit = 1;
    for (int i = SRC; i <= DST; i++) {
        if (s->side[i].edge) {
            const struct block_limits *l = &s->side[i].edge->child->limits;
            unit = MAX(unit, MAX(l->request_align, MAX(l->discard_align, l->zero_align)));
        }
    }
    s->n->limits.discard_align = unit;
}

int lc_side_open(struct lc *s, int i, struct err *e)
{
    struct edge *ed = NULL;
    int rc = attach(s, i, &ed, e);
    rc = rc ? rc : check_side(s, i, ed, e);
    if (rc) {
        node_detach_child(s->n, ed);
        return err_wrap(e, "Cannot use the %s '%s'", lc_side_names[i], s->head.name[i]);
    }
    s->side[i].edge = ed;
    s->side[i].out = false;
    g_clear_pointer(&s->side[i].trouble, g_free);
    update_limits(s);
    return 0;
}

/* Not there, as opposed to there and wrong. */
static bool is_absence(int rc)
{
    static const int list[] = {ENOENT,     ENODEV,       ENXIO,        ENOMEDIUM,   EIO,      ECONNREFUSED,
                               ECONNRESET, ECONNABORTED, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN,
                               ENOTCONN,   ETIMEDOUT,    EPIPE,        ESTALE};
    for (size_t i = 0; i < G_N_ELEMENTS(list); i++) {
        if (rc == -list[i]) {
            return true;
        }
    }
    return false;
}

/* 0 also when the side is missing and the other one can do without it. */
static int open_or_miss(struct lc *s, int i, bool dispensable, struct err *e)
{
    CLEANUP_ERR struct err le = ERR_INIT;
    int rc = lc_side_open(s, i, &le);
    if (rc < 0 && dispensable && is_absence(rc)) {
        log_warn(graph_log(s->n->graph), "live copy '%s' works without its %s: %s", s->file->child->filename,
                 lc_side_names[i], err_text(&le));
        s->side[i].trouble = g_strdup(err_text(&le));
        return 0;
    }
    if (rc < 0) {
        err_move(e, &le);
    }
    return rc;
}

static int open_live(struct lc *s, struct err *e)
{
    int first = s->state.flags & LC_SWITCHED ? DST : SRC;
    s->live = lc_state_current(&s->state, first) ? first : !first;
    bool spare = lc_state_both(&s->state);
    int rc = open_or_miss(s, s->live, spare, e);
    if (rc == 0 && !s->side[s->live].edge) {
        s->live = !s->live;
        rc = lc_side_open(s, s->live, e);
    }
    if (rc < 0 && !spare) {
        return err_wrap(e, "Only the %s of live copy '%s' is up to date", lc_side_names[s->live],
                        s->file->child->filename);
    }
    return rc;
}

static int open_other(struct lc *s, struct err *e)
{
    int other = lc_other(s);
    if (s->n->read_only || s->side[other].trouble) {
        return 0;
    }
    return open_or_miss(s, other, true, e);
}

int lc_sides_open(struct lc *s, struct err *e)
{
    int rc = check_nesting(s, e);
    if (rc) {
        return rc;
    }
    if (s->state.flags & LC_DETACHED) {
        s->detached = true;
        s->live = DST;
        return lc_side_open(s, DST, e);
    }
    rc = open_live(s, e);
    rc = rc ? rc : open_other(s, e);
    if (rc) {
        return rc;
    }
    bitmap_or(s->stale, s->marked);
    return s->n->read_only || s->n->inactive ? 0 : lc_sides_settle(s, e);
}

int lc_sides_settle(struct lc *s, struct err *e)
{
    if (bitmap_count(s->stale)) {
        int rc = lc_state_single(s);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Could not write the state of live copy '%s'", s->file->child->filename);
        }
    }
    s->joined = lc_state_both(&s->state) && lc_present(s, lc_other(s));
    if (!lc_present(s, lc_other(s)) && s->opt.retry_ms) {
        s->retry_at = loop_now_ns() + s->opt.retry_ms * 1000000;
    }
    return 0;
}

void lc_sides_close(struct lc *s)
{
    for (int i = SRC; i <= DST; i++) { /* the core detaches the edges */
        g_clear_pointer(&s->side[i].trouble, g_free);
        s->side[i].edge = NULL;
    }
}

/* --- use ---------------------------------------------------------------------------------------------------------- */

struct edge *lc_side_get(struct lc *s, int i)
{
    if (!lc_present(s, i)) {
        return NULL;
    }
    s->side[i].users++;
    return s->side[i].edge;
}

void lc_side_put(struct lc *s, int i)
{
    if (--s->side[i].users == 0) {
        co_queue_wake_all(&s->side[i].idle);
    }
}

bool lc_being_copied(const struct lc *s, uint64_t first, uint64_t count)
{
    for (GList *l = s->copies.head; l; l = l->next) {
        const struct lc_copy *c = l->data;
        if (ranges_overlap(first, count, c->first, c->count)) {
            return true;
        }
    }
    return false;
}

void lc_make_stale(struct lc *s, uint64_t first, uint64_t count)
{
    bitmap_set(s->stale, first, count);
    for (GList *l = s->copies.head; l; l = l->next) {
        struct lc_copy *c = l->data;
        c->spoiled |= ranges_overlap(first, count, c->first, c->count);
    }
}

void lc_changed(struct lc *s)
{
    enum live_copy_state now = lc_state_now(s);
    co_queue_wake_all(&s->changed);
    if (now == s->told || !graph_bus(s->n->graph)) {
        return;
    }
    s->told = now;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "node-name", json_object_new_string(s->n->name));
    json_object_object_add(o, "state", json_object_new_string(live_copy_state_names[now]));
    json_object_object_add(o, "live", json_object_new_string(lc_side_names[s->live]));
    event_emit(graph_bus(s->n->graph), "LIVE_COPY_STATE", o);
}

/* --- failing and coming back -------------------------------------------------------------------------------------- */

void lc_side_failed(struct lc *s, int i, int rc)
{
    struct lc_side *side = &s->side[i];
    if (!lc_present(s, i)) {
        return;
    }
    side->out = true;
    g_free(side->trouble);
    side->trouble = g_strdup(g_strerror(-rc));
    s->joined = false;
    s->live = i == s->live ? !i : s->live;
    /* What was not flushed may be lost on that side, though it was acknowledged. */
    bitmap_or(s->stale, s->marked);
    for (GList *l = s->copies.head; l; l = l->next) {
        ((struct lc_copy *)l->data)->spoiled = true;
    }
    s->last.outages++;
    s->last.rc = rc;
    s->last.error_is_read = false;
    log_warn(graph_log(s->n->graph), "live copy '%s': the %s has failed (%s); the %s alone is used until it is back",
             s->n->filename, lc_side_names[i], g_strerror(-rc), lc_side_names[!i]);
    if (s->opt.retry_ms) {
        s->retry_at = loop_now_ns() + s->opt.retry_ms * 1000000;
        lc_keeper_alarm(s, s->retry_at);
    }
    lc_changed(s);
}

void lc_side_drop(struct lc *s, int i)
{
    struct lc_side *side = &s->side[i];
    side->out = true;
    while (side->users) {
        co_queue_wait(&side->idle);
    }
    if (side->edge) {
        node_detach_child(s->n, take(side->edge));
    }
}

void lc_side_return(struct lc *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    int other = lc_other(s);
    s->retry_at = 0;
    lc_side_drop(s, other);
    int rc = lc_side_open(s, other, &e);
    if (s->detached) { /* meanwhile */
        lc_side_drop(s, other);
    } else if (rc < 0) {
        g_free(s->side[other].trouble);
        s->side[other].trouble = g_strdup(err_text(&e));
        s->retry_at = s->opt.retry_ms ? loop_now_ns() + s->opt.retry_ms * 1000000 : 0;
    } else {
        s->cursor = 0;
        s->again_at = 0;
    }
    lc_changed(s);
}

/* A destination that counts in sectors reads as zeroes behind the disk's end. */
static int clear_tail(struct lc *s, int i, struct edge *ed)
{
    uint64_t size = edge_size(ed);
    return i == DST && size > s->head.size ? edge_zero(ed, s->head.size, size - s->head.size, 0) : 0;
}

static int flush_joining(struct lc *s, int i)
{
    struct edge *ed = lc_side_get(s, i);
    int rc = ed ? clear_tail(s, i, ed) : -EIO;
    rc = rc < 0 ? rc : edge_flush(ed);
    if (ed) {
        lc_side_put(s, i);
    }
    return rc;
}

void lc_join(struct lc *s)
{
    int other = lc_other(s);
    s->joined = true;
    s->again_at = 0;
    int rc = flush_joining(s, other);
    if (rc < 0) {
        lc_side_failed(s, other, rc);
        return;
    }
    co_lock(&s->meta_lock);
    if (s->joined && !bitmap_count(s->stale) && !(s->state_known && lc_state_both(&s->state))) {
        struct lc_state want = s->state;
        want.events[other] = want.events[s->live] = max_u64(want.events[SRC], want.events[DST]);
        rc = lc_state_write(s, want);
    }
    co_unlock(&s->meta_lock);
    if (rc < 0) {
        s->again_at = loop_now_ns() + MAX(s->opt.retry_ms, 1000) * 1000000;
    } else if (s->joined && lc_state_both(&s->state)) {
        s->live = s->state.flags & LC_SWITCHED ? DST : SRC;
    }
    lc_changed(s);
}
