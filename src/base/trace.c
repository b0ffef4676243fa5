/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/trace.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"

#include <string.h>

const struct trace_point_info trace_points[TRACE_COUNT] = {
#define X(name, help) {#name, help},
    TRACE_POINTS(X)
#undef X
};

void trace_print_help(FILE *f)
{
    for (unsigned i = 0; i < TRACE_COUNT; i++) {
        fprintf(f, "%s\n", trace_points[i].name);
    }
}

static void enable(struct log *l, const char *pattern)
{
    bool on = pattern[0] != '-';
    const char *glob = on ? pattern : pattern + 1;
    if (log_trace_enable(l, glob, on) == 0 && !strpbrk(glob, "*?[")) {
        log_warn(l, "trace event '%s' does not exist", glob);
    }
}

static int enable_from_file(struct log *l, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        return err_set_errno(e, errno, "%s", path);
    }
    CLEANUP_FREE char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, f) >= 0) {
        g_strstrip(line);
        if (line[0] && line[0] != '#') {
            enable(l, line);
        }
    }
    fclose(f);
    return 0;
}

int trace_option(struct log *l, const char *text, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "enable", e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    const char *pattern = jread_str_or(&r, "enable", NULL), *events = jread_str_or(&r, "events", NULL),
               *file = jread_str_or(&r, "file", NULL);
    int rc = jread_end(&r);
    if (rc == 0 && pattern) {
        enable(l, pattern);
    }
    rc = rc < 0 || !events ? rc : enable_from_file(l, events, e);
    return rc < 0 || !file ? rc : log_traces_to_file(l, file, e);
}
