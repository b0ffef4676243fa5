/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What `object-add` and --object make: things that others refer to by id (secrets, throttle groups, TLS credentials).
 * One registry per VM, daemon or tool; loop thread. Each kind is one const struct, defined where its objects belong;
 * the table object_kinds[] (block/object_kinds.c) lists them all.
 *
 * The makers of a program connect it: graph_set_object_lookup(graph, object_registry_lookup, registry).
 */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

struct loop;
struct object_registry;

/* What a new object is made from; used during the call only. */
struct object_make {
    struct object_registry *registry; /* for objects that refer to others */
    struct loop *loop;
    const char *id;
    struct json_object *props; /* as given, with "qom-type" and "id"; create may remove what nobody may read back */
};

struct object_kind {
    const char *name;         /* the value of "qom-type" */
    const char *const *props; /* what it takes besides "qom-type" and "id", NULL-terminated; "x-*": all that begin so */
    int (*create)(struct object_make *m, void **impl, struct err *e);
    void (*destroy)(void *impl);
    bool (*in_use)(void *impl); /* NULL: never */
};
extern const struct object_kind *const object_kinds[]; /* sorted by name; NULL-terminated */

/* `kinds` must outlive the registry. */
struct object_registry *object_registry_create(struct loop *l, const struct object_kind *const *kinds);
/* Objects that are still used live on until they are not; NULL is fine. */
void object_registry_destroy(struct object_registry *r);

/* `opts` is ObjectOptions: "qom-type", "id" and what the kind takes. */
int object_add(struct object_registry *r, struct json_object *opts, struct err *e);
int object_del(struct object_registry *r, const char *id, struct err *e);
const struct object_kind *const *object_registry_kinds(struct object_registry *r);

/* A graph_object_fn: the kind's impl ("throttle-group": struct throttle_group *, "secret": struct secret *,
 * "tls-creds": struct tls_creds * of whichever tls-creds-… kind; "authz" likewise). Borrowed; NULL: none. */
void *object_registry_lookup(void *registry, const char *type, const char *id);

/* The i-th object, in order of creation: its id (NULL: no more), and its kind. */
const char *object_registry_id(struct object_registry *r, unsigned i, const char **type);
/* What it was made from, with "qom-type" and "id"; secrets without their data. Borrowed; NULL: none. */
struct json_object *object_registry_props(struct object_registry *r, const char *id);
