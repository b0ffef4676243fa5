/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs are stopped in the middle; their harts' state and RAM go into a second accelerator, and both run on
 * for more than a million instructions: registers and RAM must end up the same. And: every register of the
 * accelerator's own list is a field of the state, or said to be derived.
 */
#include "cpu/accels.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define RAM    0x80000000ull
#define SIZE   (1u << 20)
#define TABLE  (RAM + 0x10000) /* page table: RAM and devices where they are, as gigapages */
#define DATA   (RAM + 0x20000)
#define DONE   0x10000000ull /* storing here ends a program */
#define BODY   600
#define ROUNDS 4000

struct vm {
    const struct accel_ops *ops;
    struct guest_mem *mem;
    struct guest_clock clock;
    struct accel *a;
    _Atomic bool done;
};

static uint64_t done_read(void *opaque, uint64_t off, unsigned size)
{
    return 0;
}

static void done_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    atomic_store(&((struct vm *)opaque)->done, true);
}

static const struct mmio_ops done_ops = {done_read, done_write, 1, 8};

static void vm_open(struct vm *v, const char *cpu)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    memset(v, 0, sizeof(*v));
    v->ops = accel_table[0];
    v->mem = guest_mem_create();
    guest_clock_init(&v->clock, false);
    assert_int_equal(0, guest_ram_add(v->mem, "ram", RAM, SIZE, NULL));
    const struct mmio_region r = {"done", DONE, 0x1000, &done_ops, v};
    assert_int_equal(0, mmio_add(v->mem, &r, NULL));
    const struct accel_config c = {.cpu = cpu, .harts = 1, .timebase_hz = 10000000, .mem = v->mem, .clock = &v->clock};
    v->a = v->ops->create(&c, &e);
    assert_non_null(v->a);
}

static void vm_close(struct vm *v)
{
    v->ops->destroy(v->a);
    guest_mem_destroy(v->mem);
}

/* --- programs ----------------------------------------------------------------------------------------------------- */

struct gen {
    uint64_t seed;
    uint32_t *code;
    unsigned n;
};

