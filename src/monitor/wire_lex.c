/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/wire.h"

#include "base/cleanup.h"

#include <string.h>

enum lex_state {
    LEX_START,
    LEX_BLANK, /* START, and the white space before has been noted */
    LEX_DQ,
    LEX_DQ_ESCAPE,
    LEX_SQ,
    LEX_SQ_ESCAPE,
    LEX_KEYWORD,
    LEX_MINUS,
    LEX_ZERO,
    LEX_INT,
    LEX_POINT,
    LEX_FRACTION,
    LEX_E,
    LEX_E_SIGN,
    LEX_E_DIGITS,
    LEX_RECOVER, /* after an error: until something that may begin a message */
    /* not states but what a character means in one */
    LEX_ERROR,
    LEX_TOKEN,     /* the character ends its token */
    LEX_TOKEN_PRE, /* the token ended before the character */
};

static bool is_structural(uint8_t c)
{
    return c && strchr("{}[]:,", c);
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static enum lex_state lex_start(uint8_t c)
{
    switch (c) {
    case '"':
        return LEX_DQ;
    case '\'':
        return LEX_SQ;
    case '-':
        return LEX_MINUS;
    case '0':
        return LEX_ZERO;
    default:
        return is_structural(c)       ? LEX_TOKEN
               : is_space(c)          ? LEX_BLANK
               : g_ascii_isdigit(c)   ? LEX_INT
               : c >= 'a' && c <= 'z' ? LEX_KEYWORD
                                      : LEX_ERROR;
    }
}

static enum lex_state lex_string(enum lex_state s, uint8_t c, char quote)
{
    if (c < 0x20 || c > 0xFD) {
        return LEX_ERROR;
    }
    if (c == quote) {
        return LEX_TOKEN;
    }
    return c != '\\' ? s : s == LEX_DQ ? LEX_DQ_ESCAPE : LEX_SQ_ESCAPE;
}

static enum lex_state lex_number(enum lex_state s, uint8_t c)
{
    bool digit = g_ascii_isdigit(c);
    bool exponent = c == 'e' || c == 'E';
    switch (s) {
    case LEX_MINUS:
        return c == '0' ? LEX_ZERO : digit ? LEX_INT : LEX_ERROR;
    case LEX_ZERO:
        return digit ? LEX_ERROR : c == '.' ? LEX_POINT : LEX_TOKEN_PRE;
    case LEX_INT:
        return digit ? LEX_INT : exponent ? LEX_E : c == '.' ? LEX_POINT : LEX_TOKEN_PRE;
    case LEX_POINT:
        return digit ? LEX_FRACTION : LEX_ERROR;
    case LEX_FRACTION:
        return digit ? LEX_FRACTION : exponent ? LEX_E : LEX_TOKEN_PRE;
    case LEX_E:
        return digit ? LEX_E_DIGITS : c == '+' || c == '-' ? LEX_E_SIGN : LEX_ERROR;
    case LEX_E_SIGN:
        return digit ? LEX_E_DIGITS : LEX_ERROR;
    default:
        return digit ? LEX_E_DIGITS : LEX_TOKEN_PRE;
    }
}

static enum lex_state lex_next(enum lex_state s, uint8_t c)
{
    switch (s) {
    case LEX_START:
    case LEX_BLANK:
        return lex_start(c);
    case LEX_DQ:
        return lex_string(s, c, '"');
    case LEX_SQ:
        return lex_string(s, c, '\'');
    case LEX_DQ_ESCAPE:
    case LEX_SQ_ESCAPE:
        return c < 0x20 || c > 0xFD ? LEX_ERROR : s == LEX_DQ_ESCAPE ? LEX_DQ : LEX_SQ;
    case LEX_KEYWORD:
        return c >= 'a' && c <= 'z' ? LEX_KEYWORD : LEX_TOKEN_PRE;
    default:
        return lex_number(s, c);
    }
}

void wire_parser_reset(struct wire_parser *p)
{
    /* A message of megabytes must not keep its memory for the session's life. */
    if (p->raw->allocated_len > 65536) {
        g_string_free(p->raw, TRUE);
        p->raw = g_string_new(NULL);
    }
    g_string_truncate(p->raw, 0);
    p->token_at = 0;
    p->state = LEX_START;
    p->braces = p->brackets = 0;
    p->tokens = p->token_bytes = 0;
}

void wire_parser_init(struct wire_parser *p, wire_message_fn *fn, void *opaque)
{
    *p = (struct wire_parser){.fn = fn, .opaque = opaque, .raw = g_string_new(NULL)};
    wire_parser_reset(p);
}

void wire_parser_finish(struct wire_parser *p)
{
    if (p->raw) {
        g_string_free(p->raw, TRUE);
    }
    p->raw = NULL;
}

static void emit_error(struct wire_parser *p, enum lex_state next, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void emit_error(struct wire_parser *p, enum lex_state next, const char *fmt, ...)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    err_set(&e, EINVAL, "%s", text);
    wire_parser_reset(p);
    p->state = next;
    p->fn(p->opaque, NULL, &e);
}

static void token_done(struct wire_parser *p)
{
    const char *token = p->raw->str + p->token_at;
    size_t len = p->raw->len - p->token_at;
    p->braces += (token[0] == '{') - (token[0] == '}');
    p->brackets += (token[0] == '[') - (token[0] == ']');
    p->tokens++;
    p->token_bytes += len;
    p->token_at = p->raw->len;
    if (p->braces < 0 || p->brackets < 0 || (p->braces == 0 && p->brackets == 0)) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct json_object *msg = wire_parse(p->raw->str, p->raw->len, &e);
        wire_parser_reset(p);
        p->fn(p->opaque, msg, &e);
    } else if (p->token_bytes > WIRE_MAX_TOKEN_BYTES) {
        emit_error(p, LEX_START, "JSON token size limit exceeded");
    } else if (p->tokens > WIRE_MAX_TOKENS) {
        emit_error(p, LEX_START, "JSON token count limit exceeded");
    } else if (p->braces + p->brackets > WIRE_MAX_NESTING) {
        emit_error(p, LEX_START, "JSON nesting depth limit exceeded");
    }
}

