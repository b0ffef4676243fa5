/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/snapshot.h"
#include "move/move.h"
#include "move/snapshot_nodes.h"
#include "move/snapshot_state.h"

#include <string.h>

enum { PIECE = 256 << 10 }; /* a write that the kernel does not interrupt keeps a processor from others */

struct save_job {
    struct job j;
    struct snapshot_nodes on;
    GPtrArray *states; /* struct vmstate *, as on.nodes; NULL where there is none any more */
    struct move_file *file;
    struct move_sink to;
    struct vm_save *save;
    char *tag; /* the state's name */
    char *parent_name;
    struct move_file *parent_file;
    struct move_source parent; /* close NULL: nothing to close */
    uint8_t *buf;              /* of what is written next, at buf_off */
    uint64_t buf_off;
    size_t buf_len;
    bool compress;
    char *compat, **force_drop;
    struct json_object *dropped; /* what the saved machine lacks; NULL: nothing, or not known yet */
    bool taken;                  /* the instant has been */
    uint64_t clock_ns;           /* the guest's at it */
    uint64_t ahead_ns, pause_ns; /* of that the guest stood still before the instant */
};

static struct save_job *of(struct job *j)
{
    return (struct save_job *)j;
}

/* --- before the instant ------------------------------------------------------------------------------------------- */

static int make_ready(struct save_job *s, struct err *e)
{
    const struct snapshot x = {.id = (char *)"", .name = s->on.tag, .icount = UINT64_MAX};
    int rc = s->on.file ? move_file_create(s->on.file, &s->file, e) : snapshot_nodes_check_absent(&s->on, e);
    for (guint i = 0; rc == 0 && i < s->on.nodes->len; i++) {
        struct vmstate *v;
        rc = vmstate_create(g_ptr_array_index(s->on.nodes, i), &x, &v, e);
        if (rc == 0) {
            g_ptr_array_add(s->states, v);
        }
    }
    return rc;
}

/* Waits until nobody else saves or loads the machine: they may have to change the graph for that. */
static int begin_save(struct save_job *s, struct err *e)
{
    struct vm_save_opts o = {.compat = s->compat,
                             .compress = s->compress,
                             .tag = s->tag,
                             .force_drop = (const char *const *)s->force_drop,
                             .progress = snapshot_progressed,
                             .opaque = s};
    int rc = vm_save_create(s->on.vm, &o, &s->save, e);
    s->ahead_ns = rc == 0 ? vm_save_pause_ns(s->save) : 0;
    return rc;
}

/* What it is based on stays until the job is over. */
static int open_parent(struct save_job *s, struct err *e)
{
    CLEANUP_FREE char *file = s->on.file ? move_file_seen_from(s->parent_name, s->on.file) : NULL;
    int rc = 0;
    if (file) {
        rc = move_file_open(s->parent_name, &s->parent_file, e);
        if (rc == 0) {
            move_file_source(s->parent_file, &s->parent);
        }
    } else {
        rc = snapshot_state_open(s->on.vmstate, s->parent_name, true, &s->parent, e);
    }
    rc = rc ? rc : vm_save_set_parent(s->save, &s->parent, file, e);
    return rc ? err_wrap(e, "parent '%s'", s->parent_name) : 0;
}

/* [graph change] *in_the_way: -EBUSY because of a job that is about to end. */
static int find_all(struct save_job *s, bool *in_the_way, struct err *e)
{
    *in_the_way = false;
    if (!s->on.file && !*s->on.tag) {
        return err_set(e, EINVAL, "Name is empty");
    }
    int rc = snapshot_nodes_find(&s->on, true, true, e);
    for (guint i = 0; rc == 0 && i < s->on.nodes->len; i++) {
        rc = node_check_snapshot_jobs(g_ptr_array_index(s->on.nodes, i), e);
        *in_the_way = rc == -EBUSY;
    }
    return rc;
}

/* [graph change] */
static int make_all_ready(struct save_job *s, struct err *e)
{
    int rc = make_ready(s, e);
    return rc || !s->parent_name ? rc : open_parent(s, e);
}

/* [graph change] Lets go of it while it waits for jobs that end. */
static int open_all(struct save_job *s, struct err *e)
{
    struct block_graph *g = s->on.vm->graph;
    bool in_the_way;
    int rc = find_all(s, &in_the_way, e);
    while (in_the_way && !job_is_cancelled(&s->j)) {
        snapshot_nodes_release(&s->on);
        graph_change_end(g);
        job_sleep(&s->j, UINT64_MAX, "waits for the end of a job that lets go of images which the snapshot needs");
        graph_change_begin(g);
        err_clear(e);
        rc = find_all(s, &in_the_way, e);
    }
    return rc ? rc : make_all_ready(s, e);
}

/* --- the instant -------------------------------------------------------------------------------------------------- */

/* [quiesced, drained] */
static int take_machine(struct save_job *s, struct err *e)
{
    int rc = vm_save_instant(s->save, e);
    s->clock_ns = guest_clock_ns(&s->on.vm->clock);
    s->dropped = rc == 0 ? snapshot_dropped(vm_save_dropped(s->save)) : NULL;
    return rc;
}

