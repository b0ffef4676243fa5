/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/migrate.h"

#include "job/rest.h"
#include "move/converge.h"
#include "move/dirty.h"
#include "move/lanes.h"
#include "move/migration.h"
#include "move/mux.h"
#include "move/storage.h"
#include "move/turn.h"

#include <errno.h>

#define NO_MACHINE "A machine without memory and harts cannot be moved"
#define MOVED_AWAY "The machine has been moved away"

enum {
    DEFAULT_DOWNTIME_MS = 300,
    DEFAULT_ANSWER_MS = 30000,
    TIDY_NS = 1000000000, /* closing a connection takes no longer */
    LONG_NS = 1000000000, /* of a round, which then says more of how fast it goes than the one before */
};

static const char *const status_names[] = {
    [MIG_NONE] = "none",
    [MIG_SETUP] = "setup",
    [MIG_ACTIVE] = "active",
    [MIG_PRE_SWITCHOVER] = "pre-switchover",
    [MIG_DEVICE] = "device",
    [MIG_CANCELLING] = "cancelling",
    [MIG_CANCELLED] = "cancelled",
    [MIG_COMPLETED] = "completed",
    [MIG_FAILED] = "failed",
    [MIG_UNKNOWN] = "postmigrate-unknown",
    [MIG_POSTCOPY_ACTIVE] = "postcopy-active",
    [MIG_POSTCOPY_PAUSED] = "postcopy-paused",
    [MIG_POSTCOPY_RECOVER_SETUP] = "postcopy-recover-setup",
    [MIG_POSTCOPY_RECOVER] = "postcopy-recover",
};

struct migration *migration_of(struct vm *vm)
{
    if (!vm->migration) {
        struct migration *m = vm->migration = g_new0(struct migration, 1);
        m->vm = vm;
        m->params = (struct migrate_params){.max_bandwidth = 128 << 20,
                                            .downtime_ms = DEFAULT_DOWNTIME_MS,
                                            .answer_ms = DEFAULT_ANSWER_MS,
                                            .throttle_initial = 20,
                                            .throttle_increment = 10,
                                            .throttle_max = 99,
                                            .throttle_threshold = 50,
                                            .multifd_channels = 2,
                                            .zstd_level = 1};
        m->dial.fd = -1;
        m->before.speed = &m->params.max_bandwidth;
        m->during.speed = &m->params.max_switchover;
        m->after.speed = &m->params.postcopy_bandwidth;
    }
    return vm->migration;
}

struct migrate_params *migrate_params(struct vm *vm)
{
    return &migration_of(vm)->params;
}

void migrate_params_changed(struct vm *vm)
{
    struct migration *m = migration_of(vm);
    co_queue_wake_all(&m->go_on);
    if (m->out) {
        pc_out_limit_changed(m->out);
    }
}

void migration_set(struct migration *m, enum migration_status s)
{
    if (m->status == s) {
        return;
    }
    m->status = s;
    co_queue_wake_all(&m->told);
    bool told = !m->incoming || s != MIG_DEVICE; /* managers know "device" of sources only */
    if (m->params.events && told) {
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "status", json_object_new_string(status_names[s]));
        event_emit(m->vm->bus, "MIGRATION", d);
    }
}

/* Completed, as everybody may know, and its connection not closed yet. */
static bool tidies_up(const struct migration *m)
{
    return m->busy && !m->dry_run && m->status == MIG_COMPLETED;
}

void migration_tidied(struct migration *m)
{
    uint64_t end = loop_now_ns() + TIDY_NS;
    while (tidies_up(m) && co_queue_wait_until(&m->idle, end)) {
    }
}

int migration_begin(struct migration *m, bool incoming, struct err *e)
{
    if (m->busy) {
        return err_set(e, EBUSY, "There's a migration process in progress");
    }
    if (!m->vm->machine && !(incoming && m->vm->make_up.make)) {
        return err_set(e, ENOTSUP, "%s", NO_MACHINE);
    }
    g_clear_pointer(&m->error, g_free);
    m->disk_stats = (struct disks_stats){0};
    m->stats = (struct migrate_stats){.begun_ns = loop_now_ns()};
    m->incoming = incoming;
    m->before.debt = m->during.debt = m->after.debt = 0;
    m->dial = (struct nbd_dial){.fd = -1, .deadline_ns = UINT64_MAX};
    m->cancelled = m->may_go_on = m->sent_go = m->dry_run = false;
    m->postcopy = m->switch_now = m->halt = m->there = m->resolved = m->tells = false;
    g_clear_pointer(&m->id, g_free);
    json_object_put(take(m->went));
    m->busy = true;
    return 0;
}

