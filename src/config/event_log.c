/* SPDX-License-Identifier: BSD-2-Clause */
#include "config/event_log.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/json.h"
#include "config/file.h"
#include "config/file_fs.h"
#include "loop/co.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A line's end is looked for in so much of the file; what is queued while the disk is slow is not more than that. */
enum { TAIL = 1 << 20, MOST_QUEUED = 64 << 20 };

static const char crc_key[] = ", \"crc32c\": \"";

struct event_log {
    char *path;
    const struct config_file *state;
    struct event_bus *bus;
    struct loop *loop;
    struct log *log;
    const struct config_fs *fs;
    void *dir;
    int file;
    uint64_t seq; /* of the last one */
    GString *queue;
    bool busy, torn, complained; /* torn: the file may not end with a line's end */
    struct co_queue idle;
};

/* --- lines ---------------------------------------------------------------------------------------------------------
 */

static void put_line(GString *to, struct json_object *event)
{
    CLEANUP_FREE char *text = json_text(event);
    size_t len = strlen(text) - 1; /* without the brace */
    g_string_append_len(to, text, (gssize)len);
    g_string_append_printf(to, "%s%08" PRIx32 "\"}\n", crc_key, crc32c(0, text, len));
}

/* NULL: it is torn or damaged. `line` has no end. */
static struct json_object *parse_line(const char *line, size_t len)
{
    const size_t key = sizeof(crc_key) - 1;
    const size_t tail = key + 8 + 2;
    char crc[9] = "";
    if (len <= tail || memcmp(line + len - tail, crc_key, key) != 0 || memcmp(line + len - 2, "\"}", 2) != 0) {
        return NULL;
    }
    memcpy(crc, line + len - 10, 8);
    char *end;
    if (g_ascii_strtoull(crc, &end, 16) != crc32c(0, line, len - tail) || *end) {
        return NULL;
    }
    CLEANUP_FREE char *text = g_strndup(line, len);
    struct json_object *o = json_tokener_parse(text);
    if (!json_object_is_type(o, json_type_object)) {
        json_object_put(take(o));
    }
    return o;
}

static uint64_t line_seq(const char *line, size_t len)
{
    CLEANUP_JSON struct json_object *o = parse_line(line, len);
    return o ? json_object_get_uint64(json_object_object_get(o, "seq")) : 0;
}

/* --- writing -------------------------------------------------------------------------------------------------------
 */

struct append {
    struct event_log *l;
    GString *text;
};

static int append_work(void *opaque)
{
    const struct append *a = opaque;
    int rc = a->l->fs->write(a->l->dir, a->l->file, a->text->str, a->text->len);
    return rc < 0 ? rc : a->l->fs->sync(a->l->dir, a->l->file);
}

static void write_queue(struct event_log *l)
{
    struct append a = {l, l->queue};
    l->queue = g_string_new(NULL);
    if (l->torn) {
        g_string_prepend_c(a.text, '\n');
    }
    int rc = co_self() ? co_work(append_work, &a) : append_work(&a);
    l->torn = rc < 0;
    if (rc < 0 && !l->complained) {
        log_warn(l->log, "could not write event log '%s': %s; events are lost until that is possible again", l->path,
                 g_strerror(-rc));
    }
    l->complained = rc < 0;
    g_string_free(a.text, TRUE);
}

static void flusher(void *opaque)
{
    struct event_log *l = opaque;
    while (l->queue->len) {
        write_queue(l);
    }
    l->busy = false;
    co_queue_wake_all(&l->idle);
}

static struct json_object *describe(struct event_log *l, const char *name, struct json_object *data)
{
    struct json_object *o = json_object_new_object();
    struct json_object *when = json_object_new_object();
    gint64 us = g_get_real_time();
    json_object_object_add(when, "seconds", json_object_new_int64(us / G_USEC_PER_SEC));
    json_object_object_add(when, "microseconds", json_object_new_int64(us % G_USEC_PER_SEC));
    json_object_object_add(o, "seq", json_object_new_uint64(l->seq));
    json_object_object_add(o, "generation", json_object_new_uint64(l->state ? config_file_generation(l->state) : 0));
    json_object_object_add(o, "timestamp", when);
    json_object_object_add(o, "event", json_object_new_string(name));
    if (data) {
        json_object_object_add(o, "data", json_object_get(data));
    }
    return o;
}

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct event_log *l = opaque;
    l->seq++;
    if (l->queue->len > MOST_QUEUED) {
        return; /* a gap in seq tells */
    }
    CLEANUP_JSON struct json_object *o = describe(l, name, data);
    put_line(l->queue, o);
    if (!l->busy) {
        l->busy = true;
        co_start_later(l->loop, flusher, l);
    }
}

