/* SPDX-License-Identifier: BSD-2-Clause */
/* A machine is saved while its RAM changes and loaded into another; what does not fit changes nothing. */
#include "move/move.h"

#include "../machine/side.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guest/pages.h"
#include "state/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define MIB  (1ull << 20)
#define SIZE (16 * MIB)
#define RAM  0x80000000ull
#define UART 0x10000000ull
#define SCR  7 /* its scratch register */

struct side {
    struct loop *loop;
    struct vm *vm;
    uint64_t ram_size;
    char *file, *parent;
    const char *type, *cpu, *compat;
    const char *const *allow, *const *drop; /* of a load */
    char *dropped;                          /* what the last load left out last; g_malloc'd */
    bool compress, lazy, map, fiddle;
    uint8_t *then;
    uint64_t pause_ns, progress, total, cancel_at, first_at;
    struct vm_save *save;
    int rc;
    struct err e;
};

/* --- machines --- */

static int make(void *arg)
{
    struct side *s = arg;
    const struct machine_config c = {
        .type = s->type, .cpu = s->cpu, .accel = "qtest", .harts = 2, .ram_size = s->ram_size};
    int rc = vm_set_machine(s->vm, &c, &s->e);
    rc = rc < 0 ? rc : vm_start(s->vm, VM_BEGIN_RUNNING, &s->e);
    return rc;
}

static struct side *open_type(const char *type, const char *cpu, uint64_t ram_size)
{
    struct side *s = g_new0(struct side, 1);
    s->type = type;
    s->cpu = cpu;
    s->ram_size = ram_size;
    s->loop = loop_create(LOOP_AUTO, NULL);
    s->vm = vm_create(s->loop, NULL);
    assert_int_equal(co_run(s->loop, make, s), 0);
    s->then = g_malloc(ram_size);
    return s;
}

static struct side *open_side(uint64_t ram_size)
{
    return open_type("virt", NULL, ram_size);
}

static void close_side(struct side *s)
{
    side_end(s->loop, s->vm);
    err_clear(&s->e);
    g_free(s->then);
    g_free(s);
}

static uint8_t *ram(struct side *s)
{
    return guest_ram_get(s->vm->mem, 0)->host;
}

/* Data, of which some pages are zero and some compress well. */
static void fill(struct side *s, unsigned x)
{
    CLEANUP_FREE uint8_t *page = g_malloc(GUEST_PAGE_SIZE);
    for (uint64_t at = 0; at < s->ram_size; at += GUEST_PAGE_SIZE) {
        unsigned kind = (unsigned)(at / GUEST_PAGE_SIZE / 37) % 3;
        for (unsigned i = 0; i < GUEST_PAGE_SIZE; i++) {
            x = x * 1103515245 + 12345;
            page[i] = kind == 0 ? 0 : (uint8_t)(kind == 1 ? x >> 16 : at >> 12);
        }
        assert_int_equal(0, guest_mem_write(s->vm->mem, RAM + at, page, GUEST_PAGE_SIZE));
    }
}

static void set_scratch(struct side *s, uint8_t v)
{
    assert_true(mmio_write(s->vm->mem, UART + SCR, 1, v));
}

static uint8_t scratch(struct side *s)
{
    uint64_t v = 0;
    assert_true(mmio_read(s->vm->mem, UART + SCR, 1, &v));
    return (uint8_t)v;
}

/* --- saving --- */

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct side *s = opaque;
    assert_true(done >= s->progress && done <= total);
    s->progress = done;
    s->total = total;
    if (s->cancel_at && done >= s->cancel_at) {
        vm_save_cancel(s->save);
    }
    if (s->fiddle) { /* the guest stores, near and far */
        for (unsigned i = 0; i < 8; i++) {
            uint64_t at = ((done * 7 + i * 12345) * 4096) % (SIZE - 8);
            assert_int_equal(0, guest_mem_write(s->vm->mem, RAM + at, "changed!", 8));
        }
    }
}

