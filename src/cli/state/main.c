/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-state: main(), its command line, --help. */
#include "cli/state/state.h"

#include "base/nearest.h"
#include "cli/opts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROG "sterna-state"

enum { TEXT_COLUMN = 28 };

static const struct state_verb *const verbs[] = {
    &state_verb_info,        &state_verb_dump,           &state_verb_verify, &state_verb_diff,
    &state_verb_convert,     &state_verb_merge,          &state_verb_schema, &state_verb_config_check,
    &state_verb_config_seal, &state_verb_config_restore, &state_verb_events, NULL,
};

static const struct option {
    int key;
    const char *name, *value, *help;
} options[] = {
    {'o', "output", "FORMAT", "human (the default) or json"},
    {'q', "quiet", NULL, "prints nothing; the exit status tells"},
    {'d', "device", "PATH", "this device only"},
    {'k', "chunks", NULL, "the chunks of the stream instead of the values"},
    {'r', "no-ram", NULL, "does not compare the contents of RAM"},
    {'c', "compat", "TYPE", "for a release whose newest machine type is TYPE"},
    {'f', "force-drop", "NAME", "may be lost: a subsection or field, or SECTION:NAME; may be given again"},
    {'p', "parent", "FILE", "a state that this one, or one named before, is based on; may be given again"},
    {'C', "chain", NULL, "the states that it is based on as well"},
    {'n', "dry-run", NULL, "writes nothing; says what would be lost"},
    {'a', "align", NULL, "pages lie at multiples of their size, so that the file can be mapped"},
    {'z', "compress", "LEVEL", "pages by zstd, 1 to 19"},
    {'M', "machine", "TYPE", "the machine type; the newest without it"},
    {'s', "snapshot", "TAG", "of an image: the state in this snapshot; again: in the next image's"},
    {'i', "image-opts", NULL, "FILE is options of the block layer's (driver=qcow2,...)"},
    {'U', "force-share", NULL, "opens an image also while a machine uses it"},
    {'O', "object", "OBJECT", "a secret that an image needs: secret,id=ID,file=..."},
    {0, NULL, NULL, NULL},
};

static const struct option *find_option(int key)
{
    const struct option *o = options;
    while (o->key != key) {
        o++;
    }
    return o;
}

/* --- texts -------------------------------------------------------------------------------------------------------- */

static void print_entry(unsigned indent, const char *head, const char *text)
{
    printf("%*s%-*s%s\n", (int)indent, "", (int)(TEXT_COLUMN - indent), head, text);
}

static void print_options(const struct state_verb *v, unsigned indent)
{
    for (const char *k = v->options; *k; k++) {
        const struct option *o = find_option(*k);
        CLEANUP_FREE char *head = g_strdup_printf("%s--%s%s%s", o->key == 'M' ? "-M, " : "", o->name,
                                                  o->value ? " " : "", o->value ? o->value : "");
        print_entry(indent, head, o->help);
    }
}

static void print_help(void)
{
    puts("usage: " PROG " VERB [OPERAND]... [OPTION]...\n"
         "Shows, checks, compares and converts saved machine states; checks and mends state files. FILE may be '-', "
         "standard input,\nor an image with snapshots.\n\nVerbs:");
    for (const struct state_verb *const *v = verbs; *v; v++) {
        CLEANUP_FREE char *head = g_strdup_printf("%s %s", (*v)->name, (*v)->operands);
        print_entry(2, g_strchomp(head), (*v)->help);
        print_options(*v, 6);
    }
    puts("\nOptions:");
    print_entry(2, "-h, --help", "shows this text");
    print_entry(2, "-V, --version", "shows the version");
    puts("\nExit status: 0 all is well; 1 there are differences, or something would be lost; 2 usage;\n"
         "3 a file cannot be read or written, or is damaged or incomplete.");
}

static int usage(const struct state_verb *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int usage(const struct state_verb *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, PROG "%s%s: %s\nTry '" PROG " --help' for more information.\n", v ? " " : "", v ? v->name : "",
            text);
    return STATE_USAGE;
}

int state_fail(const struct err *e)
{
    CLEANUP_FREE char *text = g_strdup(err_text(e));
    for (char *p = text; *p; p++) {
        *p = g_ascii_iscntrl(*p) ? '?' : *p;
    }
    fprintf(stderr, PROG ": %s\n", text);
    return STATE_FAILED;
}

void state_put_json(struct json_object *o)
{
    puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                               JSON_C_TO_STRING_NOSLASHESCAPE));
}

void state_put_text(const char *s)
{
    for (; *s; s++) {
        bool c1 = s[0] == '\xc2' && (s[1] & 0xe0) == 0x80; /* U+0080 to U+009F */
        putchar(c1 || g_ascii_iscntrl(*s) ? '?' : *s);
        s += c1;
    }
}

/* --- inputs ------------------------------------------------------------------------------------------------------- */

static const char *next_tag(struct state_args *a)
{
    guint i = a->next_tag < a->tags->len ? a->next_tag++ : a->tags->len - 1;
    return a->tags->len ? a->tags->pdata[i] : NULL;
}

int state_input_open(struct state_args *a, struct state_input *in, const char *path, struct err *e)
{
    bool image = state_is_image(a, path) || (a->tags->len && strcmp(path, "-") && !state_is_stream(path));
    const char *tag = image ? next_tag(a) : NULL;
    if (image) {
        return tag ? state_image_open(a, in, path, tag, e)
                   : err_set(e, EINVAL, "'%s' is a disk image: --snapshot says which state in it ('info' lists them)",
                             path);
    }
    int rc = state_fd_open(&in->fd, path, e);
    if (rc < 0) {
        return rc;
    }
    struct state_source s = state_fd_source(&in->fd);
    in->r = state_reader_create(&s, e);
    return in->r ? 0 : -EINVAL;
}

