/* SPDX-License-Identifier: BSD-2-Clause */
/* info: what a state is. */
#include "cli/human.h"
#include "cli/state/state.h"
#include "state/dump.h"

#include <inttypes.h>
#include <stdio.h>

/* By the index where there is one: then RAM's data are not read. */
static int sum_up(struct state_input *in, struct state_summary *s, struct err *e)
{
    if (!state_reader_source(in->r)->read_at) {
        struct state_walk w = {.summary = s};
        int rc = state_walk(in->r, &w, e);
        s->totals.bytes = state_reader_bytes(in->r);
        return rc;
    }
    struct state_index *x = state_index_read(in->r, e);
    if (!x) {
        return -EINVAL;
    }
    uint64_t n;
    unsigned chunks;
    const struct state_run *run = state_index_runs(x, &n);
    const struct state_chunk *c = state_index_chunks(x, &chunks);
    for (uint64_t i = 0; i < n; i++) {
        s->totals.pages[run[i].kind] += run[i].pages;
        s->data_bytes += run[i].bytes;
    }
    for (unsigned i = 0; i < chunks; i++) {
        s->devices += c[i].type == STATE_DEVS;
    }
    s->totals.bytes = state_reader_source(in->r)->size;
    state_index_destroy(x);
    return 0;
}

static struct json_object *text(const char *s)
{
    return s ? json_object_new_string(s) : NULL;
}

static void print_json(const struct state_input *in, const struct state_summary *s)
{
    const struct state_manifest *m = state_reader_manifest(in->r);
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *all = state_manifest_json(m);
    json_object_object_add(o, "filename", text(in->fd.name));
    json_object_object_add(o, "machine", text(state_manifest_machine(m)));
    json_object_object_add(o, "release", text(state_manifest_release(m)));
    if (state_manifest_tag(m)) {
        json_object_object_add(o, "tag", text(state_manifest_tag(m)));
    }
    if (state_manifest_parent(m)) {
        json_object_object_add(o, "parent", text(state_manifest_parent(m)));
    }
    if (state_manifest_parent_file(m)) {
        json_object_object_add(o, "parent-file", text(state_manifest_parent_file(m)));
    }
    json_object_object_add(o, "aligned", json_object_new_boolean(state_reader_aligned(in->r)));
    json_object_object_add(o, "bytes", json_object_new_uint64(s->totals.bytes));
    json_object_object_add(o, "ram", json_object_get(json_object_object_get(all, "ram")));
    json_object_object_add(o, "disks", json_object_get(json_object_object_get(all, "disks")));
    json_object_object_add(o, "devices", json_object_get(json_object_object_get(all, "devices")));
    struct json_object *pages = json_object_new_object();
    static const char *const kinds[] = {"zero", "raw", "zstd", "same"};
    for (int k = 0; k < STATE_PAGE_KINDS; k++) {
        json_object_object_add(pages, kinds[k], json_object_new_uint64(s->totals.pages[k]));
    }
    json_object_object_add(o, "pages", pages);
    state_put_json(o);
}

static void line(const char *label, const char *value)
{
    if (value) {
        printf("%s: ", label);
        state_put_text(value);
        putchar('\n');
    }
}

static void print_text(const struct state_input *in, const struct state_summary *s)
{
    const struct state_manifest *m = state_reader_manifest(in->r);
    CLEANUP_FREE char *size = human_size(s->totals.bytes);
    line("file", in->fd.name);
    line("machine type", state_manifest_machine(m));
    line("saved by release", state_manifest_release(m));
    line("tag", state_manifest_tag(m));
    line("parent", state_manifest_parent(m));
    line("parent's file", state_manifest_parent_file(m));
    printf("size: %s (%" PRIu64 " bytes)%s\n", size, s->totals.bytes,
           state_reader_aligned(in->r) ? ", pages aligned" : "");
    for (unsigned b = 0; b < state_manifest_blocks(m); b++) {
        CLEANUP_FREE char *n = human_size(state_manifest_block_pages(m, b) * STATE_PAGE);
        fputs("RAM block '", stdout);
        state_put_text(state_manifest_block_name(m, b));
        printf("': %s\n", n);
    }
    printf("pages: %" PRIu64 " as they are, %" PRIu64 " compressed, %" PRIu64 " zero, %" PRIu64 " like others\n",
           s->totals.pages[STATE_PAGES_RAW], s->totals.pages[STATE_PAGES_ZSTD], s->totals.pages[STATE_PAGES_ZERO],
           s->totals.pages[STATE_PAGES_SAME]);
    printf("devices: %u\n", s->devices);
    for (unsigned i = 0; i < state_manifest_devices(m); i++) {
        const struct state_schema *sc = state_manifest_schema(m, state_manifest_device_path(m, i));
        fputs("    ", stdout);
        state_put_text(state_manifest_device_path(m, i));
        printf(" (%s, version %u)\n", sc->base.name, sc->version);
    }
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_INPUT struct state_input in = {.fd.fd = -1};
    struct state_summary s = {0};
    if (!a->tags->len && state_is_image(a, a->operands[0])) {
        return state_image_list(a, a->operands[0], &e) < 0 ? state_fail(&e) : STATE_OK;
    }
    if (state_input_open(a, &in, a->operands[0], &e) < 0) {
        return state_fail(&e);
    }
    state_reader_keep_unknown(in.r);
    if (sum_up(&in, &s, &e) < 0) {
        return state_fail(&e);
    }
    a->json ? print_json(&in, &s) : print_text(&in, &s);
    return STATE_OK;
}

const struct state_verb state_verb_info = {"info", "FILE", "what a state is", "osiUO", 1, 1, run};
