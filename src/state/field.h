/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest can see of one thing (a device, a hart, a clock), declared once as data.
 *
 * A section describes a *plain state struct* made for the purpose: no pointers, locks or atomics. `get` copies an
 * object's guest-visible state into one, `check` says whether one makes sense as a whole, `put` makes the object be
 * so and cannot fail. Saving is get + encode; loading is decode + the fields' ranges + check for *all* objects of the
 * machine, and only then put for each: either everything is taken or nothing was touched.
 *
 *     static const struct state_field fields[] = {
 *         STATE_U8(struct uart_state, ier, .max = 15),
 *         STATE_BYTES(struct uart_state, rx, .used = STATE_AT(struct uart_state, rx_len)),
 *         {0},
 *     };
 *
 * Threads: get and put on the loop thread while the machine is quiesced; the rest anywhere.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum state_type {
    STATE_END, /* of a table */
    STATE_TYPE_BOOL,
    STATE_TYPE_U8,
    STATE_TYPE_U16,
    STATE_TYPE_U32,
    STATE_TYPE_U64,
    STATE_TYPE_I64,
    STATE_TYPE_BYTES,  /* uint8_t array, shown as hexadecimal text */
    STATE_TYPE_STRUCT, /* elements described by `sub` */
};

enum state_field_flag {
    STATE_ANCILLARY = 1, /* a reader may do without it: the default is as good */
};

/* One value, or an array of `count` elements that lie side by side, of which `used` says how many are in use. */
struct state_field {
    const char *name; /* stable; [a-z0-9-] */
    enum state_type type;
    size_t offset;     /* in the state struct, or in the element for fields of `sub` */
    unsigned count;    /* elements there is room for; 1: a scalar; for BYTES: bytes */
    size_t stride;     /* of elements */
    size_t used;       /* STATE_AT() of a uint32_t field *before* this one: elements that are there; 0: all */
    unsigned since;    /* version of the section that brought it; 0, 1: from the beginning */
    uint64_t min, max; /* what may come in (I64: as int64_t); both 0: all of the type */
    uint64_t dflt;     /* what a reader of an older version, or without an ancillary field, takes */
    unsigned flags;
    const struct state_field *sub; /* of STRUCT */
    const char *help;              /* for the printer and the documentation; may be NULL */
};

/* The offset + 1, so that 0 is "none". */
#define STATE_AT(type_, member_) (offsetof(type_, member_) + 1)

#define STATE_COUNT_(t, m)       (sizeof(((t *)0)->m) / sizeof(((t *)0)->m[0]))
#define STATE_ONE_(T, t, m, ...)                                                                                       \
    {                                                                                                                  \
        .name = #m, .type = T, .offset = offsetof(t, m), .count = 1, .stride = sizeof(((t *)0)->m), __VA_ARGS__        \
    }
#define STATE_MANY_(T, t, m, ...)                                                                                      \
    {                                                                                                                  \
        .name = #m, .type = T, .offset = offsetof(t, m), .count = STATE_COUNT_(t, m),                                  \
        .stride = sizeof(((t *)0)->m[0]), __VA_ARGS__                                                                  \
    }
/* Further designated initialisers may follow: `.max = 3, .since = 2`. An underscore in a member's name is one in the
 * stream. */
#define STATE_BOOL(t, m, ...)       STATE_ONE_(STATE_TYPE_BOOL, t, m, __VA_ARGS__)
#define STATE_U8(t, m, ...)         STATE_ONE_(STATE_TYPE_U8, t, m, __VA_ARGS__)
#define STATE_U16(t, m, ...)        STATE_ONE_(STATE_TYPE_U16, t, m, __VA_ARGS__)
#define STATE_U32(t, m, ...)        STATE_ONE_(STATE_TYPE_U32, t, m, __VA_ARGS__)
#define STATE_U64(t, m, ...)        STATE_ONE_(STATE_TYPE_U64, t, m, __VA_ARGS__)
#define STATE_I64(t, m, ...)        STATE_ONE_(STATE_TYPE_I64, t, m, __VA_ARGS__)
#define STATE_BYTES(t, m, ...)      STATE_MANY_(STATE_TYPE_BYTES, t, m, __VA_ARGS__)
#define STATE_BOOLS(t, m, ...)      STATE_MANY_(STATE_TYPE_BOOL, t, m, __VA_ARGS__)
#define STATE_U8S(t, m, ...)        STATE_MANY_(STATE_TYPE_U8, t, m, __VA_ARGS__)
#define STATE_U16S(t, m, ...)       STATE_MANY_(STATE_TYPE_U16, t, m, __VA_ARGS__)
#define STATE_U32S(t, m, ...)       STATE_MANY_(STATE_TYPE_U32, t, m, __VA_ARGS__)
#define STATE_U64S(t, m, ...)       STATE_MANY_(STATE_TYPE_U64, t, m, __VA_ARGS__)
#define STATE_STRUCTS(t, m, s, ...) STATE_MANY_(STATE_TYPE_STRUCT, t, m, .sub = s, __VA_ARGS__)

/* What is only sometimes there: it has a name, not a number. Its fields lie in the section's state struct. */
struct state_subsection {
    const char *name;                 /* "event-idx", or "vendor/name" */
    bool (*needed)(const void *st);   /* of what was got */
    const struct state_field *fields; /* when absent they keep their defaults */
    const char *loss;                 /* what the guest would lose without it: for the refusal */
};

/* A version that must not be loaded: it was saved wrongly. `name` is what state-allow= lifts. */
struct state_block {
    const char *name;
    unsigned version;
    const char *why;
};

struct state_section {
    const char *name;     /* "uart16550", or "vendor/name" */
    unsigned version;     /* what we write; raised only for what old readers cannot do without */
    unsigned min_version; /* the oldest that we read */
    size_t size;          /* of the state struct */
    const struct state_field *fields;
    const struct state_subsection *subsections; /* ends with name NULL; NULL: none */
    const struct state_block *blocked;          /* ends with name NULL; NULL: none */
    const char *const
        *derived; /* registers that follow from the fields, NULL-terminated: for the test that none is forgotten */
    void (*get)(void *object, void *st);                       /* `st` is zeroed before */
    int (*check)(void *object, const void *st, struct err *e); /* what no range says; may be NULL */
    void (*put)(void *object, const void *st);
};
