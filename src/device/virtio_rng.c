/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_rng.h"

#include "base/checked.h"
#include "block/io.h"
#include "crypto/rng.h"
#include "device/virtio_proxy.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#define QUEUE_SIZE 8
#define NS_PER_MS  1000000ull

struct virtio_rng {
    struct virtio_proxy proxy;
    uint64_t max_bytes, period_ns;
    /* guest state */
    uint64_t quota;        /* bytes that the driver may still have */
    uint64_t refill_at_ns; /* of the guest's clock, when it may have max_bytes again; 0: it has had none */
    uint32_t pool_len;
    uint8_t pool[VIRTIO_RNG_POOL];
    /* host state */
    struct rng *source;
    struct fd_watch *watch; /* while the source has run dry */
    struct timer timer;
    bool warned;
};

static struct virtio_rng *rng_of(struct virtio_dev *v)
{
    return (struct virtio_rng *)(void *)((char *)v - offsetof(struct virtio_rng, proxy.vdev));
}

static void pump(struct virtio_rng *r);

static void on_readable(void *opaque, short revents)
{
    struct virtio_rng *r = opaque;
    fd_watch_set(r->watch, 0);
    pump(r);
}

static void wait_for_source(struct virtio_rng *r)
{
    if (!r->watch) {
        r->watch = fd_watch_create(r->proxy.dev.board->loop, rng_fd(r->source), POLLIN, on_readable, r);
    } else {
        fd_watch_set(r->watch, POLLIN);
    }
}

static void fill_pool(struct virtio_rng *r)
{
    while (r->pool_len < sizeof(r->pool)) {
        ssize_t n = rng_read(r->source, r->pool + r->pool_len, sizeof(r->pool) - r->pool_len);
        if (n == -EAGAIN) {
            wait_for_source(r);
        } else if (n < 0 && !r->warned) {
            log_warn(r->proxy.dev.board->log, "%s: its source gives no random bytes: %s", device_name(&r->proxy.dev),
                     n == -ENODATA ? "the file has ended" : g_strerror((int)-n));
            r->warned = true;
        }
        if (n < 0) {
            return;
        }
        r->pool_len += (uint32_t)n;
    }
}

/* From the pool's end, which forgets them. */
static void answer(struct virtio_rng *r, struct virtio_elem *el)
{
    struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    uint32_t n = (uint32_t)min_u64(min_u64(r->pool_len, r->quota), el->in_len);
    r->pool_len -= n;
    iovs_from_buf(&in, 0, r->pool + r->pool_len, n);
    explicit_bzero(r->pool + r->pool_len, n);
    r->quota -= n;
    virtq_push(&r->proxy.vdev, el, n);
}

/* Gives the driver what there is for it. */
static void pump(struct virtio_rng *r)
{
    struct guest_clock *clock = r->proxy.dev.board->clock;
    uint64_t now = guest_clock_ns(clock);
    if (r->proxy.vdev.paused) {
        return; /* resume kicks */
    }
    if (r->refill_at_ns && now >= r->refill_at_ns) {
        r->quota = r->max_bytes;
        r->refill_at_ns = 0;
    }
    for (;;) {
        fill_pool(r);
        struct virtio_elem *el = r->pool_len && r->quota ? virtq_pop(&r->proxy.vdev, 0) : NULL;
        if (!el) {
            break;
        }
        answer(r, el);
        r->refill_at_ns = r->refill_at_ns ? r->refill_at_ns : now + r->period_ns;
    }
    uint64_t host = r->quota ? UINT64_MAX : guest_clock_host_deadline(clock, r->refill_at_ns);
    if (host != UINT64_MAX) {
        timer_arm(&r->timer, host);
    }
}

static void on_period(void *opaque)
{
    pump(opaque);
}

static void rng_kick(struct virtio_dev *v, unsigned q)
{
    pump(rng_of(v));
}

static void rng_queue_reset(struct virtio_dev *v, unsigned q)
{
    /* No request is ever kept. */
}

static const struct virtio_type rng_type = {
    .name = "virtio-rng",
    .id = 4,
    .kick = rng_kick,
    .queue_reset = rng_queue_reset,
};

/* --- life --------------------------------------------------------------------------------------------------------- */

static const struct device_prop rng_props[] = {
    {"rng", PROP_STR, .type_name = "link<rng-backend>", .help = "ID of the source (default: one of the kernel's)"},
    {"max-bytes", PROP_INT, "9223372036854775807", 1, INT64_MAX, .type_name = "uint64",
     .help = "at most so many in each period"},
    {"period", PROP_INT, "65536", 1, UINT32_MAX, .type_name = "uint32", .help = "milliseconds"},
    {NULL},
};

static void forget(struct virtio_rng *r)
{
    explicit_bzero(r->pool, sizeof(r->pool));
    r->pool_len = 0;
    r->quota = r->max_bytes;
    r->refill_at_ns = 0;
    timer_cancel(&r->timer);
}

static void detach(struct virtio_rng *r)
{
    timer_cancel(&r->timer);
    fd_watch_destroy(r->watch);
    rng_unref(r->source);
}

