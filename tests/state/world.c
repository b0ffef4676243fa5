/* SPDX-License-Identifier: BSD-2-Clause */
#include "world.h"

#include "base/cleanup.h"
#include "state/device.h"

#include <string.h>

static const struct state_field queue_fields[] = {
    STATE_U16(struct toy_queue, size, .max = 1024),
    STATE_U64(struct toy_queue, desc),
    STATE_BOOL(struct toy_queue, ready),
    {0},
};

#define FIRST_FIELDS                                                                                                   \
    STATE_BOOL(struct toy_state, on), STATE_U8(struct toy_state, level, .max = 15), STATE_U16(struct toy_state, half), \
        STATE_U32(struct toy_state, word), STATE_U64(struct toy_state, big),                                           \
        STATE_I64(struct toy_state, skew, .min = (uint64_t)-5, .max = 5),                                              \
        STATE_U32(struct toy_state, rx_len, .max = 16),                                                                \
        STATE_BYTES(struct toy_state, rx, .used = STATE_AT(struct toy_state, rx_len)),                                 \
        STATE_U32(struct toy_state, nqueues, .max = 4),                                                                \
        STATE_STRUCTS(struct toy_state, queue, queue_fields, .used = STATE_AT(struct toy_state, nqueues)),             \
        STATE_U32S(struct toy_state, table), STATE_U32(struct toy_state, seed, .dflt = 7, .flags = STATE_ANCILLARY)

static const struct state_field fields_1[] = {FIRST_FIELDS, {0}};
static const struct state_field fields_2[] = {
    FIRST_FIELDS,
    STATE_U32(struct toy_state, speed, .dflt = 100, .since = 2, .help = "its speed"),
    {0},
};

static const struct state_field event_fields[] = {STATE_U32(struct toy_state, event), {0}};
static const struct state_field mac_fields[] = {STATE_BYTES(struct toy_state, mac), {0}};

static bool event_needed(const void *st)
{
    return ((const struct toy_state *)st)->event != 0;
}

static bool mac_needed(const void *st)
{
    return ((const struct toy_state *)st)->mac[0] != 0;
}

static void toy_get(void *object, void *st)
{
    memcpy(st, object, sizeof(struct toy_state));
}

static void toy_put(void *object, const void *st)
{
    memcpy(object, st, sizeof(struct toy_state));
}

const struct state_section toy_section = {
    .name = "toy",
    .version = 2,
    .min_version = 1,
    .size = sizeof(struct toy_state),
    .fields = fields_2,
    .subsections =
        (const struct state_subsection[]){
            {.name = "event", .needed = event_needed, .fields = event_fields, .loss = "an event"},
            {.name = "acme/mac", .needed = mac_needed, .fields = mac_fields, .loss = "its address"},
            {NULL},
        },
    .blocked =
        (const struct state_block[]){{.name = "toy-half", .version = 1, .why = "half was saved wrongly"}, {NULL}},
    .get = toy_get,
    .put = toy_put,
};

const struct state_section toy_section_1 = {
    .name = "toy",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct toy_state),
    .fields = fields_1,
    .subsections =
        (const struct state_subsection[]){
            {.name = "event", .needed = event_needed, .fields = event_fields, .loss = "an event"},
            {NULL},
        },
    .get = toy_get,
    .put = toy_put,
};

void toy_fill(struct toy_state *s)
{
    memset(s, 0, sizeof(*s));
    s->on = true;
    s->level = 15;
    s->half = 0xbeef;
    s->word = 0xdeadbeef;
    s->big = UINT64_MAX - 1;
    s->skew = -5;
    s->rx_len = 3;
    memcpy(s->rx, "\x00\xffz", 3);
    s->nqueues = 2;
    s->queue[0] = (struct toy_queue){.size = 1024, .desc = 1ull << 40, .ready = true};
    s->queue[1].size = 1;
    s->table[2] = 9;
    s->seed = 4711;
    s->speed = 100;
}

/* --- streams in memory -------------------------------------------------------------------------------------------- */

void memory_init(struct memory *m)
{
    *m = (struct memory){.bytes = g_byte_array_new()};
}

void memory_finish(struct memory *m)
{
    g_byte_array_unref(m->bytes);
}

