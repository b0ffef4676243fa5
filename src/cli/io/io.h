/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sterna-io: one image, and commands that exercise it. Commands come from -c, from a pipe or from a terminal; each is a
 * line of words parted by blanks, the first of which names it.
 *
 * Results and failures of requests go to standard output, misuse to standard error: scripts compare both.
 */
#pragma once

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "block/driver.h"
#include "cli/opts.h"
#include "cli/tool.h"

#include <inttypes.h>

#define IO_SECTOR   512
#define IO_MAX_SIZE (((uint64_t)INT32_MAX) & ~(uint64_t)(IO_SECTOR - 1)) /* of one request with a buffer */

struct io {
    struct tool *tool;  /* NULL: it is a monitor that runs the commands */
    GString *out;       /* of a monitor: what is printed */
    GString *errors;    /* of a monitor: what io_fail() says */
    struct node *node;  /* NULL: nothing is open; the top one, be it a copy-on-read filter of ours */
    struct node *image; /* below such a filter; borrowed */
    struct edge *edge;
    bool writethrough; /* each write is durable when it ends */
    bool misalign;     /* buffers begin off alignment */
    bool image_opts;   /* what is opened is named by driver options */
    bool quit;
    unsigned pending; /* aio_ requests under way */
    struct co_queue settled;
};

/* --- commands --------------------------------------------------------------------------------------------------- */

struct io_command {
    const char *name, *alias; /* alias may be NULL */
    const char *args;         /* as help shows them; NULL: none */
    const char *summary;
    const char *help;       /* NULL: there is no more to say */
    int min_args, max_args; /* -1: any number */
    unsigned perm;          /* PERM_* that it needs besides those of the image */
    bool without_image;     /* works with nothing open */
    bool program_only;      /* a monitor has other commands for it, or must not do it */
    /* argv[0] is the name as typed. 0, or negative after a message. [co] */
    int (*run)(struct io *io, int argc, char **argv);
};
extern const struct io_command io_commands[]; /* sorted by name; the last has no name */

/* By name or alias; NULL: there is none. */
const struct io_command *io_find_command(const char *name);
/* Runs one line: 0, or negative when it failed. [co] */
int io_run(struct io *io, const char *line);
/* "NAME ARGS -- SUMMARY" on standard output: how it would have been right. Returns -EINVAL. */
int io_usage(struct io *io, const char *name);

int io_cmd_read(struct io *io, int argc, char **argv);
int io_cmd_readv(struct io *io, int argc, char **argv);
int io_cmd_write(struct io *io, int argc, char **argv);
int io_cmd_writev(struct io *io, int argc, char **argv);
int io_cmd_discard(struct io *io, int argc, char **argv);
int io_cmd_flush(struct io *io, int argc, char **argv);
int io_cmd_truncate(struct io *io, int argc, char **argv);
int io_cmd_aio_read(struct io *io, int argc, char **argv);
int io_cmd_aio_write(struct io *io, int argc, char **argv);
int io_cmd_aio_discard(struct io *io, int argc, char **argv);
int io_cmd_aio_flush(struct io *io, int argc, char **argv);
int io_cmd_open(struct io *io, int argc, char **argv);
int io_cmd_close(struct io *io, int argc, char **argv);
int io_cmd_reopen(struct io *io, int argc, char **argv);
int io_cmd_alloc(struct io *io, int argc, char **argv);
int io_cmd_map(struct io *io, int argc, char **argv);
int io_cmd_length(struct io *io, int argc, char **argv);
int io_cmd_info(struct io *io, int argc, char **argv);
int io_cmd_zone(struct io *io, int argc, char **argv);
int io_cmd_break(struct io *io, int argc, char **argv);
int io_cmd_resume(struct io *io, int argc, char **argv);
int io_cmd_wait_break(struct io *io, int argc, char **argv);
int io_cmd_remove_break(struct io *io, int argc, char **argv);
int io_cmd_sleep(struct io *io, int argc, char **argv);
int io_cmd_abort(struct io *io, int argc, char **argv);
int io_cmd_sigraise(struct io *io, int argc, char **argv);

/* For block_debug_set_notify(). */
void io_debug_notify(void *opaque, const char *tag, bool stopped);

/* What is printed, on standard output; what was wrong with a command, on standard error; a failure, after the program's
 * name. From a monitor all of it goes to the monitor, as long as the command runs. */
void io_print(const struct io *io, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void io_complain(const struct io *io, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void io_fail(const struct io *io, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- where commands come from ------------------------------------------------------------------------------------ */

struct io_input;
/* Standard input: lines that are edited, on a terminal; else what comes. */
struct io_input *io_input_create(struct tool *t, struct err *e);
void io_input_destroy(struct io_input *in); /* the terminal is as it was. NULL is fine */
/* Prompts and waits; g_malloc'd; NULL at the end. [co] */
char *io_input_line(struct io_input *in);

/* --- arguments -------------------------------------------------------------------------------------------------- */

/* A size with suffix, less than 2^63; false after a message. */
bool io_parse_size(struct io *io, const char *text, uint64_t *out);
/* A byte; false after a message. */
bool io_parse_pattern(struct io *io, const char *text, int *out);
/* Whether `v` is a multiple of 512, else false after a message about `what`. */
bool io_check_sector(struct io *io, const char *what, uint64_t v);
/* "a=b,c.d=e,f" ("f" alone is a switch; ",," a comma) laid into `o`. */
int io_parse_options(struct tool *t, const char *text, struct json_object *o, struct err *e);

/* --- reports ---------------------------------------------------------------------------------------------------- */

struct io_report {
    const char *verb; /* "read", "wrote" */
    uint64_t offset, bytes, began_ns, ended_ns;
    bool compact; /* for programs: comma-separated */
    bool quiet;   /* not at all */
};
void io_print_report(struct io *io, const struct io_report *r);
/* "64 KiB", "1.500 KiB", "512 bytes". g_malloc'd. */
char *io_size_text(double bytes);
void io_dump(struct io *io, const uint8_t *buf, uint64_t offset, uint64_t len);

/* --- the image -------------------------------------------------------------------------------------------------- */

#define IO_OPEN_INIT ((struct io_open){.cache = {.writethrough = true}, .discard = "unmap"})
struct io_open {
    const char *fmt;
    struct tool_cache cache;
    const char *discard; /* "ignore", "unmap" … */
    const char *aio;     /* "threads", "native" …; NULL: not said */
    bool read_only, snapshot, copy_on_read, force_share;
};
/* Sets the field that the option letter stands for (-r -s -n -C -k -U -i -t -d); false after a message. */
bool io_open_option(struct tool *t, struct io_open *how, int key, const char *value);
/* `options` (ours to change; may be NULL) lie above what `how` says. name NULL: they say everything. [co] */
int io_open(struct io *io, const char *name, const struct io_open *how, struct json_object *options);
void io_close(struct io *io); /* after all requests; legal when nothing is open. [co] */
void io_wait_settled(struct io *io);
/* The size in whole sectors, as requests may use it. */
uint64_t io_size(const struct io *io);
