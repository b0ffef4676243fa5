/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The board "virt": QEMU's riscv virt board without machine mode (the VMM is the SBI, as under KVM), so without CLINT
 * and with supervisor contexts only in the PLIC.
 *
 *   0x00100000  test finisher             0x10000000  UART, irq 10
 *   0x00101000  RTC, irq 11               0x10001000  virtio-mmio 0 … 7, irq 1 … 8
 *   0x03000000  PCI I/O (64 KiB)          0x10100000  fw_cfg
 *   0x0c000000  PLIC, 96 sources          0x30000000  PCIe ECAM (256 MiB), INTA-D on irq 32 … 35
 *   0x40000000  PCI memory (1 GiB)        0x80000000  RAM
 *   0x400000000 PCI memory, 64-bit (16 GiB; above RAM where that is larger)
 *
 *   0x20000000  flash banks 0, 1 (32 MiB each), those that have a drive
 */
#include "machine/machine.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "cpu/accels.h"
#include "device/cfi_flash.h"
#include "device/fw_cfg.h"
#include "device/goldfish_rtc.h"
#include "device/pcie_ecam.h"
#include "device/plic.h"
#include "device/test_finisher.h"
#include "device/uart16550.h"
#include "device/virtio_mmio.h"
#include "machine/dt.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#define GIB         (1ull << 30)
#define TIMEBASE_HZ 10000000u
#define SLOTS       8
#define INTX_IRQ    32
#define HARTS_MAX   PLIC_MAX_HARTS
#define RAM_MIN     (16ull << 20)

enum {
    FINISHER = 0x00100000,
    RTC = 0x00101000,
    PCI_IO = 0x03000000,
    PLIC = 0x0c000000,
    UART = 0x10000000,
    VIRTIO = 0x10001000,
    FW_CFG = 0x10100000,
    FLASH = 0x20000000,
    ECAM = 0x30000000,
    ECAM_SIZE = 0x10000000,
    PCI_MEM = 0x40000000,
    PCI_MEM_SIZE = 0x40000000,
};
enum { IRQ_VIRTIO = 1, IRQ_UART = 10, IRQ_RTC = 11 };
#define RAM_BASE 0x80000000ull
/* Phandles: the harts' own interrupt controllers follow at PH_INTC, the harts at PH_CPU. */
enum { PH_PLIC = 1, PH_TEST = 2, PH_INTC = 0x10, PH_CPU = 0x40 };

/* First those of the flash banks. */
static const char *const virt_options[] = {"pflash0", "pflash1", "rtc-offset", NULL};

struct virt {
    struct machine m;
    struct plic *plic;
    struct uart *uart;
    struct goldfish_rtc *rtc;
    struct finisher *finisher;
    struct fw_cfg *fw_cfg;
    struct ecam *ecam;
    struct virtio_slot *slot[SLOTS];
    uint64_t pci_high; /* the 64-bit window */
    bool irq_level[HARTS_MAX];
    void (*irq_watch)(void *opaque, unsigned hart, bool level); /* qtest's; NULL: nobody */
    void *irq_watch_opaque;
};

/* --- device tree
 * --------------------------------------------------------------------------------------------------------- */

static void tree_cpus(struct virt *v, struct dt *f)
{
    struct vm *vm = v->m.vm;
    dt_node(f, "/cpus");
    dt_u32(f, "/cpus", "#address-cells", 1);
    dt_u32(f, "/cpus", "#size-cells", 0);
    dt_u32(f, "/cpus", "timebase-frequency", TIMEBASE_HZ);
    dt_node(f, "/cpus/cpu-map");
    dt_node(f, "/cpus/cpu-map/cluster0");
    for (unsigned i = v->m.board.harts; i-- > 0;) {
        CLEANUP_FREE char *cpu = g_strdup_printf("/cpus/cpu@%u", i);
        CLEANUP_FREE char *intc = g_strdup_printf("%s/interrupt-controller", cpu);
        CLEANUP_FREE char *core = g_strdup_printf("/cpus/cpu-map/cluster0/core%u", i);
        dt_node(f, cpu);
        dt_u32(f, cpu, "phandle", PH_CPU + i);
        dt_text(f, cpu, "device_type", "cpu");
        dt_u32(f, cpu, "reg", i);
        dt_text(f, cpu, "status", "okay");
        dt_text(f, cpu, "compatible", "riscv");
        dt_node(f, intc);
        dt_u32(f, intc, "#interrupt-cells", 1);
        dt_flag(f, intc, "interrupt-controller");
        dt_text(f, intc, "compatible", "riscv,cpu-intc");
        dt_u32(f, intc, "phandle", PH_INTC + i);
        if (!f->rc) {
            f->rc = vm->accel_ops->describe_hart(vm->accel, i, f->blob, dt_offset(f, cpu));
        }
        dt_node(f, core);
        dt_u32(f, core, "cpu", PH_CPU + i);
    }
}

