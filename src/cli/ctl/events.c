/* SPDX-License-Identifier: BSD-2-Clause */
/* `events`: what the machine tells. */
#include "cli/ctl/follow.h"
#include "cli/ctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void put_value(GString *out, const char *key, struct json_object *v)
{
    const char *text = json_object_is_type(v, json_type_string)
                           ? json_object_get_string(v)
                           : json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    g_string_append_printf(out, " %s=%s", key, text);
}

/* "12:34:56.789 NAME key=value …". */
static void print_event(struct json_object *event)
{
    struct json_object *stamp = ctl_get(event, "timestamp"), *data = ctl_get(event, "data");
    time_t s = (time_t)ctl_int(stamp, "seconds");
    struct tm tm;
    char clock[16] = "";
    if (localtime_r(&s, &tm)) {
        strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    }
    g_autoptr(GString) line = g_string_new(NULL);
    g_string_printf(line, "%s.%03d %s", clock, (int)(ctl_int(stamp, "microseconds") / 1000), ctl_str(event, "event"));
    if (data) {
        json_object_object_foreach(data, key, v)
        {
            put_value(line, key, v);
        }
    }
    puts(ctl_clean(line->str));
    fflush(stdout);
}

struct watch {
    struct ctl *c;
    const char *until;
    char *ended;
};

/* Prints what came; true: the one that was waited for was among it. */
static bool take_events(struct watch *w)
{
    bool found = false;
    for (struct json_object *event; !found && (event = client_event(w->c->client));) {
        const char *name = ctl_str(event, "event");
        if (w->c->json) {
            ctl_put_json(event);
        } else {
            print_event(event);
        }
        if (!strcmp(name, "SHUTDOWN")) {
            g_free(w->ended);
            w->ended = g_strdup(ctl_str(ctl_get(event, "data"), "reason"));
        }
        found = w->until && !strcmp(name, w->until);
        json_object_put(event);
    }
    return found;
}

static int watch(struct watch *w, int interrupt_fd)
{
    for (;;) {
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = client_wait(w->c->client, -1, &e);
        if (take_events(w)) {
            return CTL_OK;
        }
        if (follow_interrupted(interrupt_fd)) {
            return w->until ? CTL_LEFT : CTL_OK;
        }
        rc = rc ? follow_reconnect(w->c, interrupt_fd, w->ended, &e) : 0;
        if (rc) {
            return rc;
        }
    }
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    struct watch w = {.c = c, .until = ctl_option(c, "until")};
    int fd = follow_catch_interrupt(c), rc = watch(&w, fd);
    follow_release(c, fd);
    g_free(w.ended);
    return rc;
}

static const struct ctl_option options[] = {
    {"until", "NAME", "ends after the first event of this name"},
    {"reconnect", "SECONDS", "how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_events = {
    .name = "events",
    .operands = "",
    .help = "prints events as they come, until Ctrl-C",
    .options = options,
    .run = run,
};
