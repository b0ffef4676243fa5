/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of sterna-nbd share. */
#pragma once

#include "base/cleanup.h"
#include "cli/tool.h"

struct nbd_args {
    const char *argv0, *prog; /* as it was called; its last component */
    const char *port, *bind, *socket;
    const char *export_name, *description;
    const char *tls_creds, *tls_hostname, *tls_authz, *selinux_label;
    const char *fmt, *aio, *discard, *detect_zeroes, *load_snapshot, *device, *pid_file;
    const char *file;
    GPtrArray *objects, *traces, *bitmaps; /* borrowed strings */
    struct tool_cache cache;
    bool cache_set, image_opts, read_only, snapshot, allocation_depth, offset_set;
    bool persistent, verbose, list, disconnect, fork, unencrypted;
    uint64_t offset;
    unsigned shared, handshake_seconds;
};

/* "PROG: text" on standard error, before there is a tool; returns 1. */
int nbd_fail(const struct nbd_args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* options.c: below 0: go on; else the exit code. */
int nbd_parse(struct nbd_args *a, int argc, char **argv);
void nbd_args_finish(struct nbd_args *a);

/* --- daemon.c: becoming one --------------------------------------------------------------------------------------- */

struct nbd_daemon {
    int old_stderr; /* -1: not a daemon */
    int ready;      /* a byte written here tells the parent that all is well */
};
/* Forks when asked to. Below 0: this is the server; else the parent's exit code. */
int nbd_daemon_start(struct nbd_daemon *d, const struct nbd_args *a);
/* The server serves: the parent may go. Standard error stays with `verbose` only. */
void nbd_daemon_ready(struct nbd_daemon *d, const struct nbd_args *a);
/* The file keeps a lock while the program runs. */
int nbd_write_pid_file(const char *path, struct err *e);
/* Sockets that the service manager opened for us: how many, the first is descriptor 3. */
int nbd_activation_sockets(void);

/* --- serve.c ------------------------------------------------------------------------------------------------------ */

struct nbd_serve {
    struct tool *tool;
    const struct nbd_args *args;
    struct nbd_daemon *daemon;
    int activated; /* sockets from the service manager */
};
/* The objects of the command line, and which are the credentials (NULL: none). */
struct tls_creds;
int nbd_setup_objects(struct tool *t, const struct nbd_args *a, struct tls_creds **tls, struct err *e);
/* Serves until it is told to stop: the exit code. [co] */
int nbd_serve(void *serve);

/* --- the other side: client.c, list.c, device.c --------------------------------------------------------------------
 */

int nbd_list(void *serve); /* the exit code */
int nbd_disconnect(const struct nbd_args *a);
