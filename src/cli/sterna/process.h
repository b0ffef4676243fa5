/* SPDX-License-Identifier: BSD-2-Clause */
/* The process around the machine: going into the background, the pid file, signals. */
#pragma once

#include "base/err.h"
#include "machine/vm.h"

/*
 * -daemonize: forks; the child returns with *ready_fd set, the parent waits until the child says ready or dies, and
 * exits with 0 or 1. Before any thread is made.
 */
int daemonize_begin(int *ready_fd, struct err *e);
/* The child: detaches from the terminal and lets the parent go. */
int daemonize_ready(int ready_fd, struct err *e);

/* Writes the pid into `path`, locked as long as the process lives. Returns a descriptor to keep open, or an error that
 * names the file (another instance holds it, folder missing …). */
int pidfile_create(const char *path, struct err *e);
void pidfile_remove(const char *path, int fd);

/* SIGINT, SIGTERM, SIGHUP end the machine ("host-signal"); SIGPIPE is ignored. Blocks them: call before any thread. */
struct signals;
struct signals *signals_create(struct vm *vm, struct err *e);
void signals_destroy(struct signals *s);
void signals_block(void);
