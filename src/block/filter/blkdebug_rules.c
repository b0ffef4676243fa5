/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/blkdebug.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/nearest.h"
#include "block/debug.h"

#include <string.h>

void debug_rule_free(void *rule)
{
    struct debug_rule *r = rule;
    g_free(r->tag);
    g_free(r);
}

int debug_event_index(const char *name)
{
    for (int i = 0; block_debug_events[i]; i++) {
        if (!strcmp(block_debug_events[i], name)) {
            return i;
        }
    }
    return -1;
}

static int read_event(struct jread *r, int *event, struct err *e)
{
    const char *name = jread_str(r, "event");
    if (r->rc) {
        return 0; /* the reader has noted it */
    }
    *event = debug_event_index(name);
    if (*event >= 0) {
        return 0;
    }
    err_set(e, EINVAL, "Invalid event name '%s'", name);
    return err_suggest(e, name, block_debug_events);
}

static int read_inject(struct json_object *o, struct debug_rule *rule, struct err *e)
{
    static const char *const types[] = {"read", "write", "write-zeroes", "discard", "flush", "block-status", NULL};
    struct jread r = jread_init(o, "inject-error", e);
    rule->kind = RULE_INJECT;
    int rc = read_event(&r, &rule->event, e);
    rule->state = (int)jread_int_or(&r, "state", 0);
    rule->error = (int)jread_int_or(&r, "errno", EIO);
    int64_t sector = jread_int_or(&r, "sector", -1);
    rule->once = jread_bool_or(&r, "once", false);
    rule->immediately = jread_bool_or(&r, "immediately", false);
    int type = jread_has(&r, "iotype") ? jread_enum_or(&r, "iotype", types, 0) : -1;
    rule->ops = type >= 0 ? 1u << type : IO_READ_OP | IO_WRITE_OP | IO_ZERO_OP | IO_DISCARD_OP | IO_FLUSH_OP;
    rule->offset = sector < 0 || sector > INT64_MAX / 512 ? -1 : sector * 512;
    int end = jread_end(&r);
    if (!rc && !end && (rule->error <= 0 || rule->error > 4095)) {
        return err_set(e, EINVAL, "inject-error: errno must be from 1 to 4095, not %d", rule->error);
    }
    return rc < 0 ? rc : end;
}

static int read_set_state(struct json_object *o, struct debug_rule *rule, struct err *e)
{
    struct jread r = jread_init(o, "set-state", e);
    rule->kind = RULE_SET_STATE;
    rule->offset = -1;
    int rc = read_event(&r, &rule->event, e);
    rule->state = (int)jread_int_or(&r, "state", 0);
    rule->new_state = (int)jread_int(&r, "new_state");
    int end = jread_end(&r);
    return rc < 0 ? rc : end;
}

static int read_list(struct json_object *options, const char *key, GPtrArray *rules,
                     int (*read)(struct json_object *o, struct debug_rule *rule, struct err *e), struct err *e)
{
    struct json_object *list;
    if (!json_object_object_get_ex(options, key, &list)) {
        return 0;
    }
    if (json_object_is_type(list, json_type_object)) { /* "inject-error.event=…": the only one */
        struct debug_rule *rule = g_new0(struct debug_rule, 1);
        g_ptr_array_add(rules, rule);
        return read(list, rule, e);
    }
    if (!json_object_is_type(list, json_type_array)) {
        return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: array", key);
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct debug_rule *rule = g_new0(struct debug_rule, 1);
        g_ptr_array_add(rules, rule);
        int rc = read(json_object_array_get_idx(list, i), rule, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int debug_rules_read(struct json_object *options, GPtrArray *rules, struct err *e)
{
    int rc = read_list(options, "inject-error", rules, read_inject, e);
    return rc < 0 ? rc : read_list(options, "set-state", rules, read_set_state, e);
}

/* --- the file: sections may repeat, values may be quoted ------------------------------------------------------- */

static int add_section(struct json_object *all, const char *name, struct json_object **section, struct err *e)
{
    if (strcmp(name, "inject-error") && strcmp(name, "set-state")) {
        return err_set(e, EINVAL, "unknown section [%s]; there are [inject-error] and [set-state]", name);
    }
    struct json_object *list;
    if (!json_object_object_get_ex(all, name, &list)) {
        list = json_object_new_array();
        json_object_object_add(all, name, list);
    }
    *section = json_object_new_object();
    json_object_array_add(list, *section);
    return 0;
}

static int parse_line(struct json_object *all, char *line, struct json_object **section, struct err *e)
{
    g_strstrip(line);
    if (!*line || *line == '#') {
        return 0;
    }
    char *end = line + strlen(line) - 1;
    if (*line == '[' && *end == ']') {
        *end = 0;
        return add_section(all, g_strstrip(line + 1), section, e);
    }
    char *eq = strchr(line, '=');
    if (!eq || !*section) {
        return err_set(e, EINVAL, "'%s' is neither a [section] nor key = \"value\" in one", line);
    }
    *eq = 0;
    char *value = g_strstrip(eq + 1);
    size_t len = strlen(value);
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value[len - 1] = 0;
        value++;
    }
    json_object_object_add(*section, g_strchomp(line), json_object_new_string(value));
    return 0;
}

int debug_rules_read_file(const char *path, GPtrArray *rules, struct err *e)
{
    CLEANUP_FREE char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return err_set_errno(e, errno, "Could not read blkdebug config file");
    }
    CLEANUP_JSON struct json_object *all = json_object_new_object();
    struct json_object *section = NULL;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (int i = 0; lines[i]; i++) {
        if (parse_line(all, lines[i], &section, e) < 0) {
            return err_wrap(e, "%s:%d", path, i + 1);
        }
    }
    return debug_rules_read(all, rules, e) < 0 ? err_wrap(e, "%s", path) : 0;
}
