/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtual machine: what main() makes, the monitor commands act on, and examples/ embed. Two can live in
 * one process. Loop thread.
 *
 * Order: vm_create → (graph, chardevs, objects: by whoever) → vm_set_machine → device_add… → vm_start → run states.
 */
#pragma once

#include "base/events.h"
#include "base/log.h"
#include "block/backend.h"
#include "device/device.h"
#include "guest/accel.h"
#include "loop/co.h"

struct chardev;
struct job;
struct jobs;
struct machine;
struct machine_release;
struct net;
struct pages;
struct vm_run;

/* Names as QMP's RunState; run_state_names[] gives them. */
enum run_state {
    RUN_PRELAUNCH,
    RUN_RUNNING,
    RUN_PAUSED,
    RUN_SHUTDOWN,
    RUN_IO_ERROR,
    RUN_INTERNAL_ERROR,
    RUN_GUEST_PANICKED,
    RUN_INMIGRATE,      /* another machine comes and takes its place */
    RUN_FINISH_MIGRATE, /* it is about to go elsewhere */
    RUN_POSTMIGRATE,    /* it went */
};
extern const char *const run_state_names[];

/* Who makes durable what the machine is made of (config/vm_state.h). All members NULL: nobody. All [co]. */
struct vm_keeper {
    /* The make-up has changed: 0 when that is durable. */
    int (*changed)(void *opaque, struct err *e);
    /* As jobs_hooks has them. */
    int (*switching)(void *opaque, struct job *j, struct node *from, struct node *to, struct err *e);
    void (*job_ended)(void *opaque, struct job *j);
    void *opaque;
};

/* A machine that comes to a program that has none yet. Borrowed. */
struct vm_arrival {
    const char *type;            /* of machine */
    struct json_object *make_up; /* as `tell` gave it there; NULL: nobody told */
    struct json_object *disks; /* those that are copied: [{"device": …, "mode": …, "size": …}, …]; NULL: none */
    const char *folder;        /* where such disks are made; NULL: where they were */
    bool only_asked;           /* whether it could be: nothing is made */
};

/* What a machine is made of, on its way to another program. Members may be NULL. All [co]. */
struct vm_make_up {
    struct json_object *(*tell)(void *opaque);                     /* the caller's */
    struct json_object *(*job)(void *opaque, const struct job *j); /* values of its section, the caller's; NULL */
    int (*make)(void *opaque, const struct vm_arrival *a, struct err *e);
    void (*arrived)(void *opaque); /* the machine that was taken is here from now on */
    void *opaque;
};

struct vm {
    struct loop *loop;
    struct log *log;
    struct event_bus *bus;
    struct block_graph *graph;
    struct jobs *jobs; /* job/job.h */
    struct net *net;   /* net/net.h */
    struct guest_mem *mem;
    struct pages *pages; /* guest/pages.h, for src/move */
    struct guest_clock clock;
    struct accel *accel;
    const struct accel_ops *accel_ops;
    struct machine *machine; /* the board; NULL with -M none until set */
    GPtrArray *chardevs;     /* struct chardev * */
    GPtrArray *devices;      /* struct device *, in order of creation */
    char *name;              /* -name; NULL */
    uint8_t uuid[16];
    enum run_state state;
    unsigned times_run;          /* it has gone on so often */
    struct co_queue run_waiters; /* for its beginning or ceasing to run */
    /* As the program of that release was: nothing newer is known. NULL: all there is. Set before the machine. */
    const struct machine_release *as_release;
    bool no_reboot, no_shutdown, quit_requested;
    int exit_code;
    unsigned devices_made; /* numbers devices without id */
    char *dumpdtb;         /* -M dumpdtb=; NULL */
    /* Defaults of devices' properties: {"virtio-blk-pci": {"num-queues": "2"}}; NULL: none. Set before devices. */
    struct json_object *globals;
    struct vm_run *run;          /* private to run.c */
    struct migration *migration; /* private to move/migrate*.c; NULL: there was none */
    bool moved_away;             /* it may run elsewhere: it never does here again */
    bool disks_away;             /* its nodes are inactive: vm_take_disks() */
    bool autostart;              /* inmigrate: what comes runs if it ran */
    bool moving;                 /* src/move saves or loads it: one at a time */
    struct co_queue moving_waiters;
    struct vm_keeper keeper;
    struct vm_make_up make_up;
    GByteArray *first_used; /* src/move: pages used first after the last lazy load; NULL: not known */
    /* src/move: the state that was saved last, and whose bit of the dirty log has what changed since then; 0: none. */
    struct vm_saved {
        enum guest_dirty log;
        uint8_t digest[32];
    } saved;
    /* Called once when disks that were away are here, before the guest runs. [co] */
    struct vm_disks_hook {
        void (*here)(void *opaque);
        void *opaque;
    } disks_hook;
    /* Makes a job that ran where the machine came from, of what make_up.job said of it there; `opaque` is
     * make_up's. NULL: jobs cannot come. [co] */
    int (*make_job)(void *opaque, const char *id, struct json_object *values, struct err *e);
};

struct vm *vm_create(struct loop *l, struct log *log);
void vm_set_keeper(struct vm *vm, const struct vm_keeper *k); /* copied; NULL: nobody */
char *vm_uuid_text(const struct vm *vm);                      /* g_malloc'd */
void vm_destroy(struct vm *vm);                               /* [co]: stops harts, unrealises devices, closes nodes */

