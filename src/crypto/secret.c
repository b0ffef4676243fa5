/* SPDX-License-Identifier: BSD-2-Clause */
#include "crypto/secret.h"

#include "base/cleanup.h"
#include "crypto/cipher.h"

#include <glib.h>
#include <string.h>

static const char *prop_str(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

enum { SECRET_MAX = 1 << 20 };

struct secret_object {
    struct secret secret; /* first: this is what lookups give */
    unsigned char *bytes;
};

static void wipe(void *p, size_t n)
{
    if (p) {
        explicit_bzero(p, n);
    }
}

static void secret_destroy(void *impl)
{
    struct secret_object *s = impl;
    wipe(s->bytes, s->secret.len);
    g_free(s->bytes);
    g_free(s);
}

/* The text as it was given; freed with g_free. */
static int secret_text(struct object_make *o, char **text, gsize *len, struct err *e)
{
    const char *data = prop_str(o->props, "data");
    const char *file = prop_str(o->props, "file");
    if (data && file) {
        return err_set(e, EINVAL, "'file' and 'data' are mutually exclusive");
    }
    if (data) {
        *text = g_strdup(data);
        *len = strlen(data);
        return 0;
    }
    if (!file) {
        return err_set(e, EINVAL, "Either 'file' or 'data' must be provided");
    }
    GError *error = NULL;
    if (!g_file_get_contents(file, text, len, &error)) {
        int rc = err_set(e, ENOENT, "Unable to read %s: %s", file, error->message);
        g_error_free(error);
        return rc;
    }
    return *len <= SECRET_MAX ? 0 : err_set(e, EFBIG, "Unable to read %s: longer than %d bytes", file, SECRET_MAX);
}

static bool is_base64(const char *s, gsize n)
{
    for (gsize i = 0; i < n; i++) {
        if (!g_ascii_isalnum(s[i]) && !(s[i] && strchr("+/=\r\n", s[i]))) {
            return false;
        }
    }
    return true;
}

/* The bytes that stand in `text`, which becomes them. */
static int decode_base64(char *text, gsize *len, struct err *e)
{
    if (!is_base64(text, *len)) {
        return err_set(e, EINVAL, "Base64 data contains invalid characters");
    }
    if (*len > 1) {
        g_base64_decode_inplace(text, len);
    } else {
        *len = 0;
    }
    text[*len] = '\0';
    return 0;
}

enum { MASTER_KEY = 32, BLOCK = 16 };

static int read_iv(const char *text, uint8_t iv[BLOCK], struct err *e)
{
    if (!text) {
        return err_set(e, EINVAL, "IV is required to decrypt secret");
    }
    CLEANUP_FREE char *copy = g_strdup(text);
    gsize len = strlen(copy);
    int rc = decode_base64(copy, &len, e);
    if (rc < 0) {
        return rc;
    }
    if (len != BLOCK) {
        return err_set(e, EINVAL, "IV should be %d bytes in length not %zu", BLOCK, len);
    }
    memcpy(iv, copy, BLOCK);
    return 0;
}

/* With the key in another secret; the padding (PKCS#7) goes. */
static int decrypt(struct object_make *o, const char *keyid, char *text, gsize *len, struct err *e)
{
    uint8_t iv[BLOCK];
    const struct secret *key = object_registry_lookup(o->registry, "secret", keyid);
    if (!key) {
        return err_set(e, ENOENT, "No secret with id '%s'", keyid);
    }
    if (key->len != MASTER_KEY) {
        return err_set(e, EINVAL, "Key should be %d bytes in length", MASTER_KEY);
    }
    int rc = read_iv(prop_str(o->props, "iv"), iv, e);
    if (rc < 0) {
        return rc;
    }
    if (*len % BLOCK) {
        return err_set(e, EINVAL, "Length %zu must be a multiple of block size %d", *len, BLOCK);
    }
    aes256_cbc_decrypt(key->data, iv, (uint8_t *)text, *len);
    unsigned padding = *len ? (uint8_t)text[*len - 1] : 0;
    if (padding == 0 || padding > BLOCK) {
        return err_set(e, EINVAL, "Incorrect number of padding bytes (%u) found on decrypted data", padding);
    }
    *len -= padding;
    return 0;
}

static int secret_create(struct object_make *o, void **impl, struct err *e)
{
    char *text = NULL;
    gsize len = 0, room = 0;
    const char *format = prop_str(o->props, "format"), *keyid = prop_str(o->props, "keyid");
    if (format && strcmp(format, "raw") != 0 && strcmp(format, "base64") != 0) {
        return err_set(e, EINVAL, "Parameter 'format' does not accept value '%s'", format);
    }
    int rc = secret_text(o, &text, &len, e);
    room = len;
    if (rc == 0 && format && strcmp(format, "base64") == 0) {
        rc = decode_base64(text, &len, e);
    }
    if (rc == 0 && keyid) {
        rc = decrypt(o, keyid, text, &len, e);
    }
    if (rc == 0) {
        struct secret_object *s = g_new0(struct secret_object, 1);
        s->bytes = g_malloc0(len + 1);
        memcpy(s->bytes, text, len);
        s->secret = (struct secret){s->bytes, len};
        *impl = s;
        json_object_object_del(o->props, "data");
    }
    wipe(text, room);
    g_free(text);
    return rc;
}

static const char *const secret_props[] = {"data", "file", "format", "iv", "keyid", NULL};

const struct object_kind secret_kind = {
    .name = "secret", .props = secret_props, .create = secret_create, .destroy = secret_destroy};
