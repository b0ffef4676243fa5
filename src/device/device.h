/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices: classes by an explicit table, objects with ids, properties and a place in a tree.
 *
 * A class is one const struct. `device_add` (command, -device) looks the class up by "driver", checks every given
 * property against the class's table (an unknown one is an error that names the nearest), creates, and realises it on
 * its bus. Threads: create/destroy/reset on the loop thread with the harts paused or, for hot-plug, quiesced; register
 * accesses on the hart's thread under the device's own mutex (see guest/mem.h).
 */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "device/board.h"
#include "guest/irq.h"
#include "guest/mem.h"
#include "state/field.h"

#include <glib.h>
#include <stdio.h>

struct device;

enum prop_type {
    PROP_BOOL,
    PROP_INT,
    PROP_SIZE,
    PROP_STR,
    PROP_ENUM,
    PROP_DRIVE,
    PROP_NETDEV,
    PROP_PCI_ADDR,
    PROP_UINTS
};

/* One property: for checking, -device CLASS,help, device-list-properties and defaults by machine type. */
struct device_prop {
    const char *name;
    enum prop_type type;
    const char *dflt;          /* as text; NULL: none */
    int64_t min, max;          /* PROP_INT, PROP_SIZE; both 0: no limit */
    const char *const *values; /* PROP_ENUM, ends with NULL */
    const char *help;          /* may be NULL */
    const char *type_name;     /* as QEMU prints it ("uint16", "OnOffAuto"); NULL: by the type */
};

struct device_class {
    const char *name;                       /* "virtio-blk-pci" */
    const char *alias;                      /* or NULL */
    const char *bus;                        /* "PCI", "virtio-bus"; for -device help */
    const char *desc;                       /* may be NULL */
    const char *category;                   /* "storage", "network", "misc" …: groups of -device help */
    const struct device_prop *const *props; /* tables that end with name NULL; the list ends with NULL */
    size_t size;                            /* of the object; begins with struct device */
    bool user_creatable, hotpluggable;
    int (*realize)(struct device *d, struct err *e); /* d->props are checked and complete [co] */
    /* Only after realize succeeded; off its bus, in-flight requests waited for [co] */
    void (*unrealize)(struct device *d);
    void (*reset)(struct device *d); /* as by power-on; nothing in flight */
    /* Quiesce: no new back-end requests from now on, returns when nothing is in flight [co] / go on. */
    void (*pause)(struct device *d);
    void (*resume)(struct device *d);
    /* Its place for firmware's boot order (Open Firmware path), g_malloc'd; NULL: not one to boot from. */
    char *(*boot_path)(struct device *d);
    /* What the guest can see of it; the object of get, check and put is the struct device. */
    const struct state_section *state;
    bool (*busy)(struct device *d); /* the guest's driver uses it: it cannot be taken away. NULL: never */
    /* Puts into `o`, device_add's options for this device, what is not as d->props has it any more: the guest or the
     * monitor changed it. Its properties, of the right JSON type; see board.h, changed(). NULL: nothing ever is. */
    void (*make_up)(const struct device *d, struct json_object *o);
};

struct device {
    const struct device_class *cls;
    char *id;   /* NULL when the user gave none; owned */
    char *path; /* "/machine/peripheral/ID" or "/machine/peripheral-anon/device[N]"; stable; owned */
    struct board *board;
    struct device *parent;     /* has the bus that this one is on, and takes it along when it goes; NULL: the board */
    struct json_object *props; /* complete: given ones and defaults, of the right JSON type; owned */
    bool realized;
};

extern const struct device_class *const device_classes[]; /* NULL-terminated */
/* By name or alias; NULL: none. */
const struct device_class *device_class_find(const char *name);
/* Walks all properties of a class: i from 0 until NULL. */
const struct device_prop *device_class_prop(const struct device_class *c, unsigned i);

/*
 * Checks `opts` ("driver", "id", properties), creates. Not realised; device_destroy() frees. `n` numbers anonymous
 * ones. Values may be of their JSON type or text as on the command line.
 */
int device_create(struct board *b, struct json_object *opts, unsigned n, struct device **out, struct err *e);
/* One that the board itself has, of any class, at `path`; `opts` has nothing but properties. */
int device_create_on_board(struct board *b, const struct device_class *c, struct json_object *opts, const char *path,
                           struct device **out, struct err *e);
int device_realize(struct device *d, struct err *e); /* [co] */
void device_destroy(struct device *d);               /* [co]: unrealises; NULL is fine */
/* The options with which device_add makes it again as it is now: "driver", "id", the properties that are not as its
 * class has them by default. A new object. */
struct json_object *device_options(const struct device *d);
/* Where it is plugged in, as its option says it, "addr=01.0" or "bus=virtio-mmio-bus.7"; of one on another device's bus
 * that one's path. NULL: it belongs to the board. g_malloc'd. */
char *device_place(const struct device *d);
/* A property is, after realize, what the bus chose: "addr", "bus". Takes the value. */
void device_settle(struct device *d, const char *name, struct json_object *value);
/* id, or path when it has none: what messages and events call it. */
const char *device_name(const struct device *d);

/* Values of properties; the name must be one of the class's. Strings are NULL when unset. */
bool device_bool(const struct device *d, const char *name);
int64_t device_int(const struct device *d, const char *name);
const char *device_str(const struct device *d, const char *name);
/* Of PROP_UINTS: an array of integers, each at least 1 and below 2^32; borrowed; NULL when unset. */
struct json_object *device_list(const struct device *d, const char *name);
int device_enum(const struct device *d, const char *name); /* index into values */
/* The text of a command-line value of type PROP_PCI_ADDR ("6", "06.1") as slot * 8 + function; -1: malformed. */
int device_parse_pci_addr(const char *text);

/* -device help, and -device CLASS,help: text in QEMU's format. */
void device_help(FILE *f);
void device_class_help(const struct device_class *c, FILE *f);
/* device-list-properties: [{"name", "type", "description", "default-value"}]. */
struct json_object *device_class_properties(const struct device_class *c);
