/* SPDX-License-Identifier: BSD-2-Clause */
/* Breakpoints, waiting, and ends that no program would choose. */
#include "block/debug.h"

#include "cli/io/io.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

void io_debug_notify(void *opaque, const char *tag, bool stopped)
{
    struct io *io = opaque;
    io_print(io, "blkdebug: %s request '%s'\n", stopped ? "Suspended" : "Resuming", tag);
}

int io_cmd_break(struct io *io, int argc, char **argv)
{
    int rc = block_debug_break(io->node, argv[1], argv[2], NULL);
    if (rc < 0) {
        io_print(io, "Could not set breakpoint: %s\n", g_strerror(-rc));
    }
    return rc;
}

int io_cmd_resume(struct io *io, int argc, char **argv)
{
    int rc = block_debug_resume(io->node, argv[1], NULL);
    if (rc < 0) {
        io_print(io, "Could not resume request: %s\n", g_strerror(-rc));
    }
    return rc;
}

int io_cmd_remove_break(struct io *io, int argc, char **argv)
{
    int rc = block_debug_remove_break(io->node, argv[1], NULL);
    if (rc < 0) {
        io_print(io, "Could not remove breakpoint %s: %s\n", argv[1], g_strerror(-rc));
    }
    return rc;
}

int io_cmd_wait_break(struct io *io, int argc, char **argv)
{
    block_debug_wait_suspended(io->node, argv[1]);
    return 0;
}

int io_cmd_sleep(struct io *io, int argc, char **argv)
{
    char *end;
    errno = 0;
    long ms = strtol(argv[1], &end, 0);
    if (errno || *end || ms < 0 || ms > INT32_MAX) {
        io_print(io, "%s is not a valid number\n", argv[1]);
        return -EINVAL;
    }
    co_sleep((uint64_t)ms * 1000000);
    return 0;
}

int io_cmd_abort(struct io *io, int argc, char **argv)
{
    abort();
}

int io_cmd_sigraise(struct io *io, int argc, char **argv)
{
    uint64_t sig;
    if (!io_parse_size(io, argv[1], &sig)) {
        return -EINVAL;
    }
    if (sig >= NSIG) {
        io_print(io, "signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -EINVAL;
    }
    fflush(stdout);
    raise((int)sig);
    return 0;
}
