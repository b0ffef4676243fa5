/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of commands, and running a line. */
#include "cli/io/io.h"

#include "block/io.h"

#include <stdio.h>
#include <string.h>

/* --- the commands that are about commands ----------------------------------------------------------------------- */

const struct io_command *io_find_command(const char *name)
{
    for (const struct io_command *c = io_commands; c->name; c++) {
        if (strcmp(c->name, name) == 0 || (c->alias && strcmp(c->alias, name) == 0)) {
            return c;
        }
    }
    return NULL;
}

static void print_line(struct io *io, const char *name, const struct io_command *c)
{
    io_print(io, "%s %s%s-- %s\n", name, c->args ? c->args : "", c->args ? " " : "", c->summary);
}

int io_usage(struct io *io, const char *name)
{
    const struct io_command *c = io_find_command(name);
    print_line(io, c->name, c);
    return -EINVAL;
}

static int cmd_help(struct io *io, int argc, char **argv)
{
    if (argc == 1) {
        for (const struct io_command *c = io_commands; c->name; c++) {
            if (c->program_only && !io->tool) {
                continue;
            }
            print_line(io, c->name, c);
        }
        io_print(io, "\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    const struct io_command *c = io_find_command(argv[1]);
    if (!c) {
        io_print(io, "command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_line(io, argv[1], c);
    if (c->help) {
        io_print(io, "\n%s\n", c->help);
    }
    return 0;
}

static int cmd_quit(struct io *io, int argc, char **argv)
{
    io->quit = true;
    return 0;
}

/* --- running ---------------------------------------------------------------------------------------------------- */

static bool check_count(struct io *io, const struct io_command *c, const char *name, int n)
{
    if (n >= c->min_args && (c->max_args < 0 || n <= c->max_args)) {
        return true;
    }
    io_complain(io, "bad argument count %d to %s, expected ", n, name);
    if (c->max_args < 0) {
        io_complain(io, "at least %d arguments\n", c->min_args);
    } else if (c->min_args == c->max_args) {
        io_complain(io, "%d arguments\n", c->min_args);
    } else {
        io_complain(io, "between %d and %d arguments\n", c->min_args, c->max_args);
    }
    return false;
}

static int run_command(struct io *io, const struct io_command *c, int argc, char **argv)
{
    if (!io->node && !c->without_image) {
        io_complain(io, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    if (!check_count(io, c, argv[0], argc - 1)) {
        return -EINVAL;
    }
    if (io->node && (c->perm & ~io->edge->own_perm)) {
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = edge_set_perm(io->edge, io->edge->own_perm | c->perm, io->edge->own_shared, &e);
        if (rc < 0) {
            io_fail(io, "%s", err_text(&e));
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
    const struct io_command *c = io_find_command(argv->pdata[0]);
    if (!c || (c->program_only && !io->tool)) {
        io_complain(io, "command \"%s\" not found\n", (char *)argv->pdata[0]);
        return -EINVAL;
    }
    return run_command(io, c, (int)argv->len - 1, (char **)argv->pdata);
}

/* --- the table -------------------------------------------------------------------------------------------------- */

#define HELP_C    "  -C  print the figures for programs, separated by commas\n"
#define HELP_q    "  -q  print no figures\n"
#define HELP_P    "  -P  the byte that all of them should be: what differs is told, and makes the command fail\n"
#define HELP_v    "  -v  print what was read, in hexadecimal and as letters\n"
#define HELP_f    "  -f  return when the data is durable (force unit access)\n"
#define HELP_fill "  -P  the byte to write (0xcd)\n"
#define HELP_u    "  -u  with -z: may deallocate\n"
#define HELP_aio                                                                                                       \
    "The command succeeds when the request has begun. How it ends is told then; aio_flush waits for that.\n"

const struct io_command io_commands[] = {
    {"abort", NULL, NULL, "simulate a program crash using abort(3)", NULL, 0, 0, .without_image = true,
     .program_only = true, .run = io_cmd_abort},
    {"aio_discard", NULL, "[-Cq] off len", "asynchronously discards a number of bytes",
     "Begins to discard len bytes at off.\n" HELP_aio "\n" HELP_C HELP_q, 2, -1, PERM_WRITE, .run = io_cmd_aio_discard},
    {"aio_flush", NULL, NULL, "completes all outstanding aio requests", NULL, 0, 0, .run = io_cmd_aio_flush},
    {"aio_read", NULL, "[-Ciqv] [-P pattern] off len [len..]", "asynchronously reads a number of bytes",
     "Begins to read at off into one buffer for each len.\n" HELP_aio "\n" HELP_C
     "  -i  only count the request, as one that was not valid\n" HELP_P HELP_q HELP_v,
     2, -1, .run = io_cmd_aio_read},
    {"aio_write", NULL, "[-Cfiquz] [-P pattern] off len [len..]", "asynchronously writes a number of bytes",
     "Begins to write at off from one buffer for each len.\n" HELP_aio "\n" HELP_C HELP_f
     "  -i  only count the request, as one that was not valid\n" HELP_fill HELP_q HELP_u
     "  -z  write zeroes without a buffer\n",
     2, -1, PERM_WRITE, .run = io_cmd_aio_write},
    {"alloc", "a", "offset [count]", "checks if offset is allocated in the file", NULL, 1, 2, .run = io_cmd_alloc},
    {"break", NULL, "event tag", "sets a breakpoint on event and tags the stopped request as tag", NULL, 2, 2,
     .run = io_cmd_break},
    {"close", "c", NULL, "close the current open file", NULL, 0, 0, .program_only = true, .run = io_cmd_close},
    {"discard", "d", "[-Cq] off len", "discards a number of bytes at a specified offset",
     "Tells the image that len bytes at off are not needed any more.\n\n" HELP_C HELP_q, 2, -1, PERM_WRITE,
     .run = io_cmd_discard},
    {"flush", "f", NULL, "flush all in-core file state to disk", NULL, 0, 0, .run = io_cmd_flush},
    {"help", "?", "[command]", "help for one or all commands", NULL, 0, 1, .without_image = true, .run = cmd_help},
    {"info", "i", NULL, "prints information about the current file", NULL, 0, 0, .run = io_cmd_info},
    {"length", "l", NULL, "gets the length of the current file", NULL, 0, 0, .run = io_cmd_length},
    {"map", NULL, "", "prints the allocated areas of a file", NULL, 0, 0, .run = io_cmd_map},
    {"open", "o", "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "open the file specified by path",
     "Opens the image that all other commands are about.\n"
     "Example: 'open -n -o driver=raw /tmp/disk' opens a raw image past the host's cache.\n\n"
     "  -r  for reading only\n"
     "  -s  write to a temporary file, not to the image\n"
     "  -C  write what is read from a backing image to this one\n"
     "  -n  bypass the host's cache: short for -t none\n"
     "  -U  even if another process is writing to it\n"
     "  -k  the same as -i native\n"
     "  -i  ask for asynchronous I/O by threads, native or io_uring\n"
     "  -t  cache mode: none, writeback, writethrough, directsync or unsafe\n"
     "  -d  unmap: pass discards on; ignore: do not\n"
     "  -o  options of the block driver; without a path they name the image too\n",
     1, -1, .without_image = true, .program_only = true, .run = io_cmd_open},
    {"quit", "q", NULL, "exit the program", NULL, 0, -1, .without_image = true, .program_only = true, .run = cmd_quit},
    {"read", "r", "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads a number of bytes at a specified offset",
     "Reads len bytes at off.\n"
     "Example: 'read -v 512 1k' shows the second and third sector.\n\n"
     "  -b  read the machine's state that snapshots keep, not the disk\n" HELP_C
     "  -l  how many bytes to compare with the pattern\n"
     "  -p  nothing: scripts still give it\n" HELP_P HELP_q "  -s  where in what was read to begin to compare\n" HELP_v,
     2, -1, .run = io_cmd_read},
    {"readv", NULL, "[-Cqv] [-P pattern] off len [len..]", "reads a number of bytes at a specified offset",
     "Reads at off into one buffer for each len.\n\n" HELP_C HELP_P HELP_q HELP_v, 2, -1, .run = io_cmd_readv},
    {"remove_break", NULL, "tag", "remove a breakpoint by tag", NULL, 1, 1, .run = io_cmd_remove_break},
    {"reopen", NULL, "[(-r|-w)] [-c cache] [-o options]", "reopens an image with new options",
     "Changes options of the image while it stays open.\n"
     "Example: 'reopen -o lazy-refcounts=on' for a qcow2 image.\n\n"
     "  -r  for reading only from now on\n"
     "  -w  for writing too\n"
     "  -c  another cache mode\n"
     "  -o  other options of the block driver, as for open\n",
     0, -1, .run = io_cmd_reopen},
    {"resume", NULL, "tag", "resumes the request tagged as tag", NULL, 1, 1, .run = io_cmd_resume},
    {"sigraise", NULL, "signal", "raises a signal",
     "Sends this process the signal of that number.\nExample: 'sigraise 15' ends it by SIGTERM.\n", 1, 1,
     .without_image = true, .program_only = true, .run = io_cmd_sigraise},
    {"sleep", NULL, NULL, "waits for the given value in milliseconds", NULL, 1, 1, .without_image = true,
     .run = io_cmd_sleep},
    {"truncate", "t", "[-m prealloc_mode] off", "truncates the current file at the given offset", NULL, 1, 3,
     PERM_WRITE | PERM_RESIZE, .run = io_cmd_truncate},
    {"wait_break", NULL, "tag", "waits for the suspension of a request", NULL, 1, 1, .run = io_cmd_wait_break},
    {"write", "w", "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "writes a number of bytes at a specified offset",
     "Writes len bytes at off.\n"
     "Example: 'write -P 7 512 1k' fills the second and third sector with 7.\n\n"
     "  -b  write the machine's state that snapshots keep, not the disk\n"
     "  -c  write compressed\n" HELP_C HELP_f "  -n  with -z: fail rather than write zeroes as data\n"
     "  -p  nothing: scripts still give it\n" HELP_fill HELP_q
     "  -s  a file whose bytes to write, over and over\n" HELP_u "  -z  write zeroes without a buffer\n",
     2, -1, PERM_WRITE, .run = io_cmd_write},
    {"writev", NULL, "[-Cfq] [-P pattern] off len [len..]", "writes a number of bytes at a specified offset",
     "Writes at off from one buffer for each len.\n\n" HELP_C HELP_f HELP_fill HELP_q, 2, -1, PERM_WRITE,
     .run = io_cmd_writev},
    {"zone_append", "zap", "offset len [len..]", "append write a number of bytes at a specified offset", NULL, 3, 4,
     .run = io_cmd_zone},
    {"zone_close", "zc", "offset len", "close a range of zones in zone block device", NULL, 2, 2, .run = io_cmd_zone},
    {"zone_finish", "zf", "offset len", "finish a range of zones in zone block device", NULL, 2, 2, .run = io_cmd_zone},
    {"zone_open", "zo", "offset len", "explicit open a range of zones in zone block device", NULL, 2, 2,
     .run = io_cmd_zone},
    {"zone_report", "zrp", "offset number", "report zone information", NULL, 2, 2, .run = io_cmd_zone},
    {"zone_reset", "zrs", "offset len", "reset a zone write pointer in zone block device", NULL, 2, 2,
     .run = io_cmd_zone},
    {NULL},
};
