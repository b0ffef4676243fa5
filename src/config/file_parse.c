/* SPDX-License-Identifier: BSD-2-Clause */
/* The state file's text read. The laws of its last line stand at the top of file_put.c. */
#include "config/file_int.h"

#include "base/cleanup.h"
#include "base/crc.h"

#include <inttypes.h>
#include <string.h>

struct parse {
    const char *path;
    const char *at, *end; /* of what is left; the last line does not belong to it */
    unsigned line;
    const char *text; /* the line at hand, its end replaced by NUL */
    char *buf;        /* which holds it */
    GString *lead;
    struct config_doc *doc;
    struct config_text *in; /* the section at hand */
    bool known;             /* it begins as a state file does */
    struct err *e;
};

static int fail(struct parse *p, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fail(struct parse *p, int errnum, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!p->in || !p->in->kind) {
        return err_set(p->e, errnum, "%s:%u: %s", p->path, p->line, text);
    }
    return p->in->name
               ? err_set(p->e, errnum, "%s:%u: [%s \"%s\"]: %s", p->path, p->line, p->in->kind, p->in->name, text)
               : err_set(p->e, errnum, "%s:%u: [%s]: %s", p->path, p->line, p->in->kind, text);
}

static void skip_blanks(const char **at)
{
    *at += strspn(*at, " \t");
}

/* --- the bytes ---------------------------------------------------------------------------------------------------- */

static int check_line(struct parse *p, const char *s, size_t len)
{
    const char *bad;
    if (len > CONFIG_MOST_LINE) {
        return fail(p, EINVAL, "the line is longer than %d bytes", CONFIG_MOST_LINE);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == 0) {
            return fail(p, EBADMSG, "there is a NUL byte: the file is damaged");
        }
        if (c == '\r' && i + 1 == len) {
            return fail(p, EINVAL, "the line ends with CR and LF; lines end with LF alone");
        }
        if ((c < ' ' && c != '\t') || c == 0x7f) {
            return fail(p, EINVAL,
                        "there is a control character (0x%02x) in column %zu; in a quoted string it is \\u%04x", c,
                        i + 1, c);
        }
    }
    if (!g_utf8_validate(s, (gssize)len, &bad)) {
        return fail(p, EBADMSG, "column %zu is not valid UTF-8: the file is damaged or was saved in another encoding",
                    (size_t)(bad - s) + 1);
    }
    return 0;
}

static int check_mark(struct parse *p)
{
    size_t n = (size_t)(p->end - p->at);
    p->line = 1;
    if (n >= 3 && !memcmp(p->at, "\xef\xbb\xbf", 3)) {
        return fail(p, EINVAL, "the file begins with a byte order mark; it is UTF-8 without one");
    }
    if (n >= 2 && (!memcmp(p->at, "\xff\xfe", 2) || !memcmp(p->at, "\xfe\xff", 2))) {
        return fail(p, EINVAL, "the file is UTF-16; it has to be saved as UTF-8, without a byte order mark");
    }
    return 0;
}

static int check_bytes(struct parse *p)
{
    const char *s = p->at;
    int rc = 0;
    p->line = 0;
    while (s < p->end && rc == 0) {
        const char *nl = memchr(s, '\n', (size_t)(p->end - s));
        const char *stop = nl ? nl : p->end;
        p->line++;
        rc = check_line(p, s, (size_t)(stop - s));
        s = stop + 1;
    }
    return rc;
}

/* The next line goes to p->text. */
static bool next_line(struct parse *p)
{
    if (p->at >= p->end) {
        return false;
    }
    const char *nl = memchr(p->at, '\n', (size_t)(p->end - p->at));
    const char *stop = nl ? nl : p->end;
    g_free(p->buf);
    p->buf = g_strndup(p->at, (size_t)(stop - p->at));
    p->text = p->buf;
    p->at = nl ? nl + 1 : p->end;
    p->line++;
    return true;
}

/* Nothing but a comment, or nothing. */
static bool is_comment(const char *text)
{
    skip_blanks(&text);
    return !*text || *text == '#' || *text == ';';
}

/* --- which format it is --------------------------------------------------------------------------------------------
 */

static bool head_value(const char *line, const char *key, struct json_object **out)
{
    size_t n = strlen(key);
    const char *why;
    skip_blanks(&line);
    if (strncmp(line, key, n) != 0) {
        return false;
    }
    line += n;
    skip_blanks(&line);
    if (*line++ != '=') {
        return false;
    }
    skip_blanks(&line);
    return config_value_parse(&line, out, &why);
}

