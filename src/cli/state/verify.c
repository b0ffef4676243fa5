/* SPDX-License-Identifier: BSD-2-Clause */
/* verify: whether a state is complete and undamaged. */
#include "cli/state/state.h"
#include "state/dump.h"

#include <inttypes.h>
#include <stdio.h>

static int check_run(struct state_input *in, const struct state_index *x, const struct state_run *run, struct err *e)
{
    uint8_t page[STATE_PAGE];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < run->pages && (run->kind == STATE_PAGES_RAW || i == 0); i++) {
        rc = state_index_read_pages(state_reader_source(in->r), x, run, i, 1, page);
        if (rc < 0) {
            err_set_errno(e, -rc, "%s: page %" PRIu64 " of RAM block '%s', by the index", in->fd.name, run->page + i,
                          state_manifest_block_name(state_reader_manifest(in->r), run->block));
        }
    }
    return rc;
}

/* Both ways of reading a file must find the same. */
static int check_index(struct state_input *in, struct err *e)
{
    if (!state_reader_source(in->r)->read_at) {
        return 0;
    }
    struct state_index *x = state_index_read(in->r, e);
    int rc = x ? 0 : -EINVAL;
    uint64_t n = 0;
    const struct state_run *run = x && state_index_has_crcs(x) ? state_index_runs(x, &n) : NULL;
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        rc = run[i].kind == STATE_PAGES_RAW || run[i].kind == STATE_PAGES_ZSTD ? check_run(in, x, &run[i], e) : 0;
    }
    state_index_destroy(x);
    return rc;
}

static int verify_one(struct state_input *in, struct state_summary *s, struct err *e)
{
    struct state_walk w = {.check_values = true, .check_pages = true, .summary = s};
    state_reader_keep_unknown(in->r);
    int rc = state_walk(in->r, &w, e);
    rc = rc < 0 ? rc : check_index(in, e);
    if (rc == 0 && !state_input_at_end(in)) {
        rc = err_set(e, EINVAL, "%s: something follows its end at offset %" PRIu64, in->fd.name,
                     state_reader_bytes(in->r));
    }
    return rc;
}

/* The state of that name, and not a later one. */
static int check_link(const struct state_input *child, struct state_input *parent, struct err *e)
{
    struct state_index *x = state_index_read(parent->r, e);
    int rc = x ? state_index_check_parent(x, state_reader_manifest(child->r), parent->fd.name, e) : -EINVAL;
    state_index_destroy(x);
    return rc;
}

/* What each of them holds, and that it is what the one before means. */
static int verify_chain(struct state_args *a, const struct state_input *in, GPtrArray *parents, struct err *e)
{
    int rc = state_input_parents(a, in, true, parents, e);
    for (guint i = 0; rc == 0 && i < parents->len; i++) {
        struct state_input *p = parents->pdata[i];
        struct state_summary s = {0};
        rc = check_link(in, p, e);
        rc = rc < 0 ? rc : verify_one(p, &s, e);
        in = p;
    }
    return rc;
}

static int verify(struct state_args *a, struct state_input *in, struct state_summary *s, GPtrArray *parents,
                  struct err *e)
{
    int rc = state_input_open(a, in, a->operands[0], e);
    rc = rc < 0 ? rc : verify_one(in, s, e);
    return rc < 0 || !a->chain ? rc : verify_chain(a, in, parents, e);
}

static struct json_object *names_of(const GPtrArray *inputs)
{
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < inputs->len; i++) {
        json_object_array_add(list, json_object_new_string(((const struct state_input *)inputs->pdata[i])->fd.name));
    }
    return list;
}

static void print_line(const struct state_input *in, const struct state_summary *s, const GPtrArray *parents)
{
    state_put_text(in->fd.name);
    printf(": complete and undamaged: %" PRIu64 " chunks, %u devices", s->totals.chunks, s->devices);
    for (guint i = 0; i < parents->len; i++) {
        fputs(i ? ", " : "; so is what it is based on: ", stdout);
        state_put_text(((const struct state_input *)parents->pdata[i])->fd.name);
    }
    putchar('\n');
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_INPUT struct state_input in = {.fd.fd = -1};
    struct state_summary s = {0};
    g_autoptr(GPtrArray) parents = state_inputs_new();
    int rc = verify(a, &in, &s, parents, &e);
    if (a->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "filename", json_object_new_string(in.image ? in.fd.name : a->operands[0]));
        json_object_object_add(o, "valid", json_object_new_boolean(rc == 0));
        json_object_object_add(o, rc < 0 ? "error" : "totals",
                               rc < 0 ? json_object_new_string(err_text(&e)) : state_summary_json(&s));
        if (rc == 0 && a->chain) {
            json_object_object_add(o, "parents", names_of(parents));
        }
        state_put_json(o);
    } else if (rc < 0 && !a->quiet) {
        state_fail(&e);
    } else if (!a->quiet) {
        print_line(&in, &s, parents);
    }
    return rc < 0 ? STATE_FAILED : STATE_OK;
}

const struct state_verb state_verb_verify = {
    "verify", "FILE", "whether a state is complete and undamaged", "oqCpsiUO", 1, 1, run};