/* [drained since the instant] */
static int take_disks(struct save_job *s, struct err *e)
{
    int rc = 0;
    for (guint i = 0; rc == 0 && i < s->states->len; i++) {
        rc = vmstate_begin(g_ptr_array_index(s->states, i), s->clock_ns, e);
    }
    s->taken = rc == 0;
    return rc;
}

/* The images' tables are written and flushed while the guest runs again: only its requests to these disks wait. */
static int stop_and_take(struct save_job *s, struct err *e)
{
    vm_await_quiet(s->on.vm);
    vm_quiesce(s->on.vm);
    snapshot_nodes_drain(&s->on);
    int rc = take_machine(s, e);
    s->pause_ns = s->ahead_ns + vm_unquiesce(s->on.vm);
    rc = rc ? rc : take_disks(s, e);
    snapshot_nodes_undrain(&s->on);
    return rc;
}

/* --- after it ----------------------------------------------------------------------------------------------------- */

static struct vmstate *state_of(const struct save_job *s)
{
    guint i = 0;
    g_ptr_array_find(s->on.nodes, s->on.vmstate, &i);
    return g_ptr_array_index(s->states, i);
}

static int go_on(struct save_job *s)
{
    job_pause_point(&s->j);
    return job_is_cancelled(&s->j) ? -ECANCELED : 0;
}

static int flush_buf(struct save_job *s)
{
    int rc = go_on(s);
    rc = rc < 0 ? rc : vmstate_write(state_of(s), s->buf_off, s->buf_len, s->buf);
    s->buf_off += s->buf_len;
    s->buf_len = 0;
    return rc;
}

static int put_into_file(void *opaque, uint64_t off, const void *buf, size_t len)
{
    struct save_job *s = opaque;
    int rc = go_on(s);
    return rc < 0 ? rc : s->to.write(s->to.opaque, off, buf, len);
}

/* All of it, in order. Large pieces, so that a cluster is written once. */
static int put(void *opaque, uint64_t off, const void *buf, size_t len)
{
    struct save_job *s = opaque;
    int rc = 0;
    while (len && rc == 0) {
        size_t n = min_u64(len, PIECE - s->buf_len);
        memcpy(s->buf + s->buf_len, buf, n);
        buf = (const uint8_t *)buf + n;
        len -= n;
        s->buf_len += n;
        rc = s->buf_len == PIECE ? flush_buf(s) : 0;
    }
    return rc;
}

/* The snapshots that are there already go again. */
static void take_back(struct save_job *s, guint count)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (guint i = 0; i < count; i++) {
        struct node *n = g_ptr_array_index(s->on.nodes, i);
        struct snapshot *x = n == s->on.vmstate ? NULL : node_snapshot_find(n, NULL, s->on.tag);
        if (x && node_snapshot_delete(n, x->id, &e)) {
            log_error(graph_log(n->graph), "snapshot '%s' of node '%s', of a save that failed, stays: %s", s->on.tag,
                      n->name, err_text(&e));
            err_clear(&e);
        }
        snapshot_free(x);
    }
}

/* That of the machine's state last: whoever finds it finds all. */
static int finish_disks(struct save_job *s, struct err *e)
{
    int rc = 0;
    for (guint i = 0; rc == 0 && i < s->states->len; i++) {
        rc = g_ptr_array_index(s->states, i) == state_of(s) ? 0 : vmstate_finish(g_ptr_array_index(s->states, i), 0, e);
        if (rc) {
            take_back(s, i);
        }
    }
    if (rc) {
        return rc;
    }
    rc = vmstate_finish(state_of(s), vm_save_size(s->save), e);
    if (rc) {
        take_back(s, s->states->len);
    }
    return rc;
}

static int write_file(struct save_job *s, struct err *e)
{
    move_file_sink(s->file, &s->to);
    const struct move_sink to = {.opaque = s, .name = s->on.file, .write = put_into_file};
    return vm_save_write(s->save, &to, e);
}

static int write_state(struct save_job *s, struct err *e)
{
    CLEANUP_FREE char *name = g_strdup_printf("snapshot '%s' of node '%s'", s->on.tag, s->on.vmstate->name);
    const struct move_sink to = {.opaque = s, .name = name, .write = put};
    s->buf = g_try_malloc(PIECE);
    int rc = s->buf ? vm_save_write(s->save, &to, e) : err_set(e, ENOMEM, "%s: out of memory", name);
    if (rc == 0) {
        rc = flush_buf(s);
        rc = rc ? err_set_errno(e, -rc, "%s", name) : 0;
    }
    return rc;
}

static int save_run(struct job *j, struct err *e)
{
    struct save_job *s = of(j);
    struct block_graph *g = s->on.vm->graph;
    job_progress_remaining(j, 1);
    int rc = s->taken ? 0 : begin_save(s, e);
    if (rc == 0 && !s->taken) {
        graph_change_begin(g);
        rc = open_all(s, e);
        rc = rc ? rc : stop_and_take(s, e);
        graph_change_end(g);
    }
    rc = rc ? rc : s->file ? write_file(s, e) : write_state(s, e);
    if (rc || s->file) {
        return rc ? rc : move_file_commit(s->file, e);
    }
    graph_change_begin(g);
    rc = finish_disks(s, e);
    graph_change_end(g);
    return rc;
}

