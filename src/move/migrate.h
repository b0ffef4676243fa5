/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moving a running machine. The guest runs at the destination, or it runs on at the source as if nothing had been
 * tried; what is said on the way is in move/proto.h. One at a time per machine. Loop thread; [co] waits.
 *
 *     none → setup → active (rounds of pre-copy) → [pre-switchover: the guest stands still] → device → completed
 *            any of these → cancelling → cancelled;  → failed: the machine runs on
 *            device, after OKGO: → postmigrate-unknown: whether the other side runs is not known
 *     with post-copy device → postcopy-active → completed: it runs there, and RAM follows
 *            postcopy-active → postcopy-paused (the connection broke) → postcopy-recover-setup → postcopy-recover
 *            → postcopy-active
 */
#pragma once

#include "machine/vm.h"
#include "move/channel.h"

/* Also what query-migrate says. */
enum migration_status {
    MIG_NONE,
    MIG_SETUP,
    MIG_ACTIVE,
    MIG_PRE_SWITCHOVER,
    MIG_DEVICE,
    MIG_CANCELLING,
    MIG_CANCELLED,
    MIG_COMPLETED,
    MIG_FAILED,
    MIG_UNKNOWN,
    MIG_POSTCOPY_ACTIVE,
    MIG_POSTCOPY_PAUSED,
    MIG_POSTCOPY_RECOVER_SETUP,
    MIG_POSTCOPY_RECOVER,
};

struct migrate_params {
    uint64_t max_bandwidth;        /* bytes a second; 0: no limit */
    uint64_t switchover_bandwidth; /* bytes a second to reckon the switch with; 0: as measured */
    uint64_t downtime_ms;          /* switch when the rest takes no longer */
    uint64_t answer_ms;            /* how long the other side may take to answer */
    unsigned throttle_initial, throttle_increment, throttle_max; /* percent, of auto_converge */
    unsigned throttle_threshold;                                 /* percent of what is sent that may become dirty */
    bool throttle_tailslow, auto_converge;
    char *tls_creds, *tls_hostname, *tls_authz; /* objects' ids, a name; NULL or "": none */
    bool multifd, multifd_zstd;
    unsigned multifd_channels, zstd_level;
    uint64_t max_switchover;            /* bytes a second while the machine stands still; 0: no limit */
    uint64_t postcopy_bandwidth;        /* bytes a second of what nobody has asked for; 0: no limit */
    bool postcopy;                      /* RAM may follow the machine: migrate_start_postcopy() */
    uint64_t postcopy_rounds;           /* after so many it does by itself, if it takes too long else; 0: never */
    bool blocktime;                     /* how long its harts wait for that RAM is shown where it comes */
    bool dirty_bitmaps;                 /* move/bitmaps.h */
    struct json_object *bitmap_mapping; /* move/bitmap_map.h; NULL: none */
    bool release_ram;                   /* RAM of a machine that runs there is given up here */
    bool zstd;                          /* RAM is compressed */
    bool events;                        /* MIGRATION and MIGRATION_PASS are emitted */
    bool pause_before_switch;           /* waits for migrate_continue() */
    bool as_ever[3];                    /* capabilities of QEMU's that are always on here, as they were set */
};

/* Of this machine, for the next migration; made when first asked for. Never NULL. */
struct migrate_params *migrate_params(struct vm *vm);
/* They are others now: what waits by them in the migration under way looks again. */
void migrate_params_changed(struct vm *vm);

struct migrate_options {
    const struct channel_place *place; /* copied */
    const struct channel_names *names; /* used before the first wait; may be NULL */
    const char *compat;                /* struct vm_save_opts */
    const char *const *force_drop;
    struct json_object *disks; /* a list of MigrateDisk, or NULL; used before the first wait */
    bool dry_run;              /* only asks whether it could be: migrate_start() waits for the answer */
};

/* [co] Begins; how it ends query-migrate tells. */
int migrate_start(struct vm *vm, const struct migrate_options *o, struct err *e);
void migrate_cancel(struct vm *vm); /* not in post-copy; nothing is going on: nothing happens */
int migrate_continue(struct vm *vm, bool expected, struct err *e); /* expected: in the state that it can wait in */
/*
 * What a manager has found out about a postmigrate-unknown: the machine runs there, and this is completed; or nobody
 * runs it nor ever will, and it goes on here. At the destination, which knows: false gives up what has not come yet;
 * what is not so is refused. [co]
 */
int migrate_resolve(struct vm *vm, bool runs_there, struct err *e);

/* The machine goes there now, and what is left of its RAM follows. */
int migrate_start_postcopy(struct vm *vm, struct err *e);
/* A migration from here is under way; whoever only asks is none. */
bool migrate_is_leaving(const struct vm *vm);
/* It runs at one side and its RAM is not all there: nobody can go back. */
bool migrate_in_postcopy(struct vm *vm);
/* Breaks the connection of a post-copy, at either side. */
int migrate_pause(struct vm *vm, struct err *e);
/* The source: a new connection for the one that broke. [co] */
int migrate_resume(struct vm *vm, const struct channel_place *to, const struct channel_names *names, struct err *e);
/* The destination: waits for it. */
int migrate_recover(struct vm *vm, const struct channel_place *at, const struct channel_names *names, struct err *e);

/* The machine came from a file that was read while the program began: query-migrate says that it is here. */
void migrate_has_come(struct vm *vm);

struct migrate_in_options {
    const struct channel_place *place; /* copied */
    const struct channel_names *names;
    const char *const *state_allow, *const *force_drop; /* struct vm_load_opts */
    const char *disk_folder;                            /* of vm_arrival; NULL */
    bool exit_on_error;
};
/* What struct vm_load_opts says of each machine that comes, beside what each is waited for with. Copied. */
void migrate_set_lenience(struct vm *vm, const char *const *state_allow, const char *const *force_drop);
/* Waits for a machine, which takes this one's place; this one is held still. [co] */
int migrate_incoming(struct vm *vm, const struct migrate_in_options *o, struct err *e);

/*
 * Nothing is moving: else -EBUSY, as who waits for the end of a move may be waited for by it, or keep the command that
 * ends it from being heard. At the destination one may wait as soon as its guest runs.
 */
int migrate_check_none(const struct vm *vm, struct err *e);
/* As query-migrate: the caller's. */
struct json_object *migrate_query(struct vm *vm);
/* Until it may say something else about the status or the error. [co] */
void migrate_await_change(struct vm *vm);
/* The machine is about to be destroyed: whoever called any of these calls this. [co] */
void migrate_end(struct vm *vm);