static void link_broken(void *opaque)
{
    struct migration *m = opaque;
    co_queue_wake_all(&m->go_on);
    lanes_in_break(m->lanes_in);   /* who waits for one that has not come */
    lanes_out_break(m->lanes_out); /* who waits for an answer */
    disks_in_wake(m->disks_in);
}

void migration_open_mux(struct migration *m)
{
    m->mux = mux_create(m->vm->loop, m->ch);
    mux_on_broken(m->mux, link_broken, m);
    mux_watch(m->mux, m->params.answer_ms * 1000000);
    m->ch = mux_open(m->mux, MUX_CONTROL);
}

void migration_hang_up(struct migration *m)
{
    channel_close(take(m->ch));
    mux_destroy(take(m->mux));
}

void migration_end(struct migration *m, const struct err *e)
{
    migration_hang_up(m);
    channel_door_close(take(m->door));
    lanes_out_destroy(take(m->lanes_out));
    converge_end(m);
    dirty_destroy(take(m->dirty));
    if (m->out) {
        m->stats.postcopy = pc_out_stats(m->out);
        pc_out_destroy(take(m->out));
    }
    m->stats.ended_ns = loop_now_ns();
    if (e && err_is_set(e)) {
        bool unknown = m->status == MIG_UNKNOWN;
        g_free(m->error);
        m->error = m->cancelled ? NULL : g_strdup(err_text(e));
        migration_set(m, unknown ? MIG_UNKNOWN : m->cancelled ? MIG_CANCELLED : MIG_FAILED);
    }
    m->busy = false;
    co_queue_wake_all(&m->told);
    co_queue_wake_all(&m->idle);
}

void migrate_cancel(struct vm *vm)
{
    struct migration *m = migration_of(vm);
    if (!m->busy || m->cancelled || m->sent_go || m->status == MIG_COMPLETED || m->status == MIG_UNKNOWN ||
        migrate_in_postcopy(vm)) {
        return;
    }
    m->cancelled = m->halt = true;
    if (!m->dry_run) {
        migration_set(m, MIG_CANCELLING);
    }
    move_turn_look(vm);
    if (m->awaits_go) {
        migration_refuse_go(m);
    } else if (m->mux) {
        mux_break(m->mux);
    } else if (m->ch) {
        channel_break(m->ch);
    }
    nbd_dial_stop(&m->dial);
    lanes_out_break(m->lanes_out);
    lanes_in_break(m->lanes_in);
    disks_out_wake(m->disks);
    if (m->door) {
        channel_door_shut(m->door);
    }
    co_queue_wake_all(&m->go_on);
}

bool migrate_is_leaving(const struct vm *vm)
{
    const struct migration *m = vm->migration;
    return m && m->busy && !m->incoming && !m->dry_run;
}

int migrate_check_none(const struct vm *vm, struct err *e)
{
    const struct migration *m = vm->migration;
    bool comes = m && m->busy && m->incoming && vm->state == RUN_INMIGRATE && m->status != MIG_SETUP;
    return migrate_is_leaving(vm) || comes
               ? err_set(e, EBUSY,
                         "The machine is being moved, and is not saved or loaded meanwhile: wait until that "
                         "is over, or give it up with 'migrate_cancel'")
               : 0;
}

int migrate_continue(struct vm *vm, bool expected, struct err *e)
{
    struct migration *m = migration_of(vm);
    if (m->status != MIG_PRE_SWITCHOVER || !expected) {
        return err_set(e, EINVAL, "Migration not in expected state: %s", status_names[m->status]);
    }
    m->may_go_on = true;
    co_queue_wake_all(&m->go_on);
    return 0;
}

/* The destination knows what became of it. While OKGO may come yet, it is told not to take it any more. */
static int resolve_here(struct migration *m, bool runs_there, struct err *e)
{
    bool came = m->vm->state != RUN_INMIGRATE;
    if (came != runs_there) {
        return err_set(e, EINVAL, "%s",
                       came ? "The machine has come, and is run here: the source is told 'runs-there' true"
                            : "The machine has not come, and the source may go on with it: 'runs-there' false gives it "
                              "up here, and is told to the source then");
    }
    if (!came) {
        migrate_cancel(m->vm);
    }
    return 0;
}

