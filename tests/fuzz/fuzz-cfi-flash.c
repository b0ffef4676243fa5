/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile driver of a flash bank. The input is a list of steps: how (bits 0-1: size, 2: read or write, 3: let the
 * loop run, 4-7 all set: save and load what a guest can see), where (3 bytes), and a value when written. Whatever
 * comes, the bank gets ready again, and its own state is one that it takes.
 */
#include "../device/world.h"
#include "device/cfi_flash.h"

#include <stdlib.h>
#include <string.h>

#define FLASH 0x20000000ull

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

struct fuzz {
    struct world w;
    struct device *d;
};

static void make(void *arg)
{
    struct fuzz *f = arg;
    struct node *n = NULL;
    struct json_object *o =
        json_tokener_parse("{\"driver\":\"null-co\",\"node-name\":\"flash\",\"size\":33554432,\"read-zeroes\":true}");
    if (node_open(f->w.board.graph, o, &n, NULL) < 0 ||
        cfi_flash_create(&f->w.board, 0, FLASH, "flash", &f->d, NULL) < 0) {
        abort();
    }
    n->monitor_owned = true;
    json_object_put(o);
    f->d->cls->resume(f->d);
}

static void turns(struct world *w)
{
    for (unsigned i = 0; i < 64 && loop_turn(w->loop, false); i++) {
    }
}

static void save_and_load(void *arg)
{
    struct fuzz *f = arg;
    const struct state_section *s = f->d->cls->state;
    void *st = g_malloc0(s->size);
    f->d->cls->pause(f->d);
    s->get(f->d, st);
    if (s->check(f->d, st, NULL) < 0) {
        abort();
    }
    s->put(f->d, st);
    f->d->cls->resume(f->d);
    g_free(st);
}

static uint64_t take_int(const uint8_t **in, const uint8_t *end, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n && *in < end; i++) {
        v |= (uint64_t) * (*in)++ << (8 * i);
    }
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static struct fuzz *f;
    const uint8_t *end = in + len;
    unsigned loads = 0;
    if (!f) {
        f = calloc(1, sizeof(*f));
        world_init(&f->w);
        world_run(&f->w, make, f);
    }
    f->d->cls->reset(f->d);
    while (in < end) {
        unsigned how = (unsigned)take_int(&in, end, 1), size = 1u << (how & 3);
        uint64_t at = FLASH + (take_int(&in, end, 3) << 1 & ~(uint64_t)(size - 1));
        if (how & 4) {
            wr(&f->w, at, take_int(&in, end, size), size);
        } else {
            rd(&f->w, at, size);
        }
        if (how & 8) {
            turns(&f->w);
        }
        if (how >> 4 == 15 && !loads++) { /* reads the whole bank: a hundred other inputs could be tried meanwhile */
            world_run(&f->w, save_and_load, f);
        }
    }
    turns(&f->w);
    for (unsigned i = 0; i < 600; i++) {
        wr(&f->w, FLASH, 0x70, 4); /* data to whatever waits for some, then a command */
        if (!(rd(&f->w, FLASH, 1) & 0x80)) {
            turns(&f->w);
        }
    }
    if (!(rd(&f->w, FLASH, 1) & 0x80)) {
        abort();
    }
    return 0;
}