void state_input_finish(struct state_input *in)
{
    state_reader_destroy(in->r);
    state_image_close(in->image);
    state_fd_finish(&in->fd);
}

bool state_input_at_end(struct state_input *in)
{
    return in->image ? !state_reader_buffered(in->r) && state_image_ends(in->image, state_reader_bytes(in->r))
                     : state_fd_at_end(&in->fd, in->r);
}

static void input_free(void *in)
{
    state_input_finish(in);
    g_free(in);
}

GPtrArray *state_inputs_new(void)
{
    return g_ptr_array_new_with_free_func(input_free);
}

/* --- the command line --------------------------------------------------------------------------------------------- */

static int add_object(struct state_args *a, const char *text)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    return tool_object(a->tool, text, &e) < 0 ? state_fail(&e) : 0;
}

static int set_option(struct state_args *a, const struct state_verb *v, int key, const char *value)
{
    switch (key) {
    case 'o':
        a->json = !strcmp(value, "json");
        return a->json || !strcmp(value, "human") ? 0 : usage(v, "--output must be human or json, not '%s'", value);
    case 'z':
        a->zstd_level = atoi(value);
        return a->zstd_level >= 1 && a->zstd_level <= 19 ? 0 : usage(v, "--compress takes 1 to 19, not '%s'", value);
    case 'f':
        g_ptr_array_add(a->drop, (gpointer)(uintptr_t)value);
        return 0;
    case 's':
        g_ptr_array_add(a->tags, (gpointer)(uintptr_t)value);
        return 0;
    case 'O':
        return add_object(a, value);
    case 'p':
        g_ptr_array_add(a->parents, (gpointer)(uintptr_t)value);
        return 0;
    case 'd':
    case 'c':
    case 'M':
        *(key == 'd' ? &a->device : key == 'c' ? &a->compat : &a->machine) = value;
        return 0;
    default:
        *(key == 'q'   ? &a->quiet
          : key == 'k' ? &a->chunks
          : key == 'r' ? &a->no_ram
          : key == 'C' ? &a->chain
          : key == 'n' ? &a->dry_run
          : key == 'i' ? &a->image_opts
          : key == 'U' ? &a->force_share
                       : &a->aligned) = true;
        return 0;
    }
}

static int run_verb(const struct state_verb *v, struct state_args *a, struct opts *o)
{
    int key;
    while ((key = opts_next(o)) >= 0) {
        int rc = strchr(v->options, key) ? set_option(a, v, key, o->value)
                                         : usage(v, "option '%s' is not for this verb", o->word);
        if (rc) {
            return rc;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(o, PROG, key);
        return usage(v, "that is no option");
    }
    a->operands = opts_operands(o, &a->n);
    if (a->n < v->min || a->n > v->max) {
        return usage(v, "the operands are: %s", *v->operands ? v->operands : "none");
    }
    g_ptr_array_add(a->drop, NULL);
    return v->run(a);
}

static const struct state_verb *find_verb(const char *name)
{
    const char *names[G_N_ELEMENTS(verbs)] = {NULL};
    for (unsigned i = 0; verbs[i]; i++) {
        if (!strcmp(verbs[i]->name, name)) {
            return verbs[i];
        }
        names[i] = verbs[i]->name;
    }
    const char *near = nearest_word(name, names);
    usage(NULL, "there is no verb '%s'%s%s%s", name, near ? ": did you mean '" : "", near ? near : "",
          near ? "'?" : "");
    return NULL;
}

struct command {
    struct tool *tool;
    int argc;
    char **argv;
};

/* [co] */
static int run(void *arg)
{
    const struct command *c = arg;
    int argc = c->argc;
    char **argv = c->argv;
    struct opt_spec specs[G_N_ELEMENTS(options)] = {{0}};
    for (unsigned i = 0; options[i].key; i++) {
        int key = options[i].key;
        specs[i] = (struct opt_spec){key, options[i].name, options[i].value != NULL};
    }
    if (argc < 2) {
        return usage(NULL, "a verb is missing");
    }
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help")) {
        print_help();
        return STATE_OK;
    }
    if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version")) {
        puts(PROG " version " STERNA_VERSION);
        return STATE_OK;
    }
    const struct state_verb *v = find_verb(argv[1]);
    if (!v) {
        return STATE_USAGE;
    }
    CLEANUP_OPTS struct opts o = opts_init(argc - 1, argv + 1, specs);
    struct state_args a = {
        .drop = g_ptr_array_new(), .parents = g_ptr_array_new(), .tags = g_ptr_array_new(), .tool = c->tool};
    int rc = run_verb(v, &a, &o);
    g_ptr_array_unref(a.drop);
    g_ptr_array_unref(a.parents);
    g_ptr_array_unref(a.tags);
    return rc;
}

int main(int argc, char **argv)
{
    struct tool t;
    if (!tool_init(&t, PROG, PROG, PROG)) {
        return STATE_FAILED;
    }
    struct command c = {&t, argc, argv};
    int rc = tool_run(&t, run, &c), end = tool_finish(&t, rc);
    return end && !rc ? STATE_FAILED : end;
}