static int set_parent(struct side *s, struct move_file **f)
{
    CLEANUP_FREE char *name = move_file_seen_from(s->parent, s->file);
    struct move_source from;
    int rc = move_file_open(s->parent, f, &s->e);
    if (rc == 0) {
        move_file_source(*f, &from);
        rc = vm_save_set_parent(s->save, &from, name, &s->e);
    }
    return rc;
}

static int save(void *arg)
{
    struct side *s = arg;
    struct move_file *f = NULL, *parent = NULL;
    struct move_sink to;
    CLEANUP_FREE char *tag = g_path_get_basename(s->file);
    const struct vm_save_opts o = {
        .compat = s->compat, .compress = s->compress, .tag = tag, .progress = on_progress, .opaque = s};
    s->progress = 0;
    int rc = vm_save_create(s->vm, &o, &s->save, &s->e);
    if (rc < 0) {
        return rc;
    }
    rc = s->parent ? set_parent(s, &parent) : 0;
    assert_int_equal(0, rc);
    vm_quiesce(s->vm);
    rc = vm_save_instant(s->save, &s->e);
    memcpy(s->then, ram(s), s->ram_size);
    s->pause_ns = vm_unquiesce(s->vm);
    set_scratch(s, 0xee); /* after the instant */
    rc = rc < 0 ? rc : move_file_create(s->file, &f, &s->e);
    if (rc == 0) {
        move_file_sink(f, &to);
        rc = vm_save_write(s->save, &to, &s->e);
        rc = rc < 0 ? rc : move_file_commit(f, &s->e);
    }
    move_file_close(f);
    vm_save_destroy(s->save);
    move_file_close(parent);
    return rc;
}

static void do_save(struct side *s, const char *file)
{
    s->file = (char *)(uintptr_t)file;
    s->rc = co_run(s->loop, save, s);
    if (s->rc < 0 && !s->cancel_at) {
        fail_msg("%s", err_text(&s->e));
    }
}

/* --- loading --- */

static int load(void *arg)
{
    struct side *s = arg;
    struct move_file *f = NULL;
    struct move_source from;
    struct vm_load *l = NULL;
    const struct vm_load_opts o = {.map = s->map, .lazy = s->lazy, .state_allow = s->allow, .force_drop = s->drop};
    int rc = move_file_open(s->file, &f, &s->e);
    if (rc == 0) {
        move_file_source(f, &from);
        rc = vm_load_create(s->vm, &o, &from, &l, &s->e);
    }
    if (rc == 0) {
        assert_int_equal(s->lazy && !s->map && pages_can_fill(s->vm->pages), vm_load_is_lazy(l));
        vm_quiesce(s->vm);
        rc = vm_load_prepare(l, &s->e);
        if (rc == 0) {
            vm_load_commit(l);
            const GPtrArray *dropped = vm_load_dropped(l);
            s->dropped = dropped->len ? g_strdup(g_ptr_array_index(dropped, dropped->len - 1)) : NULL;
        }
        vm_unquiesce(s->vm);
    }
    if (rc == 0) {
        uint8_t b[3]; /* used before all of it is there */
        assert_int_equal(0, guest_mem_read(s->vm->mem, RAM + SIZE - 5000, b, sizeof(b)));
        rc = vm_load_finish(l, &s->e);
    }
    vm_load_destroy(l);
    move_file_close(f);
    return rc;
}

static int do_load(struct side *s, const char *file, bool lazy)
{
    s->file = (char *)(uintptr_t)file;
    s->lazy = lazy;
    err_clear(&s->e);
    return co_run(s->loop, load, s);
}

/* --- the tests --- */

static char *temp_file(void)
{
    CLEANUP_FREE char *dir = g_dir_make_tmp("sterna-move-XXXXXX", NULL);
    return g_strdup_printf("%s/state", dir);
}

