/* SPDX-License-Identifier: BSD-2-Clause */
/* Key slots: what can be asked of them, what a crash may leave of a change, and changes whose writes fail. */
#include "block/luks/luks.h"

#include "base/cleanup.h"
#include "crypto/secret.h"
#include "memdisk.h"
#include "replay.h"
#include "support.h"

/* Secrets "a" … "j": the password is the name, three times; "u" is not UTF-8. */
static void *find_secret(void *opaque, const char *type, const char *id)
{
    static const struct secret odd = {(const unsigned char *)"\x3a\x3c\xff", 3};
    static struct secret secrets[26];
    static unsigned char text[26][4];
    if (strcmp(type, "secret") != 0 || strlen(id) != 1 || *id < 'a' || (*id > 'j' && *id != 'u')) {
        return NULL;
    }
    int i = *id - 'a';
    memset(text[i], *id, 3);
    secrets[i] = (struct secret){text[i], 3};
    return *id == 'u' ? (void *)(uintptr_t)&odd : &secrets[i];
}

struct volume {
    struct bench *b;
    struct memdisk disk;
    struct node *file, *n;
};

static struct node *open_with(struct bench *b, const char *file, char id, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf("{'driver': 'luks', 'file': '%s', 'key-secret': '%c'}", file, id);
    struct node *n = NULL;
    return node_open(b->graph, o, &n, e) < 0 ? NULL : n;
}

static bool opens(struct bench *b, const char *file, char id)
{
    struct node *n = open_with(b, file, id, NULL);
    node_unref(n);
    return n != NULL;
}

static int amend(struct volume *v, const char *opts, bool force, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf("{%s}", opts);
    return v->n->drv->amend(v->n, o, force, NULL, e);
}

static void must_amend(struct volume *v, const char *opts, bool force)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (amend(v, opts, force, &e) < 0) {
        fail_msg("%s: %s", opts, err_text(&e));
    }
}

/* One slot for each letter of `keys`, from the first on; opened with the first. */
static void volume_make(struct bench *b, struct volume *v, const char *keys)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    *v = (struct volume){.b = b};
    graph_set_object_lookup(b->graph, find_secret, NULL);
    v->file = memdisk_open(b->graph, &v->disk, "disk");
    CLEANUP_JSON struct json_object *o =
        jsonf("{'file': 'disk', 'size': 1024, 'key-secret': '%c', 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', "
              "'hash-alg': 'sha1', 'iter-time': 1}",
              *keys);
    if (driver_find("luks")->create(b->graph, o, &e) < 0 || !(v->n = open_with(b, "disk", *keys, &e))) {
        fail_msg("%s", err_text(&e));
    }
    for (const char *k = keys + 1; *k; k++) {
        CLEANUP_FREE char *opts = g_strdup_printf("'state': 'active', 'new-secret': '%c', 'iter-time': 1", *k);
        must_amend(v, opts, false);
    }
}

static void volume_finish(struct volume *v)
{
    node_unref(v->n);
    node_unref(v->file);
    memdisk_finish(&v->disk);
}

/* Of those that were there, and "b" and "i", which come. */
static char *who_opens(struct volume *v, const char *keys)
{
    GString *s = g_string_new(NULL);
    for (char c = 'a'; c <= 'j'; c++) {
        if ((strchr(keys, c) || strchr("bi", c)) && opens(v->b, "disk", c)) {
            g_string_append_c(s, c);
        }
    }
    return g_string_free(s, FALSE);
}

/* --- what can be asked ------------------------------------------------------------------------------------------- */

struct ask {
    const char *keys, *opts;
    bool force;
    const char *error; /* NULL: none */
    const char *after; /* whose passwords open it then */
};

#define ACTIVE   "'state': 'active', 'iter-time': 1, "
#define INACTIVE "'state': 'inactive', "
#define ALL_LOST                                                                                                       \
    "All the active keyslots match the (old) password that was given and erasing them will erase all the data in the " \
    "image irreversibly - refusing operation"

