/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/readline.h"

#include "base/cleanup.h"

#include <string.h>

enum { LINE_MAX_BYTES = 65536, HISTORY_MAX = 64 };
#define CTRL(c) ((c)-0x40)

enum escape { ESC_NONE, ESC_STARTED, ESC_BRACKET, ESC_SS3 };

struct readline {
    const struct readline_ops *ops;
    void *opaque;
    char *prompt;
    GString *line;
    size_t at; /* cursor */
    enum escape escape;
    unsigned number; /* of an escape sequence: ESC [ NUMBER ~ */
    bool after_cr;
    GPtrArray *history; /* char *, oldest first */
    guint shown;        /* index into history; history->len: the new line */
    char *kept;         /* the new line while history is shown */
};

struct readline *readline_create(const char *prompt, const struct readline_ops *ops, void *opaque)
{
    struct readline *rl = g_new0(struct readline, 1);
    rl->ops = ops;
    rl->opaque = opaque;
    rl->prompt = g_strdup(prompt);
    rl->line = g_string_new(NULL);
    rl->history = g_ptr_array_new_with_free_func(g_free);
    return rl;
}

void readline_destroy(struct readline *rl)
{
    if (rl) {
        g_free(rl->prompt);
        g_string_free(rl->line, TRUE);
        g_ptr_array_free(rl->history, TRUE);
        g_free(rl->kept);
        g_free(rl);
    }
}

static void put(struct readline *rl, const char *s)
{
    rl->ops->write(rl->opaque, s, strlen(s));
}

void readline_show(struct readline *rl)
{
    g_autoptr(GString) s = g_string_new(rl->prompt);
    g_string_append(s, rl->line->str);
    if (rl->at < rl->line->len) {
        g_string_append_printf(s, "\x1b[%zuD", rl->line->len - rl->at);
    }
    put(rl, s->str);
}

static void redraw(struct readline *rl)
{
    put(rl, "\r\x1b[K");
    readline_show(rl);
}

void readline_clear(struct readline *rl)
{
    g_string_truncate(rl->line, 0);
    rl->at = 0;
    rl->shown = rl->history->len;
    rl->escape = ESC_NONE;
    g_free(take(rl->kept));
}

bool readline_is_empty(const struct readline *rl)
{
    return rl->line->len == 0;
}

static void set_line(struct readline *rl, const char *text)
{
    g_string_assign(rl->line, text);
    rl->at = rl->line->len;
    redraw(rl);
}

static void insert(struct readline *rl, const char *s, size_t n)
{
    if (rl->line->len + n > LINE_MAX_BYTES) {
        put(rl, "\a");
        return;
    }
    bool at_end = rl->at == rl->line->len;
    g_string_insert_len(rl->line, (gssize)rl->at, s, (gssize)n);
    rl->at += n;
    if (at_end) {
        rl->ops->write(rl->opaque, s, n);
    } else {
        redraw(rl);
    }
}

static void erase(struct readline *rl, size_t from, size_t to)
{
    if (from < to) {
        g_string_erase(rl->line, (gssize)from, (gssize)(to - from));
        rl->at = from;
        redraw(rl);
    }
}

static void move(struct readline *rl, size_t to)
{
    if (to != rl->at && to <= rl->line->len) {
        rl->at = to;
        redraw(rl);
    }
}

static size_t word_begin(const struct readline *rl)
{
    size_t i = rl->at;
    while (i > 0 && rl->line->str[i - 1] == ' ') {
        i--;
    }
    while (i > 0 && rl->line->str[i - 1] != ' ') {
        i--;
    }
    return i;
}

static void show_history(struct readline *rl, guint index)
{
    if (index > rl->history->len) {
        return;
    }
    if (rl->shown == rl->history->len) {
        g_free(rl->kept);
        rl->kept = g_strdup(rl->line->str);
    }
    rl->shown = index;
    set_line(rl, index < rl->history->len ? g_ptr_array_index(rl->history, index) : rl->kept ? rl->kept : "");
}

static void remember(struct readline *rl, const char *line)
{
    for (guint i = 0; i < rl->history->len; i++) {
        if (!strcmp(g_ptr_array_index(rl->history, i), line)) {
            g_ptr_array_remove_index(rl->history, i);
            break;
        }
    }
    if (rl->history->len == HISTORY_MAX) {
        g_ptr_array_remove_index(rl->history, 0);
    }
    g_ptr_array_add(rl->history, g_strdup(line));
}

static void enter(struct readline *rl)
{
    CLEANUP_FREE char *line = g_strdup(rl->line->str);
    if (line[strspn(line, " \t")]) {
        remember(rl, line);
    }
    readline_clear(rl);
    put(rl, "\r\n");
    rl->ops->line(rl->opaque, line);
}

