/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/human.h"

#include "base/cleanup.h"

#include <stdio.h>
#include <string.h>

/*
 * QEMU keeps the members of an object in 512 chains chosen by a hash of the name and lists them chain by chain. Scripts
 * compare its tools' output as text, so we list in the same order.
 */
static unsigned member_rank(const char *name)
{
    size_t len = strlen(name);
    uint32_t h = 0x238f13afu * (uint32_t)len;
    for (size_t i = 0; i < len; i++) {
        h += (uint32_t)(unsigned char)name[i] << (i * 5 % 24);
    }
    return (1103515243u * h + 12345u) % 512;
}

static int compare_keys(const void *a, const void *b)
{
    unsigned x = member_rank(*(const char *const *)a), y = member_rank(*(const char *const *)b);
    return x < y ? -1 : x > y;
}

GPtrArray *human_keys(struct json_object *o)
{
    GPtrArray *keys = g_ptr_array_new();
    struct json_object_iterator it = json_object_iter_begin(o), end = json_object_iter_end(o);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        g_ptr_array_add(keys, (gpointer)(uintptr_t)json_object_iter_peek_name(&it));
    }
    g_ptr_array_sort(keys, compare_keys);
    return keys;
}

static void print_member(const char *label, struct json_object *v, int level)
{
    bool nested = json_object_is_type(v, json_type_object) || json_object_is_type(v, json_type_array);
    printf("%*s%s:%c", level * 4, "", label, nested ? '\n' : ' ');
    human_print(v, level + 1);
    if (!nested) {
        putchar('\n');
    }
}

void human_print(struct json_object *v, int level)
{
    if (json_object_is_type(v, json_type_object)) {
        g_autoptr(GPtrArray) keys = human_keys(v);
        for (guint i = 0; i < keys->len; i++) {
            CLEANUP_FREE char *label = g_strdelimit(g_strdup(keys->pdata[i]), "-", ' ');
            print_member(label, json_object_object_get(v, keys->pdata[i]), level);
        }
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            CLEANUP_FREE char *label = g_strdup_printf("[%zu]", i);
            print_member(label, json_object_array_get_idx(v, i), level);
        }
    } else {
        fputs(json_object_get_string(v), stdout);
    }
}