static const struct ask asks[] = {
    {"a", ACTIVE "'new-secret': 'b'", false, NULL, "ab"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 6", false, NULL, "ab"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 0", false,
     "Refusing to overwrite active keyslot 0 - please erase it first", "a"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 0", true, NULL, "b"},
    {"abcdefgh", ACTIVE "'new-secret': 'i', 'keyslot': 3", true, NULL, "abcefghi"},
    {"abcdefgh", ACTIVE "'new-secret': 'i'", false, "Can't add a keyslot - all keyslots are in use", "abcdefgh"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 8", true, "Invalid keyslot 8 specified, must be between 0 and 7", "a"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': -1", true,
     "Invalid keyslot 4294967295 specified, must be between 0 and 7", "a"},
    {"a", ACTIVE "'keyslot': 1", false, "'new-secret' is required to activate a keyslot", "a"},
    {"a", ACTIVE "'new-secret': 'b', 'old-secret': 'a'", false,
     "'old-secret' must not be given when activating keyslots", "a"},
    {"a", ACTIVE "'new-secret': 'z'", false, "No secret with id 'z'", "a"},
    {"a", ACTIVE "'new-secret': 'u'", false, "Data from secret u is not valid UTF-8", "a"},
    {"a", ACTIVE "'new-secret': 'b', 'secret': 'c'", false, "Invalid password, cannot unlock any keyslot", "a"},
    {"ac", ACTIVE "'new-secret': 'b', 'secret': 'c'", false, NULL, "abc"},
    {"a", "'new-secret': 'b'", false, "Parameter 'state' is missing", "a"},
    {"a", "'state': 'foo'", false, "Parameter 'state' does not accept value 'foo'", "a"},
    {"a", "'state': 'active', 'new-secret': 'b', 'iter-time': 999999999999999999", false, NULL,
     NULL}, /* some number "too large to scale" or "larger than" */
    {"ab", INACTIVE "'keyslot': 0", false, NULL, "b"},
    {"ab", INACTIVE "'old-secret': 'a'", false, NULL, "b"},
    {"aba", INACTIVE "'old-secret': 'a'", false, NULL, "b"},
    {"aa", INACTIVE "'old-secret': 'a'", false, ALL_LOST, "a"},
    {"aa", INACTIVE "'old-secret': 'a'", true, NULL, ""},
    {"a", INACTIVE "'keyslot': 0", false,
     "Attempt to erase the only active keyslot 0 which will erase all the data in the image irreversibly - refusing "
     "operation",
     "a"},
    {"a", INACTIVE "'keyslot': 0", true, NULL, ""},
    {"a", INACTIVE "'keyslot': 1", false, "Given keyslot 1 is already erased (inactive) ", "a"},
    {"a", INACTIVE "'keyslot': 1", true, NULL, "a"},
    {"a", INACTIVE "'keyslot': 9", true, "Invalid keyslot 9 specified, must be between 0 and 7", "a"},
    {"ab", INACTIVE "'keyslot': 0, 'old-secret': 'a'", false, NULL, "b"},
    {"ab", INACTIVE "'keyslot': 0, 'old-secret': 'b'", false,
     "Given keyslot 0 doesn't contain the given old password for erase operation", "ab"},
    {"ab", INACTIVE "'old-secret': 'c'", true, "No keyslots match given (old) password for erase operation", "ab"},
    {"ab", INACTIVE "'old-secret': 'z'", true, "No secret with id 'z'", "ab"},
    {"ab", "'state': 'inactive'", false,
     "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
     "ab"},
    {"ab", INACTIVE "'keyslot': 0, 'new-secret': 'c'", false, "'new-secret' must not be given when erasing keyslots",
     "ab"},
    {"ab", INACTIVE "'keyslot': 0, 'iter-time': 5", false, "'iter-time' must not be given when erasing keyslots", "ab"},
    {"ab", INACTIVE "'keyslot': 0, 'secret': 'a'", false, "'secret' must not be given when erasing keyslots", "ab"},
};

static void run_ask(struct bench *b)
{
    const struct ask *q = b->arg;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct volume v;
    volume_make(b, &v, q->keys);
    int rc = amend(&v, q->opts, q->force, &e);
    assert_string_equal(rc < 0 && q->after ? err_text(&e) : "", q->error ? q->error : "");
    if (q->after) {
        CLEANUP_FREE char *who = who_opens(&v, q->keys);
        assert_string_equal(who, q->after);
    } else {
        assert_true(rc < 0 && g_str_has_prefix(err_text(&e), "PBKDF iterations "));
    }
    /* And the node itself still works. */
    struct edge *ed = rw_edge(v.n);
    uint8_t sector[512] = {1};
    assert_int_equal(edge_write_buf(ed, 0, 512, sector, 0), 0);
    edge_close(ed);
    volume_finish(&v);
}

static void test_asks(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(asks); i++) {
        bench_run_arg(run_ask, (void *)(uintptr_t)&asks[i]);
    }
}

