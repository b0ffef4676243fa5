/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The manifest: the first chunk of a stream. JSON text; with it any tool can name and print every value in the stream.
 *
 *     {"machine": "virt-0.1", "release": "0.1.0", "page-size": 4096, "tag": "…",
 *      "parent": "…", "parent-digest": "…", "parent-file": "…",
 *      "ram": [{"name": "ram", "size": 134217728}], "disks": [{…}],
 *      "schemas": {"uart16550": SCHEMA, …}, "devices": [{"path": "/uart0", "section": "uart16550", "place": "…"}, …]}
 *
 * SCHEMA is that of state/schema.h and holds the section's version. `tag`, `parent`… and members that others add are
 * optional; a reader ignores members that it does not know. One section is in one version throughout a stream.
 *
 * To write: create, add, add …, state_write_manifest(). Anything that is asked for is borrowed from the manifest.
 */
#pragma once

#include "state/section.h"

#include <json-c/json.h>

struct state_manifest;

struct state_manifest *state_manifest_create(const char *machine, const char *release);
/* What came from outside: everything that the format asks for is there and within limits. */
struct state_manifest *state_manifest_parse(const char *text, size_t len, struct err *e);
void state_manifest_destroy(struct state_manifest *m);

void state_manifest_set_tag(struct state_manifest *m, const char *tag);
/* Only pages that differ from that state's are in the stream. Which it is, its digest says (state_index_digest()).
 * `file`: where it is, seen from the folder of the file that this stream goes into; NULL: where this stream is, too. */
void state_manifest_set_parent(struct state_manifest *m, const char *tag, const uint8_t *digest, const char *file);
/* Returns the block's number. `size` is a multiple of STATE_PAGE. */
unsigned state_manifest_add_ram(struct state_manifest *m, const char *name, uint64_t size);
/* {"node-name": …, "snapshot": …} or whatever helps; takes over the reference. */
void state_manifest_add_disk(struct state_manifest *m, struct json_object *disk);
/* The section as the policy says to write it; with `path` a device that has it, which comes as a chunk. */
void state_manifest_add_device(struct state_manifest *m, const char *path, const struct state_section *s,
                               const struct state_policy *p);
/* The same with a schema that came from a stream, which lives on. */
void state_manifest_add_schema(struct state_manifest *m, const char *path, struct json_object *schema);
/* Of the device that was added last: where in the machine it is; NULL: that is not known. */
void state_manifest_set_place(struct state_manifest *m, const char *place);
/* A member of its own; takes over the reference. */
void state_manifest_add(struct state_manifest *m, const char *key, struct json_object *value);

const char *state_manifest_machine(const struct state_manifest *m);
const char *state_manifest_release(const struct state_manifest *m);
const char *state_manifest_tag(const struct state_manifest *m);           /* NULL: none */
const char *state_manifest_parent(const struct state_manifest *m);        /* NULL: none */
const char *state_manifest_parent_file(const struct state_manifest *m);   /* NULL: not said */
const char *state_manifest_parent_digest(const struct state_manifest *m); /* 64 hexadecimal digits; NULL: not said */
unsigned state_manifest_blocks(const struct state_manifest *m);
const char *state_manifest_block_name(const struct state_manifest *m, unsigned block);
uint64_t state_manifest_block_pages(const struct state_manifest *m, unsigned block);
unsigned state_manifest_devices(const struct state_manifest *m);
const char *state_manifest_device_path(const struct state_manifest *m, unsigned i);
const char *state_manifest_device_place(const struct state_manifest *m, unsigned i); /* NULL: not said */
/* The schema of a device's section; NULL: there is no such device. */
const struct state_schema *state_manifest_schema(const struct state_manifest *m, const char *path);
/* The whole. */
struct json_object *state_manifest_json(const struct state_manifest *m);
