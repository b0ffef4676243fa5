/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A fuzz target without libFuzzer, for ./check: every input of its corpus, and then so many seconds of inputs made of
 * those by chance. fuzz-NAME CORPUS STERNA_FUZZ_SECONDS (1) and STERNA_TEST_SEED (1). While an input is tried it lies
 * in fuzz-NAME.input beside the program: one that the program does not survive is found there.
 */
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LARGEST = 1 << 16 };

struct fuzz {
    GPtrArray *corpus; /* of GBytes */
    GRand *rand;
    int input;
};

static void try(const struct fuzz *f, const uint8_t *data, size_t size)
{
    if ((size && pwrite(f->input, data, size, 0) != (ssize_t)size) || ftruncate(f->input, (off_t)size) < 0) {
        perror("the input cannot be kept");
        exit(1);
    }
    uint8_t *own = malloc(size); /* just so large, so that a sanitizer sees what reads beyond it */
    if (!own) {
        abort();
    }
    if (size) {
        memcpy(own, data, size);
    }
    LLVMFuzzerTestOneInput(own, size);
    free(own);
}

static uint32_t below(const struct fuzz *f, size_t n)
{
    return n ? g_rand_int(f->rand) % n : 0;
}

/* A number at a limit of its kind, in either order of bytes, onto what is there. */
static void put_number(const struct fuzz *f, GByteArray *a)
{
    static const uint64_t limits[] = {0,          1,          0x7f,       0xff,      0x7fff,     0xffff,
                                      0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, 1ull << 63, UINT64_MAX};
    static const unsigned widths[] = {1, 2, 4, 8};
    unsigned width = widths[below(f, G_N_ELEMENTS(widths))];
    uint64_t v = limits[below(f, G_N_ELEMENTS(limits))];
    v = g_rand_boolean(f->rand) ? GUINT64_TO_LE(v) : GUINT64_TO_BE(v << (64 - 8 * width));
    if (a->len >= width) {
        memcpy(a->data + below(f, a->len - width + 1), &v, width);
    }
}

static void change(const struct fuzz *f, GByteArray *a)
{
    uint32_t at = below(f, a->len), len = 1 + below(f, MIN(a->len - at, 32u));
    const GBytes *other = g_ptr_array_index(f->corpus, below(f, f->corpus->len));
    gsize size;
    const uint8_t *data = g_bytes_get_data((GBytes *)other, &size);
    switch (a->len ? below(f, 6) : 5) {
    case 0:
        a->data[at] ^= (uint8_t)(1 << below(f, 8));
        break;
    case 1:
        a->data[at] = (uint8_t)g_rand_int(f->rand);
        break;
    case 2:
        put_number(f, a);
        break;
    case 3:
        g_byte_array_remove_range(a, at, MIN(len, a->len - at));
        break;
    case 4: { /* once more, at the end */
        uint8_t piece[32];
        len = MIN(len, a->len - at);
        memcpy(piece, a->data + at, len);
        g_byte_array_append(a, piece, len);
        break;
    }
    default: /* the rest is another's */
        g_byte_array_set_size(a, at);
        at = below(f, size);
        g_byte_array_append(a, data + at, (guint)MIN(size - at, (gsize)LARGEST - a->len));
        break;
    }
}

static bool load(struct fuzz *f, const char *folder)
{
    GError *e = NULL;
    GDir *dir = g_dir_open(folder, 0, &e);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        char *path = g_build_filename(folder, name, NULL), *data;
        gsize size;
        if (g_file_get_contents(path, &data, &size, &e)) {
            g_ptr_array_add(f->corpus, g_bytes_new_take(data, size));
        }
        g_free(path);
    }
    if (dir) {
        g_dir_close(dir);
    }
    if (e || !f->corpus->len) {
        fprintf(stderr, "corpus '%s': %s\n", folder, e ? e->message : "it is empty");
    }
    bool ok = !e && f->corpus->len;
    g_clear_error(&e);
    return ok;
}

static unsigned long number(const char *variable, unsigned long otherwise)
{
    const char *v = getenv(variable);
    return v ? strtoul(v, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* as the programs have it */
    char *path = g_strconcat(argv[0], ".input", NULL);
    struct fuzz f = {.corpus = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref),
                     .rand = g_rand_new_with_seed((guint32)number("STERNA_TEST_SEED", 1)),
                     .input = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
    bool ok = load(&f, argv[1]);
    unsigned long made = 0;
    for (guint i = 0; ok && i < f.corpus->len; i++) {
        gsize size;
        const uint8_t *data = g_bytes_get_data(g_ptr_array_index(f.corpus, i), &size);
        try(&f, data, size);
    }
    gint64 end = g_get_monotonic_time() + (gint64)number("STERNA_FUZZ_SECONDS", 1) * G_USEC_PER_SEC;
    for (; ok && g_get_monotonic_time() < end; made++) {
        GByteArray *a = g_byte_array_new();
        gsize size;
        const uint8_t *data = g_bytes_get_data(g_ptr_array_index(f.corpus, below(&f, f.corpus->len)), &size);
        g_byte_array_append(a, data, (guint)MIN(size, (gsize)LARGEST));
        for (uint32_t n = 1 + below(&f, 5); n; n--) {
            change(&f, a);
        }
        try(&f, a->data, a->len);
        g_byte_array_unref(a);
    }
    printf("%u inputs of the corpus, %lu made of them\n", f.corpus->len, made);
    close(f.input);
    unlink(path);
    g_free(path);
    g_rand_free(f.rand);
    g_ptr_array_unref(f.corpus);
    return ok ? 0 : 1;
}