/* Machine options, as from -M -m -smp -cpu -accel -kernel -initrd -append -dtb -bios. Strings are borrowed for the
 * call. */
struct machine_config {
    const char *type;            /* "virt", "virt-0.1", "none" */
    struct json_object *options; /* of -M besides the type; may be NULL */
    const char *accel;           /* "interp", "qtest", "tcg" (taken as interp) */
    const char *cpu;
    unsigned harts;
    uint64_t ram_size;           /* 0: that of the memory backend which the options name, or the type's own */
    struct memory_policy memory; /* without such a backend; prealloc, with it, too. threads 0: one for each hart */
    const char *kernel, *initrd, *append, *dtb, *firmware;
    bool defaults; /* !-nodefaults */
};
struct machine_type_info {
    const char *name, *alias, *desc;
    bool is_default;
    unsigned max_harts;
};
extern const struct machine_type_info machine_types[]; /* ends with name NULL; for -M help, query-machines */
/* Creates RAM, accelerator, board devices; opens and checks kernel, initrd, firmware, device tree. To preallocate RAM
 * takes its time, in which the loop stands. [co] */
int vm_set_machine(struct vm *vm, const struct machine_config *c, struct err *e);
/* The board's n-th serial port speaks through this chardev (borrowed; NULL: nowhere). Before vm_start. */
int vm_connect_serial(struct vm *vm, unsigned n, struct chardev *c, struct err *e);
/* Flash bank `unit` of the board gets the content of a node or drive, which need not be there yet. Before vm_start. */
int vm_set_flash(struct vm *vm, unsigned unit, const char *drive, struct err *e);
/* "driver", "id", properties: creates and realises; hot-plugs when the machine runs. [co] */
int vm_device_add(struct vm *vm, struct json_object *opts, struct err *e);
/*
 * Takes it away, and the drive that -drive made for it; DEVICE_DELETED {"device", "path"} is emitted. id or path. While
 * the guest's driver is active that is refused: pcie.0 cannot ask the guest to let go. [co]
 */
int vm_device_del(struct vm *vm, const char *id, struct err *e);
struct device *vm_device_find(struct vm *vm, const char *id);
enum vm_begin {
    VM_BEGIN_RUNNING,
    VM_BEGIN_PAUSED, /* prelaunch */
    VM_BEGIN_EMPTY,  /* the same without kernel, initrd and device tree in RAM: a saved machine is loaded next */
};
/*
 * Loads kernel, initrd, device tree; resets. With -M dumpdtb=FILE writes that and asks to quit with code 0 instead
 * (quit_requested). [co]
 */
int vm_start(struct vm *vm, enum vm_begin how, struct err *e);
/* Writes the device tree (as -M dumpdtb=FILE). After devices were added. */
int vm_dump_dtb(struct vm *vm, const char *file, struct err *e);

/* Run state; each emits its event (RESUME, STOP, RESET, POWERDOWN, SHUTDOWN). Idempotent where QEMU's is. [co] */
int vm_cont(struct vm *vm, struct err *e);
/* Makes nodes that were given to another program, or opened while it used them (disks_away), active again; vm_cont()
 * and vm_stay() do, too. [co] */
int vm_take_disks(struct vm *vm, struct err *e);
/*
 * The machine is about to go elsewhere: it stands still, and nobody lets it go on or changes it until vm_stay(): it
 * stayed, and goes on as it was, or vm_left(). What the guest has asked for before (a reset, its end) happens before,
 * what the host asks for, after. [co]
 */
void vm_leave(struct vm *vm);
bool vm_leaving_running(const struct vm *vm);         /* it ran, and nobody has stopped it since */
enum run_state vm_leaving_state(const struct vm *vm); /* that vm_stay() would give it */
void vm_stay(struct vm *vm);                          /* not leaving: nothing happens */
void vm_left(struct vm *vm, bool runs_elsewhere);
void vm_stop(struct vm *vm, enum run_state why); /* harts stopped, device queues and nodes drained and flushed */
void vm_reset(struct vm *vm, bool by_guest);     /* with no_reboot: shuts down instead */
/* The power button: only the event, for the virt board has no button the guest could see (as QEMU's has none). */
void vm_powerdown(struct vm *vm);
/* Whether the guest can see vm_powerdown(); where it cannot, a signal to the program means quit. */
bool vm_has_power_button(const struct vm *vm);
/*
 * Ends the program: emits SHUTDOWN (once), sets quit_requested and exit_code, stops the loop. Any place on the loop
 * thread. `reason`: "host-qmp-quit", "host-signal", "host-ui" …
 */
void vm_quit(struct vm *vm, const char *reason, int code);

/* Any thread: the machine cannot go on and stops soon (internal-error). Why is the caller's to say. */
void vm_internal_error(struct vm *vm);

/*
 * Quiesce: harts at an instruction boundary, device queues paused. Nestable. vm_unquiesce() returns how many
 * nanoseconds the guest stood still; 0 while another quiesce or a stop goes on. [co]
 */
void vm_quiesce(struct vm *vm);
/* [co] Before it, by who wants the guest to stand still for a moment only: disks are not being flushed, which it would
 * have to wait for. They may be again a moment later. */
void vm_await_quiet(struct vm *vm);
uint64_t vm_unquiesce(struct vm *vm);
