/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/screen.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static struct winsize size_of_terminal(void)
{
    struct winsize w = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w)) {
        w = (struct winsize){0};
    }
    return w;
}

unsigned screen_width(void)
{
    unsigned w = size_of_terminal().ws_col;
    return w ? w : 80;
}

unsigned screen_height(void)
{
    unsigned h = size_of_terminal().ws_row;
    return h ? h : 24;
}

/* Bytes of an escape sequence ("\033[…m") that begins there; 0: none. */
static size_t escape(const char *s)
{
    return s[0] == '\033' && s[1] == '[' ? 2 + strcspn(s + 2, "m") + (strchr(s + 2, 'm') != NULL) : 0;
}

static unsigned columns_of(gunichar u)
{
    return g_unichar_iszerowidth(u) ? 0 : g_unichar_iswide(u) ? 2 : 1;
}

/* Where the text must be cut so that it takes at most `width` columns; *columns = how many it takes then. Names come
 * from the other end: what is not UTF-8 counts as one column a byte. */
static size_t fit(const char *text, unsigned width, unsigned *columns)
{
    const char *s = text;
    *columns = 0;
    while (*s) {
        size_t n = escape(s);
        if (n) {
            s += n;
            continue;
        }
        gunichar u = g_utf8_get_char_validated(s, -1);
        bool bad = u >= (gunichar)-2;
        unsigned wide = bad ? 1 : columns_of(u);
        if (*columns + wide > width) {
            break;
        }
        *columns += wide;
        s = bad ? s + 1 : g_utf8_next_char(s);
    }
    return (size_t)(s - text);
}

unsigned screen_columns(const char *text)
{
    unsigned columns;
    fit(text, UINT32_MAX, &columns);
    return columns;
}

static void to_top(struct screen *s)
{
    if (s->lines) {
        printf("\033[%uA", s->lines);
    }
    printf("\r\033[J");
}

void screen_draw(struct screen *s, GPtrArray *lines)
{
    unsigned width = screen_width(), height = screen_height(), n = MIN(lines->len, height > 1 ? height - 1 : 1);
    to_top(s);
    for (unsigned i = 0; i < n; i++) {
        unsigned columns;
        const char *text = lines->pdata[i];
        size_t cut = fit(text, width > 1 ? width - 1 : 1, &columns);
        printf("%.*s%s\n", (int)cut, text, s->c->colour && text[cut] ? "\033[0m" : "");
    }
    fflush(stdout);
    s->lines = n;
}

void screen_clear(struct screen *s)
{
    if (s->lines) {
        to_top(s);
        fflush(stdout);
        s->lines = 0;
    }
}

void screen_keep(struct screen *s)
{
    s->lines = 0;
}

char *screen_paint(const struct ctl *c, enum screen_colour colour, const char *text)
{
    static const char *const codes[] = {"", "32", "33", "31", "2"};
    return c->colour && colour ? g_strdup_printf("\033[%sm%s\033[0m", codes[colour], text) : g_strdup(text);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

struct table table_create(unsigned columns)
{
    return (struct table){.columns = columns, .cells = g_ptr_array_new_with_free_func(g_free)};
}

void table_row(struct table *t, ...)
{
    va_list ap;
    va_start(ap, t);
    for (unsigned i = 0; i < t->columns; i++) {
        char *text = va_arg(ap, char *);
        g_ptr_array_add(t->cells, text ? ctl_clean(text) : NULL);
    }
    va_end(ap);
}

static const char *cell(const struct table *t, unsigned i)
{
    return t->cells->pdata[i] ? t->cells->pdata[i] : "";
}

GPtrArray *table_lines(const struct table *t)
{
    g_autofree unsigned *width = g_new0(unsigned, t->columns);
    for (unsigned i = 0; i < t->cells->len; i++) {
        width[i % t->columns] = MAX(width[i % t->columns], screen_columns(cell(t, i)));
    }
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) line = g_string_new(NULL);
    for (unsigned i = 0; i < t->cells->len; i++) {
        g_string_append(line, cell(t, i));
        if (i % t->columns == t->columns - 1) {
            g_ptr_array_add(lines, g_strchomp(g_strdup(line->str)));
            g_string_truncate(line, 0);
        } else {
            g_string_append_printf(line, "%*s", (int)(width[i % t->columns] - screen_columns(cell(t, i))) + 2, "");
        }
    }
    return lines;
}

void table_finish(struct table *t)
{
    g_ptr_array_free(t->cells, TRUE);
}

void table_print(struct table *t)
{
    g_autoptr(GPtrArray) lines = table_lines(t);
    for (guint i = 0; i < lines->len; i++) {
        puts(lines->pdata[i]);
    }
    table_finish(t);
}
