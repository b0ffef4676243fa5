/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna: the VMM. */
#include "base/cleanup.h"
#include "cli/io/monitor.h"
#include "cli/standard_files.h"
#include "cli/sterna/options.h"
#include "cli/sterna/policy.h"
#include "cli/sterna/process.h"
#include "cli/sterna/setup.h"
#include "job/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_version(const char *program)
{
    if (g_str_has_prefix(program, "qemu")) {
        printf("QEMU emulator version %d.%d.%d (Sterna %s)\n", MONITOR_QEMU_MAJOR, MONITOR_QEMU_MINOR,
               MONITOR_QEMU_MICRO, MONITOR_VERSION);
    } else {
        printf("Sterna version %s\n", MONITOR_VERSION);
    }
    printf("Copyright (c) 2026 the Sterna developers\n");
}

static void drop_json(void *o)
{
    json_object_put(o);
}

/* Everything between the parsed command line and the exit status. */
static int run(struct program *p, int ready_fd, struct err *e)
{
    signals_block();
    p->loop = loop_create(LOOP_AUTO, e);
    if (!p->loop) {
        return -e->code;
    }
    p->vm = vm_create(p->loop, p->log);
    p->env = (struct mon_env){.loop = p->loop,
                              .log = p->log,
                              .bus = p->vm->bus,
                              .graph = p->vm->graph,
                              .jobs = p->vm->jobs,
                              .vm = p->vm,
                              .objects = object_registry_create(p->loop, object_kinds),
                              .chardevs = p->vm->chardevs,
                              .drive_add = program_drive_add,
                              .machine_set = program_machine_set,
                              .exit_preconfig = program_exit_preconfig,
                              .exercise = io_monitor_run,
                              .program_opaque = p,
                              .program = p->name};
    jobs_set_brief(p->vm->jobs, mon_as_qemu(&p->env));
    graph_set_object_lookup(p->vm->graph, object_registry_lookup, p->env.objects);
    const char *pidfile = opts_last(p->opts, OPT_PIDFILE);
    int pid_fd = pidfile ? pidfile_create(pidfile, e) : -1;
    int rc = pidfile && pid_fd < 0 ? pid_fd : 0, code = 1;
    struct signals *sig = rc < 0 ? NULL : signals_create(p->vm, e);
    if (sig) {
        rc = program_setup(p, e);
        rc = rc < 0 || ready_fd < 0 ? rc : daemonize_ready(ready_fd, e);
        if (rc == 0 && !p->vm->quit_requested) {
            loop_run(p->loop);
        }
        code = p->vm->exit_code;
    }
    signals_destroy(sig);
    program_teardown(p);
    object_registry_destroy(p->env.objects);
    loop_destroy(p->loop);
    pidfile_remove(pidfile, pid_fd);
    return rc < 0 ? rc : sig ? code : -1;
}

int main(int argc, char **argv)
{
    standard_files_keep();
    CLEANUP_FREE char *name = g_path_get_basename(argv[0]);
    struct log *log = log_create(name);
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autoptr(GArray) opts = opts_parse(argc, argv, &e);
    int ready_fd = -1, rc = opts ? 0 : -1;
    if (opts && opts_given(opts, OPT_HELP)) {
        opts_print_help(name);
    } else if (opts && opts_given(opts, OPT_VERSION)) {
        print_version(name);
    } else if (opts && !program_help(opts)) {
        struct program p = {.opts = opts, .log = log, .name = name};
        p.monitors = g_ptr_array_new();
        p.wanted = g_array_new(FALSE, FALSE, sizeof(struct wanted_monitor));
        p.texts = g_ptr_array_new_with_free_func(g_free);
        p.transient = g_ptr_array_new();
        p.disk_devices = g_ptr_array_new_with_free_func(drop_json);
        rc = policy_log(opts, log, &e);
        rc = rc < 0 || !opts_given(opts, OPT_DAEMONIZE) ? rc : daemonize_begin(&ready_fd, &e);
        rc = rc < 0 ? rc : run(&p, ready_fd, &e);
        g_ptr_array_free(p.monitors, TRUE);
        g_array_free(p.wanted, TRUE);
        g_ptr_array_free(p.disk_devices, TRUE);
        g_ptr_array_free(p.transient, TRUE);
        g_ptr_array_free(p.texts, TRUE);
        if (p.laid) {
            g_array_free(p.laid, TRUE);
        }
        if (p.resumed) {
            g_array_free(p.resumed, TRUE);
        }
    }
    if (rc < 0) {
        log_error(log, "%s", err_text(&e));
    }
    log_destroy(log);
    return rc < 0 ? 1 : rc;
}