static void temp_gone(char *file)
{
    CLEANUP_FREE char *dir = g_path_get_dirname(file);
    unlink(file);
    assert_int_equal(0, rmdir(dir)); /* nothing else was left there */
    g_free(file);
}

static void there_and_back(bool compress, bool lazy)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    fill(a, 1);
    fill(b, 2);
    set_scratch(a, 0x5a);
    a->compress = compress;
    a->fiddle = true;
    do_save(a, file);
    assert_int_equal(SIZE, a->progress);
    assert_int_equal(SIZE, a->total);
    assert_true(memcmp(ram(a), a->then, SIZE) != 0);
    if (do_load(b, file, lazy) < 0) {
        fail_msg("%s", err_text(&b->e));
    }
    assert_memory_equal(ram(b), a->then, SIZE);
    assert_int_equal(0x5a, scratch(b));
    assert_int_equal(RUN_RUNNING, b->vm->state);
    /* and again, from the one that was loaded */
    do_save(b, file);
    assert_memory_equal(b->then, a->then, SIZE);
    if (do_load(a, file, lazy) < 0) {
        fail_msg("%s", err_text(&a->e));
    }
    assert_memory_equal(ram(a), b->then, SIZE);
    close_side(a);
    close_side(b);
    temp_gone(file);
}

static void saved_and_loaded(void **state)
{
    there_and_back(false, false);
}

/* New to old: a machine of the newest type is saved in the form that an older one reads. */
static void in_an_older_format(void **state)
{
    char *file = temp_file();
    struct side *a = open_type("virt-0.2", "max,zihintntl=off", SIZE), *b = open_type("virt-0.1", NULL, SIZE);
    fill(a, 1);
    set_scratch(a, 0x5a);
    do_save(a, file);
    assert_true(do_load(b, file, false) < 0);
    assert_non_null(strstr(err_text(&b->e), "virt-0.2"));
    a->compat = "virt-0.1";
    set_scratch(a, 0x5a);
    do_save(a, file);
    if (do_load(b, file, false) < 0) {
        fail_msg("%s", err_text(&b->e));
    }
    assert_memory_equal(ram(b), a->then, SIZE);
    assert_int_equal(0x5a, scratch(b));
    struct side *c = open_type("virt-0.2", NULL, SIZE); /* whose harts have one extension more */
    c->compat = "virt-0.1";
    do_save(c, file);
    assert_true(do_load(b, file, false) < 0);
    assert_non_null(strstr(err_text(&b->e), "zihintntl"));
    close_side(a);
    close_side(b);
    close_side(c);
    temp_gone(file);
}

static void loaded_by_and_by(void **state)
{
    there_and_back(false, true);
}

static void compressed(void **state)
{
    there_and_back(true, false);
    there_and_back(true, true);
}

static void kept_without_userfaultfd(void **state)
{
    setenv("STERNA_PAGES", "soft", 1);
    there_and_back(false, true);
    unsetenv("STERNA_PAGES");
}

static void size_of_file(const char *file, off_t *size)
{
    struct stat st;
    assert_int_equal(0, stat(file, &st));
    *size = st.st_size;
}

/* Each page once, zero pages not at all. */
static void file_holds_no_more_than_data(void **state)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE);
    off_t size;
    fill(a, 1);
    a->fiddle = true;
    do_save(a, file);
    uint64_t data = 0;
    for (uint64_t at = 0; at < SIZE; at += GUEST_PAGE_SIZE) {
        data += buf_is_zero(a->then + at, GUEST_PAGE_SIZE) ? 0 : GUEST_PAGE_SIZE;
    }
    size_of_file(file, &size);
    assert_in_range(size, data, data + data / 16 + 512 * 1024);
    close_side(a);
    temp_gone(file);
}

