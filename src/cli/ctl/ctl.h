/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sternactl: what its files share. A client of QMP for people: one thread, one connection, one poll().
 *
 * A verb is a function in a file of its own that returns the program's exit status. What can fail for a reason that
 * a person must read sets an error, which ctl_fail() prints.
 */
#pragma once

#include "base/cleanup.h"
#include "base/err.h"
#include "cli/ctl/client.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

enum ctl_status {
    CTL_OK = 0,
    CTL_FAILED = 1,
    CTL_USAGE = 2,
    CTL_CANCELLED = 3,
    CTL_LOST = 4,   /* no connection, or it broke and could not be made again */
    CTL_LEFT = 130, /* by Ctrl-C; what was waited for goes on */
};

struct ctl;

struct ctl_option {
    const char *name;  /* without its dashes; NULL ends a table */
    const char *value; /* what stands for its value in texts; NULL: it has none */
    const char *help;
};

struct ctl_verb {
    const char *name;
    const char *operands; /* as texts show them; "" none */
    unsigned min, max;    /* how many operands */
    const char *help;
    const struct ctl_option *options; /* its own; NULL: none */
    bool waits;                       /* takes the options of waiting, too (ctl_wait_options) */
    int (*run)(struct ctl *c);
};

struct ctl {
    const struct ctl_verb *verb;
    GHashTable *options; /* given on the command line: name -> value ("" for those without) */
    char **operands;     /* borrowed, NULL-terminated */
    unsigned n;
    const char *address; /* of the socket, as it was given; NULL: nowhere */
    bool json, terminal, colour;
    struct client *client; /* connected by ctl_connect() */
};

extern const struct ctl_verb *const ctl_verbs[];      /* NULL-terminated, in alphabetical order */
extern const struct ctl_option ctl_general_options[]; /* before or after any verb */
extern const struct ctl_option ctl_wait_options[];    /* of verbs that wait for a job */

/* The value of an option, "" for one without; NULL when it was not given. */
const char *ctl_option(const struct ctl *c, const char *name);
/* A size or rate ("10M"); 0 when it was not given. */
int ctl_option_size(const struct ctl *c, const char *name, uint64_t *out, struct err *e);
/* Checks a value against a list; sets nothing but the error. */
int ctl_option_choice(const struct ctl *c, const char *name, const char *const *choices, struct err *e);

/* Makes the connection. */
int ctl_connect(struct ctl *c, struct err *e);
/* A command with arguments made of pairs "name", value (struct json_object *, taken; NULL leaves it out), NULL. */
int ctl_call(struct ctl *c, const char *command, struct json_object **ret, struct err *e, ...)
    __attribute__((sentinel));

/* "sternactl: text" on standard error; the exit status that the error means: ENOTCONN CTL_LOST, EINVAL (of the command
 * line) CTL_USAGE, else CTL_FAILED. */
int ctl_fail(struct ctl *c, const struct err *e);
/* "sternactl VERB: text", and how the verb is used; CTL_USAGE. */
int ctl_usage(struct ctl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A result for people, a line on standard output; nothing with --json. */
void ctl_say(struct ctl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Makes what came from the other side harmless for terminals, in place: no control characters but the ends of lines. */
char *ctl_clean(char *s);
/* One line of JSON on standard output. */
void ctl_put_json(struct json_object *o);

/* Members of JSON objects; of NULL too: "" and 0 and false and NULL where there is none. Borrowed. */
struct json_object *ctl_get(struct json_object *o, const char *key);
const char *ctl_str(struct json_object *o, const char *key);
int64_t ctl_int(struct json_object *o, const char *key);
bool ctl_bool(struct json_object *o, const char *key);
/* NULL for NULL. */
struct json_object *ctl_new_str(const char *s);
struct json_object *ctl_new_bool(bool b);
struct json_object *ctl_new_int(uint64_t n);
