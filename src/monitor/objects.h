/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What `object-add` and -object make: things that others refer to by id. One registry per VM or daemon; loop thread.
 *
 *     secret           data= or file=, format=raw|base64
 *     throttle-group   limits, for the throttle driver
 *     iothread         taken for the sake of scripts: there is one loop
 *
 * The makers of a program connect it: graph_set_object_lookup(graph, object_registry_lookup, registry).
 */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

struct object_registry;

struct object_registry *object_registry_create(struct loop *l);
void object_registry_destroy(
    struct object_registry *r); /* objects that are still used live on until they are not; NULL is fine */

/* `opts` is ObjectOptions, checked: "qom-type", "id" and what the kind takes. */
int object_add(struct object_registry *r, struct json_object *opts, struct err *e);
int object_del(struct object_registry *r, const char *id, struct err *e);
/* NULL-terminated, sorted: for "-object help". */
const char *const *object_types(void);

/* A graph_object_fn: for "throttle-group" struct throttle_group *, for "secret" struct secret *. Borrowed; NULL: none.
 */
void *object_registry_lookup(void *registry, const char *type, const char *id);

struct secret {
    const unsigned char *data; /* ends with a zero byte that `len` does not count */
    size_t len;
};

/* The i-th object, in order of creation: its id (NULL: no more), and its kind. */
const char *object_registry_id(struct object_registry *r, unsigned i, const char **type);
/* What it was made from, with "qom-type" and "id"; secrets without their data. Borrowed; NULL: none. */
struct json_object *object_registry_props(struct object_registry *r, const char *id);