/* An erased slot's bytes are gone, not only marked. */
static void run_erased(struct bench *b)
{
    struct volume v;
    volume_make(b, &v, "ab");
    struct luks_header h;
    assert_int_equal(luks_decode(&h, v.disk.data, NULL), 0);
    size_t len = luks_material_bytes(&h), at = (size_t)h.slots[0].material * 512;
    CLEANUP_FREE uint8_t *before = g_memdup2(v.disk.data + at, len);
    must_amend(&v, INACTIVE "'keyslot': 0", false);
    unsigned same = 0;
    for (size_t i = 0; i < len; i++) {
        same += before[i] == v.disk.data[at + i];
    }
    assert_true(same < len / 64);
    assert_int_equal(luks_decode(&h, v.disk.data, NULL), 0);
    assert_int_equal(h.slots[0].iterations, 0);
    volume_finish(&v);
}

static void test_erased(void **state)
{
    bench_run(run_erased);
}

/* --- crashes and faults ------------------------------------------------------------------------------------------ */

struct change {
    const char *keys, *opts;
    const char *always; /* at least one of these opens it, whatever happens; "": need not */
    const char *after;  /* when all is well */
};

static const struct change changes[] = {
    {"a", ACTIVE "'new-secret': 'b'", "a", "ab"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 6", "a", "ab"},
    {"ab", INACTIVE "'keyslot': 0", "b", "b"},
    {"aba", INACTIVE "'old-secret': 'a'", "b", "b"},
    {"a", ACTIVE "'new-secret': 'b', 'keyslot': 0", "ab", "b"},
    {"abcdefgh", ACTIVE "'new-secret': 'i', 'keyslot': 3", "abcefgh", "abcefghi"},
    {"a", INACTIVE "'keyslot': 0", "", ""},
};

struct crash {
    struct bench *b;
    const struct change *c;
    unsigned end;
};

static int mem_read(void *opaque, uint64_t off, size_t len, void *buf)
{
    struct memdisk *d = opaque;
    assert_true(off + len <= d->size);
    memcpy(buf, d->data + off, len);
    return 0;
}

/* Whoever opens it; fails when a slot says that it is in use and nobody opens that one: neither its old key, nor one
 * that comes. */
static char *judge(const struct change *change, struct memdisk *image, const char *what)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct luks_header h;
    struct luks_store st = {image, mem_read, NULL, NULL};
    GString *found = g_string_new(NULL);
    if (luks_decode(&h, image->data, &e) < 0) {
        fail_msg("%s: %s", what, err_text(&e));
    }
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        bool opened = !h.slots[i].active;
        char candidates[] = {i < strlen(change->keys) ? change->keys[i] : 'b', 'b', 'i', 0};
        for (const char *c = candidates; *c && !opened; c++) {
            char password[4] = {*c, *c, *c, 0};
            opened = luks_slot_opens(&h, &st, i, password, &e) == 1;
            if (opened && !strchr(found->str, *c)) {
                g_string_append_c(found, *c);
            }
        }
        if (!opened) {
            fail_msg("%s: slot %u is in use and nobody can open it", what, i);
        }
    }
    return g_string_free(found, FALSE);
}

