/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/io/io.h"

#include "char/char.h"
#include "monitor/readline.h"

#include <stdio.h>
#include <string.h>

#define END_OF_INPUT 4 /* Ctrl-D */

struct io_input {
    struct tool *tool;
    GString *ahead; /* what came and was not asked for yet */
    bool ended;
    char *prompt;
    /* of a terminal only */
    struct chardev *tty;
    struct chardev_port port;
    struct readline *readline;
    char *line; /* that was just finished */
    struct co *waiter;
};

/* --- a terminal ------------------------------------------------------------------------------------------------- */

static void show(void *opaque, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '\r' || i + 1 == n || s[i + 1] != '\n') { /* the terminal goes to the line's begin by itself */
            putchar(s[i]);
        }
    }
    fflush(stdout);
}

static void line_done(void *opaque, const char *line)
{
    struct io_input *in = opaque;
    in->line = g_strdup(line);
}

/* Names of commands, for the first word. */
static size_t complete(void *opaque, const char *text, GPtrArray *words)
{
    for (const struct io_command *c = io_commands; c->name && !strchr(text, ' '); c++) {
        if (g_str_has_prefix(c->name, text)) {
            g_ptr_array_add(words, g_strdup(c->name));
        }
    }
    return 0;
}

static const struct readline_ops line_ops = {.write = show, .line = line_done, .complete = complete};

static void on_typed(void *opaque, const uint8_t *buf, size_t n)
{
    struct io_input *in = opaque;
    g_string_append_len(in->ahead, (const char *)buf, (gssize)n);
    if (in->waiter) {
        co_wake(in->waiter);
    }
}

static void on_event(void *opaque, enum chardev_event ev)
{
    struct io_input *in = opaque;
    if (ev == CHARDEV_CLOSED) {
        in->ended = true;
        if (in->waiter) {
            co_wake(in->waiter);
        }
    }
}

static const struct chardev_ops tty_ops = {.read = on_typed, .event = on_event};

static int open_terminal(struct io_input *in, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string("terminal"));
    json_object_object_add(o, "backend", json_object_new_string("stdio"));
    in->tty = chardev_create(in->tool->loop, o, e);
    if (!in->tty) {
        return -EIO;
    }
    in->readline = readline_create(in->prompt, &line_ops, in);
    return chardev_attach(in->tty, &in->port, &tty_ops, in, e);
}

static char *typed_line(struct io_input *in)
{
    in->waiter = co_self();
    readline_clear(in->readline);
    readline_show(in->readline);
    while (!in->line && !in->ended) {
        if (!in->ahead->len) {
            co_wait();
            continue;
        }
        uint8_t c = (uint8_t)in->ahead->str[0];
        g_string_erase(in->ahead, 0, 1);
        if (c == END_OF_INPUT && readline_is_empty(in->readline)) {
            show(in, "\r\n", 2);
            in->ended = true;
        } else {
            readline_key(in->readline, c);
        }
    }
    in->waiter = NULL;
    return take(in->line);
}

/* --- anything else ---------------------------------------------------------------------------------------------- */

static int read_some(void *arg)
{
    GString *s = arg;
    char buf[4096];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n > 0) {
        g_string_append_len(s, buf, n);
    }
    return n < 0 ? -errno : (int)n;
}

static char *piped_line(struct io_input *in)
{
    printf("%s", in->prompt);
    fflush(stdout);
    char *nl;
    while (!(nl = memchr(in->ahead->str, '\n', in->ahead->len)) && !in->ended) {
        in->ended = co_work(read_some, in->ahead) <= 0;
    }
    if (!nl && !in->ahead->len) {
        return NULL;
    }
    size_t len = nl ? (size_t)(nl - in->ahead->str) : in->ahead->len;
    char *line = g_strndup(in->ahead->str, len);
    g_string_erase(in->ahead, 0, (gssize)(nl ? len + 1 : len));
    return line;
}

/* ---------------------------------------------------------------------------------------------------------------- */

struct io_input *io_input_create(struct tool *t, struct err *e)
{
    struct io_input *in = g_new0(struct io_input, 1);
    in->tool = t;
    in->ahead = g_string_new(NULL);
    in->prompt = g_strconcat(t->prog, "> ", NULL);
    if (isatty(STDIN_FILENO) && open_terminal(in, e)) {
        io_input_destroy(in);
        return NULL;
    }
    return in;
}

void io_input_destroy(struct io_input *in)
{
    if (!in) {
        return;
    }
    chardev_detach(&in->port);
    chardev_destroy(in->tty);
    readline_destroy(in->readline);
    g_string_free(in->ahead, TRUE);
    g_free(in->prompt);
    g_free(in->line);
    g_free(in);
}

char *io_input_line(struct io_input *in)
{
    return in->tty ? typed_line(in) : piped_line(in);
}
