/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Actions: commands that can stand alone or be a part of a transaction, in which either all happen or none does.
 *
 *     open     of all of them, before anything else: what takes long and disturbs nobody, such as making files
 *     instant  of all of them, before anybody prepares: what must be as it is now; the guest stands still for no more
 *     prepare  does all that can fail, in the order of the list, so that each sees what those before it have done
 *     commit   in the same order; cannot fail
 *     abort    instead: undoes what prepare did, the last first; only of those that were prepared well
 *     clean    after either, the last first; of those that were opened well, or, where there is no open, prepared well
 *
 * A command's handler is `return mon_action_run(c, &NAME_action, a, e);`. Loop thread; all [co].
 */
#pragma once

#include "monitor/command.h"

struct job_txn;
struct mon_action;

struct mon_action_kind {
    const char *name; /* the command's */
    size_t size;      /* of what it keeps from prepare on: a struct whose first member is struct mon_action */
    bool makes_job;   /* that can wait for others (completion-mode grouped) */
    size_t args_size; /* struct qmp_NAME_args; 0: it has none, and decode is NULL */
    void (*decode)(struct json_object *args, void *out);                /* qmp_NAME_decode */
    int (*open)(struct mon_action *a, const void *args, struct err *e); /* undoes what it did when it fails */
    int (*instant)(struct mon_action *a, struct err *e); /* only with an open; its clean comes even when this fails */
    int (*prepare)(struct mon_action *a, const void *args, struct err *e); /* as open */
    void (*commit)(struct mon_action *a);
    void (*abort)(struct mon_action *a);
    void (*clean)(struct mon_action *a);
};

struct mon_action {
    const struct mon_action_kind *kind;
    struct mon_ctx *c;
    struct job_txn *txn; /* that jobs join which it makes; NULL: each by itself */
    /* There are others, or a state file, so it may be aborted: what it changes stands still (drained) from prepare
     * until clean. */
    bool in_company;
};

extern const struct mon_action_kind action_abort, action_backup, action_commit, action_drive_backup, action_mirror,
    action_stream;
extern const struct mon_action_kind action_internal_snapshot, action_machine_snapshot, action_snapshot,
    action_snapshot_sync;
extern const struct mon_action_kind action_bitmap_add, action_bitmap_remove, action_bitmap_clear, action_bitmap_enable,
    action_bitmap_disable, action_bitmap_merge;
extern const struct mon_action_kind action_blockdev_add, action_job_complete, action_job_finalize;
extern const struct mon_action_kind *const mon_action_kinds[];        /* all of them; ends with NULL */
const struct mon_action_kind *mon_action_kind_find(const char *name); /* NULL: none */

/* One kind and its decoded arguments; both borrowed. */
struct mon_step {
    const struct mon_action_kind *kind;
    const void *args;
};
/* All or none. `txn` may be NULL. Transactions of all sessions run one after the other. */
int mon_actions_run(struct mon_ctx *c, const struct mon_step *steps, size_t count, struct job_txn *txn, struct err *e);
/* The same for `list`: [{"type": NAME, "data": ARGUMENTS}, …], checked against the schema. */
int mon_transaction(struct mon_ctx *c, struct json_object *list, struct job_txn *txn, struct err *e);
int mon_action_run(struct mon_ctx *c, const struct mon_action_kind *kind, const void *args, struct err *e);
