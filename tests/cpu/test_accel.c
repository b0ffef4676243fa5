/* SPDX-License-Identifier: BSD-2-Clause */
/* The interpreter through struct accel_ops: pause, registers, dirty log, options, device tree. */
#include "cpu/accels.h"

#include "base/cleanup.h"

#include <libfdt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define RAM  0x80000000ull
#define SIZE (4u << 20)

struct vm {
    const struct accel_ops *ops;
    struct guest_mem *mem;
    struct guest_clock clock;
    struct accel *a;
};

static void vm_open(struct vm *v, const struct accel_config *base)
{
    struct accel_config c = *base;
    CLEANUP_ERR struct err e = ERR_INIT;
    v->ops = accel_table[0];
    v->mem = guest_mem_create();
    guest_clock_init(&v->clock, false);
    assert_int_equal(0, guest_ram_add(v->mem, "ram", RAM, SIZE, NULL));
    c.timebase_hz = 10000000;
    c.mem = v->mem;
    c.clock = &v->clock;
    v->a = v->ops->create(&c, &e);
    assert_non_null(v->a);
}

static void vm_close(struct vm *v)
{
    v->ops->destroy(v->a);
    guest_mem_destroy(v->mem);
}

static unsigned reg(struct vm *v, const char *name)
{
    size_t n;
    const struct accel_reg *r = v->ops->reg_table(v->a, &n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(r[i].name, name)) {
            return r[i].id;
        }
    }
    fail_msg("no register %s", name);
    return 0;
}

static uint64_t get(struct vm *v, const char *name)
{
    return v->ops->get_reg(v->a, 0, reg(v, name));
}

static void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000L};
    nanosleep(&t, NULL);
}

/* Until hart 0 has executed n more instructions; a loaded host may take its time. */
static void let_run(struct vm *v, uint64_t n)
{
    uint64_t from = v->ops->instret(v->a, 0);
    for (unsigned i = 0; i < 60000 && v->ops->instret(v->a, 0) - from < n; i++) {
        sleep_ms(1);
    }
}

static void start(struct vm *v, const uint32_t *code, size_t n)
{
    assert_int_equal(0, guest_mem_write(v->mem, RAM, code, n * 4));
    v->ops->reset(v->a, RAM, 0x1234);
    guest_clock_start(&v->clock);
    v->ops->resume(v->a);
}

#define ADDI(rd, rs, imm) (0x13u | (rd) << 7 | (rs) << 15 | (uint32_t)(imm) << 20)
#define JAL_SELF          0x0000006fu
#define JAL_BACK_4        0xffdff06fu

static void pause_stops_and_resume_goes_on(void **state)
{
    struct vm v;
    vm_open(&v, &(struct accel_config){.harts = 2});
    const uint32_t code[] = {ADDI(5, 5, 1), JAL_BACK_4};
    start(&v, code, 2);
    let_run(&v, 10000);
    v.ops->pause(v.a);
    uint64_t first = get(&v, "x5");
    assert_true(first > 1000);
    assert_int_equal(0x1234, get(&v, "x11"));
    sleep_ms(5);
    assert_true(first == get(&v, "x5"));
    /* every count was two instructions; the pause fell between blocks */
    assert_true(v.ops->instret(v.a, 0) == 2 * first);
    assert_true(v.ops->instret(v.a, 1) == 0);
    v.ops->resume(v.a);
    let_run(&v, 100);
    v.ops->pause(v.a);
    assert_true(get(&v, "x5") > first);
    vm_close(&v);
}

