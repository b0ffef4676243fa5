/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Expressions of the human monitor:
 *
 *     expr  = sum { ('&' | '|' | '^') sum }         sum  = term { ('+' | '-') term }
 *     term  = unary { ('*' | '/' | '%') unary }     unary = [ '+' | '-' | '~' ] (number | 'c' | $register | '(' expr
 * ')')
 */
#include "monitor/hmp.h"

#include "machine/vm.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

struct expr {
    struct mon_ctx *c;
    const char *p;
    struct err *e;
    int rc;
    unsigned depth;
};

static int64_t expr(struct expr *x);

static int64_t fail(struct expr *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int64_t fail(struct expr *x, const char *fmt, ...)
{
    if (!x->rc) {
        va_list ap;
        va_start(ap, fmt);
        char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        x->rc = err_set(x->e, EINVAL, "%s", text);
        g_free(text);
    }
    return 0;
}

static char peek(struct expr *x)
{
    x->p += strspn(x->p, " \t");
    return *x->p;
}

/* Of hart 0; the harts stand still meanwhile. */
static int64_t read_register(struct expr *x)
{
    size_t n = 0;
    const char *name = ++x->p;
    while (g_ascii_isalnum(name[n]) || name[n] == '_') {
        n++;
    }
    x->p += n;
    struct vm *vm = x->c->env->vm;
    size_t count = 0;
    const struct accel_reg *regs = vm && vm->accel ? vm->accel_ops->reg_table(vm->accel, &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        if (strlen(regs[i].name) == n && !memcmp(regs[i].name, name, n)) {
            vm_quiesce(vm);
            uint64_t v = vm->accel_ops->get_reg(vm->accel, 0, regs[i].id);
            vm_unquiesce(vm);
            return (int64_t)v;
        }
    }
    return fail(x, "unknown register");
}

static int64_t read_number(struct expr *x)
{
    char *end;
    errno = 0;
    uint64_t v = g_ascii_strtoull(x->p, &end, 0);
    if (errno == ERANGE) {
        return fail(x, "number too large");
    }
    if (end == x->p) {
        return fail(x, "invalid char '%c' in expression", *x->p);
    }
    x->p = end;
    return (int64_t)v;
}

static int64_t unary(struct expr *x)
{
    int64_t v;
    if (x->depth > MAX_DEPTH) {
        return fail(x, "expression too complex");
    }
    switch (peek(x)) {
    case '+':
    case '-':
    case '~': {
        char op = *x->p++;
        x->depth++;
        uint64_t u = (uint64_t)unary(x);
        x->depth--;
        return (int64_t)(op == '+' ? u : op == '-' ? -u : ~u);
    }
    case '(':
        x->p++;
        x->depth++;
        v = expr(x);
        x->depth--;
        if (!x->rc && peek(x) != ')') {
            return fail(x, "')' expected");
        }
        x->p += *x->p == ')';
        return v;
    case '\'':
        if (!x->p[1] || x->p[2] != '\'') {
            return fail(x, x->p[1] ? "missing terminating ' character" : "character constant expected");
        }
        v = (unsigned char)x->p[1];
        x->p += 3;
        return v;
    case '$':
        return read_register(x);
    case '\0':
        return fail(x, "unexpected end of expression");
    default:
        return read_number(x);
    }
}

static int64_t term(struct expr *x)
{
    uint64_t v = (uint64_t)unary(x);
    while (!x->rc && peek(x) && strchr("*/%", *x->p)) {
        char op = *x->p++;
        uint64_t w = (uint64_t)unary(x);
        if (x->rc) {
            break;
        }
        if (op != '*' && w == 0) {
            return fail(x, "division by zero");
        }
        v = op == '*' ? v * w : op == '/' ? v / w : v % w;
    }
    return (int64_t)v;
}

static int64_t sum(struct expr *x)
{
    uint64_t v = (uint64_t)term(x);
    while (!x->rc && (peek(x) == '+' || *x->p == '-')) {
        char op = *x->p++;
        uint64_t w = (uint64_t)term(x);
        v = op == '+' ? v + w : v - w;
    }
    return (int64_t)v;
}

static int64_t expr(struct expr *x)
{
    uint64_t v = (uint64_t)sum(x);
    while (!x->rc && peek(x) && strchr("&|^", *x->p)) {
        char op = *x->p++;
        uint64_t w = (uint64_t)sum(x);
        v = op == '&' ? v & w : op == '|' ? v | w : v ^ w;
    }
    return (int64_t)v;
}

int hmp_expr(struct mon_ctx *c, const char **p, int64_t *val, struct err *e)
{
    struct expr x = {.c = c, .p = *p, .e = e};
    *val = expr(&x);
    *p = x.p;
    return x.rc;
}
