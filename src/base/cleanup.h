/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Scoped cleanup: a variable that is declared with one of these is released when its scope ends.
 * Ownership moves on with take(), which returns the value and leaves the variable empty.
 *
 *     CLEANUP_FREE char *name = g_strdup(x);      g_free
 *     CLEANUP_CLOSE int fd = open(...);           close, unless negative
 *     CLEANUP_JSON struct json_object *o = ...;   json_object_put
 *     CLEANUP_ERR struct err e = ERR_INIT;        err_clear
 *     CLEANUP_UNLOCK pthread_mutex_t *m = lock(&dev->mutex);
 */
#pragma once

#include "base/err.h"

#include <glib.h>
#include <json-c/json.h>
#include <pthread.h>
#include <unistd.h>

static inline void cleanup_free(void *p)
{
    g_free(*(void **)p);
}
static inline void cleanup_close(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}
static inline void cleanup_json(struct json_object **o)
{
    json_object_put(*o);
}
static inline void cleanup_unlock(pthread_mutex_t **m)
{
    if (*m) {
        pthread_mutex_unlock(*m);
    }
}
static inline pthread_mutex_t *lock(pthread_mutex_t *m)
{
    pthread_mutex_lock(m);
    return m;
}

#define CLEANUP_FREE   __attribute__((cleanup(cleanup_free), unused))
#define CLEANUP_CLOSE  __attribute__((cleanup(cleanup_close), unused))
#define CLEANUP_JSON   __attribute__((cleanup(cleanup_json), unused))
#define CLEANUP_ERR    __attribute__((cleanup(err_clear), unused))
#define CLEANUP_UNLOCK __attribute__((cleanup(cleanup_unlock), unused))

/* take(p): the value of pointer p, leaving NULL; take_fd(fd): likewise, leaving -1. */
#define take(p)                                                                                                        \
    ({                                                                                                                 \
        __typeof__(p) taken_ = (p);                                                                                    \
        (p) = NULL;                                                                                                    \
        taken_;                                                                                                        \
    })
static inline int take_fd(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}
