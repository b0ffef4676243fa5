/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tests of the block layer share: a graph, a folder of its own, and coroutines to run in. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every graph of a bench has this secret. */
#define BENCH_SECRET   "pw"
#define BENCH_PASSWORD "Sesame"

struct bench {
    struct loop *loop;
    struct block_graph *graph;
    char dir[64];
    void (*fn)(struct bench *b);
    void *arg;
};

/* Runs fn(bench) as a coroutine with a graph that must be empty, but for what the monitor owns, afterwards. */
void bench_run(void (*fn)(struct bench *b));
void bench_run_arg(void (*fn)(struct bench *b), void *arg); /* b->arg is arg */
/* A path in the folder; valid until the 8th next call. */
const char *bench_path(struct bench *b, const char *name);
/* A file of `size` bytes, all `fill`. */
const char *bench_file(struct bench *b, const char *name, uint64_t size, int fill);
/* printf of JSON with ' for "; fails the test when it does not parse. */
struct json_object *jsonf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Opens; fails the test with the error's text. Puts opts. */
struct node *must_open(struct bench *b, struct json_object *opts);
/* The error's text (valid until the next call); fails the test if it opens. Puts opts. */
const char *must_fail(struct bench *b, struct json_object *opts);
struct edge *must_edge(struct node *n, unsigned perm, unsigned shared);
struct edge *rw_edge(struct node *n); /* everything used, everything shared */

/* Starts fn(arg) and counts it in *running until it returns. */
void spawn(struct bench *b, void (*fn)(void *arg), void *arg, int *running);
void wait_for(int *running);
/* [co] Until it holds; a slow machine may take a minute. */
#define WAIT_UNTIL(what)                                                                                               \
    do {                                                                                                               \
        unsigned waits_ = 0;                                                                                           \
        while (!(what)) {                                                                                              \
            assert_true(waits_++ < 60000);                                                                             \
            co_sleep(1000000);                                                                                         \
        }                                                                                                              \
    } while (0)
/* Processor time of this thread: what something costs, however busy the machine is. */
uint64_t cpu_ns(void);
/* Deterministic numbers. */
uint64_t rnd(uint64_t *state);
