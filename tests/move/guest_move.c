/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine with a real guest, saved and loaded without a monitor; for test_guest.py:
 *
 *     guest_move KERNEL INITRD APPEND MIB save FILE        each SIGUSR1 saves it while it runs; SIGUSR2 likewise, but
 *                                                          from then on harts and devices see their own stores
 *     guest_move KERNEL INITRD APPEND MIB lazy|all FILE    loads it and runs
 *
 * With one argument more, a raw image, the machine has a disk.
 *
 * The guest's serial port is standard input and output; what happened is said on standard error, times in nanoseconds.
 */
#include "base/cleanup.h"
#include "base/json.h"
#include "char/char.h"
#include "guest/pages.h"
#include "move/move.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

struct run {
    char **argv;
    struct vm *vm;
    struct err e;
    int signals;
};

static const char *file_of(const struct run *r)
{
    return r->argv[6];
}

static int set_up(void *arg)
{
    struct run *r = arg;
    const struct machine_config c = {
        .type = "virt",
        .accel = "interp",
        .harts = 2,
        .ram_size = strtoull(r->argv[4], NULL, 10) << 20,
        .kernel = r->argv[1],
        .initrd = r->argv[2],
        .append = r->argv[3],
    };
    int rc = vm_set_machine(r->vm, &c, &r->e);
    if (rc < 0 || !r->argv[7]) {
        return rc;
    }
    CLEANUP_JSON struct json_object *o = keyval_parse("driver=raw,node-name=disk", "driver", &r->e);
    CLEANUP_JSON struct json_object *d = keyval_parse("driver=virtio-blk-pci,drive=disk,id=disk0", "driver", &r->e);
    struct node *n = NULL;
    rc = node_open_filename(r->vm->graph, r->argv[7], o, &n, &r->e);
    if (rc == 0) {
        n->monitor_owned = true;
        rc = vm_device_add(r->vm, d, &r->e);
    }
    return rc;
}

/* --- saving --- */

static int save_to(struct run *r, struct move_file *f)
{
    struct vm_save *s = NULL;
    struct move_sink to;
    const struct vm_save_opts o = {0};
    uint64_t t0 = loop_now_ns();
    int rc = vm_save_create(r->vm, &o, &s, &r->e);
    if (rc < 0) {
        return rc;
    }
    uint64_t t1 = loop_now_ns();
    vm_quiesce(r->vm);
    rc = vm_save_instant(s, &r->e);
    uint64_t pause = vm_unquiesce(r->vm);
    move_file_sink(f, &to);
    rc = rc < 0 ? rc : vm_save_write(s, &to, &r->e);
    rc = rc < 0 ? rc : move_file_commit(f, &r->e);
    if (rc == 0) {
        fprintf(stderr, "SAVED pause=%" PRIu64 " prepare=%" PRIu64 " all=%" PRIu64 " bytes=%" PRIu64 " way=%s\n", pause,
                t1 - t0, loop_now_ns() - t0, vm_save_size(s), pages_way(r->vm->pages) == PAGES_UFFD ? "uffd" : "soft");
    }
    vm_save_destroy(s);
    return rc;
}

static void save(void *arg)
{
    struct run *r = arg;
    struct move_file *f = NULL;
    int rc = move_file_create(file_of(r), &f, &r->e);
    rc = rc < 0 ? rc : save_to(r, f);
    move_file_close(f);
    if (rc < 0) {
        fprintf(stderr, "FAILED %s\n", err_text(&r->e));
        err_clear(&r->e);
    }
}

static void on_signal(void *arg, short revents)
{
    struct run *r = arg;
    struct signalfd_siginfo si;
    if (read(r->signals, &si, sizeof(si)) == sizeof(si)) {
        if (si.ssi_signo == SIGUSR2) {
            setenv("STERNA_PAGES", "soft", 1);
        }
        co_start(r->vm->loop, save, r);
    }
}

/* --- loading --- */

