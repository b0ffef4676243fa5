/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as a state file: refused with a reason, or read, changed, written and read again as the same. */
#include "config/file_int.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct config_key keys[] = {
    {"driver", CONFIG_STRING, true}, {"file.*", CONFIG_ANY}, {"size", CONFIG_SIZE}, {"on", CONFIG_BOOL}, {NULL}};
static const struct config_kind kinds[] = {{"machine", .single = true, .open = true},
                                           {"device", .keys = keys},
                                           {"blockdev", .open = true, .keys = keys},
                                           {NULL}};

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void same(const struct config_doc *a, const struct config_doc *b)
{
    must(a->sections->len == b->sections->len && a->generation == b->generation);
    for (guint i = 0; i < a->sections->len; i++) {
        const struct config_text *x = g_ptr_array_index(a->sections, i);
        const struct config_text *y = g_ptr_array_index(b->sections, i);
        must(!strcmp(x->kind, y->kind) && !g_strcmp0(x->name, y->name));
        must(json_object_equal(x->pub.values, y->pub.values));
    }
}

/* What was written is read, whatever it is. */
static void write_and_read(struct config_doc *d)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_doc *again = NULL;
    config_doc_stamp(d, d->generation ? d->generation : 1, "0.1.0");
    GString *text = config_print(d);
    const GByteArray bytes = {(guint8 *)text->str, (guint)text->len};
    must(config_parse("fuzz", &bytes, false, &again, &e) == 0);
    same(d, again);
    for (guint i = 0; i < again->sections->len; i++) {
        const struct config_text *t = g_ptr_array_index(again->sections, i);
        char *section = config_section_print(&t->pub);
        must(*section == '[' && strstr(section, t->kind));
        g_free(section);
    }
    config_doc_free(again);
    g_string_free(text, TRUE);
}

/* Keys go, sections become what their neighbours are. */
static void change(struct config_doc *d)
{
    for (guint i = 0; i + 1 < d->sections->len && i < 8; i++) {
        struct config_text *a = config_text_ref(g_ptr_array_index(d->sections, i));
        struct config_text *b = config_text_ref(g_ptr_array_index(d->sections, i + 1));
        CLEANUP_JSON struct json_object *less = json_clone(b->pub.values);
        json_object_object_foreach(b->pub.values, key, value)
        {
            if (!json_object_is_type(value, json_type_object)) {
                json_object_object_del(less, key);
                break;
            }
        }
        must(config_doc_set(d, b->kind, b->name, less, NULL) == 0);
        must(config_doc_set(d, a->kind, a->name, b->pub.values, NULL) == 0);
        if (i % 2) {
            config_doc_delete(d, b->kind, b->name);
        }
        config_text_unref(a);
        config_text_unref(b);
    }
}

static void one(const GByteArray *bytes, bool trust)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_doc *d = NULL;
    if (config_parse("fuzz", bytes, trust, &d, &e) < 0) {
        must(err_is_set(&e) && !d);
        return;
    }
    if (config_check("fuzz", d, kinds, &e) < 0) {
        must(err_is_set(&e));
    }
    write_and_read(d);
    change(d);
    write_and_read(d);
    config_doc_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const GByteArray bytes = {(guint8 *)(uintptr_t)data, (guint)size};
    one(&bytes, false);
    /* A right last line is hard to come by. */
    GByteArray *ended = g_byte_array_new();
    g_byte_array_append(ended, data, (guint)size);
    g_byte_array_append(ended, (const guint8 *)"\n# end edited\n", 14);
    one(ended, true);
    g_byte_array_free(ended, TRUE);
    return 0;
}
