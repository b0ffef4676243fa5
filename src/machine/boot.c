/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/boot.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define MIB           ((uint64_t)1 << 20)
#define KERNEL_ALIGN  (2 * MIB)
#define IMAGE_HEADER  64
#define INITRD_OFFSET (128 * MIB)
#define DTB_LIMIT     (3072 * MIB) /* a 32-bit firmware must reach it */
#define PHDRS_MAX     64

/* --- files ---------------------------------------------------------------------------------------------------------
 */

static int file_open(struct boot_file *f, const char *what, const char *path, struct err *e)
{
    struct stat st;
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0) {
        return err_set_errno(e, errno, "could not load %s '%s'", what, path);
    }
    f->path = g_strdup(path);
    if (fstat(f->fd, &st) < 0) {
        return err_set_errno(e, errno, "could not load %s '%s'", what, path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, EINVAL, "could not load %s '%s': not a regular file", what, path);
    }
    if (st.st_size == 0) {
        return err_set(e, EINVAL, "could not load %s '%s': the file is empty", what, path);
    }
    f->size = (uint64_t)st.st_size;
    return 0;
}

static void file_close(struct boot_file *f)
{
    if (f->path) {
        close(f->fd);
        g_free(take(f->path));
    }
}

/* Exactly len bytes from off. */
static int file_read(const struct boot_file *f, void *buf, size_t len, uint64_t off, struct err *e)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(f->fd, (char *)buf + done, len - done, (off_t)(off + done));
        if (n < 0) {
            return err_set_errno(e, errno, "could not read '%s'", f->path);
        }
        if (n == 0) {
            return err_set(e, EINVAL, "'%s' is truncated: it ends at byte %" PRIu64 " of %" PRIu64, f->path, off + done,
                           off + len);
        }
        done += (size_t)n;
    }
    return 0;
}

/* Unpacks up to `max` bytes into buf (NULL: only counts); *len is how many there were. */
static int file_gunzip(const struct boot_file *f, uint8_t *buf, uint64_t max, uint64_t *len, struct err *e)
{
    int fd = dup(f->fd);
    gzFile z = fd >= 0 && lseek(fd, 0, SEEK_SET) == 0 ? gzdopen(fd, "rb") : NULL;
    if (!z) {
        if (fd >= 0) {
            close(fd);
        }
        return err_set_errno(e, errno, "could not read '%s'", f->path);
    }
    CLEANUP_FREE uint8_t *chunk = buf ? NULL : g_malloc(MIB);
    int n = 0, status = 0;
    *len = 0;
    while (*len < max && (n = gzread(z, buf ? buf + *len : chunk, (unsigned)min_u64(MIB, max - *len))) > 0) {
        *len += (uint64_t)n;
    }
    gzerror(z, &status);
    gzclose(z);
    if (n < 0 || status == Z_BUF_ERROR) {
        return err_set(e, EINVAL, "'%s' is %s", f->path,
                       status == Z_BUF_ERROR ? "truncated" : "damaged: bad gzip data");
    }
    return 0;
}

uint8_t *boot_read_all(const struct boot_file *f, size_t *len, struct err *e)
{
    uint8_t *buf = g_try_malloc(f->size);
    uint64_t n = f->size;
    int rc = !buf                   ? err_set(e, ENOMEM, "no memory for '%s'", f->path)
             : f->kind == BOOT_GZIP ? file_gunzip(f, buf, f->size, &n, e)
                                    : file_read(f, buf, f->size, 0, e);
    *len = n;
    if (rc < 0) {
        g_free(take(buf));
    }
    return buf;
}

/* --- kernels ---------------------------------------------------------------------------------------------------------
 */

static bool in_ram(const struct boot *b, uint64_t gpa, uint64_t len)
{
    return gpa >= b->ram_base && range_ok(gpa - b->ram_base, len, b->ram_size);
}

static int too_big(const struct boot *b, const struct boot_file *f, const char *what, uint64_t end, struct err *e)
{
    return err_set(e, ENOSPC,
                   "%s '%s' does not fit: it needs RAM up to %#" PRIx64 ", there is %" PRIu64 " MiB, up to %#" PRIx64,
                   what, f->path, end, b->ram_size / MIB, b->ram_base + b->ram_size);
}

/* Where an Image wants to be, from its header. */
static int place_image(struct boot *b, const uint8_t *head, struct err *e)
{
    struct boot_file *f = &b->kernel;
    uint64_t text_offset = load_le64(head + 8), image_size = load_le64(head + 16);
    if (memcmp(head + 0x30, "RISCV\0\0\0", 8) != 0 && memcmp(head + 0x38, "RSC\x05", 4) != 0) {
        const char *hint = memcmp(head + 0x38, "ARM\x64", 4) == 0 ? ": it is one for arm64" : "";
        return err_set(e, EINVAL, "'%s' is not a RISC-V kernel (Image, gzipped Image or ELF)%s", f->path, hint);
    }
    f->gpa = b->ram_base + round_up(text_offset % (1ull << 40), KERNEL_ALIGN);
    uint64_t size = max_u64(image_size, f->size);
    if (!in_ram(b, f->gpa, size)) {
        return too_big(b, f, "kernel", f->gpa + size, e);
    }
    if (f->kind == BOOT_RAW && image_size > f->size + 512 * MIB) {
        return err_set(e, EINVAL, "kernel '%s' is truncated", f->path);
    }
    b->entry = f->gpa;
    b->kernel_end = f->gpa + size;
    return 0;
}

