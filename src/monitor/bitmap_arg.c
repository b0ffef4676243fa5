/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/bitmap_arg.h"

#include "schema/qmp_copy.h"

static int check(const struct bitmap_arg *a, struct err *e)
{
    const char *sync = qmp_MirrorSyncMode_names[a->sync];
    bool incremental = a->sync == QMP_MIRROR_SYNC_MODE_INCREMENTAL, never = a->mode == QMP_BITMAP_SYNC_MODE_NEVER;
    bool by_bitmap = incremental || a->sync == QMP_MIRROR_SYNC_MODE_BITMAP;
    if (incremental && a->has_mode && a->mode != QMP_BITMAP_SYNC_MODE_ON_SUCCESS) {
        return err_set(e, EINVAL, "Bitmap sync mode must be 'on-success' when using sync mode '%s'", sync);
    }
    if (by_bitmap && !a->name) {
        return err_set(e, EINVAL, "must provide a valid bitmap name for '%s' sync mode", sync);
    }
    if (!a->name) {
        return a->has_mode ? err_set(e, EINVAL, "Cannot specify bitmap sync mode without a bitmap") : 0;
    }
    if (!a->has_mode && !incremental) {
        return err_set(e, EINVAL, "Bitmap sync mode must be given when providing a bitmap");
    }
    if (a->sync == QMP_MIRROR_SYNC_MODE_NONE || (!by_bitmap && never)) {
        return err_set(e, EINVAL, "Bitmap sync mode '%s' has no meaning when combined with sync mode '%s'",
                       qmp_BitmapSyncMode_names[a->mode], sync);
    }
    return 0;
}

int bitmap_arg_find(struct bitmap_arg *a, struct node *source, struct dirty_bitmap **out, struct err *e)
{
    int rc = check(a, e);
    *out = NULL;
    if (rc || !a->name) {
        return rc;
    }
    a->mode = a->has_mode ? a->mode : QMP_BITMAP_SYNC_MODE_ON_SUCCESS;
    *out = dirty_bitmap_find(source, a->name);
    if (!*out) {
        *out = dirty_bitmap_find(node_skip_filters(source), a->name);
    }
    return *out ? 0 : err_set(e, ENOENT, "Bitmap '%s' could not be found", a->name);
}
