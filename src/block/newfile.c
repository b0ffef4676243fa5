/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/newfile.h"

#include "base/cleanup.h"
#include "block/driver.h"

int newfile_open(struct block_graph *g, struct json_object *what, struct node **out, struct err *e)
{
    if (!json_object_is_type(what, json_type_string)) {
        return node_open(g, what, out, e);
    }
    const char *name = json_object_get_string(what);
    struct node *n = node_find(g, name);
    if (n) {
        *out = node_ref(n);
        return 0;
    }
    CLEANUP_JSON struct json_object *c = json_object_new_object(), *o = json_object_new_object();
    json_object_object_add(c, "filename", json_object_new_string(name));
    json_object_object_add(c, "size", json_object_new_int64(0));
    int rc = driver_find("file")->create(g, c, e);
    if (rc < 0) {
        return rc;
    }
    json_object_object_add(o, "driver", json_object_new_string("file"));
    json_object_object_add(o, "active", json_object_new_boolean(true)); /* also in a program that waits for a machine */
    json_object_object_add(o, "filename", json_object_new_string(name));
    return node_open(g, o, out, e);
}