int migrate_resolve(struct vm *vm, bool runs_there, struct err *e)
{
    struct migration *m = migration_of(vm);
    if (m->incoming) {
        return resolve_here(m, runs_there, e);
    }
    if (m->status != MIG_UNKNOWN && m->status != MIG_POSTCOPY_PAUSED) {
        return err_set(e, EINVAL, "Migration not in expected state: %s", status_names[m->status]);
    }
    if (!runs_there && m->status == MIG_POSTCOPY_PAUSED) {
        return err_set(e, EINVAL,
                       "The machine runs at the destination: 'migrate' with 'resume' lets its RAM follow it");
    }
    if (m->busy) {
        m->resolved = true;
        co_queue_wake_all(&m->resume);
    }
    if (runs_there) {
        g_clear_pointer(&m->error, g_free);
        jobs_out_leave(vm->jobs, &m->went);
        migration_set(m, MIG_COMPLETED);
        return 0;
    }
    vm->moved_away = false;
    vm->state = m->was == RUN_RUNNING ? RUN_PAUSED : m->was;
    migration_set(m, MIG_FAILED);
    return m->was == RUN_RUNNING ? vm_cont(vm, e) : 0;
}

void migrate_end(struct vm *vm)
{
    struct migration *m = vm->migration;
    if (!m) {
        return;
    }
    migrate_cancel(vm);
    postcopy_end(m);
    while (m->busy) {
        co_queue_wait(&m->idle);
    }
    g_free(m->error);
    g_free(m->params.tls_creds);
    g_free(m->params.tls_hostname);
    g_free(m->params.tls_authz);
    json_object_put(m->params.bitmap_mapping);
    g_strfreev(m->state_allow);
    g_strfreev(m->force_drop);
    g_free(m->id);
    json_object_put(m->went);
    jobs_in_destroy(m->jobs_in);
    vm->disks_hook = (struct vm_disks_hook){0};
    g_clear_pointer(&vm->migration, g_free);
}

/* --- what people are told ------------------------------------------------------------------------------------------
 */

static void add(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_uint64(v));
}

static uint64_t ms(uint64_t ns)
{
    return (ns + 500000) / 1000000;
}

/* Bytes a second, as far as they are known: of RAM that follows, of all when it is over, of a round that is long. */
static double rate_now(const struct migration *m, const struct pc_out_stats *after)
{
    const struct migrate_stats *s = &m->stats;
    uint64_t now = s->ended_ns ? s->ended_ns : loop_now_ns(), from = s->round_ns,
             bytes = s->transferred - s->round_from;
    if (m->out) {
        from = s->stopped_ns + s->downtime_ns;
        bytes = after->bytes;
    } else if (m->status == MIG_COMPLETED) {
        from = s->begun_ns + s->setup_ns;
        bytes = s->transferred + after->bytes;
    } else if (m->status != MIG_ACTIVE || (s->rate > 0 && now - s->round_ns < LONG_NS)) {
        return s->rate;
    }
    return from && now > from ? (double)bytes * 1e9 / (double)(now - from) : 0;
}

double migration_switch_rate(const struct migration *m, double measured)
{
    const struct migrate_params *p = &m->params;
    double rate = p->switchover_bandwidth ? (double)p->switchover_bandwidth : measured;
    return p->max_switchover && (rate <= 0 || rate > (double)p->max_switchover) ? (double)p->max_switchover : rate;
}

/* How long the guest would stand still. */
static uint64_t expect_ns(const struct migration *m)
{
    const struct pc_out_stats none = {0};
    double rate = migration_switch_rate(m, rate_now(m, &none));
    return m->status == MIG_ACTIVE && m->dirty && rate > 0
               ? (uint64_t)((double)dirty_pages(m->dirty) * GUEST_PAGE_SIZE * 1e9 / rate)
               : m->stats.expected_ns;
}

