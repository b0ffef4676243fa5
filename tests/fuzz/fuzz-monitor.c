/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A monitor session fed with anything: the first byte chooses QMP or the human monitor and the size of the pieces in
 * which the rest arrives. The machine has no board; commands that touch the host's files and processes are left out.
 */
#include "base/cleanup.h"
#include "base/objects.h"
#include "loop/co.h"
#include "machine/vm.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct world {
    struct loop *loop;
    struct vm *vm;
    struct mon_env env;
};

/* A message may name files to write, sockets to make or block the loop on purpose. */
static bool harmless(const uint8_t *data, size_t size)
{
    static const char *const words[] = {"chardev", "mirror", "file",   "host_device", "block_copy",
                                        "closefd", "drive_", "config", "json:",       "nbd"};
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        if (memmem(data, size, words[i], strlen(words[i]))) {
            return false;
        }
    }
    return !memmem(data, size, "\\u", 2); /* the same words, written differently */
}

static int set_machine(void *arg)
{
    struct machine_config config = {.type = "none", .accel = "qtest", .harts = 1, .defaults = false};
    CLEANUP_ERR struct err e = ERR_INIT;
    vm_set_machine(arg, &config, &e);
    return 0;
}

static int destroy_vm(void *arg)
{
    vm_destroy(arg);
    return 0;
}

static int settle(void *arg)
{
    for (int i = 0; i < 4; i++) {
        co_yield ();
    }
    return 0;
}

static void drain(int fd)
{
    char buf[65536];
    while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0) {
    }
}

static void feed(struct world *w, int fd, const uint8_t *data, size_t size, size_t piece)
{
    while (size) {
        size_t n = MIN(piece, size);
        ssize_t sent = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            return;
        }
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
        while (loop_turn(w->loop, false)) {
            drain(fd);
        }
    }
}

static void session(struct world *w, int fds[2], bool control, const uint8_t *data, size_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *opts = json_object_new_object();
    CLEANUP_FREE char *fd = g_strdup_printf("%d", fds[0]);
    json_object_object_add(opts, "id", json_object_new_string("mon"));
    json_object_object_add(opts, "backend", json_object_new_string("socket"));
    json_object_object_add(opts, "fd", json_object_new_string(fd));
    struct chardev *c = chardev_create(w->loop, opts, &e);
    struct monitor *m;
    if (!c) {
        abort(); /* the harness itself is broken */
    }
    if (monitor_create(&w->env, c, control ? MONITOR_CONTROL : MONITOR_READLINE, size & 1, &m, &e)) {
        abort();
    }
    const char *hello = "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";
    if (control) {
        feed(w, fds[1], (const uint8_t *)hello, strlen(hello), 64);
    }
    size_t piece = data[0] >> 1 ? data[0] >> 1 : 1;
    feed(w, fds[1], data + 1, size - 1, piece);
    co_run(w->loop, settle, NULL);
    drain(fds[1]);
    monitor_destroy(m);
    chardev_destroy(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    CLEANUP_ERR struct err e = ERR_INIT;
    if (size < 2 || !harmless(data, size) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds)) {
        return 0;
    }
    struct world w = {.loop = loop_create(LOOP_EPOLL, &e)};
    w.vm = vm_create(w.loop, NULL);
    w.env = (struct mon_env){.loop = w.loop,
                             .bus = w.vm->bus,
                             .graph = w.vm->graph,
                             .jobs = w.vm->jobs,
                             .vm = w.vm,
                             .chardevs = w.vm->chardevs,
                             .objects = object_registry_create(w.loop, object_kinds)};
    graph_set_object_lookup(w.vm->graph, object_registry_lookup, w.env.objects);
    co_run(w.loop, set_machine, w.vm);
    session(&w, fds, data[0] & 1, data, size);
    co_run(w.loop, destroy_vm, w.vm);
    object_registry_destroy(w.env.objects);
    loop_destroy(w.loop);
    close(fds[1]);
    return 0;
}