void event_log_sync(struct event_log *l)
{
    while (l->busy) {
        co_queue_wait(&l->idle);
    }
}

/* --- opening -------------------------------------------------------------------------------------------------------
 */

/* What the file ends with: the last event's number, and whether a line is unfinished. */
static int read_tail(struct event_log *l)
{
    GByteArray *tail = g_byte_array_new();
    int rc = l->fs->tail(l->dir, l->file, TAIL, tail);
    const char *text = (const char *)tail->data;
    size_t end = rc < 0 ? 0 : tail->len;
    l->torn = end && text[end - 1] != '\n';
    while (end && !l->seq) {
        size_t start = end - 1;
        while (start && text[start - 1] != '\n') {
            start--;
        }
        l->seq = line_seq(text + start, end - start - (text[end - 1] == '\n'));
        end = start;
    }
    g_byte_array_free(tail, TRUE);
    return rc;
}

static int open_file(struct event_log *l, struct err *e)
{
    CLEANUP_FREE char *folder = g_path_get_dirname(l->path);
    CLEANUP_FREE char *name = g_path_get_basename(l->path);
    int rc;
    l->dir = l->fs->open(l->fs->opaque, folder, &rc);
    if (!l->dir) {
        return err_set_errno(e, -rc, "could not open the folder of event log '%s'", l->path);
    }
    l->file = l->fs->append(l->dir, name);
    if (l->file == -EAGAIN) {
        return err_set(e, EAGAIN, "event log '%s' is written by another process", l->path);
    }
    rc = l->file < 0 ? l->file : read_tail(l);
    rc = rc < 0 ? rc : l->fs->sync_folder(l->dir);
    return rc < 0 ? err_set_errno(e, -rc, "could not open event log '%s'", l->path) : 0;
}

int event_log_open(const struct event_log_options *o, struct event_log **out, struct err *e)
{
    struct event_log *l = g_new0(struct event_log, 1);
    l->path = g_strdup(o->path);
    l->state = o->state;
    l->loop = o->loop;
    l->log = o->log;
    l->fs = o->fs ? o->fs : &config_host_fs;
    l->file = -1;
    l->queue = g_string_new(NULL);
    int rc = open_file(l, e);
    if (rc < 0) {
        event_log_close(l);
        return rc;
    }
    l->bus = o->bus;
    event_subscribe(l->bus, on_event, l);
    *out = l;
    return 0;
}

void event_log_close(struct event_log *l)
{
    if (!l) {
        return;
    }
    assert(!l->busy);
    if (l->bus) {
        event_unsubscribe(l->bus, l);
    }
    if (l->file >= 0) {
        l->fs->done(l->dir, l->file);
    }
    if (l->dir) {
        l->fs->close(l->dir);
    }
    g_string_free(l->queue, TRUE);
    g_free(l->path);
    g_free(l);
}

/* --- reading -------------------------------------------------------------------------------------------------------
 */

int event_log_read(const char *path, event_log_fn *fn, void *opaque, unsigned long *bad, struct err *e)
{
    FILE *in = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    bool more = true;
    *bad = 0;
    if (!in) {
        return err_set_errno(e, errno, "could not open event log '%s'", path);
    }
    while (more && (n = getline(&line, &room, in)) > 0) {
        CLEANUP_JSON struct json_object *o = parse_line(line, (size_t)n - (line[n - 1] == '\n'));
        *bad += !o && n > 1;
        more = !o || fn(opaque, o);
    }
    int rc = ferror(in) ? err_set_errno(e, errno, "could not read event log '%s'", path) : 0;
    free(line);
    fclose(in);
    return rc;
}