static void registers_read_back(void **state)
{
    struct vm v;
    size_t n;
    vm_open(&v, &(struct accel_config){.harts = 1, .never_run = true});
    const struct accel_reg *r = v.ops->reg_table(v.a, &n);
    v.ops->reset(v.a, RAM, 0);
    assert_true(get(&v, "pc") == RAM);
    for (size_t i = 0; i < n; i++) {
        uint64_t want = r[i].bits == 64 ? 0x20 : 1;
        assert_int_equal(0, v.ops->set_reg(v.a, 0, r[i].id, want));
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(r[i].name, r[k].name);
        }
    }
    assert_true(get(&v, "x31") == 0x20 && get(&v, "f31") == 0x20 && get(&v, "sepc") == 0x20);
    assert_true(get(&v, "stimecmp") == 0x20 && get(&v, "priv") == 1 && get(&v, "hsm") == 1);
    assert_int_equal(-EINVAL, v.ops->set_reg(v.a, 0, reg(&v, "priv"), 3));
    assert_int_equal(-EINVAL, v.ops->set_reg(v.a, 0, reg(&v, "hsm"), 3));
    assert_int_equal(-ENOENT, v.ops->set_reg(v.a, 0, 0, 3));
    assert_int_equal(-ENOENT, v.ops->set_reg(v.a, 1, reg(&v, "pc"), 3));
    vm_close(&v);
}

static void loaded_code_counts_after_resume(void **state)
{
    struct vm v;
    vm_open(&v, &(struct accel_config){.harts = 1});
    const uint32_t one[] = {ADDI(5, 0, 1), JAL_BACK_4}, two[] = {ADDI(5, 0, 2), JAL_BACK_4};
    start(&v, one, 2);
    let_run(&v, 100);
    v.ops->pause(v.a);
    assert_int_equal(1, get(&v, "x5"));
    guest_mem_write(v.mem, RAM, two, sizeof(two));
    v.ops->resume(v.a);
    let_run(&v, 100);
    v.ops->pause(v.a);
    assert_int_equal(2, get(&v, "x5"));
    vm_close(&v);
}

/* Stores keep coming to one page while the log goes on, is harvested and goes off: never a store that is neither in
 * the log nor seen by the copy after the harvest. */
static void dirty_log_loses_nothing(void **state)
{
    struct vm v;
    vm_open(&v, &(struct accel_config){.harts = 1});
    /* lui x6, 0x80010; slli/srli to clear the sign; loop: addi x5, x5, 1; sd x5, 0(x6); j loop */
    const uint32_t code[] = {0x80010337, 0x02031313, 0x02035313, ADDI(5, 5, 1), 0x00533023, 0xff9ff06f};
    start(&v, code, 6);
    const struct guest_ram *r = guest_ram_get(v.mem, 0);
    _Atomic uint64_t *cell = guest_ram_ptr(v.mem, RAM + 0x10000, 8);
    let_run(&v, 100);
    for (unsigned round = 0; round < 50; round++) {
        assert_int_equal(0, guest_dirty_log_start(v.mem, DIRTY_MOVE, NULL));
        v.ops->dirty_log_changed(v.a);
        for (unsigned i = 0; i < 20; i++) {
            _Atomic uint8_t *d = (_Atomic uint8_t *)atomic_load(&r->dirty);
            atomic_exchange(&d[16], 0);
            v.ops->dirty_log_changed(v.a);
            uint64_t seen = *cell;
            for (unsigned spin = 0; *cell == seen && spin < 10000; spin++) {
                spin < 1000 ? (void)0 : sleep_ms(1); /* a loaded host may not run the hart for a while */
            }
            assert_true(*cell != seen);
            assert_int_equal(GUEST_DIRTY, atomic_load(&d[16]));
            assert_int_equal(0, atomic_load(&d[17]));
        }
        guest_dirty_log_stop(v.mem, DIRTY_MOVE);
        v.ops->dirty_log_changed(v.a);
    }
    vm_close(&v);
}

static void an_idle_hart_sleeps(void **state)
{
    struct vm v;
    vm_open(&v, &(struct accel_config){.harts = 2});
    const uint32_t code[] = {0x10500073, JAL_BACK_4}; /* wfi; j */
    start(&v, code, 2);
    sleep_ms(10);
    int64_t ns = INT64_MAX;
    for (unsigned attempt = 0; attempt < 50 && ns >= 4000000; attempt++) {
        struct timespec a, b;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        sleep_ms(200);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        ns = (b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec);
    }
    assert_true(ns < 4000000); /* 2 % of one core */
    vm_close(&v);
}