static void cancelled(void **state)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE);
    fill(a, 1);
    a->cancel_at = SIZE / 2;
    do_save(a, file);
    assert_int_equal(-ECANCELED, a->rc);
    assert_int_not_equal(0, access(file, F_OK));
    a->cancel_at = 0;
    err_clear(&a->e);
    fill(a, 3); /* nothing is protected any more */
    do_save(a, file);
    close_side(a);
    temp_gone(file);
}

static void refused(struct side *b, const char *file, const char *text)
{
    for (unsigned lazy = 0; lazy < 2; lazy++) {
        assert_true(do_load(b, file, lazy) < 0);
        if (text && !strstr(err_text(&b->e), text)) {
            fail_msg("'%s' is not in: %s", text, err_text(&b->e));
        }
        assert_memory_equal(ram(b), b->then, b->ram_size);
        assert_int_equal(0x77, scratch(b));
        assert_int_equal(RUN_RUNNING, b->vm->state);
    }
}

static void put(struct side *s, unsigned page, const char *text)
{
    uint8_t data[GUEST_PAGE_SIZE] = {0};
    memcpy(data, text, strlen(text));
    assert_int_equal(0, guest_mem_write(s->vm->mem, RAM + (uint64_t)page * GUEST_PAGE_SIZE, data, sizeof(data)));
}

static void loads_as(struct side *b, const char *file, const uint8_t *want)
{
    for (unsigned lazy = 0; lazy < 2; lazy++) {
        fill(b, 9);
        if (do_load(b, file, lazy) < 0) {
            fail_msg("%s", err_text(&b->e));
        }
        assert_memory_equal(ram(b), want, SIZE);
    }
}

/* Each state has what changed since the one before; any of them can be loaded, as long as those below are there. */
static void based_on_another(void **state)
{
    char *first = temp_file();
    CLEANUP_FREE char *second = g_strdup_printf("%s-2", first), *third = g_strdup_printf("%s-3", first),
                      *gone = g_strdup_printf("%s-gone", first);
    CLEANUP_FREE uint8_t *was = g_malloc(SIZE), *last = g_malloc(SIZE);
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    off_t size;
    fill(a, 1);
    do_save(a, first);
    put(a, 40, "was data, is data");
    put(a, 50, ""); /* was data, is zero */
    put(a, 5, "was zero, is data");
    a->fiddle = true;
    a->parent = first;
    do_save(a, second);
    memcpy(was, a->then, SIZE);
    size_of_file(second, &size);
    assert_in_range(size, 3 * GUEST_PAGE_SIZE, 256 * 1024); /* devices, their schemas, and little RAM */
    a->parent = second;
    a->compress = true;
    put(a, 5, "");
    put(a, 60, "is data");
    do_save(a, third);
    memcpy(last, a->then, SIZE);
    loads_as(b, third, last);
    loads_as(b, second, was);
    memcpy(b->then, ram(b), SIZE);
    set_scratch(b, 0x77);
    assert_int_equal(0, rename(second, gone));
    refused(b, third, "on which ");
    a->parent = NULL;
    do_save(a, second); /* another one under that name */
    refused(b, third, "later one of that name");
    assert_int_equal(0, rename(gone, second));
    loads_as(b, third, last);
    close_side(a);
    close_side(b);
    unlink(second);
    unlink(third);
    temp_gone(first);
}

static void poke(const char *file, off_t at, const char *bytes)
{
    CLEANUP_CLOSE int fd = open(file, O_WRONLY | O_CLOEXEC);
    assert_int_equal((ssize_t)strlen(bytes), pwrite(fd, bytes, strlen(bytes), at));
}

