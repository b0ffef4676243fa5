/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a monitor command is. The schema (schema/<family>.json, QAPI's notation) is the one source: from it scripts/schema.py
 * generates, into build/: the table of commands, a C struct of arguments and a decoder for each, enum constants,
 * the answer of query-qmp-schema, and the reference manual.
 *
 *     { 'command': 'block_resize', 'data': { '*device': 'str', '*node-name': 'str', 'size': 'int' } }
 *
 * gives (in "schema/qmp_block.h" for schema/block.json)
 *
 *     struct qmp_block_resize_args { const char *device; const char *node_name; int64_t size; };
 *     int qmp_block_resize(struct mon_ctx *c, const struct qmp_block_resize_args *a, struct json_object **ret, struct err *e);
 *
 * and the family's file (src/monitor/qmp_block.c) defines the function. Types: str → const char * (NULL: absent); bool, int*,
 * uint*, size, number → bool, int64_t, uint64_t, uint64_t, double, with `bool has_NAME` when optional; an enum → int with
 * constants QMP_<TYPE>_<VALUE> and has_NAME when optional; struct, union, alternate, array, any → struct json_object *
 * (already checked against the schema; borrowed; NULL: absent). '-' in names becomes '_'. Commands without data take
 * no `a`. Defaults are the handler's affair.
 *
 * A handler runs as a coroutine on the loop: it may wait. It returns 0 with *ret set (owned by the caller; NULL means the empty
 * object {}) or an error. Commands of one session run one after the other; of different sessions, interleaved.
 */
#pragma once

#include "base/err.h"
#include "base/events.h"
#include "block/graph.h"

#include <json-c/json.h>

struct jobs;
struct monitor;
struct vm;

/* What commands act on; one per VM (vm set) or per storage daemon (vm NULL). */
struct mon_env {
    struct loop *loop;
    struct log *log;
    struct event_bus *bus;
    struct block_graph *graph;
    struct jobs *jobs;
    struct vm *vm;
};

struct mon_ctx {
    struct mon_env *env;
    struct monitor *mon; /* the session it came from; NULL: the command line or the state file */
};

/* One row of the generated table. */
struct qmp_command {
    const char *name;
    int (*call)(struct mon_ctx *c, struct json_object *args, struct json_object **ret, struct err *e); /* decodes, calls */
    bool allow_preconfig, needs_vm;
};
extern const struct qmp_command qmp_commands[]; /* sorted by name; ends with name NULL */
extern const char qmp_schema_json[];            /* the answer of query-qmp-schema */

/* Runs a command by name, as from a monitor: for the command line, HMP, transactions, the state file. [co] */
int qmp_call(struct mon_ctx *c, const char *name, struct json_object *args, struct json_object **ret, struct err *e);

/* A command of the human monitor. `args` follows QEMU's notation ("device:B,filename:F,inc:-i"). Output by mon_printf. */
struct hmp_command {
    const char *name; /* "cont|c": name and aliases */
    const char *args_type, *params, *help;
    int (*call)(struct mon_ctx *c, struct json_object *args, struct err *e);
};
extern const struct hmp_command *const hmp_tables[]; /* NULL-terminated list of tables that end with name NULL */
extern const struct hmp_command *const hmp_info_tables[]; /* "info X" */
/* Text for the person at this session (human-monitor-command collects it). */
void mon_printf(struct mon_ctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
