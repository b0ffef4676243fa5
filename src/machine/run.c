/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/run.h"

#include "base/cleanup.h"
#include "block/inactive.h"
#include "job/rest.h"
#include "machine/machine.h"

#include <stdatomic.h>
#include <string.h>

enum { QUIET_TRIES = 4 };
enum { ASK_SHUTDOWN = 1, ASK_RESET = 2, ASK_INTERNAL_ERROR = 4, ASK_IO_ERROR = 8, ASK_HOST_RESET = 16 };

struct vm_run {
    struct vm *vm;
    struct co_mutex lock; /* one change of `held` at a time */
    unsigned held;        /* who wants the machine to stand still: not running counts as one */
    uint64_t since_ns;    /* host time when it began to stand still */
    bool started, shutdown_told;
    bool leaving, runs_before; /* vm_leave(); it ran before that, and nobody has stopped it since */
    enum run_state before;     /* vm_leave() */
    _Atomic unsigned asks;     /* of harts and devices, for the loop: ASK_* */
    _Atomic unsigned shutdown_code;
    struct loop_event *event;
};

/* --- standing still -------------------------------------------------------------------------------------------------
 */

static void for_devices(struct vm *vm, bool pause)
{
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *d = g_ptr_array_index(vm->devices, i);
        if (pause && d->cls->pause) {
            d->cls->pause(d);
        } else if (!pause && d->cls->resume) {
            d->cls->resume(d);
        }
    }
}

static void clock_changed(struct vm *vm)
{
    if (vm->machine) {
        vm->machine->type->clock_changed(vm->machine);
        vm->accel_ops->clock_changed(vm->accel);
    }
}

static void hold(struct vm *vm)
{
    struct vm_run *r = vm->run;
    co_lock(&r->lock);
    if (r->held++ == 0) {
        r->since_ns = loop_now_ns();
        if (vm->accel) {
            vm->accel_ops->pause(vm->accel);
        }
        guest_clock_stop(&vm->clock);
        clock_changed(vm);
        for_devices(vm, true);
    }
    co_unlock(&r->lock);
}

/* How long it stood still; 0: it still does. */
static uint64_t let_go(struct vm *vm)
{
    struct vm_run *r = vm->run;
    uint64_t ns = 0;
    co_lock(&r->lock);
    if (--r->held == 0) {
        for_devices(vm, false);
        guest_clock_start(&vm->clock);
        clock_changed(vm);
        if (vm->accel) {
            vm->accel_ops->resume(vm->accel);
        }
        ns = loop_now_ns() - r->since_ns;
    }
    co_unlock(&r->lock);
    return ns;
}

void vm_quiesce(struct vm *vm)
{
    hold(vm);
}

static bool await_flushes(struct vm *vm)
{
    GPtrArray *all = graph_backends(vm->graph);
    bool any = false;
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->root && b->root->child->flush_lock.held) {
            struct node *n = node_ref(b->root->child);
            co_lock(&n->flush_lock);
            co_unlock(&n->flush_lock);
            node_unref(n);
            any = true;
        }
    }
    return any;
}

void vm_await_quiet(struct vm *vm)
{
    for (unsigned tries = 0; tries < QUIET_TRIES && await_flushes(vm); tries++) {
    }
}

uint64_t vm_unquiesce(struct vm *vm)
{
    return let_go(vm);
}

/* --- run states
 * ------------------------------------------------------------------------------------------------------- */

static void flush_all(struct vm *vm)
{
    GPtrArray *all = graph_backends(vm->graph);
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if (b->root) {
            edge_flush(b->root);
        }
    }
}

void vm_stop(struct vm *vm, enum run_state why)
{
    if (vm->state != RUN_RUNNING) {
        vm->autostart = false;
        vm->run->runs_before = false;
        if (why == RUN_SHUTDOWN || why == RUN_INTERNAL_ERROR || why == RUN_GUEST_PANICKED) {
            vm->state = why;
        }
        return;
    }
    log_trace(vm->log, vm_state_notify, "running 0 state %s", run_state_names[why]);
    vm->state = why; /* before waiting: whoever asks meanwhile need not stop it again */
    co_queue_wake_all(&vm->run_waiters);
    hold(vm);
    flush_all(vm);
    event_emit(vm->bus, "STOP", NULL);
}

