/* SPDX-License-Identifier: BSD-2-Clause */
/* From the parsed command line to a machine that is ready to start: each option ends in the function that the monitor's
 * command for the same thing ends in. */
#pragma once

#include "base/objects.h"
#include "cli/sterna/drive.h"
#include "cli/sterna/machine_opts.h"
#include "cli/sterna/options.h"
#include "machine/qtest.h"
#include "monitor/command.h"
#include "monitor/monitor.h"

/* A monitor that the command line asked for. */
struct wanted_monitor {
    struct chardev *chardev;
    enum monitor_mode mode;
    bool pretty;
};

struct program {
    const GArray *opts;   /* as given; with a state file that says what the machine is made of: that, and they */
    GArray *resumed;      /* the latter; NULL */
    GArray *laid;         /* both, and what machine-set said; NULL */
    GPtrArray *texts;     /* values of options that are not argv's */
    GPtrArray *transient; /* struct node *: referenced until what uses them is there */
    const char *name;     /* as it was called */
    struct log *log;
    struct loop *loop;
    struct vm *vm;
    struct mon_env env;
    struct machine_opts machine;
    GPtrArray *monitors;     /* struct monitor * */
    GArray *wanted;          /* struct wanted_monitor */
    GPtrArray *disk_devices; /* struct json_object *: what -drive if=virtio wants, in order */
    struct drive_counters drives;
    unsigned legacy_chardevs;
    bool preconfig;           /* the monitor builds the machine; it is not complete yet */
    bool arriving;            /* there is none: it is made of what another program sends */
    struct arrival *arrival;  /* what came of it; NULL */
    struct event_log *events; /* NULL: not asked for */
    struct qtest *qtest;      /* NULL: not asked for */
    FILE *qtest_log;          /* NULL: none */
};

/* Objects, chardevs, machine, drives, monitors, devices, and the start. Runs the loop where something waits. */
int program_setup(struct program *p, struct err *e);
/* A drive while the machine runs: mon_env's drive_add. [co] */
int program_drive_add(void *program, const char *text, struct err *e);
/* The same for machine-set and for the end of -preconfig: mon_env's machine_set and exit_preconfig. [co] */
int program_machine_set(void *program, struct json_object *values, struct err *e);
int program_exit_preconfig(void *program, bool run, struct err *e);
/* Another program's machine, what whose sections say p->opts has become, is made. [co] */
int program_build(struct program *p, struct err *e);
/* Undoes all of it, also when setup failed half way. */
void program_teardown(struct program *p);
/* True when -device help, -drive format=help or one of their kind was given; what it asks for is printed. */
bool program_help(const GArray *opts);