static void tree_interrupt(struct dt *f, const char *path, uint32_t irq)
{
    dt_u32(f, path, "interrupts", irq);
    dt_u32(f, path, "interrupt-parent", PH_PLIC);
}

static void tree_plic(struct virt *v, struct dt *f)
{
    const char *p = "/soc/plic@c000000";
    uint32_t cells[2 * HARTS_MAX];
    for (unsigned i = 0; i < v->m.board.harts; i++) {
        cells[2 * i] = PH_INTC + i;
        cells[2 * i + 1] = 9; /* supervisor external interrupt */
    }
    dt_node(f, p);
    dt_u32(f, p, "phandle", PH_PLIC);
    dt_u32(f, p, "riscv,ndev", PLIC_SOURCES);
    dt_reg(f, p, PLIC, PLIC_SIZE);
    dt_cells(f, p, "interrupts-extended", cells, 2 * v->m.board.harts);
    dt_flag(f, p, "interrupt-controller");
    dt_bytes(f, p, "compatible", "sifive,plic-1.0.0\0riscv,plic0", sizeof("sifive,plic-1.0.0\0riscv,plic0"));
    dt_u32(f, p, "#address-cells", 0);
    dt_u32(f, p, "#interrupt-cells", 1);
}

static void tree_pci(struct virt *v, struct dt *f)
{
    const char *p = "/soc/pci@30000000";
    uint32_t map[4 * 4 * 6];
    unsigned n = 0;
    for (unsigned dev = 0; dev < 4; dev++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            const uint32_t row[6] = {dev << 11, 0, 0, pin + 1, PH_PLIC, INTX_IRQ + (dev + pin) % 4};
            memcpy(map + n, row, sizeof(row));
            n += 6;
        }
    }
    dt_node(f, p);
    dt_u32(f, p, "#address-cells", 3);
    dt_u32(f, p, "#interrupt-cells", 1);
    dt_u32(f, p, "#size-cells", 2);
    dt_text(f, p, "compatible", "pci-host-ecam-generic");
    dt_text(f, p, "device_type", "pci");
    dt_u32(f, p, "linux,pci-domain", 0);
    DT_CELLS(f, p, "bus-range", 0, 0xff);
    dt_flag(f, p, "dma-coherent");
    dt_reg(f, p, ECAM, ECAM_SIZE);
    uint32_t hi = (uint32_t)(v->pci_high >> 32), lo = (uint32_t)v->pci_high;
    DT_CELLS(f, p, "ranges", 0x1000000, 0, 0, 0, PCI_IO, 0, 0x10000, 0x2000000, 0, PCI_MEM, 0, PCI_MEM, 0, PCI_MEM_SIZE,
             0x3000000, hi, lo, hi, lo, 4, 0);
    DT_CELLS(f, p, "interrupt-map-mask", 0x1800, 0, 0, 7);
    dt_cells(f, p, "interrupt-map", map, n);
}

