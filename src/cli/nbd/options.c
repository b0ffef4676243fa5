/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-nbd: its command line. */
#include "cli/nbd/nbd.h"

#include "base/json.h"
#include "cli/opts.h"
#include "export/nbd/nbd.h"
#include "export/nbd/proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_CACHE = 256,
    OPT_AIO,
    OPT_DISCARD,
    OPT_DETECT_ZEROES,
    OPT_OBJECT,
    OPT_IMAGE_OPTS,
    OPT_FORK,
    OPT_PID_FILE,
    OPT_TLS_CREDS,
    OPT_TLS_HOSTNAME,
    OPT_TLS_AUTHZ,
    OPT_UNENCRYPTED,
    OPT_SELINUX_LABEL,
    OPT_HANDSHAKE_LIMIT,
};

static const struct opt_spec specs[] = {
    {'h', "help"},
    {'V', "version"},
    {'b', "bind", true},
    {'p', "port", true},
    {'k', "socket", true},
    {'o', "offset", true},
    {'r', "read-only"},
    {'A', "allocation-depth"},
    {'B', "bitmap", true},
    {'c', "connect", true},
    {'d', "disconnect"},
    {'L', "list"},
    {'s', "snapshot"},
    {'l', "load-snapshot", true},
    {'n', "nocache"},
    {OPT_CACHE, "cache", true},
    {OPT_AIO, "aio", true},
    {OPT_DISCARD, "discard", true},
    {OPT_DETECT_ZEROES, "detect-zeroes", true},
    {'e', "shared", true},
    {'f', "format", true},
    {'t', "persistent"},
    {'v', "verbose"},
    {OPT_OBJECT, "object", true},
    {'x', "export-name", true},
    {'D', "description", true},
    {OPT_TLS_CREDS, "tls-creds", true},
    {OPT_TLS_HOSTNAME, "tls-hostname", true},
    {OPT_TLS_AUTHZ, "tls-authz", true},
    {OPT_UNENCRYPTED, "unencrypted"},
    {OPT_IMAGE_OPTS, "image-opts"},
    {'T', "trace", true},
    {OPT_FORK, "fork"},
    {OPT_PID_FILE, "pid-file", true},
    {OPT_SELINUX_LABEL, "selinux-label", true},
    {OPT_HANDSHAKE_LIMIT, "handshake-limit", true},
    {0},
};

