/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state file on the disk: its laws.
 *
 * In its folder stand
 *   FILE           the machine as of one generation, complete
 *   FILE.prev      an earlier generation, complete
 *   FILE.new       the next one while it is written; worth nothing
 *   FILE.prev.new  a second name of FILE while the next one takes its place; worth nothing
 *   FILE.lock      locked by the process that uses FILE (file_lock.c)
 *
 *  1. A name FILE or FILE.prev is only ever given to a file whose bytes were synced before. So FILE is whole after any
 *     crash: one generation or the next, never a mixture, and never missing once it was there.
 *  2. A change is acknowledged after the folder was synced behind the rename that made its generation FILE.
 *  3. Nothing is written before the generation before it was acknowledged or given up. So a crash leaves the last
 *     acknowledged generation, or that and the one change in flight (or the group that shared its generation).
 *  4. Generations grow. A number that may have been seen in FILE is not used again, not even when its change failed.
 *  5. What is written reads back as the same sections (config_file_flush() tries before it writes).
 *  6. FILE changes only under the lock.
 *
 * The last line tells a whole file from one that is not, and one that a person edited from one that a disk damaged:
 *
 *     # end generation=17 sections=9 crc32c=1a2b3c4d    as written: CRC-32C of every byte before " crc32c="
 *     # end generation=17 edited                        a person says: this is all, and I mean it
 *
 * A file without it ends early and is never read. One whose checksum differs is refused, since nobody can tell an edit
 * from damage but the person who made it, and who then says so there. A process that opens an edited file writes it
 * again at once, as a new generation with a checksum.
 *
 * A new generation: write FILE.new, sync it, link FILE to FILE.prev.new, rename FILE.new to FILE, rename FILE.prev.new
 * to FILE.prev, sync the folder. One fsync of a file and one of a folder. The order of the renames matters to nobody
 * but those who look while it happens: any subset of them may survive a crash.
 */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <string.h>

static int write_beside(struct config_put *p, const char *beside)
{
    p->step = "write";
    int file = p->fs->create(p->dir, beside, p->name);
    if (file < 0) {
        return file;
    }
    int rc = p->fs->write(p->dir, file, p->text->str, p->text->len);
    if (rc == 0) {
        p->step = "sync";
        rc = p->fs->sync(p->dir, file);
    }
    p->fs->done(p->dir, file);
    return rc;
}

/* Where a file system has no hard links: a copy, which has to be synced by itself. */
static int copy_beside(struct config_put *p, const char *beside)
{
    struct config_put copy = *p;
    copy.text = p->was;
    return p->was ? write_beside(&copy, beside) : 0;
}

static int link_beside(struct config_put *p, const char *beside)
{
    p->step = "keep the previous generation of";
    int rc = p->fs->link(p->dir, p->name, beside);
    if (rc == -EEXIST) { /* a crash left it */
        rc = p->fs->unlink(p->dir, beside);
        rc = rc < 0 ? rc : p->fs->link(p->dir, p->name, beside);
    }
    if (rc == -EPERM || rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -EMLINK) {
        return copy_beside(p, beside);
    }
    return rc == -ENOENT ? 0 : rc;
}

/* Somebody who edits the file of a running machine does not lose what they wrote: it is the previous one then. */
static void look(struct config_put *p)
{
    GByteArray *is = g_byte_array_new();
    if (p->was && p->fs->read(p->dir, p->name, CONFIG_MOST_BYTES, is) == 0) {
        p->foreign = is->len != p->was->len || memcmp(is->data, p->was->str, is->len) != 0;
    }
    g_byte_array_free(is, TRUE);
}

int config_put(struct config_put *p)
{
    CLEANUP_FREE char *new = g_strconcat(p->name, CONFIG_NEW, NULL);
    CLEANUP_FREE char *prev = g_strconcat(p->name, CONFIG_PREV, NULL);
    CLEANUP_FREE char *prev_new = g_strconcat(prev, CONFIG_NEW, NULL);
    look(p);
    bool keep = p->keep || p->foreign;
    int rc = write_beside(p, new);
    if (rc == 0 && keep) {
        rc = link_beside(p, prev_new);
    }
    if (rc == 0) {
        p->step = "replace";
        rc = p->fs->rename(p->dir, new, p->name);
        p->visible = rc == 0;
    }
    if (rc < 0) {
        p->fs->unlink(p->dir, new);
        return rc;
    }
    if (keep) {
        p->fs->rename(p->dir, prev_new, prev); /* if not: the one before stays the previous one, which is whole too */
    }
    p->step = "sync the folder of";
    return p->fs->sync_folder(p->dir);
}

int config_put_new(struct config_put *p)
{
    GByteArray *is = g_byte_array_new();
    p->step = "create";
    int rc = p->fs->read(p->dir, p->name, CONFIG_MOST_BYTES, is);
    guint len = is->len;
    g_byte_array_free(is, TRUE);
    if (rc != -ENOENT && (rc < 0 || len)) {
        return rc == 0 || rc == -EFBIG ? -EEXIST : rc;
    }
    return config_put(p);
}

static const char *remedy(int rc)
{
    switch (rc) {
    case -ENOSPC:
    case -EDQUOT:
        return "; make room there and try again";
    case -EROFS:
    case -EACCES:
    case -EPERM:
        return "; make its folder writable and try again";
    case -ENOENT:
        return "; its folder is gone";
    case -EEXIST:
        return "; name one that is not there, or remove it";
    default:
        return "";
    }
}

int config_put_failed(const struct config_put *p, const char *file, int rc, struct err *e)
{
    return err_set(e, -rc, "could not %s state file '%s': %s%s", p->step, file, g_strerror(-rc), remedy(rc));
}