/* Whatever is wrong, the guest is as it was and runs. */
static void what_does_not_fit_changes_nothing(void **state)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE), *b = open_side(SIZE), *c = open_side(2 * SIZE);
    off_t size;
    fill(a, 1);
    fill(b, 2);
    memcpy(b->then, ram(b), SIZE);
    memcpy(c->then, ram(c), 2 * SIZE);
    set_scratch(b, 0x77);
    set_scratch(c, 0x77);
    do_save(a, file);
    size_of_file(file, &size);
    refused(c, file, "16 MiB of RAM 'ram', this machine has 32 MiB");
    refused(b, "/nonexistent/state", "could not open");
    assert_int_equal(0, truncate(file, size - 1));
    refused(b, file, NULL);
    assert_int_equal(0, truncate(file, size / 2));
    refused(b, file, NULL);
    do_save(a, file);
    poke(file, size / 2, "damaged?"); /* a page: only who reads all of it can know before */
    assert_true(do_load(b, file, false) < 0);
    assert_non_null(strstr(err_text(&b->e), file));
    assert_memory_equal(ram(b), b->then, SIZE);
    do_save(a, file);
    poke(file, 3, "damaged?");
    refused(b, file, NULL);
    poke(file, 300, "damaged?"); /* the manifest */
    refused(b, file, NULL);
    assert_int_equal(0, truncate(file, 0));
    refused(b, file, NULL);
    do_save(a, file);
    assert_int_equal(0, do_load(b, file, true));
    assert_memory_equal(ram(b), a->then, SIZE);
    close_side(a);
    close_side(b);
    close_side(c);
    temp_gone(file);
}

/* --- what may be loaded, and what may be lost --- */

/* A device as an older release has it, and as this one would. */
struct toy {
    struct device d;
    uint8_t level, extra;
};

static void toy_get(void *object, void *st)
{
    *(struct toy *)st = *(const struct toy *)object;
}

static void toy_put(void *object, const void *st)
{
    ((struct toy *)object)->level = ((const struct toy *)st)->level;
}

static bool always(const void *st)
{
    return true;
}

static const struct state_field toy_fields[] = {STATE_U8(struct toy, level), {NULL}};
static const struct state_field toy_extra[] = {STATE_U8(struct toy, extra), {NULL}};
static const struct state_subsection toy_more[] = {
    {.name = "more", .needed = always, .loss = "what more there is", .fields = toy_extra}, {NULL}};
static const struct state_block toy_blocked[] = {{"toy-half", 1, "it was saved wrongly"}, {NULL}};
static const struct state_section toy_1 = {.name = "toy",
                                           .version = 1,
                                           .min_version = 1,
                                           .size = sizeof(struct toy),
                                           .fields = toy_fields,
                                           .subsections = toy_more,
                                           .get = toy_get,
                                           .put = toy_put};
static const struct state_section toy_2 = {.name = "toy",
                                           .version = 2,
                                           .min_version = 1,
                                           .size = sizeof(struct toy),
                                           .fields = toy_fields,
                                           .blocked = toy_blocked,
                                           .get = toy_get,
                                           .put = toy_put};

static void what_an_operator_may_do(void **state)
{
    char *file = temp_file();
    const struct device_class old = {.name = "toy", .state = &toy_1}, now = {.name = "toy", .state = &toy_2};
    struct toy x = {.d = {.cls = &old, .path = (char *)"/toy"}, .level = 5}, y = {.d = {.cls = &now, .path = x.d.path}};
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    g_ptr_array_add(a->vm->devices, &x);
    g_ptr_array_add(b->vm->devices, &y);
    memcpy(b->then, ram(b), SIZE);
    set_scratch(b, 0x77);
    do_save(a, file);
    refused(b, file, "version 1 is blocked: it was saved wrongly; state-allow=toy-half lifts that");
    b->allow = (const char *const[]){"else", "toy-half", NULL};
    refused(b, file, "does not know subsection 'more' of section 'toy': the guest would lose what more there is");
    b->drop = (const char *const[]){"toy:more", NULL};
    assert_int_equal(0, do_load(b, file, false));
    assert_string_equal("/toy: more: what more there is", b->dropped);
    assert_int_equal(5, y.level);
    g_ptr_array_remove(a->vm->devices, &x);
    g_ptr_array_remove(b->vm->devices, &y);
    g_free(b->dropped);
    close_side(a);
    close_side(b);
    temp_gone(file);
}

