/* SPDX-License-Identifier: BSD-2-Clause */
/* diff: what is different in two states, or in two fingerprints. */
#include "cli/state/state.h"
#include "state/dump.h"
#include "state/format.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct diff {
    struct json_object *values; /* {"where", "a", "b"}, a member absent where there is nothing */
    struct json_object *pages;  /* {"block", "page", "pages"} */
};

static void note(struct diff *d, const char *where, struct json_object *a, struct json_object *b)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "where", json_object_new_string(where));
    if (a) {
        json_object_object_add(o, "a", json_object_get(a));
    }
    if (b) {
        json_object_object_add(o, "b", json_object_get(b));
    }
    json_object_array_add(d->values, o);
}

static void compare(struct diff *d, const char *where, struct json_object *a, struct json_object *b);

static void compare_objects(struct diff *d, const char *where, struct json_object *a, struct json_object *b)
{
    json_object_object_foreach(a, key, value)
    {
        CLEANUP_FREE char *full = g_strdup_printf("%s%s%s", where, *where ? "." : "", key);
        compare(d, full, value, json_object_object_get(b, key));
    }
    json_object_object_foreach(b, other, v)
    {
        if (!json_object_object_get_ex(a, other, NULL)) {
            CLEANUP_FREE char *full = g_strdup_printf("%s%s%s", where, *where ? "." : "", other);
            note(d, full, NULL, v);
        }
    }
}

static void compare(struct diff *d, const char *where, struct json_object *a, struct json_object *b)
{
    if (json_object_is_type(a, json_type_object) && json_object_is_type(b, json_type_object)) {
        compare_objects(d, where, a, b);
        return;
    }
    if (json_object_is_type(a, json_type_array) && json_object_is_type(b, json_type_array)) {
        size_t n = MAX(json_object_array_length(a), json_object_array_length(b));
        for (size_t i = 0; i < n; i++) {
            CLEANUP_FREE char *full = g_strdup_printf("%s[%zu]", where, i);
            compare(d, full, json_object_array_get_idx(a, i), json_object_array_get_idx(b, i));
        }
        return;
    }
    if (!json_object_equal(a, b)) {
        note(d, where, a, b);
    }
}

/* path -> {"section", "version", "values", "subsections"}: devices are compared by path. */
static struct json_object *by_path(struct json_object *dump)
{
    struct json_object *all = json_object_object_get(dump, "devices"), *o = json_object_new_object();
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        struct json_object *dev = json_object_array_get_idx(all, i);
        json_object_object_add(o, json_object_get_string(json_object_object_get(dev, "path")), json_object_get(dev));
    }
    return o;
}

static void compare_dumps(struct diff *d, struct json_object *a, struct json_object *b)
{
    static const char *const members[] = {"machine", "release", "ram", "disks", "schemas", NULL};
    struct json_object *ma = json_object_object_get(a, "manifest"), *mb = json_object_object_get(b, "manifest");
    for (const char *const *k = members; *k; k++) {
        compare(d, *k, json_object_object_get(ma, *k), json_object_object_get(mb, *k));
    }
    CLEANUP_JSON struct json_object *pa = by_path(a), *pb = by_path(b);
    compare(d, "", pa, pb);
}

/* --- RAM ---------------------------------------------------------------------------------------------------------- */

struct side {
    struct state_input in;
    GPtrArray *parents; /* struct state_input * */
    GPtrArray *x;       /* struct state_index *: its own, then theirs */
    struct json_object *dump;
};

static const struct state_reader *reader_of(const struct side *s, guint level)
{
    return level ? ((const struct state_input *)s->parents->pdata[level - 1])->r : s->in.r;
}

/* The newest state that has the page says what it is. */
static int page_of(const struct side *s, unsigned block, uint64_t page, uint8_t *buf, struct err *e)
{
    memset(buf, 0, STATE_PAGE);
    for (guint i = 0; i < s->x->len; i++) {
        const struct state_run *r = state_index_find(s->x->pdata[i], block, page);
        if (r) {
            const struct state_source *src = state_reader_source(reader_of(s, i));
            int rc = state_index_read_pages(src, s->x->pdata[i], r, (uint32_t)(page - r->page), 1, buf);
            return rc < 0 ? err_set_errno(e, -rc, "%s: page %" PRIu64 " of RAM block %u", src->name, page, block) : 0;
        }
    }
    return 0;
}

/* As state_index_next(), of any of its states: the run of which most of its pages are first. */
static const struct state_run *next_run(const struct side *s, unsigned block, uint64_t page)
{
    const struct state_run *best = NULL;
    for (guint i = 0; i < s->x->len; i++) {
        const struct state_run *r = state_index_next(s->x->pdata[i], block, page);
        if (r && (!best || MAX(r->page, page) < MAX(best->page, page))) {
            best = r;
        }
    }
    return best;
}

