/* SPDX-License-Identifier: BSD-2-Clause */
/* What a state is based on, and where that is. */
#include "cli/state/state.h"
#include "state/format.h"

enum { PARENTS_MAX = 255 };

/* Tag and digest say so. */
static bool is_parent_of(const struct state_manifest *child, const struct state_input *in)
{
    const char *tag = state_manifest_tag(state_reader_manifest(in->r));
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_index *x = g_strcmp0(tag, state_manifest_parent(child)) ? NULL : state_index_read(in->r, &e);
    bool is = x && state_index_check_parent(x, child, in->fd.name, &e) == 0;
    state_index_destroy(x);
    return is;
}

/* 1: one of those that were named; 0: none of them. */
static int open_named(struct state_args *a, const struct state_manifest *child, struct state_input *out, struct err *e)
{
    for (guint i = 0; i < a->parents->len; i++) {
        int rc = state_input_open(a, out, a->parents->pdata[i], e);
        if (rc < 0 || is_parent_of(child, out)) {
            return rc < 0 ? rc : 1;
        }
        state_input_finish(out);
        *out = (struct state_input){.fd.fd = -1};
    }
    return 0;
}

/* Where the state itself says. */
static int open_beside(struct state_args *a, const struct state_input *in, struct state_input *out, struct err *e)
{
    const struct state_manifest *child = state_reader_manifest(in->r);
    const char *tag = state_manifest_parent(child), *name = state_manifest_parent_file(child);
    if (!name) {
        return err_set(e, ENOENT, "%s is based on '%s' and does not say where that is: --parent does", in->fd.name,
                       tag);
    }
    CLEANUP_FREE char *folder = g_path_get_dirname(in->fd.name);
    CLEANUP_FREE char *path = g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(folder, name, NULL);
    return state_input_open(a, out, path, e) < 0
               ? err_wrap(e, "'%s', on which %s is based (--parent says where it is now)", tag, in->fd.name)
               : 0;
}

static int open_parent(struct state_args *a, const struct state_input *in, struct state_input *out, struct err *e)
{
    if (in->image) {
        return state_image_open_parent(in, out, e);
    }
    int rc = open_named(a, state_reader_manifest(in->r), out, e);
    return rc ? MIN(rc, 0) : open_beside(a, in, out, e);
}

int state_input_parents(struct state_args *a, const struct state_input *in, bool files, GPtrArray *out, struct err *e)
{
    int rc = 0;
    for (guint n = 0; rc == 0 && (in->image || files) && state_manifest_parent(state_reader_manifest(in->r)); n++) {
        struct state_input *p = g_new0(struct state_input, 1);
        p->fd.fd = -1;
        g_ptr_array_add(out, p);
        rc = n < PARENTS_MAX ? open_parent(a, in, p, e)
                             : err_set(e, ELOOP, "%s has more than %d parents", in->fd.name, PARENTS_MAX);
        in = p;
    }
    return rc;
}