static bool share_letter(const char *a, const char *b)
{
    return a[strcspn(a, b)] != 0;
}

static void judge_crash(void *opaque, struct memdisk *images, unsigned at, const char *what)
{
    struct crash *x = opaque;
    CLEANUP_FREE char *found = judge(x->c, images, what);
    if (*x->c->always && !share_letter(x->c->always, found)) {
        fail_msg("%s, %s: opened by '%s' only", x->c->opts, what, found);
    }
    if (at >= x->end) {
        assert_int_equal(strspn(found, x->c->after), strlen(found));
        assert_int_equal(strlen(found), strlen(x->c->after));
    }
}

static void run_crash(struct bench *b)
{
    struct crash x = {b, b->arg, 0};
    struct volume v;
    volume_make(b, &v, x.c->keys);
    struct memdisk start = {.data = g_memdup2(v.disk.data, v.disk.size), .size = v.disk.size};
    memdisk_log_start(&v.disk);
    must_amend(&v, x.c->opts, true);
    x.end = v.disk.log->len;
    unsigned long points = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) { /* of where writes are torn */
        struct replay r = {.start = &start, .disks = 1, .log = v.disk.log, .seed = seed};
        replay_run(&r, judge_crash, &x);
        points += r.points;
    }
    print_message("%s: %lu crashes\n", x.c->opts, points);
    assert_true(points >= 20);
    volume_finish(&v);
    g_free(start.data);
}

static void test_crashes(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        bench_run_arg(run_crash, (void *)(uintptr_t)&changes[i]);
    }
}

/* The n-th read, write or flush fails; then the same again, without failures. False: there were fewer. */
static bool fault(struct bench *b, const struct change *c, const struct memdisk *made, unsigned n)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct volume v = {.b = b, .disk = {.data = g_memdup2(made->data, made->size), .size = made->size}};
    v.file = memdisk_open(b->graph, &v.disk, "disk");
    v.n = open_with(b, "disk", *c->keys, &e);
    assert_non_null(v.n);
    v.disk.fail_in = n;
    v.disk.fail_kinds = FAIL_READ | FAIL_WRITE | FAIL_FLUSH;
    int rc = amend(&v, c->opts, true, &e);
    bool failed = v.disk.failed != 0;
    v.disk.fail_in = 0;
    assert_int_equal(rc < 0, failed);
    CLEANUP_FREE char *found = judge(c, &v.disk, c->opts);
    assert_true(!*c->always || share_letter(c->always, found));
    if (failed) {
        err_clear(&e);
        rc = amend(&v, c->opts, true, &e);
        CLEANUP_FREE char *again = judge(c, &v.disk, c->opts);
        assert_true(!*c->always || share_letter(c->always, again));
        assert_true(rc < 0 || strspn(c->after, again) == strlen(c->after));
    }
    volume_finish(&v);
    return failed;
}

static void run_faults(struct bench *b)
{
    struct volume v;
    volume_make(b, &v, ((const struct change *)b->arg)->keys);
    struct memdisk made = {.data = g_memdup2(v.disk.data, v.disk.size), .size = v.disk.size};
    volume_finish(&v);
    unsigned n = 1;
    while (fault(b, b->arg, &made, n)) {
        n++;
    }
    assert_true(n > 3);
    g_free(made.data);
}

static void test_faults(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i += 2) {
        bench_run_arg(run_faults, (void *)(uintptr_t)&changes[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asks),
        cmocka_unit_test(test_erased),
        cmocka_unit_test(test_crashes),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
