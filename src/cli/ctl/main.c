/* SPDX-License-Identifier: BSD-2-Clause */
/* sternactl: main(), its command line, and --help. */
#include "cli/ctl/ctl.h"

#include "base/json.h"
#include "base/nearest.h"
#include "cli/opts.h"
#include "cli/standard_files.h"
#include "cli/tool.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROG "sternactl"

/* The keys of `ctl_general_options`, in its order; options of verbs have keys from FIRST_KEY on. */
enum { FIRST_KEY = 256, GREETING_MS = 3000, TEXT_COLUMN = 28 };

const struct ctl_option ctl_general_options[] = {
    {"socket", "SOCKET", "the monitor: a path, or HOST:PORT; $STERNA_SOCKET without it (short: -s)"},
    {"json", NULL, "one JSON object a line, for scripts"},
    {"help", NULL, "shows this text, or with a verb what that takes (short: -h)"},
    {"version", NULL, "shows the version (short: -V)"},
    {NULL, NULL, NULL},
};

const struct ctl_option ctl_wait_options[] = {
    {"detach", NULL, "returns at once with the job's id"},
    {"reconnect", "SECONDS", "how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

static char short_form(const char *name)
{
    return !strcmp(name, "socket") ? 's' : !strcmp(name, "help") ? 'h' : !strcmp(name, "version") ? 'V' : '\0';
}

/* --- texts -------------------------------------------------------------------------------------------------------- */

/* "  HEAD    text", the text on a line of its own where the head is long. */
static void print_entry(unsigned indent, const char *head, const char *text)
{
    bool fits = indent + strlen(head) + 2 <= TEXT_COLUMN;
    printf("%*s%s%s%*s%s\n", (int)indent, "", head, fits ? "" : "\n",
           (int)(fits ? TEXT_COLUMN - indent - strlen(head) : TEXT_COLUMN), "", text);
}

static void print_options(unsigned indent, const struct ctl_option *o)
{
    for (; o && o->name; o++) {
        CLEANUP_FREE char *head = g_strdup_printf("--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        print_entry(indent, head, o->help);
    }
}

static void print_usage(FILE *to, const struct ctl_verb *v)
{
    bool has_options = v->options || v->waits;
    fprintf(to, "usage: " PROG " [-s SOCKET] [--json] %s%s%s%s\n", v->name, v->operands[0] ? " " : "", v->operands,
            has_options ? " [OPTION]..." : "");
}

static void print_verb_help(const struct ctl_verb *v)
{
    print_usage(stdout, v);
    printf("%s\n", v->help);
    if (v->options || v->waits) {
        puts("\nOptions:");
        print_options(2, v->options);
        print_options(2, v->waits ? ctl_wait_options : NULL);
    }
}

static void print_help(void)
{
    printf("usage: " PROG " [-s SOCKET] [--json] VERB [OPERAND]... [OPTION]...\n"
           "Speaks with a running machine.\n\nVerbs:\n");
    for (const struct ctl_verb *const *v = ctl_verbs; *v; v++) {
        CLEANUP_FREE char *head = g_strdup_printf("%s %s", (*v)->name, (*v)->operands);
        print_entry(2, g_strchomp(head), (*v)->help);
        print_options(6, (*v)->options);
    }
    puts("\nOptions of verbs that wait for a job:");
    print_options(2, ctl_wait_options);
    puts("\nOptions of all verbs:");
    print_options(2, ctl_general_options);
    puts("\nExit status: 0, 1 it failed, 2 usage, 3 the job was cancelled, 4 no connection, 130 left by Ctrl-C.");
}

int ctl_usage(struct ctl *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, PROG "%s%s: %s\n", c->verb ? " " : "", c->verb ? c->verb->name : "", text);
    if (c->verb) {
        print_usage(stderr, c->verb);
    }
    fprintf(stderr, "'" PROG "%s%s --help' says more\n", c->verb ? " " : "", c->verb ? c->verb->name : "");
    return CTL_USAGE;
}

char *ctl_clean(char *s)
{
    for (char *p = s; *p; p++) {
        bool c1 = p[0] == '\xc2' && (p[1] & 0xe0) == 0x80; /* U+0080 to U+009F */
        if (c1 || (g_ascii_iscntrl(*p) && *p != '\n')) {
            *p = '?';
            p[c1] = '?';
        }
    }
    return s;
}

int ctl_fail(struct ctl *c, const struct err *e)
{
    CLEANUP_FREE char *text = ctl_clean(g_strdup(err_text(e)));
    fprintf(stderr, PROG ": %s\n", text);
    return e->code == ENOTCONN ? CTL_LOST : e->code == EINVAL ? CTL_USAGE : CTL_FAILED;
}

void ctl_say(struct ctl *c, const char *fmt, ...)
{
    if (!c->json) {
        va_list ap;
        va_start(ap, fmt);
        CLEANUP_FREE char *text = ctl_clean(g_strdup_vprintf(fmt, ap));
        va_end(ap);
        puts(text);
        fflush(stdout);
    }
}

void ctl_put_json(struct json_object *o)
{
    puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(stdout);
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

struct json_object *ctl_get(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) ? v : NULL;
}

const char *ctl_str(struct json_object *o, const char *key)
{
    struct json_object *v = ctl_get(o, key);
    return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

int64_t ctl_int(struct json_object *o, const char *key)
{
    return json_object_get_int64(ctl_get(o, key));
}

bool ctl_bool(struct json_object *o, const char *key)
{
    return json_object_get_boolean(ctl_get(o, key));
}

struct json_object *ctl_new_str(const char *s)
{
    return s ? json_object_new_string(s) : NULL;
}

struct json_object *ctl_new_bool(bool b)
{
    return json_object_new_boolean(b);
}

struct json_object *ctl_new_int(uint64_t n)
{
    return json_object_new_int64((int64_t)n);
}

int ctl_call(struct ctl *c, const char *command, struct json_object **ret, struct err *e, ...)
{
    struct json_object *args = json_object_new_object();
    va_list ap;
    va_start(ap, e);
    for (const char *key; (key = va_arg(ap, const char *));) {
        struct json_object *value = va_arg(ap, struct json_object *);
        if (value) {
            json_object_object_add(args, key, value);
        }
    }
    va_end(ap);
    return client_call(c->client, command, args, ret, e);
}

/* --- options ------------------------------------------------------------------------------------------------------ */

const char *ctl_option(const struct ctl *c, const char *name)
{
    return g_hash_table_lookup(c->options, name);
}

int ctl_option_size(const struct ctl *c, const char *name, uint64_t *out, struct err *e)
{
    const char *text = ctl_option(c, name);
    *out = 0;
    return !text || !parse_size(text, out)
               ? 0
               : err_set(e, EINVAL, "--%s '%s' is no size; sizes look like 512, 64k, 10M or 1.5G", name, text);
}

int ctl_option_choice(const struct ctl *c, const char *name, const char *const *choices, struct err *e)
{
    const char *text = ctl_option(c, name);
    if (!text || g_strv_contains(choices, text)) {
        return 0;
    }
    CLEANUP_FREE char *all = g_strjoinv(", ", (char **)(uintptr_t)choices);
    err_set(e, EINVAL, "--%s '%s' is none of %s", name, text, all);
    return err_suggest(e, text, choices);
}

int ctl_connect(struct ctl *c, struct err *e)
{
    if (!c->address) {
        return err_set(e, ENOTCONN, "which machine? Give -s SOCKET, or set STERNA_SOCKET");
    }
    c->client = client_create(c->address);
    return client_connect(c->client, GREETING_MS, e);
}

static void add_specs(GArray *specs, GPtrArray *names, const struct ctl_option *o)
{
    for (; o && o->name; o++) {
        char letter = short_form(o->name);
        struct opt_spec s = {
            .key = letter ? letter : FIRST_KEY + (int)names->len, .name = o->name, .has_value = o->value};
        g_array_append_val(specs, s);
        g_ptr_array_add(names, (gpointer)(uintptr_t)o->name);
    }
}

static const char *name_of(const GArray *specs, int key)
{
    for (guint i = 0;; i++) {
        const struct opt_spec *s = &g_array_index(specs, struct opt_spec, i);
        if (s->key == key) {
            return s->name;
        }
    }
}

/* Which word is the verb: the first that is neither a general option nor the value of one. 0: none. */
static int find_verb(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            return i;
        }
        if (!strcmp(argv[i], "-s") || (strlen(argv[i]) > 2 && g_str_has_prefix("--socket", argv[i]))) {
            i++;
        }
    }
    return 0;
}

static int unknown_option(struct ctl *c, const struct opts *o, GPtrArray *names, int key)
{
    CLEANUP_FREE char *word = g_strndup(o->word, strcspn(o->word, "="));
    if (key == OPTS_NO_VALUE) {
        return ctl_usage(c, "option '%s' needs a value", word);
    }
    const char *near = nearest_word(word + strspn(word, "-"), (const char *const *)names->pdata);
    return near && word[1] == '-' ? ctl_usage(c, "there is no option '%s'; did you mean '--%s'?", word, near)
                                  : ctl_usage(c, "there is no option '%s'", word);
}

static int parse_options(struct ctl *c, int argc, char **argv)
{
    g_autoptr(GArray) specs = g_array_new(TRUE, TRUE, sizeof(struct opt_spec));
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    add_specs(specs, names, ctl_general_options);
    add_specs(specs, names, c->verb ? c->verb->options : NULL);
    add_specs(specs, names, c->verb && c->verb->waits ? ctl_wait_options : NULL);
    g_ptr_array_add(names, NULL);
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, (const struct opt_spec *)(void *)specs->data);
    for (int key; (key = opts_next(&o)) != OPTS_END;) {
        if (key < 0) {
            return unknown_option(c, &o, names, key);
        }
        const char *name = name_of(specs, key);
        const struct opt_spec *s = (const struct opt_spec *)(void *)specs->data;
        while (s->key != key) {
            s++;
        }
        g_hash_table_replace(c->options, (gpointer)(uintptr_t)name, (gpointer)(uintptr_t)(s->has_value ? o.value : ""));
    }
    char **words = opts_operands(&o, &c->n);
    c->operands = g_new0(char *, c->n + 1);
    memcpy(c->operands, words, c->n * sizeof(*words));
    return CTL_OK;
}

