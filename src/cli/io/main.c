/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-io: options of the command line. */
#include "cli/io/io.h"

#include "block/debug.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_OBJECT = 256, OPT_IMAGE_OPTS };

static const struct opt_spec specs[] = {
    {'h', "help"},
    {'V', "version"},
    {'c', "cmd", true},
    {'f', "format", true},
    {'r', "read-only"},
    {'s', "snapshot"},
    {'n', "nocache"},
    {'C', "copy-on-read"},
    {'m', "misalign"},
    {'k', "native-aio"},
    {'i', "aio", true},
    {'t', "cache", true},
    {'d', "discard", true},
    {'T', "trace", true},
    {OPT_OBJECT, "object", true},
    {OPT_IMAGE_OPTS, "image-opts"},
    {'U', "force-share"},
    {0},
};

struct args {
    struct tool *tool;
    struct io_open how;
    bool misalign, image_opts;
    GPtrArray *commands; /* borrowed strings */
    const char *name;
};

static void print_help(struct tool *t)
{
    printf("Usage: %s [OPTIONS]... [-c STRING]... [file]\n"
           "Reads and writes a disk image by commands, for tests\n"
           "\n"
           "  --object OBJECTDEF   define an object that image options refer to by id:\n"
           "                       secret,id=ID,data=... or file=...\n"
           "  --image-opts         file is a list of options, not a name\n"
           "  -c, --cmd STRING     run a command; without any, commands are read from\n"
           "                       standard input\n"
           "  -f, --format FMT     the image's format; probed when none is given\n"
           "  -r, --read-only      open the image for reading only\n"
           "  -s, --snapshot       write to a temporary file, not to the image\n"
           "  -n, --nocache        bypass the host's cache: short for -t none\n"
           "  -C, --copy-on-read   write what is read from a backing image to this one\n"
           "  -m, --misalign       use buffers that are not aligned as O_DIRECT wants\n"
           "  -k, --native-aio     the same as -i native\n"
           "  -i, --aio=MODE       ask for asynchronous I/O by threads, native or io_uring\n"
           "  -t, --cache=MODE     none, writeback, writethrough, directsync or unsafe\n"
           "  -d, --discard=MODE   unmap: pass discards on; ignore: do not\n"
           "  -T, --trace [[enable=]<pattern>][,file=<file>]\n"
           "                       write trace points whose names match the pattern\n"
           "  -U, --force-share    open an image that another process is writing to\n"
           "  -h, --help           show this text and exit\n"
           "  -V, --version        show the version and exit\n"
           "\n"
           "%s -c help shows the commands.\n",
           t->prog, t->prog);
}

/* Below 0: go on; else the exit code. */
static int set_option(struct args *a, int key, const char *value)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    bool done = false;
    switch (key) {
    case 'h':
        print_help(a->tool);
        return 0;
    case 'V':
        tool_print_version(a->tool);
        return 0;
    case 'c':
        g_ptr_array_add(a->commands, (gpointer)(uintptr_t)value);
        return -1;
    case 'f':
        a->how.fmt = value;
        return -1;
    case 'm':
        a->misalign = true;
        return -1;
    case OPT_IMAGE_OPTS:
        a->image_opts = true;
        return -1;
    case 'T':
        if (tool_trace(a->tool, value, &done, &e)) {
            return tool_fail(a->tool, "%s", err_text(&e));
        }
        return done ? 0 : -1;
    case OPT_OBJECT:
        return tool_object(a->tool, value, &e) ? tool_fail(a->tool, "%s", err_text(&e)) : -1;
    default:
        return io_open_option(a->tool, &a->how, key, value) ? -1 : 1;
    }
}

static int parse(struct args *a, struct opts *o)
{
    int key;
    while ((key = opts_next(o)) >= 0) {
        int rc = set_option(a, key, o->value);
        if (rc >= 0) {
            return rc;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(o, o->argv[0], key);
        print_help(a->tool);
        return 1;
    }
    unsigned n;
    char **operands = opts_operands(o, &n);
    if (n > 1) {
        print_help(a->tool);
        return 1;
    }
    if (a->how.fmt && a->image_opts) {
        return tool_fail(a->tool, "--image-opts and -f are mutually exclusive");
    }
    a->name = operands[0];
    return -1;
}

static bool run_input(struct io *io)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct io_input *in = io_input_create(io->tool, &e);
    if (!in) {
        io_fail(io, "%s", err_text(&e));
        return true;
    }
    bool failed = false;
    while (!io->quit) {
        CLEANUP_FREE char *line = io_input_line(in);
        if (!line) {
            break;
        }
        failed |= io_run(io, line) < 0;
    }
    io_input_destroy(in);
    return failed;
}

static int run(void *arg)
{
    struct args *a = arg;
    struct io io = {.tool = a->tool, .misalign = a->misalign, .image_opts = a->image_opts};
    bool failed = false;
    block_debug_set_notify(a->tool->graph, io_debug_notify, &io);
    if (a->name) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        CLEANUP_ERR struct err e = ERR_INIT;
        if (a->image_opts && io_parse_options(a->tool, a->name, o, &e)) {
            return tool_fail(a->tool, "%s", err_text(&e));
        }
        if (io_open(&io, a->image_opts ? NULL : a->name, &a->how, o)) {
            return 1;
        }
    }
    for (guint i = 0; i < a->commands->len && !io.quit; i++) {
        failed |= io_run(&io, a->commands->pdata[i]) < 0;
    }
    if (!a->commands->len) {
        failed = run_input(&io);
    }
    block_debug_end(a->tool->graph);
    io_close(&io);
    return failed;
}

int main(int argc, char **argv)
{
    struct tool t;
    if (!tool_init(&t, argv[0], "sterna-io", "qemu-io")) {
        return 1;
    }
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    g_autoptr(GPtrArray) commands = g_ptr_array_new();
    struct args a = {.tool = &t, .commands = commands, .how = IO_OPEN_INIT};
    int rc = parse(&a, &o);
    if (rc < 0) {
        rc = tool_run(&t, run, &a);
    }
    return tool_finish(&t, rc);
}