/* Until a hart has done something. */
static uint64_t first_instruction(struct run *r, uint64_t t0, uint64_t before)
{
    const struct accel_ops *ops = r->vm->accel_ops;
    while (ops->instret(r->vm->accel, 0) + ops->instret(r->vm->accel, 1) == before) {
        co_sleep(100000);
    }
    return loop_now_ns() - t0;
}

static int load_from(struct run *r, struct move_file *f)
{
    const struct vm_load_opts o = {.lazy = !strcmp(r->argv[5], "lazy")};
    const struct accel_ops *ops = r->vm->accel_ops;
    struct move_source from;
    struct vm_load *l = NULL;
    uint64_t t0 = loop_now_ns();
    move_file_source(f, &from);
    int rc = vm_load_create(r->vm, &o, &from, &l, &r->e);
    rc = rc < 0 ? rc : vm_load_prepare(l, &r->e);
    if (rc == 0) {
        vm_load_commit(l);
        uint64_t before = ops->instret(r->vm->accel, 0) + ops->instret(r->vm->accel, 1);
        rc = vm_cont(r->vm, &r->e);
        uint64_t first = first_instruction(r, t0, before);
        rc = rc < 0 ? rc : vm_load_finish(l, &r->e);
        fprintf(stderr, "LOADED lazy=%d first=%" PRIu64 " all=%" PRIu64 "\n", vm_load_is_lazy(l), first,
                loop_now_ns() - t0);
    }
    vm_load_destroy(l);
    return rc;
}

static void load(void *arg)
{
    struct run *r = arg;
    struct move_file *f = NULL;
    int rc = move_file_open(file_of(r), &f, &r->e);
    rc = rc < 0 ? rc : load_from(r, f);
    move_file_close(f);
    if (rc < 0) {
        fprintf(stderr, "FAILED %s\n", err_text(&r->e));
        vm_quit(r->vm, "host-error", 1);
    }
}

/* --- life --- */

static int start(void *arg)
{
    struct run *r = arg;
    bool paused = strcmp(r->argv[5], "save") != 0;
    int rc = vm_start(r->vm, paused ? VM_BEGIN_EMPTY : VM_BEGIN_RUNNING, &r->e);
    if (rc == 0 && paused) {
        co_start_later(r->vm->loop, load, r);
    }
    return rc;
}

static int tear_down(void *arg)
{
    vm_destroy(((struct run *)arg)->vm);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 7 && argc != 8) {
        return 2;
    }
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGUSR2);
    sigprocmask(SIG_BLOCK, &both, NULL);
    struct run r = {.argv = argv, .e = ERR_INIT, .signals = signalfd(-1, &both, SFD_CLOEXEC)};
    struct log *log = log_create("guest_move");
    struct loop *loop = loop_create(LOOP_AUTO, &r.e);
    CLEANUP_JSON struct json_object *o = chardev_from_option("stdio,id=serial0,signal=off", NULL);
    r.vm = vm_create(loop, log);
    r.vm->no_reboot = true;
    struct fd_watch *watch = fd_watch_create(loop, r.signals, POLLIN, on_signal, &r);
    int rc = co_run(loop, set_up, &r);
    struct chardev *serial = rc < 0 ? NULL : chardev_create(loop, o, &r.e);
    if (serial) {
        g_ptr_array_add(r.vm->chardevs, serial);
    }
    rc = serial ? vm_connect_serial(r.vm, 0, serial, &r.e) : -EINVAL;
    rc = rc < 0 ? rc : co_run(loop, start, &r);
    if (rc == 0) {
        loop_run(loop);
    } else {
        fprintf(stderr, "FAILED %s\n", err_text(&r.e));
    }
    int code = r.vm->exit_code;
    fd_watch_destroy(watch);
    co_run(loop, tear_down, &r);
    loop_destroy(loop);
    close(r.signals);
    err_clear(&r.e);
    log_destroy(log);
    return rc < 0 ? 1 : code;
}