/* Later nodes come first: the order is that of QEMU's tree. */
static void tree_soc(struct virt *v, struct dt *f)
{
    dt_node(f, "/soc");
    dt_u32(f, "/soc", "#address-cells", 2);
    dt_u32(f, "/soc", "#size-cells", 2);
    dt_text(f, "/soc", "compatible", "simple-bus");
    dt_flag(f, "/soc", "ranges");
    tree_plic(v, f);
    for (unsigned i = 0; i < SLOTS; i++) {
        CLEANUP_FREE char *p = g_strdup_printf("/soc/virtio_mmio@%x", VIRTIO + i * VIRTIO_MMIO_SIZE);
        dt_node(f, p);
        dt_text(f, p, "compatible", "virtio,mmio");
        dt_reg(f, p, VIRTIO + i * VIRTIO_MMIO_SIZE, VIRTIO_MMIO_SIZE);
        tree_interrupt(f, p, IRQ_VIRTIO + i);
    }
    tree_pci(v, f);
    const char *p = "/soc/test@100000";
    dt_node(f, p);
    dt_u32(f, p, "phandle", PH_TEST);
    dt_reg(f, p, FINISHER, 0x1000);
    dt_bytes(f, p, "compatible", "sifive,test1\0sifive,test0\0syscon", sizeof("sifive,test1\0sifive,test0\0syscon"));
    p = "/soc/serial@10000000";
    dt_node(f, p);
    dt_text(f, p, "compatible", "ns16550a");
    dt_reg(f, p, UART, 0x100);
    dt_u32(f, p, "clock-frequency", 3686400);
    tree_interrupt(f, p, IRQ_UART);
    p = "/soc/rtc@101000";
    dt_node(f, p);
    dt_text(f, p, "compatible", "google,goldfish-rtc");
    dt_reg(f, p, RTC, 0x1000);
    tree_interrupt(f, p, IRQ_RTC);
}

static void tree_syscon(struct dt *f, const char *path, const char *compatible, uint32_t value)
{
    dt_node(f, path);
    dt_text(f, path, "compatible", compatible);
    dt_u32(f, path, "regmap", PH_TEST);
    dt_u32(f, path, "offset", 0);
    dt_u32(f, path, "value", value);
}

static void tree_chosen(struct virt *v, struct dt *f)
{
    const struct boot *b = &v->m.boot;
    uint8_t seed[32];
    dt_node(f, "/chosen");
    dt_text(f, "/chosen", "stdout-path", "/soc/serial@10000000");
    if (b->append) {
        dt_text(f, "/chosen", "bootargs", b->append);
    }
    if (b->initrd.path && !b->firmware.path) {
        dt_u64(f, "/chosen", "linux,initrd-start", b->initrd.gpa);
        dt_u64(f, "/chosen", "linux,initrd-end", b->initrd.gpa + b->initrd.size);
    }
    if (getrandom(seed, sizeof(seed), 0) == sizeof(seed)) {
        dt_bytes(f, "/chosen", "rng-seed", seed, sizeof(seed));
    }
}

/* One node for the banks that are there, as QEMU's. */
static void tree_flash(struct virt *v, struct dt *f)
{
    uint32_t reg[4 * MACHINE_FLASH_BANKS];
    unsigned n = 0;
    for (unsigned i = 0; i < MACHINE_FLASH_BANKS; i++) {
        if (v->m.flash[i]) {
            const uint32_t bank[4] = {0, FLASH + i * CFI_FLASH_SIZE, 0, CFI_FLASH_SIZE};
            memcpy(reg + n, bank, sizeof(bank));
            n += 4;
        }
    }
    if (n) {
        CLEANUP_FREE char *p = g_strdup_printf("/flash@%x", reg[1]);
        dt_node(f, p);
        dt_u32(f, p, "bank-width", 4);
        dt_cells(f, p, "reg", reg, n);
        dt_text(f, p, "compatible", "cfi-flash");
    }
}

static void tree_board(struct virt *v, struct dt *f)
{
    CLEANUP_FREE char *memory = g_strdup_printf("/memory@%" PRIx64, (uint64_t)RAM_BASE);
    CLEANUP_FREE char *cfg = g_strdup_printf("/fw-cfg@%x", FW_CFG);
    dt_start(f);
    dt_u32(f, "/", "#address-cells", 2);
    dt_u32(f, "/", "#size-cells", 2);
    dt_text(f, "/", "compatible", "riscv-virtio");
    dt_text(f, "/", "model", "riscv-virtio,qemu");
    tree_soc(v, f);
    tree_cpus(v, f);
    dt_node(f, memory);
    dt_text(f, memory, "device_type", "memory");
    dt_reg(f, memory, RAM_BASE, v->m.boot.ram_size);
    tree_syscon(f, "/reboot", "syscon-reboot", 0x7777);
    tree_syscon(f, "/poweroff", "syscon-poweroff", 0x5555);
    dt_node(f, cfg);
    dt_text(f, cfg, "compatible", "qemu,fw-cfg-mmio");
    dt_reg(f, cfg, FW_CFG, 0x18);
    dt_flag(f, cfg, "dma-coherent");
    tree_flash(v, f);
}