static const char help[] = "Usage: %s [OPTIONS] FILE\n"
                           "  or:  %s -L [OPTIONS]\n"
                           "Serves a disk image to NBD clients\n"
                           "\n"
                           "  -h, --help                show this text and exit\n"
                           "  -V, --version             show the version and exit\n"
                           "\n"
                           "Connections:\n"
                           "  -p, --port=PORT           TCP port to listen on, or to ask with -L (10809)\n"
                           "  -b, --bind=ADDRESS        address to listen on, or to ask with -L (0.0.0.0)\n"
                           "  -k, --socket=PATH         unix socket to listen on, or to ask with -L\n"
                           "  -e, --shared=NUM          how many clients at once; 0: no limit (1)\n"
                           "  -t, --persistent          do not end with the last client\n"
                           "  -v, --verbose             keep standard error with --fork\n"
                           "  -x, --export-name=NAME    name of the export (empty)\n"
                           "  -D, --description=TEXT    what clients may show to people\n"
                           "      --handshake-limit=N   seconds in which a client must have chosen an export;\n"
                           "                            0: no limit (10)\n"
                           "\n"
                           "What of the image:\n"
                           "  -o, --offset=OFFSET       begin at this byte\n"
                           "  -A, --allocation-depth    tell in which layer of the chain data lies\n"
                           "  -B, --bitmap=NAME         tell what a dirty bitmap says; may be repeated\n"
                           "\n"
                           "In general:\n"
                           "  -L, --list                show the exports of another server\n"
                           "      --object TYPE,id=ID,...\n"
                           "                            define an object: secret, tls-creds-x509, authz-list ...\n"
                           "      --tls-creds=ID        credentials: nobody gets in without TLS\n"
                           "      --tls-hostname=NAME   name that the server's certificate must have (-L)\n"
                           "      --tls-authz=ID        who may connect\n"
                           "      --unencrypted         clients that do not ask for TLS get in without\n"
                           "  -T, --trace [[enable=]<pattern>][,file=<file>]\n"
                           "                            write trace points whose names match the pattern\n"
                           "      --fork                serve in the background; return when it is ready\n"
                           "      --pid-file=PATH       write the server's process id there\n"
                           "      --selinux-label=LABEL label of the listening unix socket\n"
                           "\n"
                           "The kernel's NBD client:\n"
                           "  -c, --connect=DEV         make FILE the device DEV\n"
                           "  -d, --disconnect          disconnect the device FILE\n"
                           "\n"
                           "Block device options:\n"
                           "  -f, --format=FORMAT       the image's format; probed when none is given\n"
                           "  -r, --read-only           let nobody write\n"
                           "  -s, --snapshot            write to a temporary file, not to the image\n"
                           "  -l, --load-snapshot=SNAPSHOT\n"
                           "                            show an internal snapshot, read-only: an id or name, or\n"
                           "                            snapshot.id=ID,snapshot.name=NAME\n"
                           "  -n, --nocache             bypass the host's cache: short for --cache=none\n"
                           "      --cache=MODE          none, writeback (the default), writethrough, directsync\n"
                           "                            or unsafe\n"
                           "      --aio=MODE            ask for asynchronous I/O by threads, native or io_uring\n"
                           "      --discard=MODE        unmap: pass discards on; ignore: do not (the default)\n"
                           "      --detect-zeroes=MODE  off, on or unmap\n"
                           "      --image-opts          FILE is a list of options, not a name\n";

int nbd_fail(const struct nbd_args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", a->prog, text);
    return 1;
}

static int fail_arguments(const struct nbd_args *a)
{
    return nbd_fail(a, "Invalid number of arguments\nTry `%s --help' for more information.", a->argv0);
}

/* --- values ------------------------------------------------------------------------------------------------------- */

/* Decimal, 0x… or 0…, nothing behind it. */
static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return !errno && end != text && !*end && !strchr(text, '-') && *out <= max;
}

static int set_cache(struct nbd_args *a, const char *mode)
{
    if (a->cache_set) {
        return nbd_fail(a, "-n and --cache can only be specified once");
    }
    a->cache_set = true;
    return tool_parse_cache(mode, &a->cache) ? -1 : nbd_fail(a, "Invalid cache mode `%s'", mode);
}

static int set_aio(struct nbd_args *a, const char *mode)
{
    static const char *const modes[] = {"threads", "native", "io_uring", NULL};
    if (a->aio) {
        return nbd_fail(a, "--aio can only be specified once");
    }
    a->aio = mode;
    return g_strv_contains(modes, mode) ? -1 : nbd_fail(a, "Invalid aio mode '%s'", mode);
}

static int set_discard(struct nbd_args *a, const char *mode)
{
    static const char *const modes[] = {"ignore", "off", "unmap", "on", NULL};
    if (a->discard) {
        return nbd_fail(a, "--discard can only be specified once");
    }
    a->discard = mode;
    return g_strv_contains(modes, mode) ? -1 : nbd_fail(a, "Invalid discard mode `%s'", mode);
}

static bool unmaps(const struct nbd_args *a)
{
    return a->discard && (!strcmp(a->discard, "unmap") || !strcmp(a->discard, "on"));
}