/* --- a medium that goes bad --- */

struct bad {
    struct vm *vm;
    struct vm_load *load;
    bool stuck, give_up;
    _Atomic uint64_t first_at; /* where read_now read first */
    struct move_file *file;
    struct move_source inner;
    _Atomic bool broken;
};

static int bad_read(void *opaque, uint64_t off, void *buf, size_t len)
{
    struct bad *b = opaque;
    return b->inner.read(b->inner.opaque, off, buf, len);
}

static int bad_read_now(void *opaque, uint64_t off, void *buf, size_t len)
{
    struct bad *b = opaque;
    uint64_t none = UINT64_MAX;
    atomic_compare_exchange_strong(&b->first_at, &none, off);
    return b->broken ? -EIO : b->inner.read_now(b->inner.opaque, off, buf, len);
}

/* Stops the machine; then, as somebody who repairs the medium and says cont, or who gives it up. */
static void mend(void *opaque)
{
    struct bad *b = opaque;
    for (unsigned i = 0; i < 6000 && b->vm->state == RUN_RUNNING; i++) {
        co_sleep(10000000);
    }
    assert_int_equal(RUN_IO_ERROR, b->vm->state);
    assert_true(b->stuck);
    if (b->give_up) {
        vm_load_cancel(b->load);
    } else {
        b->broken = false;
        assert_int_equal(0, vm_cont(b->vm, NULL));
    }
}

static void on_stuck(void *opaque, bool yes)
{
    ((struct bad *)opaque)->stuck = yes;
}

/* The machine stops rather than going on with pages that it does not have. */
static int load_from_bad(void *arg)
{
    struct side *s = arg;
    struct bad b = {.vm = s->vm, .give_up = s->fiddle};
    const struct vm_load_opts o = {.lazy = true, .stuck = on_stuck, .opaque = &b};
    assert_int_equal(0, move_file_open(s->file, &b.file, &s->e));
    move_file_source(b.file, &b.inner);
    const struct move_source from = {&b, b.inner.size, "bad", bad_read, bad_read_now};
    assert_int_equal(0, vm_load_create(s->vm, &o, &from, &b.load, &s->e));
    vm_quiesce(s->vm);
    assert_int_equal(0, vm_load_prepare(b.load, &s->e));
    vm_load_commit(b.load);
    vm_unquiesce(s->vm);
    b.broken = true;
    co_start(s->loop, mend, &b);
    s->rc = vm_load_finish(b.load, &s->e);
    vm_load_destroy(b.load);
    move_file_close(b.file);
    return 0;
}

static void medium_that_goes_bad(void **state)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE);
    if (pages_can_fill(a->vm->pages)) {
        fill(a, 1);
        do_save(a, file);
        fill(a, 2);
        co_run(a->loop, load_from_bad, a);
        assert_int_equal(0, a->rc);
        assert_int_equal(RUN_RUNNING, a->vm->state);
        assert_memory_equal(ram(a), a->then, SIZE);
        a->fiddle = true;
        co_run(a->loop, load_from_bad, a);
        assert_int_equal(-ECANCELED, a->rc);
        assert_int_equal(RUN_INTERNAL_ERROR, a->vm->state);
        assert_true(vm_cont(a->vm, NULL) < 0);
    }
    close_side(a);
    temp_gone(file);
}

/* --- mapped from the file --- */

static char *digest_of(const char *file)
{
    CLEANUP_FREE char *data = NULL;
    gsize len;
    assert_true(g_file_get_contents(file, &data, &len, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)data, len);
}

static void maps_as(struct side *b, const char *file, const uint8_t *want)
{
    b->map = true;
    if (do_load(b, file, true) < 0) {
        fail_msg("%s", err_text(&b->e));
    }
    b->map = false;
    assert_memory_equal(ram(b), want, SIZE);
    assert_int_equal(0x5a, scratch(b));
}

