/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices: classes by an explicit table, objects with ids, properties and a place in a tree.
 *
 * A class is one const struct. `device_add` (command, -device) looks the class up by "driver", checks every given property against
 * the class's table (an unknown one is an error that names the nearest), creates, and realises it on its bus.
 * Threads: create/destroy/reset on the loop thread with the harts paused or, for hot-plug, quiesced; register
 * accesses on the hart's thread under the device's own mutex (see guest/mem.h).
 */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "guest/irq.h"
#include "guest/mem.h"

#include <glib.h>

struct machine; /* the board's buses and lines: machine/machine.h */
struct device;

enum prop_type { PROP_BOOL, PROP_INT, PROP_SIZE, PROP_STR, PROP_ENUM, PROP_DRIVE, PROP_NETDEV, PROP_PCI_ADDR };

/* One property: for checking, -device CLASS,help, device-list-properties and defaults by machine type. */
struct device_prop {
    const char *name;
    enum prop_type type;
    const char *dflt;               /* as text; NULL: none */
    int64_t min, max;               /* PROP_INT, PROP_SIZE */
    const char *const *values;      /* PROP_ENUM */
    const char *help;
};

struct device_class {
    const char *name;  /* "virtio-blk-pci" */
    const char *alias; /* or NULL */
    const char *bus;   /* "PCI", "System"; for -device help */
    const char *desc;
    const char *category;          /* "storage", "network", "misc" …: groups of -device help */
    const struct device_prop *props; /* ends with name NULL */
    size_t size;                   /* of the object; begins with struct device */
    bool user_creatable, hotpluggable;
    int (*realize)(struct device *d, struct err *e);   /* d->props are checked and complete [co] */
    void (*unrealize)(struct device *d);               /* [co] */
    void (*reset)(struct device *d);
    /* Quiesce: no new back-end requests from now on / go on. drained: nothing in flight (waits) [co] */
    void (*pause)(struct device *d);
    void (*resume)(struct device *d);
};

struct device {
    const struct device_class *cls;
    char *id;   /* NULL when the user gave none; owned */
    char *path; /* "/machine/peripheral/ID" or "/machine/peripheral-anon/device[N]" or the board's; stable; owned */
    struct machine *machine;
    struct json_object *props; /* complete: given ones and defaults; owned */
    bool realized;
};

extern const struct device_class *const device_classes[]; /* NULL-terminated */
const struct device_class *device_class_find(const char *name);