static int rng_realize(struct device *d, struct err *e)
{
    struct virtio_rng *r = (struct virtio_rng *)d;
    const char *id = device_str(d, "rng");
    struct rng *source = id ? graph_object(d->board->graph, "rng", id) : NULL;
    if (id && !source) {
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV,
                             "Device '%s' not found: '%s' takes an object of type "
                             "rng-random or rng-builtin",
                             id, d->cls->name);
    }
    r->source = source ? rng_ref(source) : rng_create_builtin();
    r->max_bytes = (uint64_t)device_int(d, "max-bytes");
    r->period_ns = (uint64_t)device_int(d, "period") * NS_PER_MS;
    timer_init(&r->timer, d->board->loop, on_period, r);
    forget(r);
    virtio_proxy_init(&r->proxy, &rng_type, 1, QUEUE_SIZE);
    int rc = virtio_proxy_plug(&r->proxy, 0x00ff, e);
    if (rc < 0) {
        detach(r);
    }
    return rc;
}

static void rng_unrealize(struct device *d)
{
    struct virtio_rng *r = (struct virtio_rng *)d;
    virtio_proxy_unplug(&r->proxy);
    detach(r);
    forget(r);
}

static void rng_reset(struct device *d)
{
    virtio_proxy_reset(d);
    forget((struct virtio_rng *)d);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

struct rng_state {
    struct virtio_pci_state bus;
    uint64_t quota, refill_at_ns;
    uint32_t pool_len;
    uint8_t pool[VIRTIO_RNG_POOL];
};

#define OWN_FIELDS                                                                                                     \
    STATE_U64(struct rng_state, quota, .help = "bytes that the driver may still have"),                                \
        STATE_U64(struct rng_state, refill_at_ns, .help = "of the machine's clock, when that is max-bytes again"),     \
        STATE_U32(struct rng_state, pool_len, .max = VIRTIO_RNG_POOL, .flags = STATE_ANCILLARY),                       \
        STATE_BYTES(struct rng_state, pool, .used = STATE_AT(struct rng_state, pool_len), .flags = STATE_ANCILLARY,    \
                    .help = "random bytes that the driver has not had yet"),                                           \
    {                                                                                                                  \
        0                                                                                                              \
    }

static const struct state_field pci_fields[] = {VIRTIO_PCI_FIELDS(struct rng_state, bus), OWN_FIELDS};
static const struct state_field mmio_fields[] = {VIRTIO_MMIO_FIELDS(struct rng_state, bus), OWN_FIELDS};

static void state_get(void *object, void *st)
{
    struct virtio_rng *r = object;
    struct rng_state *s = st;
    virtio_proxy_state_get(&r->proxy, &s->bus);
    s->quota = r->quota;
    s->refill_at_ns = r->refill_at_ns;
    s->pool_len = r->pool_len;
    memcpy(s->pool, r->pool, r->pool_len);
}

static int state_check(void *object, const void *st, struct err *e)
{
    struct virtio_rng *r = object;
    const struct rng_state *s = st;
    if (s->quota > r->max_bytes) {
        return err_set(e, EINVAL,
                       "its driver may have %" PRIu64 " bytes there, and max-bytes is %" PRIu64
                       " here; give it the same properties",
                       s->quota, r->max_bytes);
    }
    if (s->pool_len > VIRTIO_RNG_POOL) {
        return err_set(e, EINVAL, "its pool cannot hold %u bytes", s->pool_len);
    }
    return virtio_proxy_state_check(&r->proxy, &s->bus, e);
}

static void state_put(void *object, const void *st)
{
    struct virtio_rng *r = object;
    const struct rng_state *s = st;
    uint64_t latest = guest_clock_ns(r->proxy.dev.board->clock) + r->period_ns;
    forget(r);
    r->quota = s->quota;
    r->refill_at_ns = min_u64(s->refill_at_ns, latest);
    r->pool_len = s->pool_len;
    memcpy(r->pool, s->pool, s->pool_len);
    virtio_proxy_state_put(&r->proxy, &s->bus);
}

static const char *const derived[] = {VIRTIO_DERIVED, "pci.intx", "pci.status.interrupt", "timer", NULL};

static const struct state_section pci_state = {
    VIRTIO_PROXY_SECTION("virtio-rng-pci", struct rng_state, pci_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

static const struct state_section mmio_state = {
    VIRTIO_PROXY_SECTION("virtio-rng-mmio", struct rng_state, mmio_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

/* --- classes ------------------------------------------------------------------------------------------------------ */

static const struct device_prop *const pci_tables[] = {rng_props, virtio_proxy_props, virtio_pci_props, NULL};
static const struct device_prop *const mmio_tables[] = {rng_props, virtio_proxy_props, virtio_proxy_mmio_props, NULL};

const struct device_class virtio_rng_pci_class = {
    .name = "virtio-rng-pci",
    .alias = "virtio-rng",
    VIRTIO_PROXY_PCI_CLASS(struct virtio_rng, pci_tables),
    .category = "misc",
    .realize = rng_realize,
    .unrealize = rng_unrealize,
    .reset = rng_reset,
    .pause = virtio_proxy_pause,
    .resume = virtio_proxy_resume,
    .state = &pci_state,
};

const struct device_class virtio_rng_mmio_class = {
    .name = "virtio-rng-device",
    VIRTIO_PROXY_MMIO_CLASS(struct virtio_rng, mmio_tables),
    .category = "misc",
    .realize = rng_realize,
    .unrealize = rng_unrealize,
    .reset = rng_reset,
    .pause = virtio_proxy_pause,
    .resume = virtio_proxy_resume,
    .state = &mmio_state,
};