static struct json_object *ram_info(const struct migration *m)
{
    const struct migrate_stats *s = &m->stats;
    struct json_object *o = json_object_new_object();
    struct pc_out_stats after = m->out ? pc_out_stats(m->out) : s->postcopy;
    uint64_t left = m->out ? after.left : m->dirty ? dirty_pages(m->dirty) : 0;
    double rate = rate_now(m, &after);
    add(o, "transferred", s->transferred + after.bytes);
    add(o, "remaining", left * GUEST_PAGE_SIZE);
    add(o, "total", s->total);
    add(o, "duplicate", s->pages_zero + after.zero);
    add(o, "normal", s->pages_data + after.data);
    add(o, "normal-bytes", (s->pages_data + after.data) * GUEST_PAGE_SIZE);
    add(o, "dirty-pages-rate", s->dirty_rate);
    json_object_object_add(o, "mbps", json_object_new_double(rate * 8 / 1e6));
    add(o, "dirty-sync-count", s->passes);
    add(o, "postcopy-requests", after.requests);
    add(o, "page-size", GUEST_PAGE_SIZE);
    add(o, "multifd-bytes", s->lane_bytes);
    add(o, "pages-per-second", (uint64_t)(rate / GUEST_PAGE_SIZE));
    add(o, "precopy-bytes", s->transferred - s->stopped_bytes);
    add(o, "downtime-bytes", s->stopped_bytes);
    add(o, "postcopy-bytes", after.bytes);
    add(o, "dirty-sync-missed-zero-copy", 0);
    return o;
}

static void add_disk_info(struct json_object *to, const struct migration *m)
{
    struct disks_stats s = m->disk_stats;
    if (m->disks) {
        disks_out_stats(m->disks, &s);
    } else if (m->disks_in) {
        disks_in_stats(m->disks_in, &s);
    }
    if (s.total) {
        struct json_object *o = json_object_new_object();
        add(o, "transferred", s.transferred);
        add(o, "remaining", s.remaining);
        add(o, "total", s.total);
        json_object_object_add(to, "disk", o);
    }
}

/* Of the source, while nothing is under way. */
static void add_blockers(struct json_object *to, const struct migration *m)
{
    const struct vm *vm = m->vm;
    CLEANUP_ERR struct err e = ERR_INIT;
    if ((m->busy && !tidies_up(m)) || vm->state == RUN_INMIGRATE || (!vm->machine && vm->make_up.make)) {
        return;
    }
    int rc = !vm->machine     ? err_set(&e, ENOTSUP, "%s", NO_MACHINE)
             : vm->moved_away ? err_set(&e, EINVAL, "%s", MOVED_AWAY)
                              : storage_check(m->vm, NULL, true, &e);
    if (rc < 0) {
        struct json_object *list = json_object_new_array();
        json_object_array_add(list, json_object_new_string(err_text(&e)));
        json_object_object_add(to, "blocked-reasons", list);
    }
}

static void add_addresses(struct json_object *to, const struct migration *m)
{
    struct json_object *addresses = m->door && !tidies_up(m) ? channel_door_addresses(m->door) : NULL;
    if (addresses && json_object_array_length(addresses)) {
        json_object_object_add(to, "socket-address", json_object_get(addresses));
    }
    json_object_put(addresses);
}

void migrate_await_change(struct vm *vm)
{
    co_queue_wait(&migration_of(vm)->told);
}

struct json_object *migrate_query(struct vm *vm)
{
    const struct migration *m = migration_of(vm);
    const struct migrate_stats *s = &m->stats;
    struct json_object *o = json_object_new_object();
    add_blockers(o, m);
    if (m->status == MIG_NONE) {
        return o;
    }
    json_object_object_add(o, "status", json_object_new_string(status_names[m->status]));
    if (m->error) {
        json_object_object_add(o, "error-desc", json_object_new_string(m->error));
    }
    postcopy_describe(m, o);
    if (m->incoming) {
        add_disk_info(o, m);
        add_addresses(o, m);
        return o;
    }
    add(o, "total-time", ms((s->ended_ns ? s->ended_ns : loop_now_ns()) - s->begun_ns));
    if (s->setup_ns) {
        add(o, "setup-time", ms(s->setup_ns));
        json_object_object_add(o, "ram", ram_info(m));
    }
    add_disk_info(o, m);
    struct json_object *jobs = m->went ? json_object_get(m->went) : m->jobs ? jobs_out_describe(m->jobs) : NULL;
    if (jobs) {
        json_object_object_add(o, "jobs", jobs);
    }
    if (converge_percent(m)) {
        add(o, "cpu-throttle-percentage", converge_percent(m));
    }
    if (m->status == MIG_COMPLETED || m->out) {
        add(o, "downtime", ms(s->downtime_ns));
        add(o, "downtime-ns", s->downtime_ns);
    } else if (s->setup_ns && m->busy) {
        add(o, "expected-downtime", ms(expect_ns(m)));
    }
    return o;
}
