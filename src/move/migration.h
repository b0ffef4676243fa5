/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine's migration, between migrate*.c only. */
#pragma once

#include "base/cleanup.h"
#include "job/limit.h"
#include "move/disks.h"
#include "move/jobs.h"
#include "move/lanes.h"
#include "move/migrate.h"
#include "move/objects.h"
#include "move/postcopy.h"

struct converge;
struct dirty;

#define RAM_LIVE_PAGES "live-pages" /* a feature, which machine_release_says() */

struct migrate_stats {
    uint64_t begun_ns, setup_ns, ended_ns, stopped_ns; /* CLOCK_MONOTONIC; 0: not yet */
    uint64_t downtime_ns, expected_ns;                 /* of the guest: measured, predicted */
    uint64_t total, transferred;                       /* bytes of RAM there is, of the stream so far */
    uint64_t lane_bytes;                               /* of these through the connections of multifd */
    uint64_t stopped_bytes;                            /* of these while the guest stood still */
    uint64_t passes, dirty_rate;                       /* rounds, with this one; pages a second */
    uint64_t round_ns, round_from;                     /* when this one began, and `transferred` then */
    double rate;                                       /* bytes a second of the one before */
    struct pc_out_stats postcopy;                      /* when it was over */
    struct pc_latency latency;
    struct pc_blocked blocked;
    uint64_t pages_zero, pages_data, data; /* bytes of pages with data, compressed as they went */
};

struct migration {
    struct vm *vm;
    struct migrate_params params;
    enum migration_status status;
    bool incoming; /* what there is, or was last, came here */
    char *error;   /* MIG_FAILED */
    struct migrate_stats stats;
    struct job_limit before, during,
        after; /* max-bandwidth of all together; of the switch; max-postcopy-bandwidth of disks that follow here */
    char **state_allow, **force_drop; /* of each that comes; NULL: nothing */
    /* of the one that is under way */
    bool busy, cancelled, may_go_on;
    bool dry_run;         /* only the answer is wanted */
    struct err *asks;     /* who asked for it, still waits, and is told why it failed at once; or NULL */
    enum run_state was;   /* before the switch */
    bool sent_go;         /* proto.h, law 2; the destination: it was taken */
    bool awaits_go;       /* the destination: REDY was said, or is being said */
    bool refusing;        /* that it will be taken: migration_refuse_go() */
    bool tells;           /* the destination: how far its disks are */
    struct nbd_dial dial; /* of the connections that are made; one at a time */
    struct channel *ch;   /* after ANSW number 0 of `mux` */
    struct mux *mux;
    struct disks_out *disks; /* NULL: they are done with; then this is what they were: */
    struct disks_stats disk_stats;
    struct jobs_out *jobs;       /* with them; NULL: they are done with */
    struct jobs_in *jobs_in;     /* until its disks are here */
    struct json_object *went;    /* jobs that went with the machine, as query-migrate says it; NULL: none */
    struct lanes_out *lanes_out; /* of multifd; NULL: RAM goes through `ch` */
    struct lanes_in *lanes_in;
    struct disks_in *disks_in; /* that follow; borrowed; NULL: none */
    struct channel_door *door;
    struct dirty *dirty;
    struct converge *converge; /* of auto-converge, once a round was judged */
    /* of post-copy */
    bool postcopy, switch_now, halt; /* allowed; asked for; the round ends early, for that or because it is cancelled */
    bool ending;                     /* the program ends */
    bool there;                      /* it is known that the destination runs the machine */
    bool resolved;                   /* by migrate_resolve() */
    bool dialling;                   /* for `next` */
    char *id;                        /* who may resume it */
    uint64_t lent_bandwidth;         /* params.postcopy_bandwidth is the source's; 0: our own */
    struct pc_out *out;
    struct pc_in *in;
    struct channel *next;        /* the connection after the one that broke */
    struct co_queue resume;      /* waits for it */
    struct co_queue told;        /* waiters for another status or error */
    struct co_queue idle, go_on; /* waiters for its end or OKGO; for migrate_continue(), `halt`, other parameters, or
                                    that `mux` breaks */
};

/* Something is to come when the machine runs there already. */
bool migration_follows(const struct migration *m);
/* [co] The machine runs there: until all of its RAM does, over as many connections as that takes. */
int postcopy_serve(struct migration *m, struct err *e);
/* [co] It runs here: the same. */
int postcopy_fill(struct migration *m, struct err *e);
/* [co] The program ends, and no connection is waited for any more. */
void postcopy_end(struct migration *m);
/* For query-migrate. */
void postcopy_describe(const struct migration *m, struct json_object *info);

/* The destination, while it awaits OKGO: it will not take it, and says so; the source goes on. Then nobody waits for it
 * any more. */
void migration_refuse_go(struct migration *m);

struct migration *migration_of(struct vm *vm);
/* Emits MIGRATION when that is wanted. */
void migration_set(struct migration *m, enum migration_status s);
/* [co] Until one that is completed has closed its connection: who hears of that may begin another. */
void migration_tidied(struct migration *m);
/* Whether another one may begin: resets what the last one left. */
int migration_begin(struct migration *m, bool incoming, struct err *e);
/* [co] To the destination: a channel, under TLS if there are credentials. Also after an error *out may be one, the
 * caller's. */
int migration_dial(struct migration *m, const struct channel_place *p, const struct channel_names *names,
                   struct channel **out, struct err *e);
/* [co] Of somebody who came: TLS and who it is, if there are credentials. */
int migration_secure(struct migration *m, struct channel **ch, struct err *e);
/* Until when who came must have said HELLO, and until when the other side must have answered. */
uint64_t migration_hello_deadline(const struct migration *m);
/* Bytes a second that the switch is reckoned with, where so many were measured. */
double migration_switch_rate(const struct migration *m, double measured);
uint64_t migration_deadline(const struct migration *m);
/* What can be said of both before. */
int migration_check_tls(struct migration *m, const struct channel_place *p, bool server, struct err *e);
/* ANSW was said: m->ch becomes a part of a mux. */
void migration_open_mux(struct migration *m);
/* [co] The connection. */
void migration_hang_up(struct migration *m);
/* [co] It is over: failed or cancelled with `e`, or as its status says. */
void migration_end(struct migration *m, const struct err *e);
