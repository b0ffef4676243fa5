/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtual machine with one disk inside a program of your own, through Sterna's internal API:
 *
 *     embed KERNEL INITRD APPEND IMAGE
 *
 * The guest's serial port is this program's standard output. Ends with the guest; the exit status is the VM's.
 */
#include "base/cleanup.h"
#include "base/json.h"
#include "char/char.h"
#include "loop/co.h"
#include "machine/vm.h"

#include <signal.h>
#include <stdio.h>

struct embed {
    char **argv;
    struct vm *vm;
    struct err e;
};

/* {"driver": "qcow2" …} from QEMU's short form. */
static int add(struct embed *m, const char *text, int (*fn)(struct embed *m, struct json_object *o))
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "driver", &m->e);
    return o ? fn(m, o) : -EINVAL;
}

static int add_node(struct embed *m, struct json_object *o)
{
    struct node *n = NULL;
    int rc = node_open_filename(m->vm->graph, m->argv[4], o, &n, &m->e);
    if (rc == 0) {
        n->monitor_owned = true; /* the graph keeps it until vm_destroy() */
    }
    return rc;
}

static int add_device(struct embed *m, struct json_object *o)
{
    return vm_device_add(m->vm, o, &m->e);
}

/* Everything that waits for a disk runs as a coroutine. */
static int set_up(void *arg)
{
    struct embed *m = arg;
    struct machine_config c = {
        .type = "virt",
        .accel = "interp",
        .harts = 1,
        .ram_size = 256u << 20,
        .kernel = m->argv[1],
        .initrd = m->argv[2],
        .append = m->argv[3],
    };
    int rc = vm_set_machine(m->vm, &c, &m->e);
    rc = rc < 0 ? rc : add(m, "node-name=disk", add_node);
    return rc < 0 ? rc : add(m, "driver=virtio-blk-pci,drive=disk,id=disk0", add_device);
}

static int start(void *arg)
{
    struct embed *m = arg;
    return vm_start(m->vm, VM_BEGIN_RUNNING, &m->e);
}

static int tear_down(void *arg)
{
    vm_destroy(((struct embed *)arg)->vm);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: embed KERNEL INITRD APPEND IMAGE\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct embed m = {.argv = argv, .e = ERR_INIT};
    struct log *log = log_create("embed");
    struct loop *loop = loop_create(LOOP_AUTO, &m.e);
    int rc = loop ? 0 : -m.e.code, code = 1;
    if (loop) {
        CLEANUP_JSON struct json_object *o = chardev_from_option("stdio,id=serial0", NULL);
        m.vm = vm_create(loop, log);
        m.vm->no_reboot = true;
        rc = co_run(loop, set_up, &m);
        struct chardev *serial = rc < 0 ? NULL : chardev_create(loop, o, &m.e);
        if (serial) {
            g_ptr_array_add(m.vm->chardevs, serial);
        }
        rc = rc < 0 ? rc : serial ? vm_connect_serial(m.vm, 0, serial, &m.e) : -m.e.code;
        rc = rc < 0 ? rc : co_run(loop, start, &m);
        if (rc == 0) {
            loop_run(loop);
            code = m.vm->exit_code;
        }
        co_run(loop, tear_down, &m);
        loop_destroy(loop);
    }
    if (rc < 0) {
        log_error(log, "%s", err_text(&m.e));
    }
    err_clear(&m.e);
    log_destroy(log);
    return rc < 0 ? 1 : code;
}
