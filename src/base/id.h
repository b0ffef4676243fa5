/* SPDX-License-Identifier: BSD-2-Clause */
/* Names that users give to nodes, jobs, devices and objects. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <string.h>

/* A letter, then letters, digits, '-', '.' and '_'; ASCII. */
static inline bool id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    while (*++id) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}
