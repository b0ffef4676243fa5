/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of commands, and running a line. */
#include "cli/io/io.h"

#include "block/io.h"

#include <stdio.h>
#include <string.h>

/* --- the commands that are about commands ----------------------------------------------------------------------- */

static const struct io_command *find(const char *name)
{
    for (const struct io_command *c = io_commands; c->name; c++) {
        if (strcmp(c->name, name) == 0 || (c->alias && strcmp(c->alias, name) == 0)) {
            return c;
        }
    }
    return NULL;
}

static void print_line(const char *name, const struct io_command *c)
{
    printf("%s %s%s-- %s\n", name, c->args ? c->args : "", c->args ? " " : "", c->summary);
}

int io_usage(const char *name)
{
    const struct io_command *c = find(name);
    print_line(c->name, c);
    return -EINVAL;
}

static int cmd_help(struct io *io, int argc, char **argv)
{
    if (argc == 1) {
        for (const struct io_command *c = io_commands; c->name; c++) {
            print_line(c->name, c);
        }
        printf("\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    const struct io_command *c = find(argv[1]);
    if (!c) {
        printf("command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_line(argv[1], c);
    if (c->help) {
        printf("\n%s\n", c->help);
    }
    return 0;
}

static int cmd_quit(struct io *io, int argc, char **argv)
{
    io->quit = true;
    return 0;
}

/* --- running ---------------------------------------------------------------------------------------------------- */

static bool check_count(const struct io_command *c, const char *name, int n)
{
    if (n >= c->min_args && (c->max_args < 0 || n <= c->max_args)) {
        return true;
    }
    fflush(stdout);
    fprintf(stderr, "bad argument count %d to %s, expected ", n, name);
    if (c->max_args < 0) {
        fprintf(stderr, "at least %d arguments\n", c->min_args);
    } else if (c->min_args == c->max_args) {
        fprintf(stderr, "%d arguments\n", c->min_args);
    } else {
        fprintf(stderr, "between %d and %d arguments\n", c->min_args, c->max_args);
    }
    return false;
}

static int run_command(struct io *io, const struct io_command *c, int argc, char **argv)
{
    if (!io->node && !c->without_image) {
        fflush(stdout);
        fprintf(stderr, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    if (!check_count(c, argv[0], argc - 1)) {
        return -EINVAL;
    }
    if (io->node && (c->perm & ~io->edge->own_perm)) {
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = edge_set_perm(io->edge, io->edge->own_perm | c->perm, PERM_ALL, &e);
        if (rc < 0) {
            tool_fail(io->tool, "%s", err_text(&e));
            return rc;
        }
    }
    return c->run(io, argc, argv);
}

int io_run(struct io *io, const char *line)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (char **w = words; *w; w++) {
        if (**w) {
            g_ptr_array_add(argv, *w);
        }
    }
    if (!argv->len) {
        return 0;
    }
    g_ptr_array_add(argv, NULL);
    const struct io_command *c = find(argv->pdata[0]);
    if (!c) {
        fflush(stdout);
        fprintf(stderr, "command \"%s\" not found\n", (char *)argv->pdata[0]);
        return -EINVAL;
    }
    return run_command(io, c, (int)argv->len - 1, (char **)argv->pdata);
}

/* --- the table -------------------------------------------------------------------------------------------------- */

const struct io_command io_commands[] = {
    {"abort", NULL, NULL, "ends the program by abort(3), as a crash would", NULL, 0, 0, .without_image = true,
     .run = io_cmd_abort},
    {"aio_flush", NULL, NULL, "waits for all asynchronous requests", NULL, 0, 0, .run = io_cmd_aio_flush},
    {"aio_read", NULL, "[-Ciqv] [-P pattern] off len [len..]", "reads bytes without waiting for them", NULL, 2, -1,
     .run = io_cmd_aio_read},
    {"aio_write", NULL, "[-Cfiquz] [-P pattern] off len [len..]", "writes bytes without waiting for them", NULL, 2, -1,
     PERM_WRITE, .run = io_cmd_aio_write},
    {"alloc", "a", "offset [count]", "tells how much of a range is allocated in the file", NULL, 1, 2,
     .run = io_cmd_alloc},
    {"break", NULL, "event tag", "stops the next request at event; tag is its name", NULL, 2, 2, .run = io_cmd_break},
    {"close", "c", NULL, "closes the file", NULL, 0, 0, .run = io_cmd_close},
    {"discard", "d", "[-Cq] off len", "discards bytes", NULL, 2, -1, PERM_WRITE, .run = io_cmd_discard},
    {"flush", "f", NULL, "makes everything written so far durable", NULL, 0, 0, .run = io_cmd_flush},
    {"help", "?", "[command]", "help for one or all commands", NULL, 0, 1, .without_image = true, .run = cmd_help},
    {"info", "i", NULL, "prints what is known of the file", NULL, 0, 0, .run = io_cmd_info},
    {"length", "l", NULL, "prints the size of the disk", NULL, 0, 0, .run = io_cmd_length},
    {"map", NULL, "", "prints which areas are allocated in the file", NULL, 0, 0, .run = io_cmd_map},
    {"open", "o", "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "opens the file at path", NULL, 1, -1,
     .without_image = true, .run = io_cmd_open},
    {"quit", "q", NULL, "ends the program", NULL, 0, -1, .without_image = true, .run = cmd_quit},
    {"read", "r", "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads bytes", NULL, 2, -1, .run = io_cmd_read},
    {"readv", NULL, "[-Cqv] [-P pattern] off len [len..]", "reads bytes into several buffers", NULL, 2, -1,
     .run = io_cmd_readv},
    {"remove_break", NULL, "tag", "removes the breakpoint that is named tag", NULL, 1, 1, .run = io_cmd_remove_break},
    {"reopen", NULL, "[(-r|-w)] [-c cache] [-o options]", "opens the image again with other options", NULL, 0, -1,
     .run = io_cmd_reopen},
    {"resume", NULL, "tag", "lets the request go on that is named tag", NULL, 1, 1, .run = io_cmd_resume},
    {"sigraise", NULL, "signal", "raises a signal", NULL, 1, 1, .without_image = true, .run = io_cmd_sigraise},
    {"sleep", NULL, NULL, "waits for so many milliseconds", NULL, 1, 1, .run = io_cmd_sleep},
    {"truncate", "t", "[-m prealloc_mode] off", "changes the size of the disk", NULL, 1, 3, PERM_WRITE | PERM_RESIZE,
     .run = io_cmd_truncate},
    {"wait_break", NULL, "tag", "waits until a request has stopped at the breakpoint", NULL, 1, 1,
     .run = io_cmd_wait_break},
    {"write", "w", "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes bytes", NULL, 2, -1, PERM_WRITE,
     .run = io_cmd_write},
    {"writev", NULL, "[-Cfq] [-P pattern] off len [len..]", "writes bytes from several buffers", NULL, 2, -1,
     PERM_WRITE, .run = io_cmd_writev},
    {NULL},
};