/* The guest changes its own copy; what it then holds can be saved and loaded in every way. */
static void mapped_from_files(void **state)
{
    char *file = temp_file();
    CLEANUP_FREE char *second = g_strdup_printf("%s-2", file), *was = NULL, *is = NULL;
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    fill(a, 1);
    set_scratch(a, 0x5a);
    do_save(a, file);
    put(a, 40, "changed");
    set_scratch(a, 0x5a);
    a->parent = file;
    do_save(a, second);
    was = digest_of(file);
    maps_as(b, second, a->then);
    assert_true(guest_ram_get(b->vm->mem, 0)->of_file);
    fill(b, 3);
    is = digest_of(file);
    assert_string_equal(was, is);
    maps_as(b, second, a->then); /* over mappings */
    set_scratch(b, 0x5a);
    do_save(b, file);
    assert_memory_equal(b->then, a->then, SIZE);
    fill(b, 4);
    assert_false(pages_can_fill(b->vm->pages));
    assert_int_equal(0, do_load(b, file, true)); /* all of it */
    assert_memory_equal(ram(b), a->then, SIZE);
    assert_false(guest_ram_get(b->vm->mem, 0)->of_file);
    a->parent = NULL;
    a->compress = true; /* what cannot be mapped is read */
    set_scratch(a, 0x5a);
    do_save(a, second);
    maps_as(b, second, a->then);
    close_side(a);
    close_side(b);
    unlink(second);
    temp_gone(file);
}

/* --- what comes first --- */

static uint64_t offset_of(const char *file, uint64_t page)
{
    struct state_fd fd;
    assert_int_equal(0, state_fd_open(&fd, file, NULL));
    const struct state_source s = state_fd_source(&fd);
    struct state_reader *r = state_reader_create(&s, NULL);
    struct state_index *x = state_index_read(r, NULL);
    const struct state_run *run = state_index_find(x, 0, page);
    uint64_t offset = run->offset + (page - run->page) * GUEST_PAGE_SIZE;
    state_index_destroy(x);
    state_reader_destroy(r);
    state_fd_finish(&fd);
    return offset;
}

static int load_watched(void *arg)
{
    struct side *s = arg;
    struct bad b = {.vm = s->vm, .first_at = UINT64_MAX};
    const struct vm_load_opts o = {.lazy = true};
    assert_int_equal(0, move_file_open(s->file, &b.file, &s->e));
    move_file_source(b.file, &b.inner);
    const struct move_source from = {&b, b.inner.size, "watched", bad_read, bad_read_now};
    assert_int_equal(0, vm_load_create(s->vm, &o, &from, &b.load, &s->e));
    vm_quiesce(s->vm);
    assert_int_equal(0, vm_load_prepare(b.load, &s->e));
    vm_load_commit(b.load);
    vm_unquiesce(s->vm);
    s->rc = vm_load_finish(b.load, &s->e);
    s->first_at = b.first_at;
    vm_load_destroy(b.load);
    move_file_close(b.file);
    return 0;
}

static unsigned used_first(const struct side *s)
{
    return s->vm->first_used ? load_le32(s->vm->first_used->data) : 0;
}