/* Program headers of an ELF file that was checked; the caller frees. */
static Elf64_Phdr *elf_phdrs(const struct boot_file *f, const Elf64_Ehdr *h, struct err *e)
{
    if (h->e_phentsize != sizeof(Elf64_Phdr) || !h->e_phnum || h->e_phnum > PHDRS_MAX) {
        err_set(e, EINVAL, "kernel '%s' is damaged: bad ELF program headers", f->path);
        return NULL;
    }
    Elf64_Phdr *p = g_new(Elf64_Phdr, h->e_phnum);
    if (file_read(f, p, h->e_phnum * sizeof(*p), h->e_phoff, e) < 0) {
        g_free(p);
        return NULL;
    }
    return p;
}

static int elf_header(const struct boot_file *f, Elf64_Ehdr *h, struct err *e)
{
    int rc = file_read(f, h, sizeof(*h), 0, e);
    if (rc < 0) {
        return rc;
    }
    if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB || h->e_machine != EM_RISCV) {
        return err_set(e, EINVAL, "'%s' is not a RISC-V kernel: it is an ELF file for another machine", f->path);
    }
    return 0;
}

static int place_elf(struct boot *b, struct err *e)
{
    struct boot_file *f = &b->kernel;
    Elf64_Ehdr h;
    int rc = elf_header(f, &h, e);
    if (rc < 0) {
        return rc;
    }
    CLEANUP_FREE Elf64_Phdr *p = elf_phdrs(f, &h, e);
    if (!p) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < h.e_phnum; i++) {
        if (p[i].p_type != PT_LOAD || !p[i].p_memsz) {
            continue;
        }
        if (p[i].p_filesz > p[i].p_memsz || !range_ok(p[i].p_offset, p[i].p_filesz, f->size)) {
            return err_set(e, EINVAL, "kernel '%s' is truncated", f->path);
        }
        if (!in_ram(b, p[i].p_paddr, p[i].p_memsz)) {
            return err_set(e, ENOSPC,
                           "kernel '%s' wants %#" PRIx64 "+%#" PRIx64 ", which is not RAM (%#" PRIx64 "+%#" PRIx64 ")",
                           f->path, (uint64_t)p[i].p_paddr, (uint64_t)p[i].p_memsz, b->ram_base, b->ram_size);
        }
        b->kernel_end = max_u64(b->kernel_end, p[i].p_paddr + p[i].p_memsz);
    }
    b->entry = h.e_entry;
    return b->kernel_end ? 0 : err_set(e, EINVAL, "kernel '%s' has nothing to load", f->path);
}

static int load_elf(struct boot *b, struct guest_mem *m, struct err *e)
{
    Elf64_Ehdr h;
    int rc = elf_header(&b->kernel, &h, e);
    CLEANUP_FREE Elf64_Phdr *p = rc < 0 ? NULL : elf_phdrs(&b->kernel, &h, e);
    if (!p) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < h.e_phnum; i++) {
        uint8_t *to = p[i].p_type == PT_LOAD ? guest_ram_ptr(m, p[i].p_paddr, p[i].p_memsz) : NULL;
        if (!to || p[i].p_filesz > p[i].p_memsz) {
            continue;
        }
        guest_mem_discard(m, p[i].p_paddr, p[i].p_memsz);
        guest_mem_will_write(m, p[i].p_paddr, p[i].p_memsz);
        rc = file_read(&b->kernel, to, p[i].p_filesz, p[i].p_offset, e);
        if (rc < 0) {
            return rc;
        }
        memset(to + p[i].p_filesz, 0, p[i].p_memsz - p[i].p_filesz);
        guest_mem_mark_written(m, p[i].p_paddr, p[i].p_memsz);
    }
    return 0;
}

static int open_kernel(struct boot *b, const char *path, struct err *e)
{
    struct boot_file *f = &b->kernel;
    uint8_t head[IMAGE_HEADER] = {0};
    int rc = file_open(f, "kernel", path, e);
    if (rc < 0) {
        return rc;
    }
    rc = file_read(f, head, min_u64(sizeof(head), f->size), 0, e);
    if (rc < 0) {
        return rc;
    }
    if (!memcmp(head, ELFMAG, SELFMAG)) {
        f->kind = BOOT_ELF;
        return place_elf(b, e);
    }
    if (head[0] == 0x1f && head[1] == 0x8b) {
        uint64_t n;
        f->kind = BOOT_GZIP;
        rc = file_gunzip(f, head, sizeof(head), &n, e);
        rc = rc < 0 ? rc : file_gunzip(f, NULL, b->ram_size + 1, &f->size, e);
        if (rc < 0) {
            return err_wrap(e, "could not load kernel");
        }
    }
    if (f->size < IMAGE_HEADER) {
        return err_set(e, EINVAL, "kernel '%s' is truncated: %" PRIu64 " bytes", f->path, f->size);
    }
    return place_image(b, head, e);
}

