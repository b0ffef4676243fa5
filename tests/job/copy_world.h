/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device with a disk that somebody writes to all the time and remembers: the world that the tests of copying live in.
 * Checks inside coroutines return an error code instead of jumping out of them.
 */
#pragma once

#include "block/backend.h"
#include "block/dirty.h"
#include "job/copy.h"

#include <stdio.h>

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

enum { WRITERS = 4 };

struct world {
    struct loop *loop;
    struct event_bus *bus;
    struct block_graph *graph;
    struct jobs *js;
    struct backend *dev;
    char *dir, *source_file, *target_file;
    const char *format;
    uint64_t size;
    uint8_t *shadow;              /* what the disk must hold */
    GString *events;              /* names, and status of jobs */
    struct json_object *switched; /* data of the last BLOCK_JOB_SWITCHED */
    /* the guest */
    bool writing, paused;
    unsigned writers, think_us, seed;
    uint64_t writes, worst_ns;
    int guest_rc;
    unsigned vm_stops;
};

/* `format` raw or qcow2; sparse source of `size` bytes. Call in co_run for the rest. */
struct world *world_create(const char *format, uint64_t size);
void world_destroy(struct world *w);
/* [co] */
int world_open(struct world *w);              /* creates both images, opens the source as device "disk" */
int world_fill(struct world *w, double part); /* random data in about this part of it, in runs */
struct node *world_target(struct world *w, const char *name);                       /* opens the target; a reference */
struct node *world_debug_target(struct world *w, const char *rules, struct err *e); /* the same over blkdebug */
void world_write_on(struct world *w, unsigned think_us);                            /* the guest begins */
int world_write_off(struct world *w);                              /* and ends: 0 when no request failed */
int world_verify_device(struct world *w);                          /* reads all through the device */
int world_verify_file(struct world *w, const char *file);          /* opens the image afresh */
int world_wait(struct world *w, struct job *j, enum job_status s); /* at most 20 s */
bool world_saw(struct world *w, const char *text);
uint64_t file_allocated(const char *file);
