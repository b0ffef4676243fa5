/* SPDX-License-Identifier: BSD-2-Clause */
/* Any text as options of the command line: key=value, JSON, chardev spellings, sizes. */
#include "base/cleanup.h"
#include "base/json.h"
#include "char/char.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drop(struct json_object *o, struct err *e)
{
    if (!o && !err_is_set(e)) {
        abort(); /* a refusal says why */
    }
    json_object_put(o);
    err_clear(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE char *text = g_strndup((const char *)data, size);
    CLEANUP_ERR struct err e = ERR_INIT;
    drop(keyval_parse(text, NULL, &e), &e);
    drop(keyval_parse(text, "driver", &e), &e);
    drop(chardev_from_option(text, &e), &e);
    drop(chardev_from_legacy(text, &e), &e);
    uint64_t v;
    parse_size(text, &v);
    return 0;
}
