/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From state structs to bytes and back, by their tables (state/field.h).
 *
 * DEVS, the payload of a device's chunk:
 *
 *     path length 2, path; then parts to the end: name length 2, name, version 4, length 4, values
 *
 * The first part is the section, with its name and version; the others are subsections, with theirs and version 0.
 * Values stand in the order of the part's schema, without gaps or names: BOOL one byte, 0 or 1; integers little-endian;
 * BYTES as they are; arrays element by element; of those with `used` only so many elements.
 *
 * Saving, for each object: get (the machine quiesced) → state_encode() → state_write_device().
 * Loading, for each object: state_decode() → check; when all have succeeded: put.
 */
#pragma once

#include "state/field.h"
#include "state/schema.h"

#include <glib.h>

struct state_manifest;

/* What a reader, an older release perhaps, knows of a section. */
struct state_compat {
    const char *section;
    unsigned version;               /* 0: it has no such section, the device must not be there */
    const char *const *subsections; /* NULL-terminated; NULL: all that there are */
};

/* What to write, and what to accept. Zeroed: the newest, nothing else. NULL is the same. */
struct state_policy {
    /* Of the reader, who is meant when something is read, too; ends with section NULL; a section not in it: the newest
     */
    const struct state_compat *compat;
    const char *reader;            /* who that is, for messages: "virt-0.1" */
    const char *const *allow;      /* names of block-list entries that are lifted; NULL-terminated or NULL */
    const char *const *force_drop; /* what may be lost: "NAME" or "SECTION:NAME" of a subsection or field */
    GPtrArray *dropped;            /* of char *: "PATH: NAME: what is lost" for each; NULL: not wanted */
    GPtrArray *lifted;             /* the same of entries of block lists: "PATH: NAME: why it was blocked" */
};

/*
 * Whether a table is sound: names, places within the struct, widths, `used` before its array, defaults within ranges,
 * versions. For the test that goes through all tables.
 */
int state_section_check(const struct state_section *s, struct err *e);

/* The row for a section; NULL: the newest will do. */
const struct state_compat *state_policy_compat(const struct state_policy *p, const char *section);

/*
 * The chunk's payload of what `get` put into `st`. Refused, with device, name and loss: a subsection that is needed or
 * a critical field that is not at its default, when the reader does not know it and it is not to be dropped.
 */
GByteArray *state_encode(const char *path, const struct state_section *s, const void *st, const struct state_policy *p,
                         struct err *e);
/* get, then state_encode(). The machine is quiesced. */
GByteArray *state_save(const char *path, const struct state_section *s, void *object, const struct state_policy *p,
                       struct err *e);
/* Whether a device of a stream can be read, as far as its manifest tells: what it is, its version, block lists. */
int state_check_readable(const struct state_manifest *m, const char *path, const struct state_section *s,
                         const struct state_policy *p, struct err *e);
/* The path a payload is for: g_malloc'd; NULL: it holds none. */
char *state_device_path(const void *payload, size_t len, struct err *e);
/*
 * A payload into `st` (zeroed, `s->size` bytes): fields are matched by name with the help of the stream's schema; every
 * range has been checked; `check` has not been called. With an error `st` is undefined.
 */
int state_decode(const struct state_manifest *m, const struct state_section *s, const GByteArray *payload,
                 const struct state_policy *p, void *st, struct err *e);