/* What was not completed leaves nothing. [co] */
static void save_clean(struct job *j)
{
    struct save_job *s = of(j);
    vm_save_destroy(take(s->save));
    if (s->parent.close) {
        s->parent.close(s->parent.opaque);
        s->parent.close = NULL;
    }
    move_file_close(take(s->parent_file));
    for (guint i = 0; i < s->states->len; i++) {
        vmstate_destroy(g_ptr_array_index(s->states, i));
    }
    g_ptr_array_set_size(s->states, 0);
    move_file_close(take(s->file));
    snapshot_nodes_finish(&s->on);
}

static bool save_cancel(struct job *j, bool force)
{
    if (of(j)->save) {
        vm_save_cancel(of(j)->save);
    }
    return true;
}

static void save_free(struct job *j)
{
    g_free(of(j)->buf);
    g_free(of(j)->compat);
    g_free(of(j)->tag);
    g_free(of(j)->parent_name);
    g_strfreev(of(j)->force_drop);
    json_object_put(of(j)->dropped);
    g_ptr_array_unref(of(j)->states);
}

static void save_query(struct job *j, struct json_object *info, bool block_info)
{
    if (of(j)->pause_ns) {
        json_object_object_add(info, "pause-ns", json_object_new_int64((int64_t)of(j)->pause_ns));
    }
    if (of(j)->dropped) {
        json_object_object_add(info, "dropped", json_object_get(of(j)->dropped));
    }
}

static void save_outcome(struct job *j, struct json_object *out)
{
    save_query(j, out, false);
}

static const struct job_driver save_driver = {
    .type = "snapshot-save",
    .size = sizeof(struct save_job),
    .run = save_run,
    .clean = save_clean,
    .free = save_free,
    .cancel = save_cancel,
    .query = save_query,
    .outcome = save_outcome,
};

/* --- making it ---------------------------------------------------------------------------------------------------- */

static int create(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e)
{
    struct job_spec spec = {
        .id = o->job_id, .drv = &save_driver, .flags = o->flags | (o->job_id ? 0u : (unsigned)JOB_INTERNAL)};
    int rc = job_create(vm->jobs, &spec, out, e);
    if (rc == 0) {
        of(*out)->states = g_ptr_array_new();
        of(*out)->compress = o->compress;
        of(*out)->compat = g_strdup(o->compat);
        of(*out)->tag = o->file ? g_path_get_basename(o->file) : g_strdup(o->tag);
        of(*out)->parent_name = g_strdup(o->parent);
        of(*out)->force_drop = g_strdupv((char **)(uintptr_t)o->force_drop);
        snapshot_nodes_init(&of(*out)->on, *out, vm, o);
    }
    return rc;
}

int snapshot_save_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e)
{
    struct job *j;
    int rc = create(vm, o, &j, e);
    if (rc == 0) {
        if (out) {
            *out = job_ref(j);
        }
        job_start(j);
    }
    return rc;
}

/* Waiting for it could be for ever, as it may wait for whoever changes the graph now. */
static int check_alone(const struct vm *vm, struct err *e)
{
    GPtrArray *all = jobs_list(vm->jobs);
    for (guint i = 0; i < all->len; i++) {
        const struct job *j = g_ptr_array_index(all, i);
        bool saves = !strcmp(j->drv->type, "snapshot-save") || !strcmp(j->drv->type, "snapshot-load");
        if (saves && j->status < JOB_CONCLUDED) {
            return err_set(e, EBUSY, "The machine is in use by %s job '%s'", j->drv->type, j->id ? j->id : "");
        }
    }
    return vm->moving ? err_set(e, EBUSY, "The machine is being saved or loaded") : 0;
}

int snapshot_save_create(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e)
{
    struct job *j = NULL;
    int rc = check_alone(vm, e);
    rc = rc ? rc : create(vm, o, &j, e);
    rc = rc ? rc : begin_save(of(j), e);
    bool in_the_way;
    rc = rc ? rc : find_all(of(j), &in_the_way, e);
    rc = rc ? rc : make_all_ready(of(j), e);
    if (rc && j) {
        job_discard(j);
    }
    *out = rc ? NULL : j;
    return rc;
}

GPtrArray *snapshot_save_nodes(struct job *j)
{
    GPtrArray *out = g_ptr_array_new();
    for (guint i = 0; i < of(j)->on.nodes->len; i++) {
        g_ptr_array_add(out, node_snapshot_target(g_ptr_array_index(of(j)->on.nodes, i)));
    }
    return out;
}

int snapshot_save_instant(struct job *j, struct err *e)
{
    return take_machine(of(j), e);
}

int snapshot_save_disks(struct job *j, struct err *e)
{
    return take_disks(of(j), e);
}

void snapshot_save_paused(struct job *j, uint64_t pause_ns)
{
    of(j)->pause_ns = of(j)->ahead_ns + pause_ns;
}