static int put(void *opaque, const void *buf, size_t len)
{
    struct memory *m = opaque;
    if (m->fail_at && m->bytes->len + len > m->fail_at) {
        return -ENOSPC;
    }
    g_byte_array_append(m->bytes, buf, (guint)len);
    return 0;
}

struct state_sink memory_sink(struct memory *m)
{
    return (struct state_sink){.write = put, .opaque = m, .name = "memory"};
}

static ssize_t get_at(void *opaque, void *buf, size_t len, uint64_t offset)
{
    struct memory *m = opaque;
    size_t n = offset < m->bytes->len ? MIN(len, m->bytes->len - offset) : 0;
    n = m->chunk ? MIN(n, m->chunk) : n;
    memcpy(buf, m->bytes->data + (n ? offset : 0), n);
    return (ssize_t)n;
}

static ssize_t get(void *opaque, void *buf, size_t len)
{
    struct memory *m = opaque;
    ssize_t n = get_at(m, buf, len, m->at);
    m->at += (size_t)n;
    return n;
}

struct state_source memory_source(struct memory *m, bool pipe)
{
    m->at = 0;
    return (struct state_source){
        .read = get, .read_at = pipe ? NULL : get_at, .size = pipe ? 0 : m->bytes->len, .opaque = m, .name = "memory"};
}

static int read_chunks(struct state_reader *r, struct err *e)
{
    struct state_chunk c;
    int rc;
    while ((rc = state_read_next(r, &c)) > 0) {
        struct state_run run;
        while (c.type == STATE_RAMP && (rc = state_read_run(r, &run)) > 0) {
            if (run.bytes) {
                CLEANUP_FREE void *pages = g_malloc((size_t)run.pages * STATE_PAGE);
                state_read_run_data(r, pages);
            }
        }
        const GByteArray *b = c.type == STATE_DEVS ? state_read_payload(r, STATE_DEVICE_MAX) : NULL;
        if (b) {
            struct toy_state st;
            rc = state_decode(state_reader_manifest(r), &toy_section, b, NULL, &st, e);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return rc;
}

int memory_read_all(struct memory *m, bool pipe, struct err *e)
{
    struct state_source s = memory_source(m, pipe);
    struct state_reader *r = state_reader_create(&s, e);
    if (!r) {
        return e && e->code ? -e->code : -EINVAL;
    }
    int rc = read_chunks(r, e);
    if (rc < 0 && !err_is_set(e)) {
        state_reader_error(r, e);
    }
    state_reader_destroy(r);
    return rc;
}

static void write_ram(struct state_writer *w)
{
    uint8_t page[STATE_PAGE];
    for (unsigned i = 0; i < sizeof(page); i++) {
        page[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    state_write_page(w, 0, 1, page);
    memset(page, 'x', sizeof(page));
    state_write_page(w, 0, 2, page);
    state_write_page(w, 1, 0, page);
    state_write_zero_pages(w, 1, 1, 2);
    state_write_same_pages(w,
                           &(struct state_run){.block = 1, .page = 3, .pages = 2, .other_block = 0, .other_page = 1});
}

void memory_write_small(struct memory *m, const struct state_write_options *o)
{
    struct state_sink sink = memory_sink(m);
    struct state_writer *w = state_writer_create(&sink, o);
    struct state_manifest *mf = state_manifest_create("virt-0.1", "0.1.0");
    state_manifest_add_ram(mf, "ram", 8 * STATE_PAGE);
    state_manifest_add_ram(mf, "rom", 6 * STATE_PAGE);
    state_manifest_add_device(mf, "/toy0", &toy_section, NULL);
    state_manifest_add_device(mf, "/toy1", &toy_section, NULL);
    state_write_manifest(w, mf);
    struct toy_state st;
    toy_fill(&st);
    for (int i = 0; i < 2; i++) {
        g_autoptr(GByteArray) b = state_save(i ? "/toy1" : "/toy0", &toy_section, &st, NULL, NULL);
        state_write_device(w, b->data, b->len);
        st.event = 5;
        st.mac[0] = 2;
    }
    write_ram(w);
    state_write_stop(w, NULL);
    g_assert(state_writer_error(w, NULL) == 0);
    state_writer_destroy(w);
    state_manifest_destroy(mf);
}
