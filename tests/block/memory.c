/* SPDX-License-Identifier: BSD-2-Clause */
#include "memory.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct memory_fault fault;
static unsigned failed;

struct memory_fault memory_fails(struct memory_fault f)
{
    pthread_mutex_lock(&lock);
    struct memory_fault old = fault;
    fault = f;
    pthread_mutex_unlock(&lock);
    return old;
}

unsigned memory_failed(void)
{
    pthread_mutex_lock(&lock);
    unsigned n = failed;
    pthread_mutex_unlock(&lock);
    return n;
}

static bool fails(void)
{
    pthread_mutex_lock(&lock);
    bool now = fault.in && --fault.in == 0;
    fault.in = now && fault.on ? 1 : fault.in;
    failed += now;
    pthread_mutex_unlock(&lock);
    return now;
}

/* NAME, as the code under test calls it: __real_NAME unless it is to fail. */
#define WRAP(name, params, args)                                                                                       \
    gpointer __real_##name params;                                                                                     \
    gpointer __wrap_##name params;                                                                                     \
    gpointer __wrap_##name params                                                                                      \
    {                                                                                                                  \
        return fails() ? NULL : __real_##name args;                                                                    \
    }

WRAP(g_try_malloc, (gsize n), (n))
WRAP(g_try_malloc0, (gsize n), (n))
WRAP(g_try_malloc_n, (gsize n, gsize size), (n, size))
WRAP(g_try_malloc0_n, (gsize n, gsize size), (n, size))
WRAP(g_try_realloc_n, (gpointer p, gsize n, gsize size), (p, n, size))

int __real_posix_memalign(void **out, size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, align, n);
}
