/* SPDX-License-Identifier: BSD-2-Clause */
/* What an image says about itself, and its check. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <inttypes.h>

static void put_str(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

static struct json_object *side_info(const struct lc *s, int i, const struct live_copy_status *st)
{
    struct json_object *o = json_object_new_object();
    put_str(o, "filename", s->head.name[i]);
    put_str(o, "format", s->head.fmt[i]);
    json_object_object_add(o, "current", json_object_new_boolean(st->current[i]));
    if (s->side[i].trouble) {
        put_str(o, "trouble", s->side[i].trouble);
    }
    return o;
}

struct json_object *lc_specific_info(struct node *n)
{
    struct lc *s = lc_of(n);
    struct live_copy_status st;
    live_copy_get_status(n, &st);
    struct json_object *o = json_object_new_object(), *data = json_object_new_object();
    uint64_t done = st.total - st.remaining;
    put_str(data, "state", live_copy_state_names[st.state]);
    put_str(data, "live", lc_side_names[s->bare && st.state == LIVE_COPY_DETACHED ? DST : s->live]);
    json_object_object_add(data, "switched", json_object_new_boolean(st.switched));
    json_object_object_add(data, "source", side_info(s, SRC, &st));
    json_object_object_add(data, "destination", side_info(s, DST, &st));
    json_object_object_add(data, "region-size", json_object_new_int64(INT64_C(1) << s->head.bits));
    json_object_object_add(data, "regions", json_object_new_uint64(s->regions));
    json_object_object_add(data, "marked-regions", json_object_new_uint64(s->detached ? 0 : bitmap_count(s->marked)));
    json_object_object_add(data, "remaining", json_object_new_uint64(st.remaining));
    json_object_object_add(data, "percentage",
                           json_object_new_uint64(st.total ? (uint64_t)((double)done * 100 / (double)st.total) : 100));
    put_str(o, "type", "live-copy");
    json_object_object_add(o, "data", data);
    return o;
}

/* --- check -------------------------------------------------------------------------------------------------------- */

/* Torn by a crash, or left behind by one: costs some copying, harms nothing. */
static void find(struct lc *s, struct check_result *r)
{
    if (s->one_valid) {
        r->leaks++;
        g_string_append(r->text, "One of the two copies of the state is damaged: the other one counts\n");
    }
    if (s->bad_blocks) {
        r->leaks += s->bad_blocks;
        g_string_append_printf(r->text, "%" PRIu64 " blocks of the bitmap are damaged: their regions count as marked\n",
                               s->bad_blocks);
    }
    /* Of a node in use, marks are of what is being written. */
    uint64_t marked = bitmap_count(s->bare ? s->marked : s->stale);
    if (lc_state_both(&s->state) && marked && !s->detached) {
        r->leaks += marked;
        g_string_append_printf(r->text, "%" PRIu64 " regions may differ on source and destination\n", marked);
    }
}

/* The state and all of the bitmap are written again. */
static int repair_file(struct lc *s)
{
    co_lock(&s->meta_lock);
    lc_marks_rewrite(s);
    int rc = lc_marks_write(s, true);
    rc = rc < 0 ? rc : lc_state_write(s, s->state);
    co_unlock(&s->meta_lock);
    return rc;
}

/* All that is marked is copied from the side that is live. */
static int resynchronise(struct lc *s, struct err *e)
{
    struct live_copy_status st;
    int rc = 0;
    if (s->bare) {
        rc = lc_sides_open(s, e);
        if (rc) {
            return rc;
        }
        s->bare = false;
        s->opt.copying = true;
        lc_keeper_start(s);
    }
    for (;;) {
        live_copy_get_status(s->n, &st);
        const char *trouble = s->side[lc_other(s)].trouble;
        if (s->joined || s->detached) {
            return 0;
        }
        if (trouble) {
            return err_set(e, EIO, "the %s is not there: %s", lc_side_names[lc_other(s)], trouble);
        }
        if (st.passes) {
            return err_set_errno(e, -st.rc, "%s byte %" PRIu64, st.error_is_read ? "reading" : "writing", st.error_off);
        }
        live_copy_wait(s->n, UINT64_C(100000000));
    }
}

int lc_check(struct node *n, struct check_result *r, unsigned fix, struct err *e)
{
    struct lc *s = lc_of(n);
    find(s, r);
    bool unsynced = lc_state_both(&s->state) && bitmap_count(s->marked) && !(s->state.flags & LC_DETACHED);
    bool unfinished = !lc_state_both(&s->state) && !(s->state.flags & LC_DETACHED);
    if (fix && (s->one_valid || s->bad_blocks)) {
        int rc = repair_file(s);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Could not write to the live copy");
        }
        s->one_valid = false;
        s->bad_blocks = 0;
    }
    if ((fix && unsynced) || ((fix & CHECK_FIX_ERRORS) && unfinished)) {
        int rc = resynchronise(s, e);
        if (rc) {
            return err_wrap(e, "Could not bring source and destination together");
        }
    }
    if (fix) {
        r->leaks_fixed = r->leaks;
        r->leaks = 0;
    }
    return 0;
}
