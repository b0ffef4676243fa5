/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/tool.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "cli/standard_files.h"
#include "loop/co.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool tool_init(struct tool *t, const char *argv0, const char *own_name, const char *peer_name)
{
    standard_files_keep();
    CLEANUP_FREE char *prog = g_path_get_basename(argv0 ? argv0 : own_name);
    signal(SIGPIPE, SIG_IGN);
    *t = (struct tool){.prog = g_intern_string(prog), .own_name = own_name, .as_qemu = !strcmp(prog, peer_name)};
    t->log = log_create(t->prog);
    CLEANUP_ERR struct err e = ERR_INIT;
    t->loop = loop_create(LOOP_AUTO, &e);
    if (!t->loop) {
        tool_fail(t, "%s", err_text(&e));
        log_destroy(t->log);
        return false;
    }
    t->graph = graph_create(t->loop, NULL, t->log);
    t->objects = object_registry_create(t->loop, object_kinds);
    graph_set_object_lookup(t->graph, object_registry_lookup, t->objects);
    return true;
}

struct run {
    struct tool *t;
    int (*fn)(void *arg);
    void *arg;
};

static int run(void *arg)
{
    struct run *r = arg;
    int rc = r->fn(r->arg);
    graph_destroy(r->t->graph);
    r->t->graph = NULL;
    return rc;
}

static int nothing(void *arg)
{
    return 0;
}

int tool_run(struct tool *t, int (*fn)(void *arg), void *arg)
{
    return co_run(t->loop, run, &(struct run){.t = t, .fn = fn, .arg = arg});
}

/* Who reads through a pipe may have seen enough ("| head -n 1"): that is no failure. */
static bool reader_left(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

int tool_finish(struct tool *t, int rc)
{
    if (t->graph) {
        tool_run(t, nothing, NULL);
    }
    object_registry_destroy(t->objects);
    loop_destroy(t->loop);
    log_destroy(t->log);
    if ((fflush(stdout) || ferror(stdout)) && !reader_left()) {
        fprintf(stderr, "%s: cannot write the output: %s\n", t->prog, g_strerror(errno));
        rc = rc ? rc : 1;
    }
    return rc;
}

void tool_print_version(const struct tool *t)
{
    if (t->as_qemu) {
        printf("%s version " QEMU_VERSION " (Sterna " STERNA_VERSION ")\n", t->prog);
    } else {
        printf("%s version " STERNA_VERSION "\n", t->own_name);
    }
}

int tool_object(struct tool *t, const char *text, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "qom-type", e);
    return o ? object_add(t->objects, o, e) : -EINVAL;
}

int tool_trace(struct tool *t, const char *text, bool *done, struct err *e)
{
    if (!strcmp(text, "help")) {
        trace_print_help(stdout);
        *done = true;
        return 0;
    }
    return trace_option(t->log, text, e);
}

int tool_fail(struct tool *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_error(t->log, "%s", text);
    return 1;
}

void tool_warn(struct tool *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_warn(t->log, "%s", text);
}

bool tool_parse_cache(const char *mode, struct tool_cache *out)
{
    static const struct {
        const char *name;
        struct tool_cache cache;
    } modes[] = {
        {"none", {.direct = true}},
        {"off", {.direct = true}},
        {"directsync", {.direct = true, .writethrough = true}},
        {"writeback", {0}},
        {"unsafe", {.no_flush = true}},
        {"writethrough", {.writethrough = true}},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            *out = modes[i].cache;
            return true;
        }
    }
    return false;
}

static void lay_under(struct json_object *o, struct json_object *opts)
{
    json_object_object_foreach(opts, key, value)
    {
        if (!json_object_object_get_ex(o, key, NULL)) {
            json_object_object_add(o, key, json_object_get(value));
        }
    }
}

int tool_open_options(struct tool *t, struct json_object *o, struct node **out, struct err *e)
{
    struct json_object *file = NULL, *name = NULL;
    if (!json_object_object_get_ex(o, "driver", NULL) && json_object_object_get_ex(o, "file", &file) &&
        json_object_is_type(file, json_type_object) && json_object_object_get_ex(file, "filename", &name)) {
        CLEANUP_FREE char *filename = g_strdup(json_object_get_string(name));
        if (json_object_object_length(file) == 1) { /* nothing but the name: the format is to be found out */
            json_object_object_del(o, "file");
        }
        return node_open_filename(t->graph, filename, o, out, e);
    }
    if (!json_object_object_get_ex(o, "driver", NULL) && json_object_is_type(file, json_type_string)) {
        const char *ref = json_object_get_string(file); /* a tool starts without nodes that could be meant */
        return err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", ref, ref);
    }
    return node_open_filename(t->graph, NULL, o, out, e);
}

static int open_options(struct tool *t, const char *text, struct json_object *opts, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "file", e);
    if (!o) {
        return -EINVAL;
    }
    if (json_object_object_get_ex(o, "force-share", NULL) && json_object_object_get_ex(opts, "force-share", NULL)) {
        return err_set(e, EINVAL, "--force-share/-U conflicts with image options");
    }
    lay_under(o, opts);
    return tool_open_options(t, o, out, e);
}

int tool_open(struct tool *t, const char *name, bool image_opts, struct json_object *opts, struct node **out,
              struct err *e)
{
    CLEANUP_JSON struct json_object *under = opts ? json_clone(opts) : json_object_new_object();
    return image_opts ? open_options(t, name, under, out, e) : node_open_filename(t->graph, name, under, out, e);
}
