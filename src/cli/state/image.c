/* SPDX-License-Identifier: BSD-2-Clause */
/* States that are inside of disk images: in their snapshots. Read by the block layer, which believes nothing either. */
#include "block/driver.h"
#include "block/snapshot.h"
#include "cli/human.h"
#include "cli/state/state.h"
#include "state/format.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct state_image {
    struct node *n; /* a reference */
    struct vmstate *v;
    uint64_t size, at; /* of the state; of the read from end to end */
};

bool state_is_stream(const char *path)
{
    char magic[8];
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, STATE_MAGIC, sizeof(magic));
}

bool state_is_image(const struct state_args *a, const char *path)
{
    char magic[4];
    if (a->image_opts || !strcmp(path, "-")) {
        return a->image_opts;
    }
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", sizeof(magic));
}

/* What is below it is not needed: states are the image's own. */
static int open_node(const struct state_args *a, const char *path, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "read-only", json_object_new_boolean(!a->writes));
    json_object_object_add(o, "backing", NULL);
    if (a->force_share) {
        json_object_object_add(o, "force-share", json_object_new_boolean(true));
    }
    if (tool_open(a->tool, path, a->image_opts, o, out, e) < 0) {
        return err_wrap(e, "'%s' cannot be opened", path);
    }
    if (node_has_snapshots(*out)) {
        return 0;
    }
    int rc = err_set(e, ENOTSUP, "'%s': images of format '%s' have no snapshots", path, (*out)->drv->name);
    node_unref(*out);
    *out = NULL;
    return rc;
}

/* --- a state as a source ------------------------------------------------------------------------------------------ */

static ssize_t image_read_at(void *opaque, void *buf, size_t len, uint64_t off)
{
    struct state_image *x = opaque;
    if (off >= x->size) {
        return 0;
    }
    len = MIN(len, x->size - off);
    int rc = vmstate_read(x->v, off, len, buf);
    return rc < 0 ? rc : (ssize_t)len;
}

static ssize_t image_read(void *opaque, void *buf, size_t len)
{
    struct state_image *x = opaque;
    ssize_t n = image_read_at(x, buf, len, x->at);
    x->at += n > 0 ? (uint64_t)n : 0;
    return n;
}

/* Takes n over, also when it fails. `path`: of its image, as it was given. */
static int open_state(struct state_input *in, struct node *n, const char *path, const char *tag, struct err *e)
{
    struct snapshot *s = node_snapshot_find(n, NULL, tag);
    struct vmstate *v = NULL;
    int rc = !s ? err_set(e, ENOENT, "'%s' has no snapshot '%s'", path, tag)
             : !s->vm_state_size
                 ? err_set(e, EINVAL, "Snapshot '%s' in '%s' is of the disk alone: no state is in it", tag, path)
                 : vmstate_open(n, s->id, &v, e);
    if (rc == 0) {
        in->image = g_new(struct state_image, 1);
        *in->image = (struct state_image){n, v, s->vm_state_size, 0};
        in->path = path;
        state_fd_init(&in->fd, -1, "");
        g_free(in->fd.name);
        in->fd.name = g_strdup_printf("snapshot '%s' in '%s'", tag, path);
        struct state_source src = {image_read, image_read_at, s->vm_state_size, in->image, in->fd.name};
        in->r = state_reader_create(&src, e);
        rc = in->r ? 0 : -EINVAL;
    } else {
        node_unref(n);
    }
    snapshot_free(s);
    return rc;
}

int state_image_open(struct state_args *a, struct state_input *in, const char *path, const char *tag, struct err *e)
{
    struct node *n = NULL;
    int rc = open_node(a, path, &n, e);
    return rc < 0 ? rc : open_state(in, n, path, tag, e);
}

int state_image_open_parent(const struct state_input *in, struct state_input *out, struct err *e)
{
    const char *tag = state_manifest_parent(state_reader_manifest(in->r));
    return open_state(out, node_ref(in->image->n), in->path, tag, e) < 0
               ? err_wrap(e, "'%s', on which %s is based", tag, in->fd.name)
               : 0;
}

struct node *state_image_node(const struct state_image *x)
{
    return x->n;
}

void state_image_close(struct state_image *x)
{
    if (x) {
        vmstate_destroy(x->v);
        node_unref(x->n);
        g_free(x);
    }
}

bool state_image_ends(const struct state_image *x, uint64_t at)
{
    return x->size == at;
}

/* --- which there are ---------------------------------------------------------------------------------------------- */

/* The parent of a state; NULL also when it is no state of ours. */
static char *parent_of(struct node *n, const char *path, const char *tag, struct json_object *o)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_INPUT struct state_input in = {.fd.fd = -1};
    bool ours = open_state(&in, node_ref(n), path, tag, &e) == 0;
    json_object_object_add(o, "readable", json_object_new_boolean(ours));
    if (!ours) {
        return NULL;
    }
    const struct state_manifest *m = state_reader_manifest(in.r);
    json_object_object_add(o, "machine", json_object_new_string(state_manifest_machine(m)));
    return g_strdup(state_manifest_parent(m));
}

static void print_line(struct json_object *o)
{
    struct json_object *machine = json_object_object_get(o, "machine"), *parent = json_object_object_get(o, "parent");
    CLEANUP_FREE char *size = human_size(json_object_get_uint64(json_object_object_get(o, "bytes")));
    state_put_text(json_object_get_string(json_object_object_get(o, "tag")));
    printf(": %s", size);
    if (machine) {
        fputs(", machine type ", stdout);
        state_put_text(json_object_get_string(machine));
    } else {
        fputs(", not in our format, or damaged", stdout);
    }
    if (parent) {
        fputs(", based on ", stdout);
        state_put_text(json_object_get_string(parent));
    }
    putchar('\n');
}

int state_image_list(const struct state_args *a, const char *path, struct err *e)
{
    struct node *n = NULL;
    int rc = open_node(a, path, &n, e);
    g_autoptr(GPtrArray) all = rc < 0 ? NULL : node_snapshots(n, e);
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    for (guint i = 0; all && i < all->len; i++) {
        const struct snapshot *s = g_ptr_array_index(all, i);
        if (!s->vm_state_size) {
            continue;
        }
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "tag", json_object_new_string(s->name));
        json_object_object_add(o, "bytes", json_object_new_uint64(s->vm_state_size));
        CLEANUP_FREE char *parent = parent_of(n, path, s->name, o);
        if (parent) {
            json_object_object_add(o, "parent", json_object_new_string(parent));
        }
        json_object_array_add(list, o);
        if (!a->json) {
            print_line(o);
        }
    }
    if (all && a->json) {
        state_put_json(list);
    } else if (all && !json_object_array_length(list)) {
        puts("no snapshot has a machine's state");
    }
    node_unref(n);
    return all ? 0 : -EINVAL;
}