static unsigned pick(struct gen *g, unsigned n)
{
    uint64_t z = (g->seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (unsigned)((z ^ z >> 31) % n);
}

static void emit(struct gen *g, uint32_t insn)
{
    g->code[g->n++] = insn;
}

/* x8 points to data, x9 counts rounds, x31 is the trap handler's: not to be written. */
static unsigned rd(struct gen *g)
{
    unsigned r = 1 + pick(g, 30);
    return r == 8 || r == 9 ? 5 : r;
}

static uint32_t r_type(uint32_t op, unsigned f3, unsigned f7, unsigned d, unsigned s1, unsigned s2)
{
    return op | d << 7 | f3 << 12 | s1 << 15 | s2 << 20 | f7 << 25;
}

static uint32_t i_type(uint32_t op, unsigned f3, unsigned d, unsigned s1, int imm)
{
    return op | d << 7 | f3 << 12 | s1 << 15 | (uint32_t)imm << 20;
}

static uint32_t s_type(uint32_t op, unsigned f3, unsigned s1, unsigned s2, unsigned imm)
{
    return op | (imm & 31) << 7 | f3 << 12 | s1 << 15 | s2 << 20 | imm >> 5 << 25;
}

static void gen_csr(struct gen *g)
{
    /* those whose value depends on nothing but the program; sstatus: FS, SUM, MXR by way of set and clear */
    static const uint16_t csr[] = {0x001, 0x002, 0x003, 0x106, 0x10a, 0x140, 0x141, 0x142, 0x143, 0x144, 0xc02};
    unsigned n = pick(g, 12);
    if (n == 11) { /* satp: off, or the table */
        unsigned r = rd(g);
        emit(g, i_type(0x03, 3, r, 8, pick(g, 2) ? 0x7f0 : 0x7f8));
        emit(g, i_type(0x73, 1, 0, r, 0x180));
        emit(g, 0x12000073);
    } else if (csr[n] == 0xc02) {
        emit(g, i_type(0x73, 2, rd(g), 0, csr[n]));
    } else {
        emit(g, i_type(0x73, 1 + pick(g, 3), rd(g), rd(g), csr[n]));
    }
}

static void gen_atomic(struct gen *g)
{
    unsigned f3 = 2 + pick(g, 2), r = rd(g), at = 7;
    static const uint8_t amo[] = {0, 1, 4, 8, 12, 16, 20, 24, 28};
    emit(g, i_type(0x13, 0, at, 8, (int)(8 * pick(g, 16))));
    if (pick(g, 2)) {
        emit(g, r_type(0x2f, f3, (unsigned)amo[pick(g, 9)] << 2, r == at ? 6 : r, at, rd(g)));
        return;
    }
    emit(g, r_type(0x2f, f3, 2 << 2, 6, at, 0)); /* LR, a block's end in between, SC */
    emit(g, 0x0000006f | 4u << 20);
    emit(g, r_type(0x2f, f3, 3 << 2, 5, at, rd(g)));
}

static void gen_float(struct gen *g)
{
    static const uint8_t f7[] = {0x00, 0x04, 0x08, 0x0c, 0x01, 0x05, 0x09, 0x0d};
    unsigned a = pick(g, 32), b = pick(g, 32), c = pick(g, 32);
    switch (pick(g, 5)) {
    case 0:
        emit(g, i_type(0x07, 3, a, 8, (int)(8 * pick(g, 64))));
        break;
    case 1:
        emit(g, s_type(0x27, 3, 8, a, 8 * pick(g, 64)));
        break;
    case 2:
        emit(g, r_type(0x53, 7, 0x69, a, rd(g), 2)); /* fcvt.d.l */
        break;
    case 3:
        emit(g, r_type(0x53, 0, 0x79, a, rd(g), 0)); /* fmv.d.x */
        break;
    default:
        emit(g, r_type(0x53, 7, f7[pick(g, 8)], a, b, c));
        break;
    }
}

static void gen_one(struct gen *g)
{
    static const uint8_t loads[] = {0, 1, 2, 3, 4, 5, 6};
    switch (pick(g, 12)) {
    case 0:
        emit(g, i_type(0x03, loads[pick(g, 7)], rd(g), 8, (int)(8 * pick(g, 64))));
        break;
    case 1:
        emit(g, s_type(0x23, pick(g, 4), 8, rd(g), 8 * pick(g, 64)));
        break;
    case 2: /* over the next one or not */
        emit(g, 0x63 | 4u << 8 | pick(g, 2) << 12 | rd(g) << 15 | rd(g) << 20);
        emit(g, i_type(0x13, 0, rd(g), rd(g), (int)pick(g, 2048)));
        break;
    case 3:
        gen_csr(g);
        break;
    case 4:
        gen_atomic(g);
        break;
    case 5:
    case 6:
        gen_float(g);
        break;
    case 7:
        emit(g, r_type(0x33, pick(g, 8), 1, rd(g), rd(g), rd(g)));
        break;
    case 8:
        emit(g, i_type(0x13, 0, rd(g), rd(g), (int)pick(g, 4096)));
        break;
    default:
        emit(g, r_type(0x33, pick(g, 8), 0, rd(g), rd(g), rd(g)));
        break;
    }
}

#define CSRRW(d, csr, s) i_type(0x73, 1, d, s, csr)
#define CSRR(d, csr)     i_type(0x73, 2, d, 0, csr)

/* At RAM: the trap handler, which goes on behind what trapped. At RAM + 0x100: the program; it stores to DONE and
 * spins. */
static void make_program(struct vm *v, uint64_t seed, bool user)
{
    uint32_t code[8 * BODY] = {0};
    struct gen g = {seed, code, 0};
    const uint32_t handler[] = {
        CSRRW(31, 0x140, 31), CSRR(31, 0x141),      i_type(0x13, 0, 31, 31, 4),
        CSRRW(0, 0x141, 31),  CSRRW(31, 0x140, 31), 0x10200073,
    };
    for (unsigned i = 0; i < sizeof(handler) / 4; i++) {
        emit(&g, handler[i]);
    }
    g.n = 0x40;
    unsigned loop = g.n;
    while (g.n < loop + BODY) {
        gen_one(&g);
    }
    emit(&g, i_type(0x13, 0, 9, 9, -1));
    emit(&g, 0x63 | 4u << 8 | 9u << 15);   /* beq x9, x0, +8 */
    int back = 4 * ((int)loop - (int)g.n); /* jal x0, loop */
    emit(&g, 0x6f | ((uint32_t)back >> 20 & 1) << 31 | ((uint32_t)back >> 1 & 0x3ff) << 21 |
                 ((uint32_t)back >> 11 & 1) << 20 | ((uint32_t)back >> 12 & 0xff) << 12);
    emit(&g, 0x100000b7);               /* lui x1, DONE */
    emit(&g, s_type(0x23, 2, 1, 0, 0)); /* sw x0, (x1) */
    emit(&g, 0x0000006f);               /* for ever */
    assert_int_equal(0, guest_mem_write(v->mem, RAM, code, 4 * g.n));
    uint64_t leaf = user ? 0xdf : 0xcf, table[3] = {leaf, 0, (RAM >> 12) << 10 | leaf};
    assert_int_equal(0, guest_mem_write(v->mem, TABLE, table, sizeof(table)));
    uint64_t satp[2] = {0, 8ull << 60 | TABLE >> 12};
    assert_int_equal(0, guest_mem_write(v->mem, DATA + 0x7f0, satp, sizeof(satp)));
}

static const struct accel_reg *reg(struct vm *v, const char *name)
{
    size_t n;
    const struct accel_reg *r = v->ops->reg_table(v->a, &n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(r[i].name, name)) {
            return &r[i];
        }
    }
    fail_msg("no register %s", name);
    return NULL;
}

