/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/dump.h"

#include "base/cleanup.h"
#include "state/device.h"
#include "state/manifest.h"

#include <inttypes.h>

static void list_chunk(const struct state_walk *w, const struct state_chunk *c, struct json_object **out)
{
    char type[5] = {(char)c->type, (char)(c->type >> 8), (char)(c->type >> 16), (char)(c->type >> 24), 0};
    if (w->chunks) {
        *out = json_object_new_object();
        json_object_object_add(*out, "type", json_object_new_string(type));
        json_object_object_add(*out, "offset", json_object_new_uint64(c->offset));
        json_object_object_add(*out, "length", json_object_new_uint64(c->length));
        json_object_array_add(w->chunks, *out);
    }
}

static int walk_device(struct state_reader *r, const struct state_walk *w, const struct state_chunk *c,
                       struct json_object *listed, struct err *e)
{
    const GByteArray *b = state_read_payload(r, STATE_DEVICE_MAX);
    if (!b) {
        return state_reader_error(r, e);
    }
    if (w->check_values || listed) {
        struct state_device *d = state_device_read(state_reader_manifest(r), b->data, b->len, e);
        if (!d) {
            return err_wrap(e, "chunk DEVS at offset %" PRIu64, c->offset);
        }
        if (listed) {
            json_object_object_add(listed, "device", json_object_new_string(d->path));
        }
        state_device_destroy(d);
    }
    return w->device ? w->device(w->opaque, c, b, e) : 0;
}

static void walk_ram(struct state_reader *r, const struct state_walk *w, struct json_object *listed)
{
    struct state_run run;
    uint64_t pages = 0;
    CLEANUP_FREE uint8_t *buf = w->check_pages ? g_malloc((size_t)STATE_RUN_PAGES_MAX * STATE_PAGE) : NULL;
    while (state_read_run(r, &run) > 0) {
        if (run.kind == STATE_PAGES_ZSTD && buf) {
            state_read_run_data(r, buf);
        }
        if (w->summary) {
            w->summary->data_bytes += run.bytes;
        }
        if (listed && !pages) {
            const char *name = state_manifest_block_name(state_reader_manifest(r), run.block);
            json_object_object_add(listed, "block", json_object_new_string(name));
        }
        pages += run.pages;
    }
    if (listed) {
        json_object_object_add(listed, "pages", json_object_new_uint64(pages));
    }
}

int state_walk(struct state_reader *r, const struct state_walk *w, struct err *e)
{
    struct state_chunk c;
    int rc;
    while ((rc = state_read_next(r, &c)) > 0) {
        struct json_object *listed = NULL;
        list_chunk(w, &c, &listed);
        if (c.type == STATE_DEVS) {
            rc = walk_device(r, w, &c, listed, e);
        } else if (c.type == STATE_RAMP) {
            walk_ram(r, w, listed);
        }
        if (w->summary) {
            w->summary->devices += c.type == STATE_DEVS;
            w->summary->others += c.type != STATE_DEVS && c.type != STATE_RAMP;
        }
        if (rc < 0) {
            return rc;
        }
    }
    if (w->summary) {
        state_reader_totals(r, &w->summary->totals);
    }
    return state_reader_error(r, e);
}

struct json_object *state_summary_json(const struct state_summary *s)
{
    static const char *const names[STATE_PAGE_KINDS] = {"zero", "raw", "zstd", "same"};
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "chunks", json_object_new_uint64(s->totals.chunks));
    json_object_object_add(o, "bytes", json_object_new_uint64(s->totals.bytes));
    json_object_object_add(o, "devices", json_object_new_uint64(s->devices));
    for (int k = 0; k < STATE_PAGE_KINDS; k++) {
        json_object_object_add(o, names[k], json_object_new_uint64(s->totals.pages[k]));
    }
    json_object_object_add(o, "data-bytes", json_object_new_uint64(s->data_bytes));
    return o;
}

struct dump {
    const struct state_manifest *m;
    struct json_object *devices;
};

static int add_device(void *opaque, const struct state_chunk *c, const GByteArray *payload, struct err *e)
{
    struct dump *d = opaque;
    struct state_device *dev = state_device_read(d->m, payload->data, payload->len, e);
    if (!dev) {
        return err_wrap(e, "chunk DEVS at offset %" PRIu64, c->offset);
    }
    json_object_array_add(d->devices, state_device_json(dev));
    state_device_destroy(dev);
    return 0;
}

struct json_object *state_dump(struct state_reader *r, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct state_summary sum = {0};
    struct dump d = {.m = state_reader_manifest(r), .devices = json_object_new_array()};
    json_object_object_add(o, "manifest", json_object_get(state_manifest_json(d.m)));
    json_object_object_add(o, "devices", d.devices);
    struct state_walk w = {.device = add_device, .opaque = &d, .summary = &sum};
    if (state_walk(r, &w, e) < 0) {
        return NULL;
    }
    json_object_object_add(o, "totals", state_summary_json(&sum));
    return take(o);
}
