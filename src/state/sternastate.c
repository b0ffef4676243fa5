/* SPDX-License-Identifier: BSD-2-Clause */
/* libsternastate's functions, in terms of this folder's. */
#include "state/sternastate.h"

#include "base/cleanup.h"
#include "state/device.h"
#include "state/dump.h"
#include "state/fd.h"
#include "state/manifest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

struct sternastate {
    struct state_fd fd;
    struct state_source src;
    struct state_reader *r;
    struct state_index *index; /* when it was first needed */
    struct err err;            /* what the reader does not know of */
    char *manifest;
    bool is_device; /* the chunk that was returned last */
};

API int sternastate_api_version(void)
{
    return STERNASTATE_API_VERSION;
}

API void sternastate_free(void *p)
{
    free(p);
}

/* The caller's: by malloc(), whatever GLib uses. */
static char *text_for_caller(const char *s)
{
    char *copy = strdup(s);
    g_assert(copy); /* as g_strdup() does */
    return copy;
}

static char *json_for_caller(struct json_object *o)
{
    return text_for_caller(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void *give_up(struct err *e, char **error)
{
    if (error) {
        *error = text_for_caller(err_text(e));
    }
    return NULL;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static struct sternastate *open_it(struct sternastate *s, char **error)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    s->src = state_fd_source(&s->fd);
    s->r = state_reader_create(&s->src, &e);
    if (!s->r) {
        sternastate_close(s);
        return give_up(&e, error);
    }
    state_reader_keep_unknown(s->r);
    s->manifest = g_strdup(json_object_to_json_string_ext(state_manifest_json(state_reader_manifest(s->r)),
                                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    return s;
}

API struct sternastate *sternastate_open(const char *path, char **error)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct sternastate *s = g_new0(struct sternastate, 1);
    if (state_fd_open(&s->fd, path, &e) < 0) {
        sternastate_close(s);
        return give_up(&e, error);
    }
    return open_it(s, error);
}

API struct sternastate *sternastate_open_fd(int fd, const char *name, char **error)
{
    struct sternastate *s = g_new0(struct sternastate, 1);
    state_fd_init(&s->fd, fd, name ? name : "the stream");
    return open_it(s, error);
}

API void sternastate_close(struct sternastate *s)
{
    if (s) {
        state_index_destroy(s->index);
        state_reader_destroy(s->r);
        state_fd_finish(&s->fd);
        err_clear(&s->err);
        g_free(s->manifest);
        g_free(s);
    }
}

API const char *sternastate_error(const struct sternastate *s)
{
    return err_is_set(&s->err) ? err_text(&s->err) : "";
}

API const char *sternastate_manifest(const struct sternastate *s)
{
    return s->manifest;
}

/* Keeps the reader's error, if there is one. */
static int result(struct sternastate *s, int rc)
{
    if (rc < 0 && !err_is_set(&s->err)) {
        state_reader_error(s->r, &s->err);
    }
    return err_is_set(&s->err) ? -1 : rc;
}

API int sternastate_next(struct sternastate *s, struct sternastate_chunk *out)
{
    struct state_chunk c;
    if (err_is_set(&s->err)) {
        return -1;
    }
    int rc = state_read_next(s->r, &c);
    if (rc > 0) {
        *out = (struct sternastate_chunk){.offset = c.offset, .length = c.length};
        for (int i = 0; i < 4; i++) {
            out->type[i] = (char)(c.type >> 8 * i);
        }
        out->kind = c.type == STATE_DEVS   ? STERNASTATE_DEVICE
                    : c.type == STATE_RAMP ? STERNASTATE_RAM
                                           : STERNASTATE_OTHER;
        s->is_device = c.type == STATE_DEVS;
    }
    return result(s, rc);
}

API char *sternastate_device(struct sternastate *s)
{
    if (!s->is_device && !err_is_set(&s->err)) {
        err_set(&s->err, EINVAL, "%s: the chunk is not a device's", s->fd.name);
    }
    if (err_is_set(&s->err)) {
        return NULL;
    }
    const GByteArray *b = state_read_payload(s->r, STATE_DEVICE_MAX);
    struct state_device *d = b ? state_device_read(state_reader_manifest(s->r), b->data, b->len, &s->err) : NULL;
    if (!d) {
        if (!b) {
            state_reader_error(s->r, &s->err);
        }
        return NULL;
    }
    CLEANUP_JSON struct json_object *o = state_device_json(d);
    state_device_destroy(d);
    return json_for_caller(o);
}

API int sternastate_next_run(struct sternastate *s, struct sternastate_run *out)
{
    struct state_run r;
    if (err_is_set(&s->err)) {
        return -1;
    }
    int rc = state_read_run(s->r, &r);
    if (rc > 0) {
        *out = (struct sternastate_run){.block = r.block,
                                        .kind = r.kind,
                                        .page = r.page,
                                        .pages = r.pages,
                                        .offset = r.offset,
                                        .bytes = r.bytes,
                                        .other_block = r.other_block,
                                        .other_page = r.other_page};
    }
    return result(s, rc);
}

API int sternastate_run_data(struct sternastate *s, void *dst)
{
    return err_is_set(&s->err) ? -1 : result(s, state_read_run_data(s->r, dst));
}

API int sternastate_verify(struct sternastate *s)
{
    struct state_walk w = {.check_values = true, .check_pages = true};
    if (!err_is_set(&s->err)) {
        state_walk(s->r, &w, &s->err);
    }
    return err_is_set(&s->err) ? -1 : 0;
}

API char *sternastate_dump(struct sternastate *s)
{
    CLEANUP_JSON struct json_object *o = err_is_set(&s->err) ? NULL : state_dump(s->r, &s->err);
    return o ? json_for_caller(o) : NULL;
}

static int read_pages(struct sternastate *s, uint32_t block, uint64_t page, uint64_t count, uint8_t *dst)
{
    const struct state_manifest *m = state_reader_manifest(s->r);
    uint64_t pages = block < state_manifest_blocks(m) ? state_manifest_block_pages(m, block) : 0;
    if (page > pages || count > pages - page) {
        return err_set(&s->err, EINVAL, "%s: RAM block %" PRIu32 " has no such pages", s->fd.name, block);
    }
    while (count) {
        const struct state_run *run = state_index_find(s->index, block, page);
        uint64_t n = run ? MIN(count, run->page + run->pages - page) : 1;
        int rc = 0;
        if (run) {
            rc = state_index_read_pages(&s->src, s->index, run, (uint32_t)(page - run->page), (uint32_t)n, dst);
        } else {
            memset(dst, 0, STATE_PAGE);
        }
        if (rc < 0) {
            return err_set_errno(&s->err, -rc, "%s: page %" PRIu64 " of RAM block %" PRIu32, s->fd.name, page, block);
        }
        page += n;
        count -= n;
        dst += n * STATE_PAGE;
    }
    return 0;
}

API int sternastate_read_pages(struct sternastate *s, uint32_t block, uint64_t page, uint64_t count, void *dst)
{
    if (!s->index && !err_is_set(&s->err)) {
        s->index = state_index_read(s->r, &s->err);
    }
    return err_is_set(&s->err) || read_pages(s, block, page, count, dst) < 0 ? -1 : 0;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct sternastate_writer {
    struct state_fd fd;
    struct state_manifest *manifest;
    struct state_writer *w;
    struct err err;
};

API struct sternastate_writer *sternastate_create(int fd, const char *name, const char *manifest, unsigned flags,
                                                  char **error)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_manifest *m = state_manifest_parse(manifest, strlen(manifest), &e);
    if (!m) {
        return give_up(&e, error);
    }
    struct sternastate_writer *w = g_new0(struct sternastate_writer, 1);
    struct state_write_options o = {.aligned = flags & STERNASTATE_ALIGNED,
                                    .index = flags & STERNASTATE_INDEX,
                                    .zstd_level = flags & STERNASTATE_COMPRESS ? 1 : 0};
    state_fd_init(&w->fd, fd, name ? name : "the stream");
    struct state_sink sink = state_fd_sink(&w->fd);
    w->manifest = m;
    w->w = state_writer_create(&sink, &o);
    if (state_write_manifest(w->w, m) < 0) {
        state_writer_error(w->w, &e);
        sternastate_writer_close(w);
        return give_up(&e, error);
    }
    return w;
}

static int written(struct sternastate_writer *w)
{
    if (!err_is_set(&w->err)) {
        state_writer_error(w->w, &w->err);
    }
    return err_is_set(&w->err) ? -1 : 0;
}

API int sternastate_write_device(struct sternastate_writer *w, const char *json)
{
    CLEANUP_JSON struct json_object *o = json_tokener_parse(json);
    if (err_is_set(&w->err)) {
        return -1;
    }
    struct state_device *d = state_device_from_json(w->manifest, o, &w->err);
    g_autoptr(GByteArray) b = d ? state_device_write(d, &w->err) : NULL;
    state_device_destroy(d);
    if (b) {
        state_write_device(w->w, b->data, b->len);
    }
    return written(w);
}

API int sternastate_write_pages(struct sternastate_writer *w, uint32_t block, uint64_t page, uint64_t count,
                                const void *data)
{
    for (uint64_t i = 0; i < count && written(w) == 0; i++) {
        state_write_page(w->w, block, page + i, (const uint8_t *)data + i * STATE_PAGE);
    }
    return written(w);
}

API int sternastate_finish(struct sternastate_writer *w)
{
    if (written(w) == 0) {
        state_write_stop(w->w, NULL);
    }
    return written(w);
}

API const char *sternastate_writer_error(const struct sternastate_writer *w)
{
    return err_is_set(&w->err) ? err_text(&w->err) : "";
}

API void sternastate_writer_close(struct sternastate_writer *w)
{
    if (w) {
        state_writer_destroy(w->w);
        state_manifest_destroy(w->manifest);
        state_fd_finish(&w->fd);
        err_clear(&w->err);
        g_free(w);
    }
}