/* A newer one may do everything differently, but for its first two lines that are no comments. */
static int check_format(struct parse *p, const char *release)
{
    struct parse scan = *p;
    scan.buf = NULL;
    scan.line = 0;
    CLEANUP_JSON struct json_object *format = NULL;
    CLEANUP_JSON struct json_object *by = NULL;
    unsigned line = 0;
    while (!by && next_line(&scan)) {
        if (is_comment(scan.text)) {
            continue;
        }
        if (!format && head_value(scan.text, "format", &format)) {
            line = scan.line;
        } else if (!format || !head_value(scan.text, "release", &by)) {
            break;
        }
    }
    g_free(scan.buf);
    p->known = format;
    if (!json_object_is_type(format, json_type_int) || json_object_get_int64(format) <= CONFIG_FORMAT) {
        return 0;
    }
    p->line = line;
    return fail(
        p, ENOTSUP,
        "key 'format': the file has format %" PRId64 ", written by Sterna %s; this is Sterna %s, which reads format %d",
        json_object_get_int64(format), by ? json_object_get_string(by) : "of a newer release", release, CONFIG_FORMAT);
}

/* --- the last line -------------------------------------------------------------------------------------------------
 */

struct end {
    const char *start;
    bool has_generation, has_sections, has_crc, edited;
    uint64_t generation, sections, crc;
    size_t covered; /* bytes below the checksum */
};

static bool end_number(const char *word, const char *key, unsigned base, bool *has, uint64_t *out)
{
    size_t n = strlen(key);
    if (strncmp(word, key, n) != 0 || !g_ascii_isxdigit(word[n])) {
        return false;
    }
    char *stop;
    errno = 0;
    *out = g_ascii_strtoull(word + n, &stop, base);
    *has = true;
    return !*stop && errno == 0 && *out <= INT64_MAX;
}

static int end_words(struct parse *p, struct end *x, const char *text)
{
    g_auto(GStrv) words = g_strsplit_set(text, " \t", -1);
    for (char **w = words; *w; w++) {
        if (!**w) {
            continue;
        }
        if (!strcmp(*w, "edited")) {
            x->edited = true;
        } else if (!end_number(*w, "generation=", 10, &x->has_generation, &x->generation) &&
                   !end_number(*w, "sections=", 10, &x->has_sections, &x->sections) &&
                   !end_number(*w, "crc32c=", 16, &x->has_crc, &x->crc)) {
            return fail(
                p, EBADMSG,
                "the last line has an unknown word '%s': it is torn, or is neither as Sterna wrote it nor '# end "
                "edited'",
                *w);
        }
    }
    return 0;
}

#define REMEDY "if it was edited and is complete, 'sterna-state config-seal %s' checks it and puts the last line right"

static int check_crc(struct parse *p, const struct end *x, const char *bytes, const char *last)
{
    if (!x->has_generation || !x->has_sections || !x->has_crc) {
        return fail(p, EBADMSG, "the last line lacks a generation, a number of sections or a checksum; " REMEDY,
                    p->path);
    }
    uint32_t crc = crc32c(0, bytes, x->covered);
    if (crc != x->crc) {
        return fail(p, EBADMSG,
                    "the file is not as it was written: its checksum is %08" PRIx32 ", not %08" PRIx64 "; " REMEDY, crc,
                    x->crc, p->path);
    }
    if (last + 1 != p->end) {
        return fail(p, EBADMSG, "the file is not as it was written: something follows its last line; " REMEDY, p->path);
    }
    return 0;
}

/* Finds and judges it; p->end becomes where it begins. */
static int read_end(struct parse *p, struct end *x)
{
    const char *bytes = p->at;
    const char *last = p->end;
    while (last > bytes && strchr(" \t\n", last[-1])) {
        last--;
    }
    x->start = last;
    while (x->start > bytes && x->start[-1] != '\n') {
        x->start--;
    }
    p->line = 1;
    for (const char *s = bytes; s < x->start; s++) {
        p->line += *s == '\n';
    }
    CLEANUP_FREE char *text = g_strndup(x->start, (size_t)(last - x->start));
    if (strncmp(text, "# end", 5) != 0 || (text[5] && text[5] != ' ' && text[5] != '\t')) {
        return fail(p, EBADMSG,
                    "the file ends early: its last line does not begin with '# end'; if it was written by hand "
                    "and is complete, add the line '# end edited'");
    }
    int rc = end_words(p, x, text + 5);
    const char *crc = strstr(text, " crc32c=");
    x->covered = crc ? (size_t)(x->start - bytes) + (size_t)(crc - text) : 0;
    if (rc == 0 && !x->edited) {
        rc = check_crc(p, x, bytes, last);
    }
    p->end = x->start;
    return rc;
}

