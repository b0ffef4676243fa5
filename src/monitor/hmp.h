/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the human monitor share. */
#pragma once

#include "monitor/command.h"

/* Families' tables, each ending with name NULL. */
extern const struct hmp_command hmp_control_commands[], hmp_machine_commands[], hmp_block_commands[],
    hmp_media_commands[], hmp_qom_commands[], hmp_memory_commands[], hmp_copy_commands[], hmp_export_commands[],
    hmp_snapshot_commands[], hmp_state_commands[], hmp_net_commands[], hmp_migration_commands[];
extern const struct hmp_command hmp_control_info[], hmp_machine_info[], hmp_block_info[], hmp_qom_info[],
    hmp_copy_info[], hmp_snapshot_info[], hmp_state_info[], hmp_net_info[], hmp_migration_info[];

/* Members of what a QMP command returned: "" , 0, false when absent. */
const char *hmp_str(struct json_object *o, const char *key);
int64_t hmp_int(struct json_object *o, const char *key);
bool hmp_bool(struct json_object *o, const char *key);
struct json_object *hmp_any(struct json_object *o, const char *key); /* NULL when absent */

struct snapshot;
/* hmp_snapshot.c: rows of a table of snapshots; without an id where it is another in each image. */
void hmp_print_snapshot_head(struct mon_ctx *c);
void hmp_print_snapshot(struct mon_ctx *c, const struct snapshot *s, bool with_id);
char *hmp_size(uint64_t size); /* "1.5 GiB": three digits; g_malloc'd */

/* Whether `word` is among the aliases "cont|c". */
bool hmp_name_matches(const char *names, const char *word, size_t n);
const struct hmp_command *hmp_find(const struct hmp_command *const *tables, const char *word, size_t n);

/* hmp_args.c: reads what `cmd` takes from `p` into an object. Errors are printed as QEMU prints them: false. */
bool hmp_parse_args(struct mon_ctx *c, const struct hmp_command *cmd, const char *p, struct json_object **args);
/* hmp_expr.c: a sum, product … of numbers and registers ("$pc"); moves *p behind it. Error: "…" without a name. */
int hmp_expr(struct mon_ctx *c, const char **p, int64_t *val, struct err *e);

/* help, help NAME; `which` NULL: all. */
void hmp_help(struct mon_ctx *c, const char *which);
/* Runs a QMP command, ignoring what it returns. */
/* Harts that there are; 0: no machine. (qmp_machine.c) */
int64_t hmp_harts(const struct mon_ctx *c);
int hmp_qmp(struct mon_ctx *c, const char *name, struct json_object *args, struct err *e);
