/* SPDX-License-Identifier: BSD-2-Clause */
/* dump: every value of a state. */
#include "state/dump.h"
#include "cli/state/state.h"
#include "state/device.h"

#include <stdio.h>
#include <string.h>

static void print_scalar(struct json_object *v)
{
    if (json_object_is_type(v, json_type_string)) {
        state_put_text(json_object_get_string(v)); /* bytes */
    } else {
        fputs(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), stdout);
    }
}

/* "    queue[0].size: 8" for each value. */
static void print_values(const char *name, struct json_object *v)
{
    if (json_object_is_type(v, json_type_object)) {
        json_object_object_foreach(v, key, value)
        {
            CLEANUP_FREE char *full = *name ? g_strdup_printf("%s.%s", name, key) : g_strdup(key);
            print_values(full, value);
        }
        return;
    }
    if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            CLEANUP_FREE char *full = g_strdup_printf("%s[%zu]", name, i);
            print_values(full, json_object_array_get_idx(v, i));
        }
        return;
    }
    printf("    %s: ", name);
    print_scalar(v);
    putchar('\n');
}

static void print_device(struct json_object *d)
{
    state_put_text(json_object_get_string(json_object_object_get(d, "path")));
    printf(" (%s, version %s)\n", json_object_get_string(json_object_object_get(d, "section")),
           json_object_get_string(json_object_object_get(d, "version")));
    print_values("", json_object_object_get(d, "values"));
    json_object_object_foreach(json_object_object_get(d, "subsections"), name, values)
    {
        printf("  %s:\n", name);
        print_values("", values);
    }
}

static int print_chunks(struct state_input *in, bool json, struct err *e)
{
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    struct state_walk w = {.chunks = list};
    int rc = state_walk(in->r, &w, e);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; !json && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        struct json_object *d = json_object_object_get(o, "device"), *b = json_object_object_get(o, "block");
        printf("%12s %12s %s", json_object_get_string(json_object_object_get(o, "offset")),
               json_object_get_string(json_object_object_get(o, "length")),
               json_object_get_string(json_object_object_get(o, "type")));
        if (d || b) {
            putchar(' ');
            state_put_text(json_object_get_string(d ? d : b));
        }
        printf(b ? ", %s pages\n" : "\n", json_object_get_string(json_object_object_get(o, "pages")));
    }
    if (json) {
        state_put_json(list);
    }
    return 0;
}

/* Leaves only the device that was asked for. */
static int pick(struct json_object *dump, const char *path, struct err *e)
{
    struct json_object *all = json_object_object_get(dump, "devices");
    for (size_t i = json_object_array_length(all); path && i-- > 0;) {
        struct json_object *p = json_object_object_get(json_object_array_get_idx(all, i), "path");
        if (strcmp(json_object_get_string(p), path) != 0) {
            json_object_array_del_idx(all, i, 1);
        }
    }
    return path && json_object_array_length(all) == 0 ? err_set(e, ENOENT, "there is no device '%s' in it", path) : 0;
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_INPUT struct state_input in = {.fd.fd = -1};
    if (state_input_open(a, &in, a->operands[0], &e) < 0) {
        return state_fail(&e);
    }
    state_reader_keep_unknown(in.r);
    if (a->chunks) {
        return print_chunks(&in, a->json, &e) < 0 ? state_fail(&e) : STATE_OK;
    }
    CLEANUP_JSON struct json_object *dump = state_dump(in.r, &e);
    if (!dump || pick(dump, a->device, &e) < 0) {
        err_wrap(&e, "%s", in.fd.name);
        return state_fail(&e);
    }
    struct json_object *devices = json_object_object_get(dump, "devices");
    if (a->json) {
        state_put_json(a->device ? json_object_array_get_idx(devices, 0) : dump);
        return STATE_OK;
    }
    for (size_t i = 0; i < json_object_array_length(devices); i++) {
        print_device(json_object_array_get_idx(devices, i));
    }
    return STATE_OK;
}

const struct state_verb state_verb_dump = {"dump", "FILE", "every value of every device", "odksiUO", 1, 1, run};
