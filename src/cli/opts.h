/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options of a command line, as GNU getopt_long reads them (bundled letters, values joined or apart, long names cut
 * short where that is unambiguous, operands anywhere, "--" ends the options), but without its global state.
 *
 *     struct opts o = opts_init(argc, argv, specs);          argv[0] is skipped
 *     while ((key = opts_next(&o)) != OPTS_END) { … }
 *     char **names = opts_operands(&o, &n);
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

enum { OPTS_END = -1, OPTS_UNKNOWN = -2, OPTS_NO_VALUE = -3 };

struct opt_spec {
    int key;          /* the letter; 256 and above: has no short form; 0 ends a table */
    const char *name; /* long form without dashes; NULL: has none */
    bool has_value;
};

struct opts {
    int argc, next;
    char **argv;
    const struct opt_spec *specs;
    const char *cluster; /* what is left of "-abc" */
    const char *value;   /* of the option just returned; borrowed from argv */
    const char *word;    /* the word that option stands in, for messages */
    GPtrArray *operands; /* borrowed strings */
};

struct opts opts_init(int argc, char **argv, const struct opt_spec *specs);
/* The key of the next option, or one of the enum. */
int opts_next(struct opts *o);
/* After OPTS_END: what is not an option; borrowed, NULL-terminated; *n (may be NULL) = how many. */
char **opts_operands(struct opts *o, unsigned *n);
/* "PROG: invalid option -- 'x'" and the like, as getopt says it, for what opts_next() returned. */
void opts_print_error(const struct opts *o, const char *prog, int key);
void opts_finish(struct opts *o);
#define CLEANUP_OPTS __attribute__((cleanup(opts_finish)))