static void *virt_device_tree(struct machine *m, size_t *size, struct err *e)
{
    struct virt *v = (struct virt *)m;
    struct dt f = {0};
    if (m->boot.dtb) {
        CLEANUP_FREE char *blob = NULL;
        g_autoptr(GError) ge = NULL;
        gsize len;
        if (!g_file_get_contents(m->boot.dtb, &blob, &len, &ge)) {
            err_set(e, EIO, "could not load device tree: %s", ge->message);
            return NULL;
        }
        if (dt_start_from(&f, blob, len, m->boot.dtb, e) < 0) {
            return NULL;
        }
    } else {
        tree_board(v, &f);
    }
    tree_chosen(v, &f);
    return dt_end(&f, size, e);
}

/* --- making it
 * -------------------------------------------------------------------------------------------------------------- */

static int make_memory(struct virt *v, const struct machine_config *c, struct err *e)
{
    struct board *b = &v->m.board;
    uint64_t size = c->ram_size;
    if (size < RAM_MIN || size % GUEST_PAGE_SIZE || size > (1ull << 40)) {
        return err_set(e, EINVAL, "invalid RAM size %" PRIu64 ": the virt board takes 16 MiB to 1 TiB in whole pages",
                       size);
    }
    v->pci_high = round_up(max_u64(RAM_BASE + size, 16 * GIB), 16 * GIB);
    return guest_ram_add_as(b->mem, &c->memory, "ram", RAM_BASE, size, e);
}

static int make_accel(struct virt *v, const struct machine_config *c, struct err *e)
{
    struct vm *vm = v->m.vm;
    const char *name = c->accel && strcmp(c->accel, "tcg") != 0 ? c->accel : "interp";
    bool qtest = !strcmp(name, "qtest");
    for (unsigned i = 0; accel_table[i]; i++) {
        if (!strcmp(accel_table[i]->name, qtest ? "interp" : name)) {
            vm->accel_ops = accel_table[i];
        }
    }
    if (!vm->accel_ops) {
        return err_set(e, EINVAL, "invalid accelerator %s: there are interp (also as tcg) and qtest", name);
    }
    CLEANUP_FREE char *compat = machine_cpu_compat(v->m.release);
    struct accel_config ac = {
        .cpu = c->cpu,
        .cpu_compat = compat,
        .harts = v->m.board.harts,
        .timebase_hz = TIMEBASE_HZ,
        .mem = vm->mem,
        .clock = &vm->clock,
        .never_run = qtest,
    };
    vm->clock.manual = qtest;
    vm_fill_accel_host(vm, &ac.host);
    vm->accel = vm->accel_ops->create(&ac, e);
    return vm->accel ? 0 : -EINVAL;
}

static void finisher_shutdown(void *opaque, unsigned code)
{
    vm_guest_shutdown(opaque, code);
}

static void finisher_reset(void *opaque)
{
    vm_guest_reset(opaque);
}

static int make_pci(struct virt *v, struct err *e)
{
    struct board *b = &v->m.board;
    struct irq_line intx[4];
    for (unsigned i = 0; i < 4; i++) {
        intx[i] = plic_line(v->plic, INTX_IRQ + i);
    }
    b->pci = pci_bus_create(b->mem, intx);
    pci_bus_add_window(b->pci, PCI_MEM, PCI_MEM_SIZE);
    pci_bus_add_window(b->pci, v->pci_high, 16 * GIB);
    v->ecam = ecam_create(b->mem, b->pci, ECAM, ECAM_SIZE, e);
    return v->ecam ? 0 : -EINVAL;
}

static void hart_irq(void *opaque, unsigned hart, bool level)
{
    struct virt *v = opaque;
    struct vm *vm = v->m.vm;
    vm->accel_ops->set_irq(vm->accel, hart, level);
    if (v->irq_watch && v->irq_level[hart] != level) {
        v->irq_watch(v->irq_watch_opaque, hart, level);
    }
    v->irq_level[hart] = level;
}

