/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <stdio.h>
#include <string.h>

enum { EXIT_OK, EXIT_INTERNAL, EXIT_CORRUPT, EXIT_LEAKS, EXIT_UNSUPPORTED = 63 };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,         OPT_SPEC_OBJECT,       OPT_SPEC_IMAGE_OPTS,         OPT_SPEC_OUTPUT,
    {'f', "format", true}, {'r', "repair", true}, {'U', "force-share", false}, {'q', "quiet", false},
    {'T', "cache", true},  OPT_SPEC_END,
};

static void put_count(struct json_object *o, const char *key, uint64_t n, bool always)
{
    if (n || always) {
        json_object_object_add(o, key, json_object_new_uint64(n));
    }
}

static void print_json(const struct img_disk *d, const struct check_result *r)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "filename", json_object_new_string(d->name));
    json_object_object_add(o, "format", json_object_new_string(d->node->drv->name));
    put_count(o, "check-errors", r->check_errors, true);
    put_count(o, "image-end-offset", r->image_end_offset, false);
    put_count(o, "corruptions", r->corruptions, false);
    put_count(o, "leaks", r->leaks, false);
    put_count(o, "corruptions-fixed", r->corruptions_fixed, false);
    put_count(o, "leaks-fixed", r->leaks_fixed, false);
    put_count(o, "total-clusters", r->total_clusters, false);
    put_count(o, "allocated-clusters", r->allocated_clusters, false);
    put_count(o, "fragmented-clusters", r->fragmented_clusters, false);
    put_count(o, "compressed-clusters", r->compressed_clusters, false);
    img_print_json(o);
}

static void print_human(const struct check_result *r)
{
    if (!r->corruptions && !r->leaks && !r->check_errors) {
        puts("No errors were found on the image.");
    }
    if (r->corruptions) {
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               r->corruptions);
    }
    if (r->leaks) {
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               r->leaks);
    }
    if (r->check_errors) {
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", r->check_errors);
    }
    if (r->total_clusters && r->allocated_clusters) {
        double allocated = (double)r->allocated_clusters;
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               r->allocated_clusters, r->total_clusters, allocated * 100 / (double)r->total_clusters,
               (double)r->fragmented_clusters * 100 / allocated, (double)r->compressed_clusters * 100 / allocated);
    }
    if (r->image_end_offset) {
        printf("Image end offset: %" PRIu64 "\n", r->image_end_offset);
    }
}

/* Runs the driver's check; its lines go to standard error. */
static int run_check(struct img_disk *d, struct check_result *r, unsigned fix, struct err *e)
{
    g_autoptr(GString) text = g_string_new(NULL);
    *r = (struct check_result){.text = text};
    int rc = d->node->drv->check(d->node, r, fix, e);
    r->text = NULL;
    fputs(text->str, stderr);
    return rc;
}

static bool repaired(const struct check_result *r)
{
    return r->leaks_fixed || r->corruptions_fixed;
}

/* Once, or twice when something was repaired: what counts is what is left. */
static int check_and_repair(struct img_disk *d, struct check_result *r, unsigned fix, bool say, struct err *e)
{
    int rc = run_check(d, r, fix, e);
    if (rc || !repaired(r)) {
        return rc;
    }
    if (say) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               r->leaks_fixed, r->corruptions_fixed);
        fflush(stdout);
    }
    uint64_t leaks_fixed = r->leaks_fixed, corruptions_fixed = r->corruptions_fixed;
    rc = run_check(d, r, 0, e);
    r->leaks_fixed = leaks_fixed;
    r->corruptions_fixed = corruptions_fixed;
    return rc;
}

static int check_disk(struct tool *img, struct img_disk *d, unsigned fix, const struct img_common *c)
{
    if (!d->node->drv->check) {
        tool_fail(img, "This image format does not support checks");
        return EXIT_UNSUPPORTED;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    struct check_result r;
    int rc = check_and_repair(d, &r, fix, !c->quiet && !c->json, &e);
    if (rc == -ENOTSUP) {
        tool_fail(img, "This image format does not support checks");
        return EXIT_UNSUPPORTED;
    }
    if (rc) {
        tool_fail(img, "Check failed: %s", err_is_set(&e) ? err_text(&e) : g_strerror(-rc));
        return EXIT_INTERNAL;
    }
    if (!c->quiet) {
        if (c->json) {
            print_json(d, &r);
        } else {
            print_human(&r);
        }
    }
    if (r.check_errors) {
        fflush(stdout);
        return tool_fail(img, "Check failed");
    }
    return r.corruptions ? EXIT_CORRUPT : r.leaks ? EXIT_LEAKS : EXIT_OK;
}

int img_check(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct img_common c = {0};
    struct img_open how = {.no_backing = true, .for_check = true};
    const char *cache = "writeback";
    unsigned fix = 0;
    int key;
    while ((key = img_next(img, &o, &c)) > OPTS_END) {
        if (key == 'T') {
            cache = o.value;
        } else if (strcmp(o.value, "leaks") == 0) {
            fix = CHECK_FIX_LEAKS;
        } else if (strcmp(o.value, "all") == 0) {
            fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS;
        } else {
            return img_fail_usage(img, "Unknown option value for -r (expecting 'leaks' or 'all'): %s", o.value);
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&c);
    }
    const char *name = img_one_operand(img, &o);
    if (!name) {
        return EXIT_INTERNAL;
    }
    if (!tool_parse_cache(cache, &how.cache)) {
        return tool_fail(img, "Invalid source cache option: %s", cache);
    }
    how.fmt = c.fmt;
    how.image_opts = c.image_opts;
    how.force_share = c.force_share;
    how.writable = fix != 0;
    how.resize = fix != 0;
    struct img_disk d;
    if (!img_disk_open(img, name, &how, &d)) {
        return EXIT_INTERNAL;
    }
    int rc = check_disk(img, &d, fix, &c);
    int closed = img_disk_close(&d);
    if (closed && rc == EXIT_OK) {
        return tool_fail(img, "Could not flush '%s': %s", name, g_strerror(-closed));
    }
    return rc;
}