static int set_detect_zeroes(struct nbd_args *a, const char *mode)
{
    static const char *const modes[] = {"off", "on", "unmap", NULL};
    a->detect_zeroes = mode;
    if (!g_strv_contains(modes, mode)) {
        return nbd_fail(a, "Failed to parse detect_zeroes mode: invalid parameter value: %s", mode);
    }
    if (!strcmp(mode, "unmap") && !unmaps(a)) {
        return nbd_fail(a, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    }
    return -1;
}

static int set_number(struct nbd_args *a, int key, const char *text)
{
    uint64_t n;
    if (key == 'o') {
        a->offset_set = true;
        return parse_number(text, INT64_MAX, &a->offset) ? -1 : nbd_fail(a, "Invalid offset '%s'", text);
    }
    bool ok = parse_number(text, INT32_MAX, &n);
    if (key == 'e') {
        a->shared = ok ? (unsigned)n : 0;
        return ok ? -1 : nbd_fail(a, "Invalid shared device number '%s'", text);
    }
    a->handshake_seconds = ok ? (unsigned)n : 0;
    return ok ? -1 : nbd_fail(a, "Invalid handshake limit '%s'", text);
}

/* Texts that the protocol limits. */
static int set_text(struct nbd_args *a, int key, const char *text)
{
    bool name = key == 'x';
    *(name ? &a->export_name : &a->description) = text;
    return strlen(text) <= NBD_MAX_STRING
               ? -1
               : nbd_fail(a, "%s '%s' too long", name ? "export name" : "export description", text);
}

static int set_socket(struct nbd_args *a, const char *path)
{
    a->socket = path;
    return *path == '/' ? -1 : nbd_fail(a, "socket path must be absolute");
}

/* --- options ------------------------------------------------------------------------------------------------------ */

static bool *flag_of(struct nbd_args *a, int key)
{
    switch (key) {
    case 'r':
        return &a->read_only;
    case 'A':
        return &a->allocation_depth;
    case 'd':
        return &a->disconnect;
    case 'L':
        return &a->list;
    case 's':
        return &a->snapshot;
    case 't':
        return &a->persistent;
    case 'v':
        return &a->verbose;
    case OPT_IMAGE_OPTS:
        return &a->image_opts;
    case OPT_UNENCRYPTED:
        return &a->unencrypted;
    case OPT_FORK:
        return &a->fork;
    default:
        return NULL;
    }
}

static const char **string_of(struct nbd_args *a, int key)
{
    switch (key) {
    case 'b':
        return &a->bind;
    case 'p':
        return &a->port;
    case 'c':
        return &a->device;
    case 'f':
        return &a->fmt;
    case OPT_TLS_CREDS:
        return &a->tls_creds;
    case OPT_TLS_HOSTNAME:
        return &a->tls_hostname;
    case OPT_TLS_AUTHZ:
        return &a->tls_authz;
    case OPT_PID_FILE:
        return &a->pid_file;
    case OPT_SELINUX_LABEL:
        return &a->selinux_label;
    default:
        return NULL;
    }
}

static int set_snapshot(struct nbd_args *a, const char *value)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    a->load_snapshot = value;
    a->read_only = true;
    if (!g_str_has_prefix(value, "snapshot.")) {
        return -1;
    }
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, &e);
    struct json_object *s = NULL;
    json_object_object_get_ex(o, "snapshot", &s);
    if (json_object_is_type(s, json_type_object)) {
        json_object_object_foreach(s, key, v)
        {
            if (strcmp(key, "id") && strcmp(key, "name")) {
                err_set(&e, EINVAL, "Invalid parameter 'snapshot.%s'", key);
            }
        }
    } else if (!err_is_set(&e)) {
        err_set(&e, EINVAL, "Invalid parameter 'snapshot'");
    }
    if (err_is_set(&e)) {
        nbd_fail(a, "%s", err_text(&e));
        return nbd_fail(a, "Failed in parsing snapshot param `%s'", value);
    }
    return -1;
}

/* Below 0: go on; else the exit code. */
static int set_option(struct nbd_args *a, int key, const char *value)
{
    if (flag_of(a, key)) {
        *flag_of(a, key) = true;
        return -1;
    }
    if (string_of(a, key)) {
        *string_of(a, key) = value;
        return -1;
    }
    switch (key) {
    case 'k':
        return set_socket(a, value);
    case 'n':
        return set_cache(a, "none");
    case OPT_CACHE:
        return set_cache(a, value);
    case OPT_AIO:
        return set_aio(a, value);
    case OPT_DISCARD:
        return set_discard(a, value);
    case OPT_DETECT_ZEROES:
        return set_detect_zeroes(a, value);
    case 'l':
        return set_snapshot(a, value);
    case 'x':
    case 'D':
        return set_text(a, key, value);
    case 'T':
        g_ptr_array_add(a->traces, (gpointer)(uintptr_t)value);
        return -1;
    case 'B':
        g_ptr_array_add(a->bitmaps, (gpointer)(uintptr_t)value);
        return -1;
    case OPT_OBJECT:
        g_ptr_array_add(a->objects, (gpointer)(uintptr_t)value);
        return -1;
    default:
        return set_number(a, key, value);
    }
}