/* --- lines ---------------------------------------------------------------------------------------------------------
 */

static char *take_lead(struct parse *p)
{
    char *lead = g_strdup(p->lead->str);
    g_string_truncate(p->lead, 0);
    return lead;
}

/* What is behind a value or a head: blanks and a comment. */
static int take_tail(struct parse *p, const char *key, const char *at, char **tail)
{
    const char *s = at;
    skip_blanks(&s);
    if (*s && ((*s != '#' && *s != ';') || s == at)) {
        return key ? fail(p, EINVAL, "key '%s': something follows the value: '%s'; a string with blanks is quoted", key,
                          s)
                   : fail(p, EINVAL, "something follows the section's head: '%s'", s);
    }
    g_free(*tail);
    *tail = g_strdup(*s ? at : "");
    return 0;
}

/* Values of the section at hand, when all its lines are read. */
static int end_section(struct parse *p)
{
    const struct config_entry *bad;
    if (!p->in) {
        return 0;
    }
    p->in->pub.values = config_unflatten(p->in->entries, &bad, NULL);
    if (p->in->pub.values) {
        return 0;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    config_unflatten(p->in->entries, &bad, &e);
    p->line = bad->line;
    return fail(p, EINVAL, "%s", err_text(&e));
}

static int head_syntax(struct parse *p)
{
    return fail(p, EINVAL, "a section begins with [kind] or [kind \"name\"], alone on its line");
}

/* "[kind]", "[kind "name"]"; *at goes behind it. */
static int parse_head(struct parse *p, const char **at, char **kind, struct json_object **name)
{
    const char *s = *at + 1;
    const char *why;
    skip_blanks(&s);
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (!n) {
        return head_syntax(p);
    }
    *kind = g_strndup(s, n);
    s += n;
    if (*s == ' ' || *s == '\t') {
        skip_blanks(&s);
        if (*s == '"' && !config_value_parse(&s, name, &why)) {
            return fail(p, EINVAL, "the section's name: %s", why);
        }
        skip_blanks(&s);
    }
    if (*s != ']') {
        return head_syntax(p);
    }
    *at = s + 1;
    return 0;
}

static int begin_section(struct parse *p)
{
    const char *at = p->text;
    CLEANUP_FREE char *kind = NULL;
    CLEANUP_JSON struct json_object *name = NULL;
    int rc = end_section(p);
    if (rc < 0) {
        return rc;
    }
    p->in = NULL;
    skip_blanks(&at);
    rc = parse_head(p, &at, &kind, &name);
    if (rc < 0) {
        return rc;
    }
    if (p->doc->sections->len >= CONFIG_MOST_SECTIONS) {
        return fail(p, EINVAL, "there are more than %d sections", CONFIG_MOST_SECTIONS);
    }
    int len = name ? json_object_get_string_len(name) : 1;
    if (len < 1 || len > CONFIG_MOST_NAME) {
        return fail(p, EINVAL, "a section's name has 1 to %d bytes", CONFIG_MOST_NAME);
    }
    const struct config_text *twin = config_doc_find(p->doc, kind, json_object_get_string(name), NULL);
    struct config_text *t = config_text_new(kind, json_object_get_string(name));
    g_free(t->lead);
    t->lead = take_lead(p);
    t->text = g_strdup(p->text);
    t->line = p->line;
    g_ptr_array_add(p->doc->sections, t);
    p->in = t;
    return twin ? fail(p, EINVAL, "the section is there twice (line %u)", twin->line)
                : take_tail(p, NULL, at, &t->tail);
}

static int parse_entry(struct parse *p)
{
    const char *at = p->text;
    const char *why;
    skip_blanks(&at);
    const char *eq = at;
    for (bool in_quotes = false; *eq && (*eq != '=' || in_quotes); eq++) {
        if (*eq == '\\' && in_quotes && eq[1]) {
            eq++;
        } else if (*eq == '"') {
            in_quotes = !in_quotes;
        }
    }
    if (!*eq) {
        return fail(p, EINVAL, "a line is 'key = value', '[kind \"name\"]' or a comment that begins with '#'");
    }
    CLEANUP_FREE char *raw = g_strchomp(g_strndup(at, (size_t)(eq - at)));
    CLEANUP_FREE char *key = config_key_canonical(raw, &why);
    if (!key) {
        return fail(p, EINVAL, "key '%s': %s", raw, why);
    }
    if (p->in->entries->len >= CONFIG_MOST_KEYS) {
        return fail(p, EINVAL, "the section has more than %d keys", CONFIG_MOST_KEYS);
    }
    struct json_object *value;
    at = eq + 1;
    skip_blanks(&at);
    if (!config_value_parse(&at, &value, &why)) {
        return fail(p, EINVAL, "key '%s': %s", key, why);
    }
    struct config_entry *en = config_entry_new(key, value);
    g_free(en->lead);
    en->lead = take_lead(p);
    en->text = g_strdup(p->text);
    en->line = p->line;
    g_ptr_array_add(p->in->entries, en);
    return take_tail(p, key, at, &en->tail);
}

/* The first lines: format and release, nothing else. */
static int check_head(struct parse *p)
{
    for (guint i = 0; i < p->doc->head->entries->len; i++) {
        const struct config_entry *en = g_ptr_array_index(p->doc->head->entries, i);
        bool format = !strcmp(en->key, "format");
        p->line = en->line;
        if ((i == 0) != format || (!format && strcmp(en->key, "release") != 0)) {
            return fail(p, EINVAL, "key '%s': before the first section stand 'format' and then 'release'", en->key);
        }
        if (format &&
            (!json_object_is_type(en->value, json_type_int) || json_object_get_int64(en->value) != CONFIG_FORMAT)) {
            return fail(p, EINVAL, "key 'format': there is only format %d", CONFIG_FORMAT);
        }
        if (!format && !json_object_is_type(en->value, json_type_string)) {
            return fail(p, EINVAL, "key 'release': expected a string");
        }
    }
    if (!p->doc->head->entries->len) {
        p->line = 1;
        return fail(p, EINVAL, "key 'format' is missing: the first line that is no comment is 'format = %d'",
                    CONFIG_FORMAT);
    }
    return 0;
}

static int parse_lines(struct parse *p)
{
    int rc = 0;
    p->line = 0;
    p->in = p->doc->head;
    while (rc == 0 && next_line(p)) {
        const char *s = p->text;
        skip_blanks(&s);
        if (is_comment(s)) {
            g_string_append_printf(p->lead, "%s\n", p->text);
        } else {
            rc = *s == '[' ? begin_section(p) : parse_entry(p);
        }
    }
    rc = rc < 0 ? rc : end_section(p);
    p->in = NULL;
    g_free(p->doc->lead);
    p->doc->lead = take_lead(p);
    return rc < 0 ? rc : check_head(p);
}

/* Another file that was named by mistake. */
static int doubt(const struct parse *p, int rc)
{
    CLEANUP_FREE char *text = g_strdup(err_text(p->e));
    return p->e ? err_set(p->e, -rc, "%s; it does not begin with 'format = %d' either, so it may be no state file",
                          text, CONFIG_FORMAT)
                : rc;
}

int config_parse(const char *path, const GByteArray *bytes, bool trust, struct config_doc **out, struct err *e)
{
    if (bytes->len == 0) {
        *out = config_doc_new(NULL);
        return 0;
    }
    const char *text = (const char *)bytes->data;
    struct parse p = {.path = path, .at = text, .end = text + bytes->len, .e = e};
    struct end x = {.edited = trust};
    int rc = check_format(&p, STERNA_RELEASE);
    rc = rc < 0 ? rc : check_mark(&p);
    if (rc < 0) {
        return rc;
    }
    rc = check_bytes(&p);
    rc = rc < 0 ? rc : read_end(&p, &x);
    if (rc < 0) {
        return p.known ? rc : doubt(&p, rc);
    }
    p.lead = g_string_new(NULL);
    p.doc = config_doc_new(NULL);
    g_ptr_array_set_size(p.doc->head->entries, 0);
    rc = parse_lines(&p);
    g_string_free(p.lead, TRUE);
    g_free(p.buf);
    if (rc == 0 && !x.edited && x.sections != p.doc->sections->len) {
        rc = err_set(e, EBADMSG, "%s: the last line says %" PRIu64 " sections; there are %u", path, x.sections,
                     p.doc->sections->len);
    }
    if (rc < 0) {
        config_doc_free(p.doc);
        return rc;
    }
    p.doc->generation = x.generation;
    p.doc->edited = x.edited;
    *out = p.doc;
    return 0;
}
