/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device's chunk without the program that has the device: its parts and their values, by the schema in the manifest.
 * What is borrowed from the manifest lives as long as that.
 */
#pragma once

#include "state/schema.h"

struct state_manifest;

struct state_device_part {
    const struct state_schema_part *schema;
    struct json_object *values;
};

struct state_device {
    char *path;
    const struct state_schema *schema;
    struct state_device_part *parts; /* the section first */
    unsigned n;
};

/* NULL and an error: it is not in the manifest, or is not as its schema says; every value is within its range. */
struct state_device *state_device_read(const struct state_manifest *m, const void *payload, size_t len, struct err *e);
void state_device_destroy(struct state_device *d);
/* The reverse of state_device_json(), for a device of the manifest. NULL and an error; values are not looked at. */
struct state_device *state_device_from_json(const struct state_manifest *m, struct json_object *o, struct err *e);
/* The payload again, of whatever parts and values it has now. NULL and an error: values that do not fit. */
GByteArray *state_device_write(const struct state_device *d, struct err *e);
/* {"path": …, "section": …, "version": …, "values": {…}, "subsections": {NAME: {…}}}: the caller's reference. */
struct json_object *state_device_json(const struct state_device *d);
