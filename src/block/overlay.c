/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/overlay.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"

#include <stdlib.h>
#include <unistd.h>

static int make_temp(char **path, struct err *e)
{
    const char *dir = g_getenv("TMPDIR");
    *path = g_build_filename(dir && *dir ? dir : "/var/tmp", "sterna-XXXXXX", NULL);
    int fd = mkstemp(*path);
    if (fd < 0) {
        int rc = err_set_errno(e, errno, "Could not create temporary file '%s'", *path);
        g_free(*path);
        *path = NULL;
        return rc;
    }
    close(fd);
    return 0;
}

static int create_overlay(struct node *node, const char *path, struct err *e)
{
    const struct block_driver *qcow2 = driver_find("qcow2");
    if (!qcow2 || !qcow2->create) {
        return err_set(e, ENOTSUP, "A temporary overlay needs the qcow2 driver");
    }
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "file", json_object_new_string(path));
    json_object_object_add(o, "size", json_object_new_uint64(round_up(node->size, 512)));
    return qcow2->create(node->graph, o, e);
}

static int open_overlay(struct node *node, const char *path, struct json_object *opts, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = opts ? json_clone(opts) : json_object_new_object();
    struct json_object *file = json_object_new_object(), *cache = json_object_new_object();
    json_object_object_add(file, "driver", json_object_new_string("file"));
    json_object_object_add(file, "filename", json_object_new_string(path));
    /* Nobody can want it after a crash: never wait for the disk. */
    json_object_object_add(cache, "no-flush", json_object_new_boolean(true));
    json_object_object_add(file, "cache", cache);
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", file);
    json_object_object_add(o, "backing", json_object_new_string(node->name));
    int rc = node_open(node->graph, o, out, e);
    if (rc == 0) {
        (*out)->temporary = true;
    }
    return rc;
}

int node_open_temp_overlay(struct node *node, struct json_object *opts, struct node **out, struct err *e)
{
    CLEANUP_FREE char *path = NULL;
    *out = NULL;
    int rc = make_temp(&path, e);
    if (rc < 0) {
        return rc;
    }
    rc = create_overlay(node, path, e);
    if (!rc) {
        rc = open_overlay(node, path, opts, out, e);
    }
    unlink(path);
    return rc < 0 ? err_wrap(e, "Could not make a temporary overlay of node '%s'", node->name) : 0;
}
