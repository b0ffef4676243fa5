/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/human.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

void human_print(struct json_object *v, int level)
{
    g_autoptr(GString) text = g_string_new(NULL);
    json_describe(v, level, text);
    fputs(text->str, stdout);
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