/* A page that is needed while others are to come; it is saved again which, and comes first the next time. */
static void used_first_comes_first(void **state)
{
    char *file = temp_file();
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    const uint64_t page = (SIZE - 5000) >> GUEST_PAGE_BITS; /* load() reads there */
    if (pages_can_fill(a->vm->pages)) {
        fill(a, 1);
        do_save(a, file);
        assert_null(a->vm->first_used);
        a->file = file;
        co_run(a->loop, load_watched, a);
        assert_true(a->first_at < offset_of(file, page));
        for (unsigned i = 0; i < 1000 && !used_first(a); i++) { /* it may have come before it was needed */
            assert_int_equal(0, do_load(a, file, true));
        }
        assert_int_equal(1, used_first(a));
        do_save(a, file);
        memcpy(b->then, a->then, SIZE);
        b->file = file;
        co_run(b->loop, load_watched, b);
        assert_int_equal(0, b->rc);
        assert_int_equal(offset_of(file, page), b->first_at);
        assert_memory_equal(ram(b), b->then, SIZE);
        do_save(b, file); /* nobody waited for it this time: it is known all the same */
        assert_int_equal(a->vm->first_used->len, b->vm->first_used->len);
        assert_memory_equal(a->vm->first_used->data, b->vm->first_used->data, b->vm->first_used->len);
    }
    close_side(a);
    close_side(b);
    temp_gone(file);
}

/* --- only what changed is looked at --- */

/* The parent's other pages could not even be read. A machine that did not save it looks at all of them. */
static void only_what_changed_is_compared(void **state)
{
    char *first = temp_file();
    CLEANUP_FREE char *second = g_strdup_printf("%s-2", first), *third = g_strdup_printf("%s-3", first);
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    fill(a, 1);
    do_save(a, first);
    loads_as(b, first, a->then);
    put(a, 40, "changed");
    a->parent = b->parent = first;
    poke(first, (off_t)offset_of(first, 45), "damaged!");
    a->cancel_at = SIZE / 2; /* one of no avail */
    do_save(a, second);
    assert_int_equal(-ECANCELED, a->rc);
    err_clear(&a->e);
    a->cancel_at = 0;
    put(a, 42, "changed, too");
    do_save(a, second);
    b->cancel_at = UINT64_MAX; /* so that an error may be */
    do_save(b, third);
    assert_int_equal(-EBADMSG, b->rc);
    err_clear(&b->e);
    CLEANUP_FREE char *page = g_strndup((const char *)a->then + 45 * GUEST_PAGE_SIZE, 8);
    poke(first, (off_t)offset_of(first, 45), page);
    loads_as(b, second, a->then);
    a->parent = second;
    a->fiddle = true;
    put(a, 1000, "later");
    do_save(a, third);
    loads_as(b, third, a->then);
    close_side(a);
    close_side(b);
    unlink(second);
    unlink(third);
    temp_gone(first);
}

/* Who goes back to an older state has changed pages, although no hart has. */
static void what_is_loaded_has_changed(void **state)
{
    char *first = temp_file();
    CLEANUP_FREE char *second = g_strdup_printf("%s-2", first), *third = g_strdup_printf("%s-3", first);
    struct side *a = open_side(SIZE), *b = open_side(SIZE);
    CLEANUP_FREE uint8_t *was = g_malloc(SIZE);
    for (unsigned lazy = 0; lazy < 2; lazy++) {
        a->parent = NULL;
        fill(a, 1);
        do_save(a, first);
        memcpy(was, a->then, SIZE);
        put(a, 40, "changed");
        do_save(a, second);
        assert_int_equal(0, do_load(a, first, lazy));
        a->parent = second;
        do_save(a, third);
        loads_as(b, third, was);
    }
    close_side(a);
    close_side(b);
    unlink(second);
    unlink(third);
    temp_gone(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(loaded_by_and_by),
        cmocka_unit_test(in_an_older_format),
        cmocka_unit_test(compressed),
        cmocka_unit_test(kept_without_userfaultfd),
        cmocka_unit_test(file_holds_no_more_than_data),
        cmocka_unit_test(based_on_another),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(only_what_changed_is_compared),
        cmocka_unit_test(what_is_loaded_has_changed),
        cmocka_unit_test(what_does_not_fit_changes_nothing),
        cmocka_unit_test(what_an_operator_may_do),
        cmocka_unit_test(used_first_comes_first),
        cmocka_unit_test(mapped_from_files),
        cmocka_unit_test(medium_that_goes_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