static int unknown_verb(struct ctl *c, const char *word)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const struct ctl_verb *const *v = ctl_verbs; *v; v++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)(*v)->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(word, (const char *const *)names->pdata);
    return near ? ctl_usage(c, "there is no verb '%s'; did you mean '%s'?", word, near)
                : ctl_usage(c, "there is no verb '%s'", word);
}

static int check_operands(struct ctl *c)
{
    const struct ctl_verb *v = c->verb;
    if (c->n < v->min) {
        g_auto(GStrv) words = g_strsplit(v->operands, " ", -1);
        return ctl_usage(c, "%s is missing", words[MIN(c->n, g_strv_length(words) - 1)]);
    }
    return c->n > v->max ? ctl_usage(c, "'%s' is too much", c->operands[v->max]) : CTL_OK;
}

static int run(struct ctl *c, int argc, char **argv)
{
    int at = find_verb(argc, argv);
    for (const struct ctl_verb *const *v = ctl_verbs; at && *v && !c->verb; v++) {
        c->verb = !strcmp((*v)->name, argv[at]) ? *v : NULL;
    }
    if (at && !c->verb) {
        return unknown_verb(c, argv[at]);
    }
    if (at) { /* the verb goes to where the program's name was, which is skipped */
        memmove(argv + 1, argv, (size_t)at * sizeof(*argv));
        argv++;
        argc--;
    }
    int rc = parse_options(c, argc, argv);
    if (rc) {
        return rc;
    }
    if (ctl_option(c, "version")) {
        puts(PROG " version " STERNA_VERSION);
        return CTL_OK;
    }
    if (ctl_option(c, "help")) {
        if (c->verb) {
            print_verb_help(c->verb);
        } else {
            print_help();
        }
        return CTL_OK;
    }
    if (!c->verb) {
        return ctl_usage(c, "VERB is missing");
    }
    rc = check_operands(c);
    if (rc) {
        return rc;
    }
    const char *limit = ctl_option(c, "reconnect");
    char *end = NULL;
    if (limit && (!g_ascii_isdigit(limit[0]) || (g_ascii_strtod(limit, &end), *end))) {
        return ctl_usage(c, "--reconnect '%s' is no number of seconds", limit);
    }
    c->address = ctl_option(c, "socket") ? ctl_option(c, "socket") : getenv("STERNA_SOCKET");
    c->json = ctl_option(c, "json");
    return c->verb->run(c);
}

int main(int argc, char **argv)
{
    standard_files_keep();
    setlocale(LC_CTYPE, "");
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    bool terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    struct ctl c = {.options = g_hash_table_new(g_str_hash, g_str_equal),
                    .terminal = terminal,
                    .colour = terminal && !(no_colour && no_colour[0])};
    int rc = run(&c, argc, argv);
    client_destroy(c.client);
    g_hash_table_destroy(c.options);
    g_free(c.operands);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, PROG ": cannot write the output: %s\n", g_strerror(errno));
        rc = rc ? rc : CTL_FAILED;
    }
    return rc;
}