/* --- the rest
 * ---------------------------------------------------------------------------------------------------------- */

static int open_firmware(struct boot *b, const char *path, struct err *e)
{
    struct boot_file *f = &b->firmware;
    int rc = file_open(f, "firmware", path, e);
    if (rc < 0) {
        return rc;
    }
    f->gpa = b->ram_base + KERNEL_ALIGN; /* where supervisor-mode U-Boot is linked */
    if (!in_ram(b, f->gpa, f->size)) {
        return too_big(b, f, "firmware", f->gpa + f->size, e);
    }
    b->entry = f->gpa;
    b->kernel_end = f->gpa + f->size;
    return 0;
}

static int open_initrd(struct boot *b, const char *path, struct err *e)
{
    struct boot_file *f = &b->initrd;
    int rc = file_open(f, "initrd", path, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t base = b->kernel.kind == BOOT_ELF ? b->ram_base : b->kernel.gpa;
    f->gpa = max_u64(base + min_u64(b->ram_size / 2, INITRD_OFFSET), round_up(b->kernel_end, KERNEL_ALIGN));
    f->gpa = round_up(f->gpa, GUEST_PAGE_SIZE);
    if (!in_ram(b, f->gpa, f->size)) {
        return too_big(b, f, "initrd", f->gpa + f->size, e);
    }
    return 0;
}

int boot_init(struct boot *b, const struct boot_config *c, struct err *e)
{
    bool firmware = c->firmware && strcmp(c->firmware, "none") != 0 && strcmp(c->firmware, "default") != 0;
    *b = (struct boot){.ram_base = c->ram_base, .ram_size = c->ram_size};
    if (!c->kernel && (c->initrd || c->append)) {
        return err_set(e, EINVAL, "%s only allowed with -kernel option", c->initrd ? "-initrd" : "-append");
    }
    b->append = g_strdup(c->append);
    b->dtb = g_strdup(c->dtb);
    int rc = c->kernel ? open_kernel(b, c->kernel, e) : 0;
    rc = rc == 0 && c->initrd ? open_initrd(b, c->initrd, e) : rc;
    if (rc == 0 && firmware) {
        rc = open_firmware(b, c->firmware, e);
    }
    return rc;
}

void boot_finish(struct boot *b)
{
    file_close(&b->kernel);
    file_close(&b->initrd);
    file_close(&b->firmware);
    g_free(take(b->append));
    g_free(take(b->dtb));
}

static int load_file(const struct boot_file *f, struct guest_mem *m, struct err *e)
{
    uint8_t *to = guest_ram_ptr(m, f->gpa, f->size);
    uint64_t n = f->size;
    if (!to) {
        return err_set(e, ENOSPC, "'%s' does not fit into RAM", f->path);
    }
    guest_mem_discard(m, f->gpa, f->size);
    guest_mem_will_write(m, f->gpa, f->size);
    int rc = f->kind == BOOT_GZIP ? file_gunzip(f, to, f->size, &n, e) : file_read(f, to, f->size, 0, e);
    guest_mem_mark_written(m, f->gpa, f->size);
    return rc;
}

int boot_load(struct boot *b, struct guest_mem *m, struct err *e)
{
    int rc = 0;
    if (b->firmware.path) {
        return load_file(&b->firmware, m, e); /* it fetches the kernel by itself */
    }
    if (b->kernel.path) {
        rc = b->kernel.kind == BOOT_ELF ? load_elf(b, m, e) : load_file(&b->kernel, m, e);
    }
    return rc == 0 && b->initrd.path ? load_file(&b->initrd, m, e) : rc;
}

int boot_load_dtb(struct boot *b, struct guest_mem *m, const void *dtb, size_t size, uint64_t *gpa, struct err *e)
{
    uint64_t end = b->ram_base + b->ram_size;
    uint64_t limit = b->ram_base < DTB_LIMIT ? min_u64(end, DTB_LIMIT) : end;
    uint64_t low = b->initrd.path ? b->initrd.gpa + b->initrd.size : b->kernel_end;
    *gpa = size < limit ? round_down(limit - size, KERNEL_ALIGN) : 0;
    if (*gpa < low) {
        *gpa = size < limit ? round_down(limit - size, GUEST_PAGE_SIZE) : 0;
    }
    if (!in_ram(b, *gpa, size) || *gpa < low) {
        return err_set(e, ENOSPC, "the device tree does not fit into %" PRIu64 " MiB of RAM beside kernel and initrd",
                       b->ram_size / MIB);
    }
    guest_mem_discard(m, *gpa, size);
    return guest_mem_write(m, *gpa, dtb, size);
}
