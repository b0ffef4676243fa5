/* SPDX-License-Identifier: BSD-2-Clause */
/* convert: a state for another release, with its parents' pages, in another layout. */
#include "state/convert.h"
#include "cli/state/state.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Written beside its place, and put there when it is complete; standard output as it is. */
struct output {
    struct state_fd fd;
    char *temporary;
    const char *path;
};

static int output_open(struct output *o, const char *path, struct err *e)
{
    o->path = path;
    if (!strcmp(path, "-")) {
        state_fd_init(&o->fd, STDOUT_FILENO, "standard output");
        return 0;
    }
    o->temporary = g_strdup_printf("%s.XXXXXX", path);
    int fd = g_mkstemp_full(o->temporary, O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0) {
        int rc = err_set_errno(e, errno, "'%s' cannot be written", path);
        g_free(take(o->temporary));
        return rc;
    }
    state_fd_init(&o->fd, fd, path);
    o->fd.owned = true;
    return 0;
}

static int output_finish(struct output *o, int rc, struct err *e)
{
    if (o->temporary && rc == 0 && (fsync(o->fd.fd) < 0 || rename(o->temporary, o->path) < 0)) {
        rc = err_set_errno(e, errno, "'%s' cannot be written", o->path);
    }
    if (o->temporary && rc < 0) {
        unlink(o->temporary);
    }
    state_fd_finish(&o->fd);
    g_free(o->temporary);
    return rc;
}

static void print_result(const struct state_args *a, const GPtrArray *lost, const GPtrArray *dropped)
{
    FILE *to = a->dry_run ? stdout : stderr; /* standard output may be the state */
    if (a->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        for (int k = 0; k < 2; k++) {
            const GPtrArray *from = k ? dropped : lost;
            struct json_object *list = json_object_new_array();
            for (guint i = 0; i < from->len; i++) {
                json_object_array_add(list, json_object_new_string(from->pdata[i]));
            }
            json_object_object_add(o, k ? "dropped" : "lost", list);
        }
        fprintf(to, "%s\n",
                json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                      JSON_C_TO_STRING_NOSLASHESCAPE));
        return;
    }
    for (guint i = 0; i < dropped->len; i++) {
        fprintf(to, "%s %s\n", a->dry_run ? "to be dropped:" : "dropped:", (const char *)dropped->pdata[i]);
    }
    for (guint i = 0; i < lost->len; i++) {
        fprintf(to, "would be lost: %s\n", (const char *)lost->pdata[i]);
    }
    if (a->dry_run && !lost->len && !dropped->len) {
        puts("nothing would be lost");
    }
}

static int convert(struct state_args *a, const struct state_convert *how, struct state_reader *r, struct err *e)
{
    struct state_convert c = *how;
    struct output out = {.fd.fd = -1};
    if (a->dry_run) {
        return state_convert(r, &c, e);
    }
    int rc = output_open(&out, a->operands[1], e);
    if (rc < 0) {
        return rc;
    }
    struct state_sink sink = state_fd_sink(&out.fd);
    c.sink = &sink;
    return output_finish(&out, state_convert(r, &c, e), e);
}

/* The state and what it is based on: as --parent says, else what its image has. */
static int open_all(struct state_args *a, GPtrArray *in, struct err *e)
{
    int rc = 0;
    for (guint i = 0; i <= a->parents->len && rc == 0; i++) {
        struct state_input *one = g_new0(struct state_input, 1);
        one->fd.fd = -1;
        g_ptr_array_add(in, one);
        rc = state_input_open(a, one, i ? a->parents->pdata[i - 1] : a->operands[0], e);
    }
    return rc < 0 || a->parents->len ? rc : state_input_parents(a, in->pdata[0], false, in, e);
}

static int run_with(struct state_args *a, GPtrArray *in, struct state_convert *c, struct err *e)
{
    struct state_policy p = *c->policy;
    int rc = a->compat ? state_type_compat(a->compat, &p.compat, &p.reader, e) : 0;
    rc = rc < 0 ? rc : open_all(a, in, e);
    if (rc < 0) {
        return state_fail(e);
    }
    CLEANUP_FREE struct state_reader **readers = g_new0(struct state_reader *, in->len);
    for (guint i = 0; i < in->len; i++) {
        readers[i] = ((const struct state_input *)in->pdata[i])->r;
    }
    c->policy = &p;
    c->machine = p.reader;
    c->parents = readers + 1;
    c->nparents = in->len - 1;
    rc = convert(a, c, readers[0], e);
    if (rc < 0 && !(a->dry_run && c->lost->len)) {
        state_fail(e);
    }
    if (rc == 0 || c->lost->len) {
        print_result(a, c->lost, p.dropped);
    }
    return rc == 0 ? STATE_OK : c->lost->len ? STATE_DIFFERS : STATE_FAILED;
}

static int run(struct state_args *a)
{
    if (a->dry_run != (a->n == 1)) {
        CLEANUP_ERR struct err e = ERR_INIT;
        err_set(&e, EINVAL, a->dry_run ? "--dry-run writes nothing: give one file" : "an output file is missing");
        state_fail(&e);
        return STATE_USAGE;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autoptr(GPtrArray) dropped = g_ptr_array_new_with_free_func(g_free),
                         lost = g_ptr_array_new_with_free_func(g_free);
    struct state_policy p = {.force_drop = (const char *const *)a->drop->pdata, .dropped = dropped};
    struct state_convert c = {
        .policy = &p, .lost = lost, .write = {.aligned = a->aligned, .index = true, .zstd_level = a->zstd_level}};
    g_autoptr(GPtrArray) in = state_inputs_new();
    return run_with(a, in, &c, &e);
}

const struct state_verb state_verb_convert = {
    "convert", "FILE [OUTPUT]", "writes a state for another release, or in another layout", "cfpnazosiUO", 1, 2, run};
