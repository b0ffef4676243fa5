/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The VMM's command line: QEMU's words in one table, parsed into a list that keeps their order. What an option does
 * is decided in setup.c; nothing here acts.
 */
#pragma once

#include "base/err.h"
#include "base/json.h"

#include <glib.h>
#include <stdbool.h>

enum opt_id {
    OPT_ACCEL,
    OPT_ACTION,
    OPT_APPEND,
    OPT_AS_RELEASE,
    OPT_BIOS,
    OPT_BLOCKDEV,
    OPT_CDROM,
    OPT_CHARDEV,
    OPT_CPU,
    OPT_DAEMONIZE,
    OPT_DEVICE,
    OPT_DISPLAY,
    OPT_DRIVE,
    OPT_DTB,
    OPT_EVENT_LOG,
    OPT_FINGERPRINT,
    OPT_GLOBAL,
    OPT_HDA,
    OPT_HDB,
    OPT_HDC,
    OPT_HDD,
    OPT_HELP,
    OPT_INITRD,
    OPT_KERNEL,
    OPT_LOGFILE,
    OPT_MACHINE,
    OPT_MEMORY,
    OPT_MEM_PREALLOC,
    OPT_MON,
    OPT_MONITOR,
    OPT_MSG,
    OPT_NAME,
    OPT_NET,
    OPT_NETDEV,
    OPT_NIC,
    OPT_NODEFAULTS,
    OPT_NOGRAPHIC,
    OPT_NO_REBOOT,
    OPT_NO_SHUTDOWN,
    OPT_NO_USER_CONFIG,
    OPT_OBJECT,
    OPT_OVERCOMMIT,
    OPT_PARALLEL,
    OPT_PIDFILE,
    OPT_PRECONFIG,
    OPT_QMP,
    OPT_QMP_PRETTY,
    OPT_QTEST,
    OPT_QTEST_LOG,
    OPT_RTC,
    OPT_SERIAL,
    OPT_SET,
    OPT_SMP,
    OPT_SNAPSHOT,
    OPT_STATE,
    OPT_STOPPED,
    OPT_INCOMING,
    OPT_LOADVM,
    OPT_STATE_ALLOW,
    OPT_FORCE_DROP,
    OPT_TRACE,
    OPT_UUID,
    OPT_VERSION,
    OPT_VGA,
    /* What only a state file says (state.c): */
    OPT_SECTION_DRIVE,
    OPT_SECTION_THROTTLE,
    OPT_SECTION_NBD_SERVER,
    OPT_SECTION_EXPORT,
    OPT_SECTION_JOB,
};

struct config_section;

/* One row of the table: for parsing, --help, and the check against the manual page. */
struct opt_spec {
    const char *name;
    enum opt_id id;
    const char *arg; /* as shown in help; NULL: takes none */
    const char *help;
    const char *implied; /* the value of one that takes none: "-enable-kvm" is "-accel kvm" */
};
extern const struct opt_spec opt_table[]; /* ends with name NULL */

struct opt {
    enum opt_id id;
    const char *name;  /* as in the table */
    const char *value; /* argv's or `extended`; NULL when the option takes none */
    char *extended;    /* what -set has made of it; NULL: nothing; the list that opts_parse() gives owns it */
    /* It is a section of the state file: whom errors name. NULL: it was given. */
    const struct config_section *section;
};

/* GArray of struct opt; free with g_array_unref, after all copies. An image as the lone word without '-' is OPT_HDA;
 * what -set says has become part of the option that it is about. The error names the option and the nearest one. NULL
 * on error. */
GArray *opts_parse(int argc, char **argv, struct err *e);
/*
 * One "key=value,…" group whose keys are all among `keys` (NULL-terminated); `implied` as for keyval_parse(). Any other
 * is "Invalid parameter 'x'". NULL on error.
 */
struct json_object *opt_group(const char *text, const char *implied, const char *const *keys, struct err *e);
/* The last value given, NULL when the option was not. */
const char *opts_last(const GArray *opts, enum opt_id id);
bool opts_given(const GArray *opts, enum opt_id id);
void opts_print_help(const char *program);
