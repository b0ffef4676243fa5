/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/opts.h"

#include <stdio.h>
#include <string.h>

struct opts opts_init(int argc, char **argv, const struct opt_spec *specs)
{
    return (struct opts){.argc = argc, .next = 1, .argv = argv, .specs = specs, .operands = g_ptr_array_new()};
}

void opts_finish(struct opts *o)
{
    if (o->operands) {
        g_ptr_array_free(o->operands, TRUE);
        o->operands = NULL;
    }
}

/* The value that follows in the next word. */
static int take_next_word(struct opts *o, int key)
{
    if (o->next >= o->argc) {
        return OPTS_NO_VALUE;
    }
    o->value = o->argv[o->next++];
    return key;
}

static int next_letter(struct opts *o)
{
    char c = *o->cluster++;
    const struct opt_spec *s = o->specs;
    while (s->key && s->key != c) {
        s++;
    }
    if (!s->key) {
        return OPTS_UNKNOWN;
    }
    if (!s->has_value) {
        return s->key;
    }
    if (*o->cluster) {
        o->value = o->cluster;
        o->cluster = NULL;
        return s->key;
    }
    return take_next_word(o, s->key);
}

static const struct opt_spec *find_long(const struct opt_spec *specs, const char *name, size_t len)
{
    const struct opt_spec *found = NULL;
    for (const struct opt_spec *s = specs; s->key; s++) {
        if (!s->name || strncmp(s->name, name, len) != 0) {
            continue;
        }
        if (!s->name[len]) {
            return s;
        }
        if (found) {
            return NULL; /* ambiguous; an exact match would stand alone */
        }
        found = s;
    }
    return found;
}

static int next_long(struct opts *o, const char *name)
{
    const char *eq = strchr(name, '=');
    const struct opt_spec *s = find_long(o->specs, name, eq ? (size_t)(eq - name) : strlen(name));
    if (!s || (eq && !s->has_value)) {
        return OPTS_UNKNOWN;
    }
    if (eq) {
        o->value = eq + 1;
        return s->key;
    }
    return s->has_value ? take_next_word(o, s->key) : s->key;
}

int opts_next(struct opts *o)
{
    o->value = NULL;
    if (o->cluster && *o->cluster) {
        return next_letter(o);
    }
    while (o->next < o->argc) {
        char *word = o->argv[o->next++];
        o->word = word;
        if (word[0] != '-' || !word[1]) {
            g_ptr_array_add(o->operands, word);
        } else if (strcmp(word, "--") == 0) {
            while (o->next < o->argc) {
                g_ptr_array_add(o->operands, o->argv[o->next++]);
            }
        } else if (word[1] == '-') {
            return next_long(o, word + 2);
        } else {
            o->cluster = word + 1;
            return next_letter(o);
        }
    }
    return OPTS_END;
}

char **opts_operands(struct opts *o, unsigned *n)
{
    if (n) {
        *n = o->operands->len;
    }
    g_ptr_array_add(o->operands, NULL);
    g_ptr_array_set_size(o->operands, (gint)o->operands->len - 1); /* keeps the terminator in place */
    return (char **)o->operands->pdata;
}

static bool begins_long_name(const struct opts *o, size_t len)
{
    for (const struct opt_spec *s = o->specs; s->key; s++) {
        if (s->name && strncmp(s->name, o->word + 2, len) == 0) {
            return true;
        }
    }
    return false;
}

void opts_print_error(const struct opts *o, const char *prog, int key)
{
    bool is_long = g_str_has_prefix(o->word, "--") && o->specs->name;
    if (!is_long) {
        char c = o->cluster ? o->cluster[-1] : '-';
        fprintf(stderr, "%s: %s -- '%c'\n", prog,
                key == OPTS_NO_VALUE ? "option requires an argument" : "invalid option", c);
        return;
    }
    size_t len = strcspn(o->word + 2, "=");
    if (key == OPTS_NO_VALUE) {
        fprintf(stderr, "%s: option '%s' requires an argument\n", prog, o->word);
    } else if (!begins_long_name(o, len)) {
        fprintf(stderr, "%s: unrecognized option '%s'\n", prog, o->word);
    } else if (o->word[2 + len]) {
        fprintf(stderr, "%s: option '%.*s' doesn't allow an argument\n", prog, (int)len + 2, o->word);
    } else {
        fprintf(stderr, "%s: option '%s' is ambiguous; possibilities:", prog, o->word);
        for (const struct opt_spec *p = o->specs; p->key; p++) {
            if (p->name && strncmp(p->name, o->word + 2, len) == 0) {
                fprintf(stderr, " '--%s'", p->name);
            }
        }
        fputc('\n', stderr);
    }
}