static int make_devices(struct virt *v, struct err *e)
{
    struct board *b = &v->m.board;
    struct vm *vm = v->m.vm;
    const struct finisher_host fh = {vm, finisher_shutdown, finisher_reset};
    v->plic = plic_create(b->mem, PLIC, b->harts, e);
    if (!v->plic) {
        return -EINVAL;
    }
    plic_connect(v->plic, hart_irq, v);
    v->uart = uart_create(b, UART, plic_line(v->plic, IRQ_UART), e);
    v->rtc = v->uart ? goldfish_rtc_create(b, RTC, plic_line(v->plic, IRQ_RTC), e) : NULL;
    v->finisher = v->rtc ? finisher_create(b->mem, FINISHER, &fh, e) : NULL;
    v->fw_cfg = v->finisher ? fw_cfg_create(b->mem, FW_CFG, e) : NULL;
    if (!v->fw_cfg) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        v->slot[i] =
            virtio_slot_create(b->mem, i, VIRTIO + i * VIRTIO_MMIO_SIZE, plic_line(v->plic, IRQ_VIRTIO + i), e);
        if (!v->slot[i]) {
            return -EINVAL;
        }
    }
    b->virtio_slots = v->slot;
    b->n_virtio_slots = SLOTS;
    return make_pci(v, e);
}

static int fill_fw_cfg(struct virt *v, struct err *e)
{
    const struct boot *b = &v->m.boot;
    fw_cfg_set_u16(v->fw_cfg, FW_CFG_NB_CPUS, (uint16_t)v->m.board.harts);
    fw_cfg_set_u64(v->fw_cfg, FW_CFG_RAM_SIZE, b->ram_size);
    if (b->append) {
        fw_cfg_set_u32(v->fw_cfg, FW_CFG_CMDLINE_SIZE, (uint32_t)strlen(b->append) + 1);
        fw_cfg_set(v->fw_cfg, FW_CFG_CMDLINE_DATA, b->append, strlen(b->append) + 1);
    }
    const struct boot_file *files[2] = {&b->kernel, &b->initrd};
    const uint16_t keys[2][2] = {{FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL_DATA}, {FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA}};
    for (unsigned i = 0; i < 2 && b->firmware.path; i++) {
        size_t len = 0;
        CLEANUP_FREE uint8_t *data = files[i]->path ? boot_read_all(files[i], &len, e) : NULL;
        if (files[i]->path && !data) {
            return -EIO;
        }
        fw_cfg_set_u32(v->fw_cfg, keys[i][0], (uint32_t)len);
        fw_cfg_set(v->fw_cfg, keys[i][1], data ? data : (const uint8_t *)"", len);
    }
    return 0;
}

static void virt_destroy(struct machine *m)
{
    struct virt *v = (struct virt *)m;
    for (unsigned i = 0; i < SLOTS; i++) {
        virtio_slot_destroy(v->slot[i]);
    }
    ecam_destroy(v->ecam);
    pci_bus_destroy(m->board.pci);
    fw_cfg_destroy(v->fw_cfg);
    finisher_destroy(v->finisher);
    goldfish_rtc_destroy(v->rtc);
    uart_destroy(v->uart);
    plic_destroy(v->plic);
    boot_finish(&m->boot);
    for (unsigned i = 0; i < MACHINE_FLASH_BANKS; i++) {
        g_free(m->flash[i]);
    }
    g_free(v);
}

/* -M pflash0=, pflash1=: nodes that may be made later. */
static void take_flash(struct virt *v, struct json_object *options)
{
    for (unsigned i = 0; i < MACHINE_FLASH_BANKS; i++) {
        struct json_object *name = json_object_object_get(options, virt_options[i]);
        v->m.flash[i] = name ? g_strdup(json_object_get_string(name)) : NULL;
    }
}

static int take_rtc_offset(struct virt *v, struct json_object *options, struct err *e)
{
    struct json_object *given = json_object_object_get(options, "rtc-offset");
    const char *text = given ? json_object_get_string(given) : "0";
    int64_t ns;
    if (!g_ascii_string_to_signed(text, 10, INT64_MIN, INT64_MAX, &ns, NULL)) {
        return err_set(e, EINVAL, "Property 'virt.rtc-offset' doesn't take value '%s'; it takes nanoseconds", text);
    }
    goldfish_rtc_set_ahead(v->rtc, ns);
    return 0;
}

static int64_t virt_rtc_offset(struct machine *m)
{
    return goldfish_rtc_ahead(((struct virt *)m)->rtc);
}

static int virt_complete(struct machine *m, struct err *e)
{
    for (unsigned i = 0; i < MACHINE_FLASH_BANKS; i++) {
        CLEANUP_FREE char *path = g_strdup_printf("/machine/virt.flash%u", i);
        struct device *d = NULL;
        if (!m->flash[i] || vm_device_find(m->vm, path)) {
            continue;
        }
        int rc = cfi_flash_create(&m->board, i, FLASH + i * CFI_FLASH_SIZE, m->flash[i], &d, e);
        if (rc < 0) {
            return err_wrap(e, "flash bank %u", i);
        }
        g_ptr_array_add(m->vm->devices, d);
    }
    return 0;
}

