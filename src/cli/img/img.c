/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/log.h"
#include "base/nearest.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJ "[--object objectdef] [--image-opts] "

const struct img_verb img_verbs[] = {
    {"amend", OBJ "[-p] [-q] [-f fmt] [-t cache] [--force] -o options filename", img_amend},
    {"bench",
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--image-opts] [--no-drain] "
     "[-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename",
     img_bench},
    {"bitmap",
     "(--merge source | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g "
     "granularity] " OBJ "[-f fmt] filename bitmap",
     img_bitmap},
    {"check", OBJ "[-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename", img_check},
    {"commit", OBJ "[-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename", img_commit},
    {"compare", OBJ "[-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2", img_compare},
    {"convert",
     OBJ
     "[--target-image-opts] [--target-is-zero] [--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] [-q] [-n] [-f "
     "fmt] [-t cache] [-T src_cache] "
     "[-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] [-r "
     "rate_limit] "
     "[-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename",
     img_convert},
    {"copy",
     OBJ "[--target-image-opts] [-p] [-q] [-n] [-f fmt] [-t cache] [-O output_fmt] [-o options] [-r rate_limit] [-m "
         "num_coroutines] [--region-size=size] [--state=file] [--keep] [--switch] [--detach] [--resume] filename "
         "[output_filename]",
     img_copy},
    {"create",
     "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]",
     img_create},
    {"dd", OBJ "[-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input of=output", img_dd},
    {"info", OBJ "[-f fmt] [--output=ofmt] [--backing-chain] [-U] filename", img_info},
    {"map", OBJ "[-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename", img_map},
    {"measure",
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | " OBJ "[-f fmt] [-l snapshot_param] [-U] filename]",
     img_measure},
    {"rebase",
     OBJ "[-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] [-c] -b backing_file [-F backing_fmt] filename",
     img_rebase},
    {"resize", OBJ "[-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size", img_resize},
    {"snapshot", OBJ "[-f fmt] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename", img_snapshot},
    {NULL, NULL, NULL},
};

static const char help_head[] = "\n"
                                "    '-h', '--help'       show this text and exit\n"
                                "    '-V', '--version'    show the version and exit\n"
                                "    '-T', '--trace'      [[enable=]<pattern>][,file=<file>]\n"
                                "                         write trace points whose names match the pattern\n"
                                "\n"
                                "Command syntax:\n";

static const char help_tail[] =
    "\n"
    "Command parameters:\n"
    "  'filename' names a disk image: a path or json:{...}\n"
    "  'objectdef' defines an object that image options refer to by id: secret,id=ID,data=... or file=...\n"
    "  'fmt', 'output_fmt', 'backing_fmt' name an image format; a source's is probed when none is given\n"
    "  'cache', 'src_cache' are 'none', 'writeback' (the default; 'unsafe' for the target of convert),\n"
    "       'writethrough', 'directsync' or 'unsafe'\n"
    "  'size' and other numbers of bytes take the suffixes k, M, G, T, P, E (powers of 1024)\n"
    "  'options' is a list name=value,...; 'help' lists the names that the format knows\n"
    "  'ofmt' is 'human' or 'json'\n"
    "  'sparse_size' is how many zero bytes in a row become a hole (4k); 0 writes everything out\n"
    "  'rate_limit' is in bytes per second\n"
    "  '-h' with or without a command shows this text\n"
    "  '-p' shows progress, '-q' shows nothing but errors\n"
    "  '-U' opens images that another process is writing to\n"
    "  '-n' writes into a target that exists\n"
    "  '-c' compresses (for bench: the number of requests)\n"
    "  '-u' does not look at backing files: the caller knows that they fit (create, rebase)\n"
    "  '-W' lets writes reach the target out of order\n"
    "  '-d' leaves the image as it is after its contents have been committed (for bench: the depth)\n"
    "  '-r' with check repairs: 'leaks' only, or 'all'\n"
    "  'snapshot_param' is 'snapshot.id=ID,snapshot.name=NAME', either of the two, or an id or a name\n"
    "  'snapshot' is a snapshot's name, or its id where it says so: '-l' lists (when nothing is said), '-a' applies,\n"
    "       '-c' creates, '-d' deletes\n"
    "  '-s' compares strictly: sizes and allocation too\n"
    "\n"
    "Supported formats:";

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void img_print_help(struct tool *img)
{
    tool_print_version(img);
    printf("usage: %s [standard options] command [command options]\nDisk image utility\n%s", img->prog, help_head);
    for (const struct img_verb *v = img_verbs; v->name; v++) {
        printf("  %s %s\n", v->name, v->usage);
    }
    fputs(help_tail, stdout);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const struct block_driver *const *d = block_drivers; *d; d++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)(*d)->name);
    }
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len; i++) {
        printf(" %s", (const char *)names->pdata[i]);
    }
    putchar('\n');
}

static int unknown_verb(struct tool *img, const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const struct img_verb *v = img_verbs; v->name; v++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)v->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(name, (const char *const *)names->pdata);
    if (near) {
        return img_fail_usage(img, "Command not found: %s: did you mean '%s'?", name, near);
    }
    return img_fail_usage(img, "Command not found: %s", name);
}

struct run {
    struct tool *img;
    const struct img_verb *verb;
    int argc;
    char **argv;
};

static int run_verb(void *arg)
{
    struct run *r = arg;
    return r->verb->run(r->img, r->argc, r->argv);
}

/* Standard options stand before the verb: *at becomes the verb's index. Below 0: go on; else the exit code. */
static int standard_options(struct tool *img, int argc, char **argv, int *at)
{
    for (*at = 1; *at < argc && argv[*at][0] == '-'; ++*at) {
        const char *word = argv[*at];
        if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            img_print_help(img);
            return 0;
        }
        if (strcmp(word, "-V") == 0 || strcmp(word, "--version") == 0) {
            tool_print_version(img);
            return 0;
        }
        const char *value = NULL;
        if (strcmp(word, "-T") == 0 || strcmp(word, "--trace") == 0) {
            value = *at + 1 < argc ? argv[++*at] : NULL;
            if (!value) {
                return img_fail_usage(img, "missing argument for option '%s'", word);
            }
        } else if (g_str_has_prefix(word, "--trace=")) {
            value = word + strlen("--trace=");
        } else if (g_str_has_prefix(word, "-T")) {
            value = word + 2;
        } else {
            return img_fail_usage(img, "unrecognized option '%s'", word);
        }
        CLEANUP_ERR struct err e = ERR_INIT;
        bool done = false;
        if (tool_trace(img, value, &done, &e)) {
            return tool_fail(img, "%s", err_text(&e));
        }
        if (done) {
            return 0;
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct tool img;
    img_progress_block_signal();
    if (!tool_init(&img, argv[0], "sterna-img", "qemu-img")) {
        return 1;
    }
    int at, rc = standard_options(&img, argc, argv, &at);
    if (rc < 0 && at >= argc) {
        rc = img_fail_usage(&img, "Not enough arguments");
    } else if (rc < 0) {
        struct run r = {.img = &img, .verb = img_verbs, .argc = argc - at, .argv = argv + at};
        while (r.verb->name && strcmp(r.verb->name, argv[at]) != 0) {
            r.verb++;
        }
        rc = r.verb->name ? tool_run(&img, run_verb, &r) : unknown_verb(&img, argv[at]);
    }
    return tool_finish(&img, rc);
}