static void note_page(struct diff *d, const char *block, uint64_t page)
{
    size_t n = json_object_array_length(d->pages);
    struct json_object *last = n ? json_object_array_get_idx(d->pages, n - 1) : NULL;
    uint64_t first = last ? json_object_get_uint64(json_object_object_get(last, "page")) : 0;
    uint64_t pages = last ? json_object_get_uint64(json_object_object_get(last, "pages")) : 0;
    if (last && first + pages == page &&
        !strcmp(json_object_get_string(json_object_object_get(last, "block")), block)) {
        json_object_object_add(last, "pages", json_object_new_uint64(pages + 1));
        return;
    }
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "block", json_object_new_string(block));
    json_object_object_add(o, "page", json_object_new_uint64(page));
    json_object_object_add(o, "pages", json_object_new_uint64(1));
    json_object_array_add(d->pages, o);
}

static int compare_block(struct diff *d, const struct side *s, unsigned block, struct err *e)
{
    uint8_t a[STATE_PAGE], b[STATE_PAGE];
    for (uint64_t page = 0;; page++) {
        const struct state_run *ra = next_run(&s[0], block, page), *rb = next_run(&s[1], block, page);
        if (s[0].x->len + s[1].x->len == 2 && ra && rb && ra->kind == STATE_PAGES_ZERO &&
            rb->kind == STATE_PAGES_ZERO && ra->page <= page &&
            rb->page <= page) { /* nothing to compare, however much of it */
            page = MIN(ra->page + ra->pages, rb->page + rb->pages) - 1;
            continue;
        }
        uint64_t next = MIN(ra ? ra->page : UINT64_MAX, rb ? rb->page : UINT64_MAX);
        if (next == UINT64_MAX) {
            return 0;
        }
        page = MAX(page, next);
        int rc = page_of(&s[0], block, page, a, e);
        rc = rc < 0 ? rc : page_of(&s[1], block, page, b, e);
        if (rc < 0) {
            return rc;
        }
        if (memcmp(a, b, sizeof(a)) != 0) {
            note_page(d, state_manifest_block_name(state_reader_manifest(s[0].in.r), block), page);
        }
    }
}

static int read_indexes(struct state_args *a, struct side *s, struct err *e)
{
    int rc = state_input_parents(a, &s->in, true, s->parents, e);
    for (guint i = 0; rc == 0 && i <= s->parents->len; i++) {
        struct state_input *in = i ? s->parents->pdata[i - 1] : &s->in;
        struct state_index *x = state_index_read(in->r, e);
        if (x) {
            g_ptr_array_add(s->x, x);
        }
        rc = !x  ? -EINVAL
             : i ? state_index_check_parent(x, state_reader_manifest(reader_of(s, i - 1)), in->fd.name, e)
                 : 0;
    }
    return rc;
}

/* Where the blocks are the same ones. */
static int compare_ram(struct state_args *args, struct diff *d, struct side *s, struct err *e)
{
    const struct state_manifest *a = state_reader_manifest(s[0].in.r), *b = state_reader_manifest(s[1].in.r);
    for (int i = 0; i < 2; i++) {
        if (!state_reader_source(s[i].in.r)->read_at) {
            return err_set(e, ESPIPE, "%s: RAM can be compared in files only; --no-ram compares the rest",
                           s[i].in.fd.name);
        }
        int rc = read_indexes(args, &s[i], e);
        if (rc < 0) {
            return rc;
        }
    }
    for (unsigned k = 0; k < MIN(state_manifest_blocks(a), state_manifest_blocks(b)); k++) {
        int rc =
            strcmp(state_manifest_block_name(a, k), state_manifest_block_name(b, k)) ? 0 : compare_block(d, s, k, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* --- fingerprints ------------------------------------------------------------------------------------------------- */

/* Lines of `a` that `b` lacks; each is struck out there once. */
static unsigned missing(char **a, char **b, char mark, bool quiet)
{
    g_autoptr(GHashTable) have = g_hash_table_new(g_str_hash, g_str_equal);
    unsigned n = 0;
    for (; *b; b++) {
        g_hash_table_insert(have, *b, GINT_TO_POINTER(GPOINTER_TO_INT(g_hash_table_lookup(have, *b)) + 1));
    }
    for (; *a; a++) {
        int left = GPOINTER_TO_INT(g_hash_table_lookup(have, *a));
        if (left > 0) {
            g_hash_table_insert(have, *a, GINT_TO_POINTER(left - 1));
            continue;
        }
        n++;
        if (!quiet) {
            printf("%c ", mark);
            state_put_text(*a);
            putchar('\n');
        }
    }
    return n;
}

static int diff_texts(const struct state_args *args, const char *a, const char *b)
{
    g_auto(GStrv) x = g_strsplit(a, "\n", -1), y = g_strsplit(b, "\n", -1);
    bool quiet = args->quiet || args->json, same = !strcmp(a, b);
    unsigned n = missing(x, y, '-', quiet);
    n += missing(y, x, '+', quiet);
    if (!same && !n && !quiet) {
        puts("the same lines in another order");
    }
    if (args->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "equal", json_object_new_boolean(same));
        json_object_object_add(o, "lines", json_object_new_uint64(n));
        state_put_json(o);
    }
    return same ? STATE_OK : STATE_DIFFERS;
}

/* The text of a file that is no stream; NULL: it is one, or cannot be read. */
static char *text_of(const char *path)
{
    char *text = NULL;
    gsize len;
    if (!strcmp(path, "-") || !g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
        return NULL;
    }
    char magic[8] = {0};
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, magic, sizeof(magic)) <= 0 || !memcmp(magic, STATE_MAGIC, sizeof(magic))) {
        return NULL;
    }
    return g_file_get_contents(path, &text, &len, NULL) ? text : NULL;
}

