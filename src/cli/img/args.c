/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void vfail(struct img *img, const char *fmt, va_list ap)
{
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    fflush(stdout);
    log_error(img->log, "%s", text);
}

int img_fail(struct img *img, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfail(img, fmt, ap);
    va_end(ap);
    return 1;
}

int img_fail_usage(struct img *img, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfail(img, fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try '%s --help' for more information\n", img->prog);
    return 1;
}

void img_warn(struct img *img, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
    log_warn(img->log, "%s", text);
}

static bool set_output(struct img *img, struct img_common *c, const char *value)
{
    c->json = strcmp(value, "json") == 0;
    if (!c->json && strcmp(value, "human") != 0) {
        img_fail(img, "--output must be used with human or json as argument.");
        return false;
    }
    return true;
}

int img_next(struct img *img, struct opts *o, struct img_common *c)
{
    for (;;) {
        int key = opts_next(o);
        switch (key) {
        case OPTS_UNKNOWN:
            img_fail_usage(img, "unrecognized option '%s'", o->word);
            return key;
        case OPTS_NO_VALUE:
            img_fail_usage(img, "missing argument for option '%s'", o->word);
            return key;
        case OPTS_END:
            if (c->image_opts && c->fmt) {
                img_fail(img, "--image-opts and --format are mutually exclusive");
                return OPTS_UNKNOWN;
            }
            return key;
        case 'h':
            img_print_help(img);
            c->help = true;
            return OPTS_UNKNOWN;
        case OPT_OBJECT:
            if (!img_parse_object(img, o->value)) {
                return OPTS_UNKNOWN;
            }
            break;
        case OPT_IMAGE_OPTS:
            c->image_opts = true;
            break;
        case OPT_OUTPUT:
            if (!set_output(img, c, o->value)) {
                return OPTS_UNKNOWN;
            }
            break;
        case 'q':
            c->quiet = true;
            break;
        case 'U':
            c->force_share = true;
            break;
        case 'f':
            c->fmt = o->value;
            break;
        default:
            return key;
        }
    }
}

const char *img_one_operand(struct img *img, struct opts *o)
{
    unsigned n;
    char **names = opts_operands(o, &n);
    if (n != 1) {
        img_fail_usage(img, "Expecting one image file name");
        return NULL;
    }
    return names[0];
}

bool img_number(struct img *img, const char *what, const char *text, const int64_t range[2], int64_t *out)
{
    uint64_t v = 0;
    int rc = parse_size(text, &v);
    if (rc == -EINVAL) {
        img_fail(img, "Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        img_fail(img, "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
        return false;
    }
    if (rc || v > INT64_MAX || (int64_t)v < range[0] || (int64_t)v > range[1]) {
        img_fail(img, "Invalid %s specified. Must be between %" PRId64 " and %" PRId64 ".", what, range[0], range[1]);
        return false;
    }
    *out = (int64_t)v;
    return true;
}

/* {"id", "data" or "file", "format": raw or base64} → bytes. */
static int load_secret(struct json_object *o, GBytes **out, struct err *e)
{
    static const char *const formats[] = {"raw", "base64", NULL};
    struct jread r = jread_init(o, "secret", e);
    const char *id = jread_str(&r, "id"), *data = jread_str_or(&r, "data", NULL),
               *file = jread_str_or(&r, "file", NULL);
    int format = jread_enum_or(&r, "format", formats, 0);
    int rc = jread_end(&r);
    if (rc) {
        return rc;
    }
    if (!data == !file) {
        return err_set(e, EINVAL, "secret '%s': either 'data' or 'file' must be given", id);
    }
    CLEANUP_FREE char *loaded = NULL;
    gsize len = 0;
    if (file) {
        g_autoptr(GError) ge = NULL;
        if (!g_file_get_contents(file, &loaded, &len, &ge)) {
            return err_set(e, EIO, "secret '%s': %s", id, ge->message);
        }
    } else {
        len = strlen(data);
        loaded = g_strdup(data);
    }
    if (format == 1) {
        g_base64_decode_inplace(loaded, &len);
    }
    *out = g_bytes_new(loaded, len);
    return 0;
}

bool img_parse_object(struct img *img, const char *text)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "qom-type", &e);
    struct json_object *type = NULL;
    if (!o) {
        img_fail(img, "%s", err_text(&e));
        return false;
    }
    if (!json_object_object_get_ex(o, "qom-type", &type)) {
        img_fail(img, "Parameter 'qom-type' is missing");
        return false;
    }
    if (strcmp(json_object_get_string(type), "secret") != 0) {
        img_fail(img, "Parameter 'qom-type' does not accept value '%s'", json_object_get_string(type));
        return false;
    }
    json_object_object_del(o, "qom-type");
    GBytes *bytes = NULL;
    if (load_secret(o, &bytes, &e)) {
        img_fail(img, "%s", err_text(&e));
        return false;
    }
    struct json_object *id = json_object_object_get(o, "id");
    g_hash_table_replace(img->secrets, g_strdup(json_object_get_string(id)), bytes);
    return true;
}

bool img_parse_cache(const char *mode, struct img_cache *out)
{
    static const struct {
        const char *name;
        struct img_cache cache;
    } modes[] = {
        {"none", {.direct = true}},
        {"off", {.direct = true}},
        {"directsync", {.direct = true, .writethrough = true}},
        {"writeback", {0}},
        {"unsafe", {.no_flush = true}},
        {"writethrough", {.writethrough = true}},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            *out = modes[i].cache;
            return true;
        }
    }
    return false;
}
