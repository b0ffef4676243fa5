/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors of the control path.
 *
 * A function that can fail for a reason a person must read takes a `struct err *` as its last
 * argument and returns 0 or a negative errno.  One statement sets the text and returns the code:
 *
 *     return err_set(e, EINVAL, "disk '%s': size %" PRIu64 " is not a multiple of 512", id, size);
 *
 * The data path never uses this: it returns a negative errno and nothing else.
 *
 * A message names the object, says what was wrong and, where it can, what would be right.  It has no
 * trailing full stop and no newline.  `e` may be NULL everywhere: the text is then dropped.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>

/* QMP error classes (QEMU docs/interop/qmp-spec.rst); ERR_GENERIC unless a client must tell apart. */
enum err_class {
    ERR_GENERIC,           /* GenericError */
    ERR_COMMAND_NOT_FOUND, /* CommandNotFound */
    ERR_DEVICE_NOT_ACTIVE, /* DeviceNotActive */
    ERR_DEVICE_NOT_FOUND,  /* DeviceNotFound */
    ERR_KVM_MISSING_CAP,   /* KVMMissingCap */
};

/* Zero-initialise; release with err_clear() or CLEANUP_ERR. Setting a set error replaces it. */
struct err {
    int code; /* positive errno, 0 when nothing is set */
    enum err_class cls;
    char *text; /* owned */
};

#define ERR_INIT ((struct err){0})

/* Sets code and text; returns -errnum (so that it can stand in a return statement). */
int err_set(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_set_class(struct err *e, enum err_class cls, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Sets "TEXT: strerror(errnum)"; returns -errnum. */
int err_set_errno(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "TEXT: " before the text that is there; returns the code that is there, negative. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Moves src into dst (dropping what dst had); src is empty afterwards. */
void err_move(struct err *dst, struct err *src);
void err_clear(struct err *e);
static inline bool err_is_set(const struct err *e)
{
    return e && e->code != 0;
}
/* The text, or "unknown error" when none was set; never NULL. */
const char *err_text(const struct err *e);
/* The class as QMP spells it. */
const char *err_class_name(enum err_class cls);