/* True when the character has been taken. */
static bool feed_recovering(struct wire_parser *p, uint8_t c)
{
    bool resume = (c < 0x20 && c != '\t') || c >= 0xFE || is_structural(c);
    if (resume) {
        p->state = LEX_START;
    }
    return !resume;
}

static void feed_char(struct wire_parser *p, uint8_t c)
{
    if (p->state == LEX_RECOVER && feed_recovering(p, c)) {
        return;
    }
    enum lex_state next = lex_next(p->state, c);
    if (next == LEX_TOKEN_PRE) {
        p->state = LEX_START;
        token_done(p);
        next = lex_next(p->state, c);
    }
    if (next == LEX_BLANK) {
        if (p->state == LEX_START && p->tokens) {
            g_string_append_c(p->raw, ' ');
            p->token_at = p->raw->len;
        }
        p->state = LEX_BLANK;
        return;
    }
    g_string_append_c(p->raw, (char)c);
    if (next == LEX_ERROR) {
        CLEANUP_FREE char *token = g_strdup(p->raw->str + p->token_at);
        emit_error(p, LEX_RECOVER, "JSON parse error, stray '%s'", token);
    } else if (next == LEX_TOKEN) {
        p->state = LEX_START;
        token_done(p);
    } else {
        p->state = next;
        if (p->raw->len - p->token_at > WIRE_MAX_TOKEN_BYTES) {
            emit_error(p, LEX_RECOVER, "JSON token size limit exceeded");
        }
    }
}

/* How many of the next bytes are the inside of a string, as far as the token may grow. */
static size_t plain_run(const struct wire_parser *p, const uint8_t *buf, size_t n)
{
    size_t len = p->raw->len - p->token_at;
    size_t run = 0;
    if (p->state != LEX_DQ && p->state != LEX_SQ) {
        return 0;
    }
    n = MIN(n, len < WIRE_MAX_TOKEN_BYTES ? WIRE_MAX_TOKEN_BYTES - len : 0);
    while (run < n && buf[run] >= 0x20 && buf[run] <= 0xFD && buf[run] != '"' && buf[run] != '\'' && buf[run] != '\\') {
        run++;
    }
    return run;
}

void wire_parser_feed(struct wire_parser *p, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t run = plain_run(p, buf + i, n - i);
        if (run) {
            g_string_append_len(p->raw, (const char *)buf + i, (gssize)run);
            i += run;
        } else {
            feed_char(p, buf[i++]);
        }
    }
}
