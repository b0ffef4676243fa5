/* SPDX-License-Identifier: BSD-2-Clause */
/* A person at a terminal. */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "machine/vm.h"
#include "monitor/session.h"

#include <string.h>

/* A line on its way. */
struct line {
    struct monitor *m;
    unsigned generation;
    char *text;
    GString *out;
};

static void write_text(void *opaque, const char *s, size_t n)
{
    session_write(opaque, s, n);
}

/* With "\r\n" where lines end. */
static void write_lines(struct monitor *m, const char *s)
{
    g_autoptr(GString) out = g_string_new(NULL);
    for (; *s; s++) {
        if (*s == '\n') {
            g_string_append_c(out, '\r');
        }
        g_string_append_c(out, *s);
    }
    session_write(m, out->str, out->len);
}

static void line_free(struct line *l)
{
    g_free(l->text);
    g_string_free(l->out, TRUE);
    g_free(l);
}

static void run_line(void *opaque)
{
    struct line *l = opaque;
    struct monitor *m = l->m;
    struct mon_ctx c = {.env = m->env, .mon = m, .out = l->out, .cpu = m->cpu};
    hmp_run(&c, l->text);
    m->active--;
    if (!m->dead) {
        g_queue_push_tail(&m->done, l);
        loop_event_set(m->done_event);
        return;
    }
    line_free(l);
    if (!m->active) {
        session_free(m);
    }
}

static void on_line(void *opaque, const char *text)
{
    struct monitor *m = opaque;
    if (m->env->ending) {
        return;
    }
    struct line *l = g_new0(struct line, 1);
    l->m = m;
    l->generation = m->generation;
    l->text = g_strdup(text);
    l->out = g_string_new(NULL);
    m->busy = true;
    m->active++;
    co_start(m->env->loop, run_line, l);
}

void hmp_session_done(struct monitor *m)
{
    struct line *l;
    while ((l = g_queue_pop_head(&m->done))) {
        m->busy = false;
        if (l->generation == m->generation && m->open) {
            write_lines(m, l->out->str);
        }
        if (m->open && !(m->env->vm && m->env->vm->quit_requested)) {
            readline_show(m->readline);
        }
        line_free(l);
    }
}

/* --- completion -----------------------------------------------------------------------------------------------------
 */

static void add_matches(GPtrArray *words, const struct hmp_command *const *tables, const char *prefix)
{
    for (; *tables; tables++) {
        for (const struct hmp_command *cmd = *tables; cmd->name; cmd++) {
            g_auto(GStrv) names = g_strsplit(cmd->name, "|", -1);
            for (char **n = names; *n; n++) {
                if (g_str_has_prefix(*n, prefix)) {
                    g_ptr_array_add(words, g_strdup(*n));
                }
            }
        }
    }
}

static size_t complete(void *opaque, const char *text, GPtrArray *words)
{
    size_t first = strspn(text, " ");
    size_t len = strcspn(text + first, " ");
    if (!text[first + len]) {
        add_matches(words, hmp_tables, text + first);
        return first;
    }
    size_t second = first + len + strspn(text + first + len, " ");
    const struct hmp_command *cmd = hmp_find(hmp_tables, text + first, len);
    bool info = cmd && !strcmp(cmd->name, "info");
    bool help = cmd && hmp_name_matches(cmd->name, "help", 4);
    if (!strchr(text + second, ' ') && (info || help)) {
        add_matches(words, info ? hmp_info_tables : hmp_tables, text + second);
    }
    return second;
}

static const struct readline_ops line_ops = {.write = write_text, .line = on_line, .complete = complete};

/* --- session --------------------------------------------------------------------------------------------------------
 */

int hmp_session_init(struct monitor *m, struct err *e)
{
    m->readline = readline_create("(qemu) ", &line_ops, m);
    return 0;
}

void hmp_session_finish(struct monitor *m)
{
    readline_destroy(m->readline);
}

static void greet(struct monitor *m)
{
    CLEANUP_FREE char *version = mon_as_qemu(m->env) ? g_strdup_printf("QEMU %d.%d.%d", MONITOR_QEMU_MAJOR,
                                                                       MONITOR_QEMU_MINOR, MONITOR_QEMU_MICRO)
                                                     : g_strdup(MONITOR_PACKAGE);
    CLEANUP_FREE char *text = g_strdup_printf("%s monitor - type 'help' for more information\n", version);
    readline_clear(m->readline);
    write_lines(m, text);
    if (!m->busy) {
        readline_show(m->readline);
    }
}

void hmp_session_opened(struct monitor *m)
{
    m->greet_later = !chardev_has_focus(&m->port);
    if (!m->greet_later) {
        greet(m);
    }
}

void hmp_session_focus(struct monitor *m)
{
    if (m->open && m->greet_later) {
        m->greet_later = false;
        greet(m);
    } else if (m->open && !m->busy) {
        write_lines(m, "\n");
        readline_show(m->readline);
    }
}

void hmp_session_read(struct monitor *m, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        readline_key(m->readline, buf[i]);
    }
}
