/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu/riscv/rv_accel.h"
#include "cpu/riscv/rv.h"

#include "base/cleanup.h"

#include <glib.h>
#include <inttypes.h>

static struct rv_accel *rv(struct accel *a)
{
    return (struct rv_accel *)a;
}

static void destroy(struct accel *opaque)
{
    struct rv_accel *a = rv(opaque);
    if (!a) {
        return;
    }
    guest_mem_set_code_hook(a->c.mem, NULL, NULL);
    for (unsigned i = 0; i < RV_MAX_HARTS; i++) {
        rv_hart_destroy(a->hart[i]);
    }
    rv_decoder_destroy(a->decoder);
    pthread_mutex_destroy(&a->pages_mutex);
    g_free(a->regs);
    g_free(a);
}

static int start_threads(struct rv_accel *a, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; i < a->n && !rc; i++) {
        rc = rv_hart_start_thread(a->hart[i], e);
    }
    return rc;
}

static struct accel *create(const struct accel_config *c, struct err *e)
{
    struct rv_model model;
    if (c->harts < 1 || c->harts > RV_MAX_HARTS) {
        err_set(e, EINVAL, "%u harts: 1 to %d are possible", c->harts, RV_MAX_HARTS);
        return NULL;
    }
    if (!c->timebase_hz) {
        err_set(e, EINVAL, "the time base must not be 0 Hz");
        return NULL;
    }
    if (rv_model_parse(c->cpu, c->cpu_compat, &model, e)) {
        return NULL;
    }
    struct rv_accel *a = g_new0(struct rv_accel, 1);
    a->c = *c;
    a->c.cpu = a->c.cpu_compat = NULL; /* borrowed for the call only */
    a->model = model;
    a->n = c->harts;
    pthread_mutex_init(&a->pages_mutex, NULL);
    a->decoder = rv_decoder_create(&a->model);
    rv_regs_build(a);
    for (unsigned i = 0; i < a->n; i++) {
        a->hart[i] = rv_hart_create(a, i);
        if (!a->hart[i]) {
            err_set(e, ENOMEM, "hart %u: no memory", i);
            destroy((struct accel *)a);
            return NULL;
        }
    }
    guest_mem_set_code_hook(c->mem, rv_code_written, a);
    if (!c->never_run && start_threads(a, e)) {
        destroy((struct accel *)a);
        return NULL;
    }
    return (struct accel *)a;
}

static void resume(struct accel *opaque)
{
    struct rv_accel *a = rv(opaque);
    for (unsigned i = 0; i < a->n && !a->c.never_run; i++) {
        /* what was loaded into RAM meanwhile, or set by a debugger, counts from here on */
        rv_fence_i(a->hart[i]);
        rv_tlb_flush(a->hart[i]);
    }
    for (unsigned i = 0; i < a->n && !a->c.never_run; i++) {
        rv_hart_resume(a->hart[i]);
    }
}

static void pause_all(struct accel *opaque)
{
    struct rv_accel *a = rv(opaque);
    for (unsigned i = 0; i < a->n; i++) {
        rv_hart_pause(a->hart[i]);
    }
    for (unsigned i = 0; i < a->n; i++) {
        rv_hart_wait_paused(a->hart[i]);
    }
}

static void nap(struct accel *opaque, uint64_t until_ns)
{
    struct rv_accel *a = rv(opaque);
    for (unsigned i = 0; i < a->n && !a->c.never_run; i++) {
        rv_hart_nap(a->hart[i], until_ns);
    }
}

static void reset(struct accel *opaque, uint64_t entry, uint64_t dtb)
{
    struct rv_accel *a = rv(opaque);
    for (unsigned i = 0; i < a->n; i++) {
        rv_hart_reset(a->hart[i]);
        a->hart[i]->x[10] = i;
    }
    a->hart[0]->hsm = RV_HSM_STARTED;
    a->hart[0]->pc = entry;
    a->hart[0]->x[11] = dtb;
}

static void set_irq(struct accel *opaque, unsigned hart, bool level)
{
    if (hart < rv(opaque)->n) {
        rv_hart_irq(rv(opaque)->hart[hart], RV_IP_SEIP, level);
    }
}

static const struct accel_reg *reg_table(struct accel *opaque, size_t *n)
{
    *n = rv(opaque)->regs_n;
    return rv(opaque)->regs;
}

static uint64_t get_reg(struct accel *opaque, unsigned hart, unsigned id)
{
    return hart < rv(opaque)->n ? rv_reg_get(rv(opaque)->hart[hart], id) : 0;
}

static int set_reg(struct accel *opaque, unsigned hart, unsigned id, uint64_t val)
{
    return hart < rv(opaque)->n ? rv_reg_set(rv(opaque)->hart[hart], id, val) : -ENOENT;
}

static void dirty_log_changed(struct accel *opaque)
{
    rv_hart_drop_write_permission(rv(opaque), NULL, true);
}

static void pages_came(struct accel *opaque)
{
    for (unsigned i = 0; i < rv(opaque)->n; i++) {
        rv_hart_page_came(rv(opaque)->hart[i]);
    }
}

static uint64_t pages_waited(struct accel *opaque, unsigned i)
{
    struct rv_accel *a = rv(opaque);
    if (i < a->n) {
        return atomic_load(&a->hart[i]->pages_ns);
    }
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&a->pages_mutex);
    return a->pages_all_ns;
}

static void clock_changed(struct accel *opaque)
{
    struct rv_accel *a = rv(opaque);
    for (unsigned i = 0; i < a->n; i++) {
        rv_timer_look(a->hart[i]);
    }
}

static int describe_hart(struct accel *opaque, unsigned hart, void *fdt, int node)
{
    return rv_model_describe(&rv(opaque)->model, fdt, node);
}

static char *describe_firmware(struct accel *opaque)
{
    return rv_sbi_describe(rv(opaque));
}

static void *hart_object(struct accel *opaque, unsigned hart)
{
    return hart < rv(opaque)->n ? rv(opaque)->hart[hart] : NULL;
}

static uint64_t instret(struct accel *opaque, unsigned hart)
{
    return hart < rv(opaque)->n ? __atomic_load_n(&rv(opaque)->hart[hart]->instret, __ATOMIC_RELAXED) : 0;
}

static size_t cache_bytes(struct accel *opaque)
{
    size_t sum = 0;
    for (unsigned i = 0; i < rv(opaque)->n; i++) {
        sum += rv_cache_bytes(rv(opaque)->hart[i]);
    }
    return sum;
}

const struct accel_ops rv_interp_ops = {
    .name = "interp",
    .description = "built-in RISC-V interpreter",
    .sees_stores = true,
    .create = create,
    .destroy = destroy,
    .resume = resume,
    .pause = pause_all,
    .nap = nap,
    .reset = reset,
    .set_irq = set_irq,
    .reg_table = reg_table,
    .get_reg = get_reg,
    .set_reg = set_reg,
    .dirty_log_changed = dirty_log_changed,
    .pages_came = pages_came,
    .pages_waited = pages_waited,
    .clock_changed = clock_changed,
    .describe_hart = describe_hart,
    .describe_firmware = describe_firmware,
    .hart_state = &rv_hart_state,
    .hart_object = hart_object,
    .instret = instret,
    .cache_bytes = cache_bytes,
};
