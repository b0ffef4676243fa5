/* SPDX-License-Identifier: BSD-2-Clause */
/* What vm_state.c, vm_sections.c and vm_nodes.c share; nobody else includes this. */
#pragma once

#include "config/vm_state.h"

struct vm_state {
    struct vm_state_options o; /* without path and release */
    struct config_file *file;
    bool on_disk, begun, arriving;
    struct co_mutex lock; /* one derives and writes at a time */
    GHashTable *notes;    /* "kind\nname" -> struct json_object * */
    GArray *pending;      /* struct vm_state_switch */
    char *folder;         /* that relative file names are meant in */
};

/* Whoever leads to `from` will lead to `to`: the file says so already. Compared only. */
struct vm_state_switch {
    const struct job *job;
    const struct node *from;
    struct node *to;
};

struct vm_section {
    const char *kind; /* static */
    char *name;       /* NULL where the kind has none */
    struct json_object *values;
};
/* In the order in which a machine is built of them. Free with g_ptr_array_free(). */
GPtrArray *vm_sections(struct vm_state *s);
void vm_sections_add(GPtrArray *out, const char *kind, const char *name, struct json_object *values);

/* --- vm_nodes.c --- */
/* The node that `n` stands for when jobs' filters are left out and switches under way have happened. */
struct node *vm_node_shown(const struct vm_state *s, struct node *n);
void vm_nodes_sections(struct vm_state *s, GPtrArray *out);
/* An absolute one. g_malloc'd. */
char *vm_state_absolute(const struct vm_state *s, const char *filename);
