/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/formatting.h"

#include <stdio.h>
#include <string.h>

const struct create_option *create_option_find(const struct create_option *list, const char *name)
{
    for (; list && list->name; list++) {
        if (strcmp(list->name, name) == 0) {
            return list;
        }
    }
    return NULL;
}

static const char *text_of(struct json_object *opts, const char *name)
{
    struct json_object *v;
    return json_object_object_get_ex(opts, name, &v) ? json_object_get_string(v) : NULL;
}

/* In this order, with these values where nothing is set, as scripts know it. */
static const struct shown {
    const char *name, *value;
} shown_qcow2[] =
    {
        {"encryption", NULL},
        {"encrypt.format", NULL},
        {"encrypt.key-secret", NULL},
        {"encrypt.cipher-alg", NULL},
        {"encrypt.cipher-mode", NULL},
        {"encrypt.ivgen-alg", NULL},
        {"encrypt.ivgen-hash-alg", NULL},
        {"encrypt.hash-alg", NULL},
        {"encrypt.iter-time", NULL},
        {"cluster_size", "65536"},
        {"extended_l2", "off"},
        {"preallocation", NULL},
        {"compression_type", "zlib"},
        {"size", NULL},
        {"compat", NULL},
        {"backing_file", NULL},
        {"backing_fmt", NULL},
        {"data_file", NULL},
        {"data_file_raw", NULL},
        {"lazy_refcounts", "off"},
        {"refcount_bits", "16"},
        {NULL, NULL},
},
  shown_qed[] = {{"size", NULL},        {"backing_file", NULL},
                 {"backing_fmt", NULL}, {"cluster_size", "65536"},
                 {"table_size", NULL},  {NULL, NULL}},
  shown_luks[] = {{"size", NULL},        {"key-secret", NULL}, {"cipher-alg", NULL},
                  {"cipher-mode", NULL}, {"ivgen-alg", NULL},  {"ivgen-hash-alg", NULL},
                  {"hash-alg", NULL},    {"iter-time", NULL},  {NULL, NULL}},
  shown_others[] = {{"size", NULL}, {"backing_file", NULL}, {"backing_fmt", NULL}, {NULL, NULL}};

/* A comma would end the value where these lists are read again. */
static void print_option(const char *name, const char *value)
{
    printf(" %s=", name);
    for (const char *p = value; *p; p++) {
        fputs(*p == ',' ? ",," : (char[]){*p, 0}, stdout);
    }
}

void formatting_print(const char *filename, const char *fmt, const struct block_driver *proto, struct json_object *opts)
{
    const struct shown *list = strcmp(fmt, "qcow2") == 0  ? shown_qcow2
                               : strcmp(fmt, "qed") == 0  ? shown_qed
                               : strcmp(fmt, "luks") == 0 ? shown_luks
                                                          : shown_others;
    g_autoptr(GHashTable) done = g_hash_table_new(g_str_hash, g_str_equal);
    printf("Formatting '%s', fmt=%s", filename, fmt);
    for (const struct shown *s = list; s->name; s++) {
        const char *v = text_of(opts, s->name);
        v = v ? v : s->value;
        if (v) {
            print_option(s->name, v);
        }
        g_hash_table_add(done, (gpointer)(uintptr_t)s->name);
    }
    const struct create_option *of_file = proto ? proto->create_options : NULL;
    json_object_object_foreach(opts, key, v)
    {
        if (!g_hash_table_contains(done, key) && !create_option_find(of_file, key)) {
            print_option(key, json_object_get_string(v));
        }
    }
    for (const struct create_option *o = of_file; o && o->name; o++) { /* the file's come last */
        if (!g_hash_table_contains(done, o->name) && text_of(opts, o->name)) {
            print_option(o->name, text_of(opts, o->name));
        }
    }
    putchar('\n');
    fflush(stdout);
}
