/* SPDX-License-Identifier: BSD-2-Clause */
/* The state file's text written: what did not change as somebody wrote it. */
#include "config/file_int.h"

#include "base/cleanup.h"
#include "base/crc.h"

#include <inttypes.h>

/* Appends whole lines and counts them. */
static void put_lead(GString *to, const char *lead, unsigned *line)
{
    g_string_append(to, lead);
    for (; *lead; lead++) {
        *line += *lead == '\n';
    }
}

static void put_entry(GString *to, struct config_entry *en, unsigned *line)
{
    put_lead(to, en->lead, line);
    if (en->text) {
        g_string_append(to, en->text);
    } else {
        g_string_append_printf(to, "%s = ", en->key);
        config_value_print(to, en->value);
        g_string_append(to, en->tail);
    }
    g_string_append_c(to, '\n');
    en->line = ++*line;
}

static void put_head(GString *to, struct config_text *t, unsigned *line)
{
    put_lead(to, t->lead, line);
    if (t->text) {
        g_string_append(to, t->text);
    } else if (t->name) {
        g_string_append_printf(to, "[%s ", t->kind);
        config_string_print(to, t->name);
        g_string_append(to, "]");
    } else {
        g_string_append_printf(to, "[%s]", t->kind);
    }
    g_string_append_c(to, '\n');
    t->line = ++*line;
}

static void put_text(GString *to, struct config_text *t, unsigned *line)
{
    if (t->kind) {
        put_head(to, t, line);
    }
    for (guint i = 0; i < t->entries->len; i++) {
        put_entry(to, g_ptr_array_index(t->entries, i), line);
    }
}

GString *config_print(struct config_doc *d)
{
    GString *to = g_string_new(NULL);
    unsigned line = 0;
    put_text(to, d->head, &line);
    for (guint i = 0; i < d->sections->len; i++) {
        put_text(to, g_ptr_array_index(d->sections, i), &line);
    }
    put_lead(to, d->lead, &line);
    g_string_append_printf(to, "# end generation=%" PRIu64 " sections=%u", d->generation, d->sections->len);
    g_string_append_printf(to, " crc32c=%08" PRIx32 "\n", crc32c(0, to->str, to->len));
    return to;
}

char *config_section_print(const struct config_section *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    GString *to = g_string_new(NULL);
    struct config_text *t = config_text_new(s->kind, s->name);
    unsigned line = 0;
    if (config_flatten(s->values, t->entries, &e) == 0) {
        put_text(to, t, &line);
    }
    config_text_unref(t);
    return g_string_free(to, FALSE);
}