static size_t common_prefix(const GPtrArray *words)
{
    const char *first = g_ptr_array_index(words, 0);
    size_t n = strlen(first);
    for (guint i = 1; i < words->len; i++) {
        const char *w = g_ptr_array_index(words, i);
        size_t k = 0;
        while (k < n && w[k] == first[k]) {
            k++;
        }
        n = k;
    }
    return n;
}

static void complete(struct readline *rl)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    CLEANUP_FREE char *text = g_strndup(rl->line->str, rl->at);
    size_t begin = rl->ops->complete(rl->opaque, text, words);
    if (!words->len) {
        return;
    }
    const char *first = g_ptr_array_index(words, 0);
    size_t typed = rl->at - begin;
    size_t common = common_prefix(words);
    if (common > typed) {
        insert(rl, first + typed, common - typed);
    }
    if (words->len == 1) {
        insert(rl, " ", 1);
    } else if (common <= typed) {
        put(rl, "\r\n");
        for (guint i = 0; i < words->len; i++) {
            CLEANUP_FREE char *cell =
                g_strdup_printf("%-20s%s", (char *)g_ptr_array_index(words, i), i % 4 == 3 ? "\r\n" : "");
            put(rl, cell);
        }
        put(rl, words->len % 4 ? "\r\n" : "");
        readline_show(rl);
    }
}

static void cursor_key(struct readline *rl, uint8_t c)
{
    switch (c) {
    case 'A':
        show_history(rl, rl->shown ? rl->shown - 1 : rl->history->len + 1);
        break;
    case 'B':
        show_history(rl, rl->shown + 1);
        break;
    case 'C':
        move(rl, rl->at + 1);
        break;
    case 'D':
        move(rl, rl->at ? rl->at - 1 : 0);
        break;
    case 'F':
        move(rl, rl->line->len);
        break;
    case 'H':
        move(rl, 0);
        break;
    default:
        break;
    }
}

static void numbered_key(struct readline *rl, unsigned number)
{
    if (number == 1 || number == 7) {
        move(rl, 0);
    } else if (number == 4 || number == 8) {
        move(rl, rl->line->len);
    } else if (number == 3) {
        erase(rl, rl->at, MIN(rl->at + 1, rl->line->len));
    }
}

static void escape_key(struct readline *rl, uint8_t c)
{
    if (rl->escape == ESC_STARTED) {
        rl->escape = c == '[' ? ESC_BRACKET : c == 'O' ? ESC_SS3 : ESC_NONE;
        rl->number = 0;
    } else if (rl->escape == ESC_BRACKET && g_ascii_isdigit(c)) {
        rl->number = (rl->number * 10 + (c - '0')) % 1000;
    } else {
        bool tilde = c == '~' && rl->escape == ESC_BRACKET;
        rl->escape = ESC_NONE;
        if (tilde) {
            numbered_key(rl, rl->number);
        } else {
            cursor_key(rl, c);
        }
    }
}

static void control_key(struct readline *rl, uint8_t c)
{
    static const char moves[] = {CTRL('A'), 'H', CTRL('E'), 'F', CTRL('B'), 'D',
                                 CTRL('F'), 'C', CTRL('P'), 'A', CTRL('N'), 'B'};
    for (size_t i = 0; i < sizeof(moves); i += 2) {
        if (c == moves[i]) {
            cursor_key(rl, (uint8_t)moves[i + 1]);
            return;
        }
    }
    switch (c) {
    case CTRL('D'):
        erase(rl, rl->at, MIN(rl->at + 1, rl->line->len));
        break;
    case CTRL('H'):
        erase(rl, rl->at ? rl->at - 1 : 0, rl->at);
        break;
    case CTRL('K'):
        erase(rl, rl->at, rl->line->len);
        break;
    case CTRL('U'):
        erase(rl, 0, rl->at);
        break;
    case CTRL('W'):
        erase(rl, word_begin(rl), rl->at);
        break;
    case CTRL('L'):
        put(rl, "\x1b[2J\x1b[H");
        readline_show(rl);
        break;
    case '\t':
        complete(rl);
        break;
    case CTRL('['):
        rl->escape = ESC_STARTED;
        break;
    default:
        break;
    }
}

void readline_key(struct readline *rl, uint8_t c)
{
    bool newline_of_cr = c == '\n' && rl->after_cr;
    rl->after_cr = c == '\r';
    if (newline_of_cr) {
        return;
    }
    if (rl->escape != ESC_NONE) {
        escape_key(rl, c);
    } else if (c == '\r' || c == '\n') {
        enter(rl);
    } else if (c == 0x7F) {
        control_key(rl, CTRL('H'));
    } else if (c < 0x20) {
        control_key(rl, c);
    } else {
        insert(rl, (const char *)&c, 1);
    }
}