static void set(struct vm *v, const char *name, uint64_t val)
{
    assert_int_equal(0, v->ops->set_reg(v->a, 0, reg(v, name)->id, val));
}

static uint64_t get(struct vm *v, const char *name)
{
    return v->ops->get_reg(v->a, 0, reg(v, name)->id);
}

/* --- running and comparing ---------------------------------------------------------------------------------------- */

static void sleep_us(unsigned us)
{
    struct timespec t = {.tv_nsec = us * 1000L};
    nanosleep(&t, NULL);
}

static void run_to_the_end(struct vm *v)
{
    guest_clock_start(&v->clock);
    v->ops->resume(v->a);
    for (unsigned i = 0; i < 120000 && !v->done; i++) {
        sleep_us(500);
    }
    assert_true(v->done);
    v->ops->pause(v->a);
}

static void take_over(struct vm *to, struct vm *from)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct state_section *s = from->ops->hart_state;
    void *a = from->ops->hart_object(from->a, 0), *b = to->ops->hart_object(to->a, 0);
    CLEANUP_FREE void *st = g_malloc0(s->size), *back = g_malloc0(s->size);
    s->get(a, st);
    guest_clock_set(&to->clock, guest_clock_ns(&from->clock));
    memcpy(guest_ram_ptr(to->mem, RAM, SIZE), guest_ram_ptr(from->mem, RAM, SIZE), SIZE);
    if (s->check(b, st, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    s->put(b, st);
    s->get(b, back);
    assert_memory_equal(st, back, s->size);
}

/* `but`: names that may differ; NULL-terminated. */
static void same_registers(struct vm *a, struct vm *b, const char *const *but)
{
    size_t n;
    const struct accel_reg *r = a->ops->reg_table(a->a, &n);
    for (size_t i = 0; i < n; i++) {
        uint64_t x = a->ops->get_reg(a->a, 0, r[i].id), y = b->ops->get_reg(b->a, 0, r[i].id);
        if (x != y && !g_strv_contains(but, r[i].name)) {
            fail_msg("%s: 0x%llx there, 0x%llx here", r[i].name, (unsigned long long)x, (unsigned long long)y);
        }
    }
}

/* False: the program was through before it could be stopped, or not far enough from its end. */
static bool one_program(uint64_t seed, bool user)
{
    struct vm a, b;
    static const char *const none[] = {NULL}, *const spins[] = {"instret", NULL};
    vm_open(&a, NULL);
    vm_open(&b, NULL);
    make_program(&a, seed, user);
    a.ops->reset(a.a, RAM + 0x100, 0);
    set(&a, "x8", DATA);
    set(&a, "x9", ROUNDS);
    set(&a, "stvec", RAM);
    set(&a, "sstatus", 3 << 13);
    set(&a, "priv", !user);
    guest_clock_start(&a.clock);
    a.ops->resume(a.a);
    sleep_us(500 + (unsigned)(seed * 777 % 3000));
    a.ops->pause(a.a);
    guest_clock_stop(&a.clock);
    bool good = !a.done && get(&a, "x9") * BODY > 1000000 && get(&a, "x9") < ROUNDS;
    if (good) {
        take_over(&b, &a);
        same_registers(&a, &b, none);
        run_to_the_end(&a);
        run_to_the_end(&b);
        same_registers(&a, &b, spins);
        assert_memory_equal(guest_ram_ptr(a.mem, RAM, SIZE), guest_ram_ptr(b.mem, RAM, SIZE), SIZE);
    }
    vm_close(&a);
    vm_close(&b);
    return good;
}

static void programs_go_on_elsewhere(void **state)
{
    unsigned good = 0;
    for (unsigned seed = 0; seed < 400 && good < 10; seed++) {
        good += one_program(seed, seed & 1);
    }
    assert_true(good == 10);
}

/* --- nothing forgotten -------------------------------------------------------------------------------------------- */

static bool has_field(const struct state_section *s, const char *name)
{
    static const char *const named[][2] = {{"fcsr", "fflags"}, {"sip", "ssip"}, {NULL}};
    for (unsigned i = 0; named[i][0]; i++) {
        name = !strcmp(name, named[i][0]) ? named[i][1] : name;
    }
    for (const struct state_field *f = s->fields; f->name; f++) {
        if (!strcmp(f->name, name)) {
            return true;
        }
    }
    return g_strv_contains(s->derived, name);
}

static void every_register_is_a_field(void **state)
{
    struct vm v;
    size_t n;
    vm_open(&v, NULL);
    const struct accel_reg *r = v.ops->reg_table(v.a, &n);
    for (size_t i = 0; i < n; i++) {
        bool numbered = (r[i].name[0] == 'x' || r[i].name[0] == 'f') && g_ascii_isdigit(r[i].name[1]);
        CLEANUP_FREE char *one = g_strndup(r[i].name, numbered ? 1 : 99);
        if (!has_field(v.ops->hart_state, one)) {
            fail_msg("%s is neither a field nor derived", r[i].name);
        }
    }
    vm_close(&v);
}

/* Each register set to something else must change the state, and come out of another hart's put. */
static void every_register_travels(void **state)
{
    struct vm a, b;
    size_t n;
    static const char *const none[] = {NULL};
    vm_open(&a, NULL);
    vm_open(&b, NULL);
    a.ops->reset(a.a, RAM, 0);
    const struct accel_reg *r = a.ops->reg_table(a.a, &n);
    for (size_t i = 0; i < n; i++) {
        uint64_t old = a.ops->get_reg(a.a, 0, r[i].id), want = r[i].bits == 64 ? 0x20 : old ^ 1;
        want = !strcmp(r[i].name, "sip") || !strcmp(r[i].name, "sstatus") ? 2 : want;
        want = !strcmp(r[i].name, "senvcfg") ? 1 : want;
        want = !strcmp(r[i].name, "satp") ? 8ull << 60 | 1 : want;
        want = !strcmp(r[i].name, "fflags") || !strcmp(r[i].name, "frm") ? 3 : want;
        assert_int_equal(0, a.ops->set_reg(a.a, 0, r[i].id, want));
        if (a.ops->get_reg(a.a, 0, r[i].id) == old) {
            fail_msg("%s did not change", r[i].name);
        }
        take_over(&b, &a);
        same_registers(&a, &b, none);
    }
    vm_close(&a);
    vm_close(&b);
}

static void impossible_registers_are_refused(void **state)
{
    struct vm a, b;
    CLEANUP_ERR struct err e = ERR_INIT;
    vm_open(&a, NULL);
    vm_open(&b, "max,zbb=off");
    const struct state_section *s = a.ops->hart_state;
    void *ha = a.ops->hart_object(a.a, 0), *hb = b.ops->hart_object(b.a, 0);
    CLEANUP_FREE uint8_t *st = g_malloc0(s->size);
    s->get(ha, st);
    assert_int_equal(s->check(hb, st, &e), -EINVAL);
    assert_non_null(strstr(err_text(&e), "zbb"));
    static const struct {
        const char *field;
        uint64_t value;
    } bad[] = {
        {"satp", 5ull << 60},
        {"satp", 1},
        {"stvec", 2},
        {"pc", 1},
        {"sepc", 1},
        {"sie", 1},
        {"sstatus", 1ull << 40},
        {"senvcfg", 1ull << 33},
        {"scounteren", 1ull << 32},
        {"x", 1},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (const struct state_field *f = s->fields; f->name; f++) {
            if (!strcmp(f->name, bad[i].field)) {
                s->get(ha, st);
                memcpy(st + f->offset, &bad[i].value, 8);
                err_clear(&e);
                if (s->check(ha, st, &e) == 0) {
                    fail_msg("%s was taken", f->name);
                }
            }
        }
    }
    vm_close(&a);
    vm_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_register_is_a_field),
        cmocka_unit_test(every_register_travels),
        cmocka_unit_test(impossible_registers_are_refused),
        cmocka_unit_test(programs_go_on_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