static void options_are_checked(void **state)
{
    static const struct {
        const char *cpu, *error;
    } bad[] = {
        {"rv46", "unable to find CPU model 'rv46': there is 'rv64'"},
        {"max,zba=perhaps", "-cpu: property 'zba' takes 'on' or 'off', not 'perhaps'"},
        {"max,zbx=on", "Property 'max-riscv-cpu.zbx' not found; did you mean 'zba'?"},
        {"rv64,f=off", "-cpu: 'd' needs 'f'; turn both off"},
    };
    struct guest_mem *m = guest_mem_create();
    struct guest_clock clock;
    guest_clock_init(&clock, true);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct accel_config c = {.cpu = bad[i].cpu, .harts = 1, .timebase_hz = 1, .mem = m, .clock = &clock};
        assert_null(accel_table[0]->create(&c, &e));
        assert_string_equal(bad[i].error, err_text(&e));
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    struct accel_config c = {.harts = 9, .timebase_hz = 1, .mem = m, .clock = &clock};
    assert_null(accel_table[0]->create(&c, &e));
    assert_string_equal("9 harts: 1 to 8 are possible", err_text(&e));
    guest_mem_destroy(m);
}

static void options_show_in_the_device_tree(void **state)
{
    struct vm v;
    char fdt[4096];
    vm_open(&v, &(struct accel_config){.harts = 1, .never_run = true, .cpu = "rv64,zbb=off,sv48=off,zicboz=off"});
    fdt_create_empty_tree(fdt, sizeof(fdt));
    int node = fdt_add_subnode(fdt, 0, "cpu");
    assert_int_equal(0, v.ops->describe_hart(v.a, 0, fdt, node));
    const char *isa = fdt_getprop(fdt, node, "riscv,isa", NULL);
    assert_int_equal(0, strncmp(isa, "rv64imafdc_", 11));
    assert_non_null(strstr(isa, "_zba"));
    assert_null(strstr(isa, "_zbb"));
    assert_string_equal("riscv,sv39", (const char *)fdt_getprop(fdt, node, "mmu-type", NULL));
    assert_null(fdt_getprop(fdt, node, "riscv,cboz-block-size", NULL));
    assert_true(fdt_stringlist_search(fdt, node, "riscv,isa-extensions", "zbs") >= 0);
    assert_true(fdt_stringlist_search(fdt, node, "riscv,isa-extensions", "zbb") < 0);
    vm_close(&v);
}

static void an_extension_that_is_off_is_illegal(void **state)
{
    struct vm v;
    vm_open(&v, &(struct accel_config){.harts = 1, .cpu = "max,zbb=off"});
    const uint32_t code[] = {0x60001293 /* clz x5, x0 */, JAL_SELF};
    guest_mem_write(v.mem, RAM, code, sizeof(code));
    guest_mem_write(v.mem, RAM + 0x100, &(uint32_t){JAL_SELF}, 4);
    v.ops->reset(v.a, RAM, 0);
    assert_int_equal(0, v.ops->set_reg(v.a, 0, reg(&v, "stvec"), RAM + 0x100));
    guest_clock_start(&v.clock);
    v.ops->resume(v.a);
    let_run(&v, 100);
    v.ops->pause(v.a);
    assert_int_equal(2, get(&v, "scause"));
    assert_true(get(&v, "stval") == code[0]);
    assert_true(get(&v, "sepc") == RAM);
    vm_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pause_stops_and_resume_goes_on),
        cmocka_unit_test(registers_read_back),
        cmocka_unit_test(loaded_code_counts_after_resume),
        cmocka_unit_test(dirty_log_loses_nothing),
        cmocka_unit_test(an_idle_hart_sleeps),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(options_show_in_the_device_tree),
        cmocka_unit_test(an_extension_that_is_off_is_illegal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
