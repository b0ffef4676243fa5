/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/err.h"

#include <glib.h>
#include <string.h>

static int set_text(struct err *e, enum err_class cls, int errnum, char *text)
{
    if (!e) {
        g_free(text);
        return -errnum;
    }
    g_free(e->text);
    e->text = text;
    e->code = errnum;
    e->cls = cls;
    return -errnum;
}

int err_set(struct err *e, int errnum, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return set_text(e, ERR_GENERIC, errnum, text);
}

int err_set_class(struct err *e, enum err_class cls, int errnum, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return set_text(e, cls, errnum, text);
}

int err_set_errno(struct err *e, int errnum, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return set_text(e, ERR_GENERIC, errnum, g_strdup_printf("%s: %s", what, g_strerror(errnum)));
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e) {
        return -EINVAL;
    }
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    int code = e->code ? e->code : EINVAL;
    return set_text(e, e->cls, code, g_strdup_printf("%s: %s", what, err_text(e)));
}

void err_move(struct err *dst, struct err *src)
{
    if (dst) {
        g_free(dst->text);
        *dst = *src;
    } else {
        g_free(src->text);
    }
    *src = ERR_INIT;
}

void err_clear(struct err *e)
{
    if (e) {
        g_free(e->text);
        *e = ERR_INIT;
    }
}

const char *err_text(const struct err *e)
{
    return e && e->text ? e->text : "unknown error";
}

const char *err_class_name(enum err_class cls)
{
    static const char *const names[] = {
        [ERR_GENERIC] = "GenericError",
        [ERR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [ERR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [ERR_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [ERR_KVM_MISSING_CAP] = "KVMMissingCap",
    };
    return names[cls];
}
