/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a monitor command is. The schema (schema/<family>.json, QAPI's notation) is the one source: from it
 * scripts/schema.py generates, into build/: the table of commands, a C struct of arguments and a decoder for each, enum
 * constants, the answer of query-qmp-schema, and the reference manual.
 *
 *     { 'command': 'block_resize', 'data': { '*device': 'str', '*node-name': 'str', 'size': 'int' } }
 *
 * gives (in "schema/qmp_block.h" for schema/block.json)
 *
 *     struct qmp_block_resize_args { const char *device; const char *node_name; int64_t size; };
 *     int qmp_block_resize(struct mon_ctx *c, const struct qmp_block_resize_args *a, struct json_object **ret, struct
 * err *e);
 *
 * and the family's file (src/monitor/qmp_block.c) defines the function. Types: str → const char * (NULL: absent); bool,
 * int*, uint*, size, number → bool, int64_t, uint64_t, uint64_t, double, with `bool has_NAME` when optional; an enum →
 * int with constants QMP_<TYPE>_<VALUE> (and qmp_<Type>_names[]) and has_NAME when optional; struct, union, alternate,
 * array, any → struct json_object * (already checked against the schema; borrowed; NULL: absent, or null of an
 * alternate that may be null, which has has_NAME, too). '-' in names becomes '_'. Commands without data take no `a`.
 * Commands whose data is a union, or that say 'gen': false, get { struct json_object *options; }. Defaults are the
 * handler's affair.
 *
 * A family is added by its name to `families` in src/monitor/meson.build and its .c file to the sources there; a type
 * that another family defines is had by { 'include': 'common.json' }. Every command and event needs a doc comment (see
 * block.json).
 *
 * A handler runs as a coroutine on the loop: it may wait. It returns 0 with *ret set (owned by the caller; NULL means
 * the empty object {}) or an error. Commands of one session run one after the other; of different sessions,
 * interleaved.
 */
#pragma once

#include "base/err.h"
#include "base/events.h"
#include "block/graph.h"

#include <json-c/json.h>

struct jobs;
struct backend;
struct monitor;
struct nbd_server;
struct object_registry;
struct schema_type;
struct vm;
struct vm_state;

/* What commands act on; one per VM (vm set) or per storage daemon (vm NULL). Zero-initialise what there is not. */
struct mon_env {
    struct loop *loop;
    struct log *log;
    struct event_bus *bus;
    struct block_graph *graph;
    struct jobs *jobs;
    struct vm *vm;
    struct vm_state *state;          /* config/vm_state.h; NULL: the program has none */
    struct object_registry *objects; /* base/objects.h */
    GPtrArray
        *chardevs; /* struct chardev *: the VM's own array, or the daemon's; no free function: owned by env's maker */
    const char *program; /* as it was called; "qemu…": the human monitor's greeting is QEMU's. May be NULL */
    /* What -drive with this text does, without a device; NULL: there are no drives. `program_opaque` is its opaque. */
    int (*drive_add)(void *opaque, const char *text, struct err *e);
    /* A line of the exerciser (sterna-io) on a backend, or (NULL) on a node; what it prints goes to `out`, why it could
     * not begin to `errors`. NULL: there is none. [co] */
    int (*exercise)(struct block_graph *g, struct backend *b, struct node *n, const char *line, GString *out,
                    GString *errors);
    /* machine-set: with the keys of a state file's [machine]; and the end of -preconfig, after which the machine runs
     * if `run`, or unless -S was given. NULL: there is no machine to make. [co] */
    int (*machine_set)(void *opaque, struct json_object *values, struct err *e);
    int (*exit_preconfig)(void *opaque, bool run, struct err *e);
    bool in_preconfig; /* the program is there */
    bool ending;       /* the program is about to go: sessions hear events, but no command begins */
    void *program_opaque;
    void (*quit)(void *opaque); /* `quit` without a VM */
    void *quit_opaque;
    /* export/nbd/nbd.h; NULL: it is not running. Whoever ends the graph destroys it before. */
    struct nbd_server *nbd;
    GSList *attached; /* qmp_nbd_attach.c: connections that were monitors'; mon_end_attached() */
};

/* Whether the program was called by QEMU's name: its scripts and test suites compare texts and lists of events. */
bool mon_as_qemu(const struct mon_env *env);

struct mon_ctx {
    struct mon_env *env;
    struct monitor *mon; /* the session it came from; NULL: the command line or the state file */
    GString *out;        /* where mon_printf() goes; NULL: nowhere */
    unsigned cpu;        /* the hart that commands of the human monitor are about */
    bool goes_on;        /* a job that ran elsewhere: files that its command made are there */
};

/* One row of the generated table. */
struct qmp_command {
    const char *name;
    int (*call)(struct mon_ctx *c, struct json_object *args, struct json_object **ret,
                struct err *e);               /* decodes, calls */
    const struct schema_type *args, *returns; /* monitor/check.h */
    const char *help;                         /* first sentence of its documentation */
    bool allow_preconfig, needs_vm, allow_oob;
};
struct qmp_event {
    const char *name;
    const struct schema_type *data;
};
extern const struct qmp_command qmp_commands[]; /* sorted by name; ends with name NULL */
extern const struct qmp_event qmp_events[];     /* likewise */
extern const char qmp_schema_json[];            /* the answer of query-qmp-schema */

/* By name; NULL: none. */
const struct qmp_command *qmp_command_find(const char *name);
/*
 * Runs a command by name, as from a monitor: for the command line, HMP, transactions, the state file. `args` is
 * borrowed and may be NULL; text in it stands for booleans and numbers where the schema wants those, as keyval_parse()
 * gives it. `ret` may be NULL. [co]
 */
int qmp_call(struct mon_ctx *c, const char *name, struct json_object *args, struct json_object **ret, struct err *e);

/*
 * A command of the human monitor. args_type is a list "name:type,…" in QEMU's notation; the values arrive in `args`:
 *
 *     s, F, B, O?   a word, or a quoted text: a string      S   the rest of the line
 *     i, l          an expression: integer                  M   mebibytes, o   a size with suffix (default MiB)
 *     b             on/off                                   -x  a flag: boolean, "-x" (also -xy for several)
 *     /             a format ("/8xw"): count, format, size   O   keyval text ("driver=x,id=y"): an object
 *     ?             after a type: optional
 *
 * The help of a command is shown as "NAME PARAMS -- HELP". Output by mon_printf.
 */
struct hmp_command {
    const char *name; /* "cont|c": name and aliases */
    const char *args_type, *params, *help;
    int (*call)(struct mon_ctx *c, struct json_object *args, struct err *e);
};
extern const struct hmp_command *const hmp_tables[];      /* NULL-terminated list of tables that end with name NULL */
extern const struct hmp_command *const hmp_info_tables[]; /* "info X" */
/* Disconnects those whom nbd-attach gave a monitor's connection. [co] */
void mon_end_attached(struct mon_env *env);
/* Text for the person at this session (human-monitor-command collects it). */
void mon_printf(struct mon_ctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Runs one line of the human monitor; what it prints (errors too: "Error: …") is appended to `out`. [co] */
void hmp_run(struct mon_ctx *c, const char *line);