static void go_on(struct vm *vm)
{
    GPtrArray *all = graph_backends(vm->graph);
    for (guint i = 0; i < all->len; i++) {
        ((struct backend *)g_ptr_array_index(all, i))->io_status = "ok";
    }
    log_trace(vm->log, vm_state_notify, "running 1 state %s", run_state_names[RUN_RUNNING]);
    vm->state = RUN_RUNNING;
    vm->times_run++;
    co_queue_wake_all(&vm->run_waiters);
    event_emit(vm->bus, "RESUME", NULL);
    jobs_resume_stopped(vm->jobs);
    let_go(vm);
}

int vm_take_disks(struct vm *vm, struct err *e)
{
    if (!vm->disks_away) {
        return 0;
    }
    int rc = graph_activate(vm->graph, e);
    if (rc < 0) {
        return err_wrap(e, "The machine cannot use its disks; `cont` tries again");
    }
    struct vm_disks_hook hook = vm->disks_hook;
    vm->disks_hook = (struct vm_disks_hook){0};
    vm->disks_away = false;
    jobs_wake(vm->jobs);
    if (hook.here) {
        hook.here(hook.opaque);
    }
    return 0;
}

int vm_cont(struct vm *vm, struct err *e)
{
    if (vm->state == RUN_RUNNING) {
        return 0;
    }
    if (vm->state == RUN_INMIGRATE) {
        vm->autostart = true;
        return 0;
    }
    if (!vm->run->started) {
        return err_set(e, EBUSY, "the machine is not ready to run yet");
    }
    if (vm->run->leaving) {
        return err_set(e, EINVAL, "Migration is not finalized yet");
    }
    if (vm->moved_away) {
        return err_set(e, EINVAL, "The machine has been moved away and may run elsewhere: it cannot go on here");
    }
    if (vm->state == RUN_SHUTDOWN || vm->state == RUN_INTERNAL_ERROR || vm->state == RUN_GUEST_PANICKED) {
        return err_set(e, EINVAL, "Resetting the Virtual Machine is required");
    }
    int rc = vm_take_disks(vm, e);
    if (rc == 0) {
        go_on(vm);
    }
    return rc;
}

static struct json_object *reason_data(bool guest, const char *reason)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "guest", json_object_new_boolean(guest));
    json_object_object_add(o, "reason", json_object_new_string(reason));
    return o;
}

static void tell_shutdown(struct vm *vm, bool guest, const char *reason)
{
    if (!vm->run->shutdown_told) {
        vm->run->shutdown_told = true;
        event_emit(vm->bus, "SHUTDOWN", reason_data(guest, reason));
    }
}

void vm_quit(struct vm *vm, const char *reason, int code)
{
    log_trace(vm->log, vm_shutdown, "reason %s code %d", reason, code);
    tell_shutdown(vm, false, reason);
    if (!vm->quit_requested) {
        vm->exit_code = code;
    }
    vm->quit_requested = true;
    loop_stop(vm->loop);
}

/* The guest is at its end: the program too, unless the user wants to look. [co] */
static void power_off(struct vm *vm, bool guest, const char *reason, int code)
{
    tell_shutdown(vm, guest, reason);
    if (vm->no_shutdown) {
        vm->run->shutdown_told = false;
        vm_stop(vm, RUN_SHUTDOWN);
        return;
    }
    vm_stop(vm, RUN_SHUTDOWN);
    vm_quit(vm, reason, code);
}

/* No kernel, and nothing in RAM where hart 0 begins: it stays stopped instead of trapping for ever. */
static void park_without_code(struct vm *vm)
{
    enum { HSM_STOPPED = 1 };
    uint32_t first = 0;
    size_t n;
    const struct accel_reg *regs = vm->accel_ops->reg_table(vm->accel, &n);
    guest_mem_discard(vm->mem, vm->machine->boot.ram_base, sizeof(first));
    if (guest_mem_read(vm->mem, vm->machine->boot.ram_base, &first, sizeof(first)) < 0 || first) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(regs[i].name, "hsm")) {
            vm->accel_ops->set_reg(vm->accel, 0, regs[i].id, HSM_STOPPED);
        }
    }
}

