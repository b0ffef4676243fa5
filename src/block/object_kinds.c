/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of all kinds of objects, and the two that have no better place. */
#include "base/cleanup.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/objects.h"
#include "block/throttle.h"
#include "crypto/authz.h"
#include "crypto/rng.h"
#include "crypto/secret.h"
#include "crypto/tls.h"

static int throttle_create(struct object_make *m, void **impl, struct err *e)
{
    CLEANUP_JSON struct json_object *limits = NULL;
    struct json_object *given;
    struct throttle_config config;
    if (json_object_object_get_ex(m->props, "limits", &given)) {
        limits = json_clone(given);
    } else {
        limits = json_object_new_object();
    }
    json_object_object_foreach(m->props, key, value)
    {
        if (g_str_has_prefix(key, "x-")) {
            json_object_object_add(limits, key + 2, json_object_get(value));
        }
    }
    int rc = throttle_config_parse(limits, &config, e);
    if (rc == 0) {
        *impl = throttle_group_create(m->loop, m->id);
        throttle_group_set(*impl, &config);
        json_object_object_add(m->props, "limits", throttle_config_json(&config));
    }
    return rc;
}

static void throttle_destroy(void *impl)
{
    throttle_group_unref(impl);
}

static const char *const throttle_props[] = {"limits", "x-*", NULL};

static const struct object_kind throttle_group_kind = {
    .name = "throttle-group",
    .props = throttle_props,
    .create = throttle_create,
    .destroy = throttle_destroy,
};

/* Taken for the sake of scripts: there is one loop. */
static int iothread_create(struct object_make *m, void **impl, struct err *e)
{
    *impl = g_new0(char, 1);
    return 0;
}

static const char *const iothread_props[] = {"poll-*", "aio-max-batch", "thread-pool-*", NULL};

static const struct object_kind iothread_kind = {
    .name = "iothread", .props = iothread_props, .create = iothread_create, .destroy = g_free};

const struct object_kind *const object_kinds[] = {
    &authz_list_kind,
    &authz_listfile_kind,
    &authz_simple_kind,
    &iothread_kind,
    &memory_backend_ram_kind,
    &rng_builtin_kind,
    &rng_random_kind,
    &secret_kind,
    &throttle_group_kind,
    &tls_creds_anon_kind,
    &tls_creds_psk_kind,
    &tls_creds_x509_kind,
    NULL,
};