static int print_version(const char *argv0)
{
    struct tool t;
    if (!tool_init(&t, argv0, "sterna-nbd", "qemu-nbd")) {
        return 1;
    }
    tool_print_version(&t);
    return tool_finish(&t, 0);
}

/* --- what goes together ------------------------------------------------------------------------------------------- */

static int check_list(const struct nbd_args *a, unsigned operands)
{
    if (operands) {
        return nbd_fail(a, "List mode is incompatible with a file name");
    }
    if (a->export_name || a->description || a->offset_set || a->device || a->disconnect || a->fmt || a->load_snapshot ||
        a->bitmaps->len || a->allocation_depth || a->aio || a->discard || a->cache_set) {
        return nbd_fail(a, "List mode is incompatible with per-device settings");
    }
    return a->fork ? nbd_fail(a, "List mode is incompatible with forking") : -1;
}

static int check_tls(const struct nbd_args *a)
{
    const char *alone = a->tls_authz      ? "--tls-authz"
                        : a->tls_hostname ? "--tls-hostname"
                        : a->unencrypted  ? "--unencrypted"
                                          : NULL;
    if (!a->tls_creds) {
        return alone ? nbd_fail(a, "%s is not permitted without --tls-creds", alone) : -1;
    }
    if (a->unencrypted && (a->tls_authz || a->list)) {
        return nbd_fail(a, "--unencrypted is incompatible with %s", a->list ? "--list" : "--tls-authz");
    }
    if (a->device) {
        return nbd_fail(a, "TLS is not supported with a host device");
    }
    if (a->tls_authz && a->list) {
        return nbd_fail(a, "TLS authorization is incompatible with export list");
    }
    return a->tls_hostname && !a->list ? nbd_fail(a, "TLS hostname is only supported with export list") : -1;
}

static int check(const struct nbd_args *a, unsigned operands)
{
    int rc = a->list ? check_list(a, operands) : operands == 1 ? -1 : fail_arguments(a);
    if (rc < 0) {
        rc = check_tls(a);
    }
    if (rc < 0 && a->selinux_label && !a->socket) {
        rc = nbd_fail(a, "--selinux-label is not permitted without --socket");
    }
    return rc;
}

int nbd_parse(struct nbd_args *a, int argc, char **argv)
{
    const char *argv0 = argc ? argv[0] : "sterna-nbd";
    CLEANUP_FREE char *prog = g_path_get_basename(argv0);
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    *a = (struct nbd_args){.argv0 = argv0,
                           .prog = g_intern_string(prog),
                           .shared = 1,
                           .handshake_seconds = NBD_HANDSHAKE_SECONDS,
                           .objects = g_ptr_array_new(),
                           .traces = g_ptr_array_new(),
                           .bitmaps = g_ptr_array_new()};
    int key;
    while ((key = opts_next(&o)) >= 0) {
        if (key == 'h') {
            printf(help, a->prog, a->prog);
            return 0;
        }
        int rc = key == 'V' ? print_version(argv0) : set_option(a, key, o.value);
        if (rc >= 0) {
            return rc;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(&o, a->argv0, key);
        return nbd_fail(a, "Try `%s --help' for more information.", a->argv0);
    }
    unsigned n;
    char **operands = opts_operands(&o, &n);
    a->file = operands[0];
    return check(a, n);
}

void nbd_args_finish(struct nbd_args *a)
{
    g_ptr_array_unref(a->objects);
    g_ptr_array_unref(a->traces);
    g_ptr_array_unref(a->bitmaps);
}