/* Puts everything back to where it was at power-on; `empty`: but for RAM, as a saved one is loaded next. Held. */
static int power_on(struct vm *vm, bool empty, struct err *e)
{
    struct machine *m = vm->machine;
    uint64_t dtb_gpa = 0;
    size_t size;
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *d = g_ptr_array_index(vm->devices, i);
        if (d->cls->reset) {
            d->cls->reset(d);
        }
    }
    if (!m) {
        return 0;
    }
    m->type->reset(m);
    vm_tell_boot_order(vm);
    CLEANUP_FREE void *dtb = m->type->device_tree(m, &size, e);
    if (!dtb) {
        return -EINVAL;
    }
    if (!empty) {
        guest_ram_used(vm->mem);
    }
    int rc = empty ? 0 : boot_load(&m->boot, vm->mem, e);
    rc = rc < 0 || empty ? rc : boot_load_dtb(&m->boot, vm->mem, dtb, size, &dtb_gpa, e);
    if (rc < 0) {
        return rc;
    }
    vm->accel_ops->reset(vm->accel, m->boot.entry ? m->boot.entry : m->boot.ram_base, dtb_gpa);
    if (!m->boot.entry) {
        park_without_code(vm);
    }
    return 0;
}

void vm_reset(struct vm *vm, bool by_guest)
{
    const char *reason = by_guest ? "guest-reset" : "host-qmp-system-reset";
    CLEANUP_ERR struct err e = ERR_INIT;
    log_trace(vm->log, vm_reset, "reason %s", reason);
    if (vm->state == RUN_INMIGRATE || vm->moved_away) {
        return; /* there is no machine here to reset: not yet, or not any more */
    }
    if (vm->run->leaving) {
        atomic_fetch_or(&vm->run->asks, by_guest ? ASK_RESET : ASK_HOST_RESET);
        return;
    }
    if (vm->no_reboot) {
        power_off(vm, by_guest, reason, 0);
        return;
    }
    hold(vm);
    int rc = power_on(vm, false, &e);
    event_emit(vm->bus, "RESET", reason_data(by_guest, reason));
    if (rc < 0) {
        log_error(vm->log, "reset: %s", err_text(&e));
        vm_stop(vm, RUN_INTERNAL_ERROR);
    } else if (vm->state != RUN_RUNNING) {
        vm->state = RUN_PRELAUNCH;
    }
    let_go(vm);
}

void vm_powerdown(struct vm *vm)
{
    event_emit(vm->bus, "POWERDOWN", NULL);
}

bool vm_has_power_button(const struct vm *vm)
{
    return false;
}

int vm_start(struct vm *vm, enum vm_begin how, struct err *e)
{
    if (vm->machine && vm->machine->type->complete && vm->machine->type->complete(vm->machine, e) < 0) {
        return -EINVAL;
    }
    if (vm->dumpdtb) {
        int rc = vm_dump_dtb(vm, vm->dumpdtb, e);
        vm->quit_requested = rc == 0;
        return rc;
    }
    int rc = power_on(vm, how == VM_BEGIN_EMPTY, e);
    if (rc < 0) {
        return rc;
    }
    vm->run->started = true;
    return how == VM_BEGIN_RUNNING ? vm_cont(vm, e) : 0;
}

bool vm_run_started(const struct vm *vm)
{
    return vm->run->started;
}

/* --- what harts and devices ask for
 * ------------------------------------------------------------------------------------- */

static void serve_asks(void *opaque)
{
    struct vm *vm = opaque;
    unsigned asks = vm->run->leaving ? 0 : atomic_exchange(&vm->run->asks, 0);
    if (asks & ASK_INTERNAL_ERROR) {
        vm_stop(vm, RUN_INTERNAL_ERROR);
    }
    if (asks & ASK_IO_ERROR) {
        vm_stop(vm, RUN_IO_ERROR);
    }
    if (asks & ASK_SHUTDOWN) {
        power_off(vm, true, "guest-shutdown", (int)vm->run->shutdown_code);
    } else if (asks & (ASK_RESET | ASK_HOST_RESET)) {
        vm_reset(vm, asks & ASK_RESET);
    }
}