/* --- both --------------------------------------------------------------------------------------------------------- */

static void print_side(char mark, struct json_object *v)
{
    if (v) {
        printf("  %c ", mark);
        state_put_text(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        putchar('\n');
    }
}

static int report(const struct state_args *args, const struct diff *d)
{
    size_t n = json_object_array_length(d->values), pages = json_object_array_length(d->pages);
    if (args->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "equal", json_object_new_boolean(n + pages == 0));
        json_object_object_add(o, "values", json_object_get(d->values));
        json_object_object_add(o, "pages", json_object_get(d->pages));
        state_put_json(o);
    }
    for (size_t i = 0; i < n && !args->json && !args->quiet; i++) {
        struct json_object *o = json_object_array_get_idx(d->values, i);
        state_put_text(json_object_get_string(json_object_object_get(o, "where")));
        putchar('\n');
        print_side('-', json_object_object_get(o, "a"));
        print_side('+', json_object_object_get(o, "b"));
    }
    for (size_t i = 0; i < pages && !args->json && !args->quiet; i++) {
        struct json_object *o = json_object_array_get_idx(d->pages, i);
        fputs("RAM block ", stdout);
        state_put_text(json_object_get_string(json_object_object_get(o, "block")));
        printf(": page %s, %s pages\n", json_object_get_string(json_object_object_get(o, "page")),
               json_object_get_string(json_object_object_get(o, "pages")));
    }
    return n + pages ? STATE_DIFFERS : STATE_OK;
}

static int diff_states(struct state_args *a, struct side *s, struct diff *d, struct err *e)
{
    for (int i = 0; i < 2; i++) {
        int rc = state_input_open(a, &s[i].in, a->operands[i], e);
        if (rc == 0) {
            state_reader_keep_unknown(s[i].in.r);
            s[i].dump = state_dump(s[i].in.r, e);
            rc = s[i].dump ? 0 : err_wrap(e, "%s", s[i].in.fd.name);
        }
        if (rc < 0) {
            return rc;
        }
    }
    compare_dumps(d, s[0].dump, s[1].dump);
    return a->no_ram ? 0 : compare_ram(a, d, s, e);
}

static int run(struct state_args *a)
{
    bool states = a->tags->len || state_is_image(a, a->operands[0]);
    CLEANUP_FREE char *x = states ? NULL : text_of(a->operands[0]), *y = x ? text_of(a->operands[1]) : NULL;
    if (x && y) {
        return diff_texts(a, x, y);
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    struct side s[2] = {{.in.fd.fd = -1}, {.in.fd.fd = -1}};
    for (int i = 0; i < 2; i++) {
        s[i].parents = state_inputs_new();
        s[i].x = g_ptr_array_new_with_free_func((GDestroyNotify)state_index_destroy);
    }
    struct diff d = {json_object_new_array(), json_object_new_array()};
    int rc = diff_states(a, s, &d, &e) < 0 ? state_fail(&e) : report(a, &d);
    for (int i = 0; i < 2; i++) {
        json_object_put(s[i].dump);
        g_ptr_array_unref(s[i].x);
        g_ptr_array_unref(s[i].parents);
        state_input_finish(&s[i].in);
    }
    json_object_put(d.values);
    json_object_put(d.pages);
    return rc;
}

const struct state_verb state_verb_diff = {
    "diff", "FILE1 FILE2", "what is different in two states, or in two fingerprints", "oqrpsiUO", 2, 2, run};
