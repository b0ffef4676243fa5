/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/human.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

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
        g_autoptr(GPtrArray) keys = json_keys(v);
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

char *human_size(uint64_t bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    unsigned i = 0;
    double v = (double)bytes;
    for (; v >= 1000 && i + 1 < G_N_ELEMENTS(units); i++) {
        v /= 1024;
    }
    return g_strdup_printf("%0.3g %sB", v, units[i]);
}