void vm_leave(struct vm *vm)
{
    struct vm_run *r = vm->run;
    do {
        r->leaving = true;
        r->before = vm->state;
        r->runs_before = vm->state == RUN_RUNNING;
        if (r->runs_before) {
            vm_stop(vm, RUN_FINISH_MIGRATE);
        }
        vm->state = RUN_FINISH_MIGRATE;
        if (!atomic_load(&r->asks)) {
            return;
        }
        vm_stay(vm);
    } while (!vm->quit_requested);
}

bool vm_leaving_running(const struct vm *vm)
{
    return vm->run->runs_before;
}

enum run_state vm_leaving_state(const struct vm *vm)
{
    const struct vm_run *r = vm->run;
    return r->runs_before                    ? RUN_RUNNING
           : vm->state != RUN_FINISH_MIGRATE ? vm->state
           : r->before == RUN_RUNNING        ? RUN_PAUSED
                                             : r->before;
}

void vm_stay(struct vm *vm)
{
    struct vm_run *r = vm->run;
    if (!r->leaving) {
        return;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    int rc = vm_take_disks(vm, &e);
    r->leaving = false;
    vm->state = r->before == RUN_RUNNING ? RUN_PAUSED : r->before;
    if (rc < 0) {
        vm->state = r->runs_before ? RUN_IO_ERROR : vm->state;
        log_error(vm->log, "%s", err_text(&e));
    } else if (r->runs_before) {
        go_on(vm);
    }
    serve_asks(vm);
}

void vm_left(struct vm *vm, bool runs_elsewhere)
{
    vm->run->leaving = false;
    vm->state = RUN_POSTMIGRATE;
    vm->moved_away = runs_elsewhere;
    serve_asks(vm);
}

static void on_ask(void *opaque)
{
    struct vm *vm = opaque;
    co_start(vm->loop, serve_asks, vm);
}

static void ask(struct vm *vm, unsigned what)
{
    atomic_fetch_or(&vm->run->asks, what);
    loop_event_set(vm->run->event);
}

void vm_io_error(void *opaque)
{
    ask(opaque, ASK_IO_ERROR);
}

void vm_internal_error(struct vm *vm)
{
    ask(vm, ASK_INTERNAL_ERROR);
}

void vm_guest_shutdown(struct vm *vm, unsigned code)
{
    vm->run->shutdown_code = code;
    ask(vm, ASK_SHUTDOWN);
}

void vm_guest_reset(struct vm *vm)
{
    ask(vm, ASK_RESET);
}

static void host_shutdown(void *opaque, unsigned reason)
{
    vm_guest_shutdown(opaque, 0);
}

static void host_reset(void *opaque, unsigned reason)
{
    vm_guest_reset(opaque);
}

static size_t host_console_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct vm *vm = opaque;
    return vm->machine->type->console_write(vm->machine, buf, len);
}

static size_t host_console_read(void *opaque, uint8_t *buf, size_t len)
{
    struct vm *vm = opaque;
    return vm->machine->type->console_read(vm->machine, buf, len);
}

static void host_internal_error(void *opaque, unsigned hart, const char *text)
{
    struct vm *vm = opaque;
    log_error(vm->log, "hart %u: %s", hart, text);
    vm_internal_error(vm);
}

void vm_fill_accel_host(struct vm *vm, struct accel_host *h)
{
    *h = (struct accel_host){
        .opaque = vm,
        .shutdown = host_shutdown,
        .reset = host_reset,
        .console_write = host_console_write,
        .console_read = host_console_read,
        .internal_error = host_internal_error,
    };
}

/* --- life
 * ------------------------------------------------------------------------------------------------------------------ */

struct vm_run *vm_run_create(struct vm *vm)
{
    struct vm_run *r = g_new0(struct vm_run, 1);
    r->vm = vm;
    r->held = 1; /* prelaunch */
    r->event = loop_event_create(vm->loop, on_ask, vm);
    return r;
}

void vm_run_end(struct vm *vm)
{
    if (!vm->run->event) {
        return;
    }
    hold(vm);
    flush_all(vm);
    loop_event_destroy(take(vm->run->event));
}

void vm_run_destroy(struct vm_run *r)
{
    g_free(r);
}