static int virt_create(struct vm *vm, const struct machine_release *r, const struct machine_config *c,
                       struct machine **out, struct err *e)
{
    if (c->harts < 1 || c->harts > HARTS_MAX) {
        return err_set(e, EINVAL, "Invalid SMP CPUs %u. The max CPUs supported by machine 'virt' is %d", c->harts,
                       HARTS_MAX);
    }
    struct virt *v = g_new0(struct virt, 1);
    struct board *b = &v->m.board;
    v->m.vm = vm;
    v->m.type = &machine_virt;
    v->m.release = r;
    vm_fill_board(vm, b);
    b->pci_boot_path = "/pci@30000000";
    b->harts = c->harts;
    take_flash(v, c->options);
    const struct boot_config bc = {c->kernel, c->initrd, c->append, c->dtb, c->firmware, RAM_BASE, c->ram_size};
    int rc = make_memory(v, c, e);
    rc = rc < 0 ? rc : boot_init(&v->m.boot, &bc, e);
    rc = rc < 0 ? rc : make_accel(v, c, e);
    rc = rc < 0 ? rc : make_devices(v, e);
    rc = rc < 0 ? rc : take_rtc_offset(v, c->options, e);
    rc = rc < 0 ? rc : fill_fw_cfg(v, e);
    if (rc < 0) {
        virt_destroy(&v->m);
        return rc;
    }
    *out = &v->m;
    return 0;
}

static void virt_reset(struct machine *m)
{
    struct virt *v = (struct virt *)m;
    plic_reset(v->plic);
    uart_reset(v->uart);
    goldfish_rtc_reset(v->rtc);
    fw_cfg_reset(v->fw_cfg);
    ecam_reset(v->ecam);
}

static void virt_state_objects(struct machine *m,
                               void (*add)(void *opaque, const char *path, const struct state_section *s, void *object),
                               void *opaque)
{
    struct virt *v = (struct virt *)m;
    add(opaque, "/machine/plic", &plic_state, v->plic);
    add(opaque, "/machine/uart0", &uart_state, v->uart);
    add(opaque, "/machine/rtc", &goldfish_rtc_state, v->rtc);
    add(opaque, "/machine/fw-cfg", &fw_cfg_state, v->fw_cfg);
    add(opaque, "/machine/pci-host", &ecam_state, v->ecam);
}

static int virt_connect_serial(struct machine *m, unsigned n, struct chardev *c, struct err *e)
{
    struct virt *v = (struct virt *)m;
    if (n > 0) {
        return c ? err_set(e, EINVAL, "machine 'virt' has one serial port; there is no serial%u", n) : 0;
    }
    return uart_connect(v->uart, c, e);
}

static void virt_clock_changed(struct machine *m)
{
    goldfish_rtc_clock_changed(((struct virt *)m)->rtc);
}

static void virt_boot_order(struct machine *m, const char *text, size_t len)
{
    fw_cfg_set_file(((struct virt *)m)->fw_cfg, "bootorder", text, len);
}

static void virt_watch_irq(struct machine *m, void (*fn)(void *opaque, unsigned hart, bool level), void *opaque)
{
    struct virt *v = (struct virt *)m;
    v->irq_watch_opaque = opaque;
    v->irq_watch = fn;
}

static size_t virt_console_write(struct machine *m, const uint8_t *buf, size_t len)
{
    return uart_console_write(((struct virt *)m)->uart, buf, len);
}

static size_t virt_console_read(struct machine *m, uint8_t *buf, size_t len)
{
    return uart_console_read(((struct virt *)m)->uart, buf, len);
}

const struct machine_type machine_virt = {
    .options = virt_options,
    .complete = virt_complete,
    .create = virt_create,
    .destroy = virt_destroy,
    .reset = virt_reset,
    .state_objects = virt_state_objects,
    .device_tree = virt_device_tree,
    .connect_serial = virt_connect_serial,
    .rtc_offset = virt_rtc_offset,
    .clock_changed = virt_clock_changed,
    .boot_order = virt_boot_order,
    .watch_irq = virt_watch_irq,
    .console_write = virt_console_write,
    .console_read = virt_console_read,
};
