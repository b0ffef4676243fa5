/* SPDX-License-Identifier: BSD-2-Clause */
/* Events as words in a string, for tests to compare: the status of jobs, of others the name and data. */
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <string.h>

static inline void record_event(GString *events, const char *name, struct json_object *data)
{
    struct json_object *v;
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        json_object_object_get_ex(data, "status", &v);
        g_string_append_printf(events, "%s ", json_object_get_string(v));
    } else {
        g_string_append_printf(events, "%s%s ", name, json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN));
    }
}
