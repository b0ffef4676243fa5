/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_net.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/io.h"
#include "device/virtio_proxy.h"
#include "loop/co.h"
#include "net/net.h"

#include <inttypes.h>
#include <string.h>

#define HEADER      12 /* struct virtio_net_hdr, of VERSION_1 */
#define MAC_LEN     6
#define ADDRS_MAX   64 /* in the table of addresses */
#define WAITING_MAX 256

enum { Q_RX, Q_TX, Q_CTRL, QUEUES };
enum {
    F_MAC = 1 << 5,
    F_STATUS = 1 << 16,
    F_CTRL_VQ = 1 << 17,
    F_CTRL_RX = 1 << 18,
    F_CTRL_RX_EXTRA = 1 << 20,
    F_CTRL_MAC_ADDR = 1 << 23,
};
/* struct virtio_net_config */
enum { C_MAC = 0, C_STATUS = 6, C_SIZE = 8 };
enum { STATUS_LINK_UP = 1 };
enum { CTRL_RX = 0, CTRL_MAC = 1, MAC_TABLE_SET = 0, MAC_ADDR_SET = 1, CTRL_OK = 0, CTRL_ERR = 1 };
/* Modes of hearing, by the command of class CTRL_RX. */
enum { PROMISC, ALL_MULTI, ALL_UNI, NO_MULTI, NO_UNI, NO_BCAST, MODES };

/* What the driver wants to hear; the state as it is. */
struct filter {
    bool mode[MODES];
    uint32_t unicast, multicast; /* addresses in the table: first these, then those */
    bool overflow[2];            /* the driver named more of a kind than there is room for: all are heard */
    uint8_t table[2 * ADDRS_MAX * MAC_LEN];
};

struct virtio_net {
    struct virtio_proxy proxy;
    struct netdev *netdev; /* NULL: none */
    uint8_t mac[MAC_LEN];  /* what it has at power-on */
    struct filter filter;  /* under the mutex */
    bool link_down;        /* its netdev is gone */
    bool controlling;      /* a coroutine does commands */
    bool noting;           /* another one has the address written down that the card went back to */
    struct co_queue idle;  /* who waits for that */
    struct loop_event *cleared;
    GQueue waiting; /* GBytes: frames for which there was no buffer */
    uint8_t *frame; /* NET_FRAME_MAX: the one that is on its way out */
};

static struct virtio_net *net_of(struct virtio_dev *v)
{
    return (struct virtio_net *)(void *)((char *)v - offsetof(struct virtio_net, proxy.vdev));
}

/* --- what is heard ------------------------------------------------------------------------------------------------ */

static bool in_table(const struct filter *f, const uint8_t *to, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++) {
        if (!memcmp(f->table + i * MAC_LEN, to, MAC_LEN)) {
            return true;
        }
    }
    return false;
}

static bool wants(struct virtio_net *n, const uint8_t *to)
{
    static const uint8_t broadcast[MAC_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&n->proxy.vdev.mutex);
    const struct filter *f = &n->filter;
    if (f->mode[PROMISC]) {
        return true;
    }
    if (!memcmp(to, broadcast, MAC_LEN)) {
        return !f->mode[NO_BCAST];
    }
    if (to[0] & 1) {
        return !f->mode[NO_MULTI] &&
               (f->mode[ALL_MULTI] || f->overflow[1] || in_table(f, to, f->unicast, f->multicast));
    }
    return !f->mode[NO_UNI] && (f->mode[ALL_UNI] || f->overflow[0] ||
                                !memcmp(to, n->proxy.vdev.config + C_MAC, MAC_LEN) || in_table(f, to, 0, f->unicast));
}

/* --- into the guest ------------------------------------------------------------------------------------------------
 */

/* False: the driver has no buffer. One that is too short costs the frame. */
static bool deliver(struct virtio_net *n, const void *frame, size_t len)
{
    struct virtio_dev *v = &n->proxy.vdev;
    uint8_t head[HEADER] = {[10] = 1}; /* one buffer */
    struct virtio_elem *el = virtq_pop(v, Q_RX);
    if (!el) {
        return false;
    }
    struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    bool fits = el->in_len >= HEADER + len;
    if (fits) {
        iovs_from_buf(&in, 0, head, HEADER);
        iovs_from_buf(&in, HEADER, frame, len);
    }
    virtq_push(v, el, fits ? (uint32_t)(HEADER + len) : 0);
    return true;
}

static void deliver_waiting(struct virtio_net *n)
{
    GBytes *b;
    while ((b = g_queue_peek_head(&n->waiting)) && deliver(n, g_bytes_get_data(b, NULL), g_bytes_get_size(b))) {
        g_bytes_unref(g_queue_pop_head(&n->waiting));
    }
}

static void receive(void *card, const uint8_t *frame, size_t len)
{
    struct virtio_net *n = card;
    if (len < 2 * MAC_LEN + 2 || !virtio_proxy_busy(&n->proxy.dev) || !wants(n, frame)) {
        return;
    }
    if ((n->waiting.length || !deliver(n, frame, len)) && n->waiting.length < WAITING_MAX) {
        g_queue_push_tail(&n->waiting, g_bytes_new(frame, len));
    }
}

static void forget_waiting(struct virtio_net *n)
{
    GBytes *b;
    while ((b = g_queue_pop_head(&n->waiting))) {
        g_bytes_unref(b);
    }
}

/* --- out of the guest ----------------------------------------------------------------------------------------------
 */

static void transmit(struct virtio_net *n)
{
    struct virtio_dev *v = &n->proxy.vdev;
    struct virtio_elem *el;
    while ((el = virtq_pop(v, Q_TX))) {
        struct iovs out = {el->iov, (int)el->n_out, el->out_len};
        if (el->out_len < HEADER) {
            virtio_broken(v, "a frame without header");
            virtq_drop(v, el);
            return;
        }
        size_t len = el->out_len - HEADER;
        if (len <= NET_FRAME_MAX && !n->link_down) {
            iovs_to_buf(&out, HEADER, n->frame, len);
            netdev_send(n->netdev, n->frame, len);
        }
        virtq_push(v, el, 0);
    }
}

/* --- control: the mutex held ----------------------------------------------------------------------------------------
 */

static uint8_t set_mode(struct filter *f, uint8_t which, const uint8_t *data, size_t len)
{
    if (which >= MODES || len != 1 || data[0] > 1) {
        return CTRL_ERR;
    }
    f->mode[which] = data[0];
    return CTRL_OK;
}

/* A count and so many addresses, from *at on. What there is no room for is heard all the same. */
static bool take_addresses(struct filter *f, bool multicast, const uint8_t *data, size_t len, size_t *at)
{
    if (len - *at < 4) {
        return false;
    }
    uint32_t n = load_le32(data + *at), taken = n > ADDRS_MAX ? 0 : n;
    *at += 4;
    if (n > (len - *at) / MAC_LEN) {
        return false;
    }
    memcpy(f->table + (size_t)f->unicast * MAC_LEN, data + *at, (size_t)taken * MAC_LEN);
    *at += (size_t)n * MAC_LEN;
    f->overflow[multicast] = taken != n;
    *(multicast ? &f->multicast : &f->unicast) = taken;
    return true;
}

static uint8_t set_table(struct filter *f, const uint8_t *data, size_t len)
{
    struct filter new = *f;
    size_t at = 0;
    new.unicast = new.multicast = 0;
    memset(new.table, 0, sizeof(new.table));
    if (!take_addresses(&new, false, data, len, &at) || !take_addresses(&new, true, data, len, &at) || at != len) {
        return CTRL_ERR;
    }
    *f = new;
    return CTRL_OK;
}

static void set_config_mac(struct virtio_net *n, const uint8_t *mac)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&n->proxy.vdev.mutex);
    memcpy(n->proxy.vdev.config + C_MAC, mac, MAC_LEN);
}

/* The driver hears that it is done when a restart would find it. */
static uint8_t set_address(struct virtio_net *n, const uint8_t *mac)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct board *b = n->proxy.dev.board;
    uint8_t was[MAC_LEN];
    if (mac[0] & 1) {
        return CTRL_ERR; /* a group's */
    }
    memcpy(was, n->proxy.vdev.config + C_MAC, MAC_LEN);
    set_config_mac(n, mac);
    if (b->changed(b->opaque, &e) < 0) {
        log_warn(b->log, "%s: the address that the guest wants is refused: %s", device_name(&n->proxy.dev),
                 err_text(&e));
        set_config_mac(n, was);
        return CTRL_ERR;
    }
    return CTRL_OK;
}

static uint8_t command(struct virtio_net *n, const uint8_t *data, size_t len)
{
    const uint8_t *rest = data + 2;
    if (len == 2 + MAC_LEN && data[0] == CTRL_MAC && data[1] == MAC_ADDR_SET) {
        return set_address(n, rest);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&n->proxy.vdev.mutex);
    if (len >= 2 && data[0] == CTRL_RX) {
        return set_mode(&n->filter, data[1], rest, len - 2);
    }
    if (len >= 2 && data[0] == CTRL_MAC && data[1] == MAC_TABLE_SET) {
        return set_table(&n->filter, rest, len - 2);
    }
    return CTRL_ERR;
}

static uint8_t answer_to(struct virtio_net *n, struct virtio_elem *el)
{
    enum { COMMAND_MAX = 65536 };
    struct iovs out = {el->iov, (int)el->n_out, el->out_len};
    if (el->out_len > COMMAND_MAX) {
        return CTRL_ERR;
    }
    CLEANUP_FREE uint8_t *data = g_malloc(el->out_len + 1);
    iovs_to_buf(&out, 0, data, el->out_len);
    return command(n, data, el->out_len);
}

/* One after the other: what a command changes may have to be written down before it is answered. */
static void control(void *arg)
{
    struct virtio_net *n = arg;
    struct virtio_dev *v = &n->proxy.vdev;
    struct virtio_elem *el;
    while ((el = virtq_pop(v, Q_CTRL))) {
        struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
        if (el->in_len < 1) {
            virtio_broken(v, "a command without room for the answer");
            virtq_drop(v, el);
            break;
        }
        uint8_t answer = answer_to(n, el);
        iovs_from_buf(&in, 0, &answer, 1);
        virtq_push(v, el, 1);
    }
    n->controlling = false;
}

static void net_kick(struct virtio_dev *v, unsigned q)
{
    struct virtio_net *n = net_of(v);
    if (q == Q_RX) {
        deliver_waiting(n);
    } else if (q == Q_TX) {
        transmit(n);
    } else if (!n->controlling) {
        n->controlling = true;
        co_start(n->proxy.dev.board->loop, control, n);
    }
}

static void net_queue_reset(struct virtio_dev *v, unsigned q)
{
    /* No request is ever kept. */
}

/* --- configuration -------------------------------------------------------------------------------------------------
 */

/* A card without driver hears everything; so does it until the driver says otherwise. */
static void net_cleared(struct virtio_dev *v)
{
    struct virtio_net *n = net_of(v);
    n->filter = (struct filter){.mode[PROMISC] = true};
    if (memcmp(v->config + C_MAC, n->mac, MAC_LEN) != 0) {
        memcpy(v->config + C_MAC, n->mac, MAC_LEN);
        loop_event_set(n->cleared);
    }
}

static void note_address(void *arg)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct virtio_net *n = arg;
    struct board *b = n->proxy.dev.board;
    if (b->changed(b->opaque, &e) < 0) {
        log_warn(b->log, "%s has its own address again: %s", device_name(&n->proxy.dev), err_text(&e));
    }
    n->noting = false;
    co_queue_wake_all(&n->idle);
}

/* A reset took the guest's address away. Nobody has to wait until that is written down. */
static void on_cleared(void *opaque)
{
    struct virtio_net *n = opaque;
    if (!n->noting) {
        n->noting = true;
        co_start(n->proxy.dev.board->loop, note_address, n);
    }
}

static bool link_is_up(const struct virtio_net *n)
{
    return !n->link_down && (!n->netdev || netdev_link_up(n->netdev));
}

static void link_changed(void *card)
{
    struct virtio_net *n = card;
    struct virtio_dev *v = &n->proxy.vdev;
    uint16_t status = link_is_up(n) ? STATUS_LINK_UP : 0;
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        if (load_le16(v->config + C_STATUS) == status) {
            return;
        }
        store_le16(v->config + C_STATUS, status);
    }
    virtio_config_changed(v);
}

static void gone(void *card)
{
    struct virtio_net *n = card;
    n->netdev = NULL;
    n->link_down = true;
    link_changed(n);
}

static bool net_config_varies(unsigned off)
{
    return true;
}

/* The link here may be another than the guest knows. */
static void net_loaded(struct virtio_dev *v)
{
    link_changed(net_of(v));
}

static const struct virtio_type net_type = {
    .name = "virtio-net",
    .id = 1,
    .kick = net_kick,
    .queue_reset = net_queue_reset,
    .cleared = net_cleared,
    .config_varies = net_config_varies,
    .loaded = net_loaded,
};

static const struct net_card_ops card_ops = {receive, link_changed, gone};

/* --- life --------------------------------------------------------------------------------------------------------- */

static const struct device_prop net_props[] = {
    {"netdev", PROP_NETDEV, .help = "ID of a netdev to use as a backend"},
    {"mac", PROP_STR, .help = "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56"},
    {"queue-size", PROP_INT, "256", 16, VIRTIO_QUEUE_SIZE_MAX, .type_name = "uint16"},
    {NULL},
};

static bool parse_mac(const char *text, uint8_t mac[MAC_LEN])
{
    for (unsigned i = 0; i < MAC_LEN; i++, text += 3) {
        int hi = g_ascii_xdigit_value(text[0]), lo = hi < 0 ? -1 : g_ascii_xdigit_value(text[1]);
        bool end = i == MAC_LEN - 1;
        if (lo < 0 || (end ? text[2] != '\0' : text[2] != ':' && text[2] != '-')) {
            return false;
        }
        mac[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

/* A g_malloc'd text. */
static char *mac_text(const uint8_t *m)
{
    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

/* The one that was given, or the next; the property tells it from now on. */
static int choose_mac(struct virtio_net *n, struct err *e)
{
    struct device *d = &n->proxy.dev;
    const char *given = device_str(d, "mac");
    const uint8_t *m = n->mac;
    if (!given) {
        net_next_mac(d->board->net, n->mac);
    } else if (!parse_mac(given, n->mac)) {
        return err_set(e, EINVAL,
                       "Property '%s.mac' doesn't take value '%s'; it takes six bytes, as in 52:54:00:12:34:56",
                       d->cls->name, given);
    } else if (m[0] & 1) {
        return err_set(e, EINVAL, "Property '%s.mac': '%s' is the address of a group, not of a card", d->cls->name,
                       given);
    }
    CLEANUP_FREE char *text = mac_text(m);
    json_object_object_add(d->props, "mac", json_object_new_string(text));
    return 0;
}

static int attach(struct virtio_net *n, struct err *e)
{
    struct device *d = &n->proxy.dev;
    const char *id = device_str(d, "netdev");
    struct netdev *net = id ? netdev_find(d->board->net, id) : NULL;
    if (id && !net) {
        return err_set(e, ENOENT, "Property '%s.netdev' can't find value '%s'", d->cls->name, id);
    }
    int rc = net ? netdev_plug(net, &card_ops, n, device_name(d), e) : 0;
    n->netdev = rc < 0 ? NULL : net;
    return rc;
}

static void detach(struct virtio_net *n)
{
    netdev_unplug(n->netdev);
    n->netdev = NULL;
    forget_waiting(n);
    g_free(n->frame);
    loop_event_destroy(take(n->cleared));
}

static int net_realize(struct device *d, struct err *e)
{
    struct virtio_net *n = (struct virtio_net *)d;
    struct virtio_dev *v = &n->proxy.vdev;
    unsigned size = (unsigned)device_int(d, "queue-size");
    if (!is_pow2(size)) {
        return err_set(e, EINVAL, "device '%s': queue-size %u is not a power of two", device_name(d), size);
    }
    int rc = choose_mac(n, e);
    if (rc < 0) {
        return rc;
    }
    g_queue_init(&n->waiting);
    virtio_proxy_init(&n->proxy, &net_type, QUEUES, size);
    v->features |= F_MAC | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR;
    v->config_size = C_SIZE;
    n->cleared = loop_event_create(d->board->loop, on_cleared, n);
    n->filter = (struct filter){.mode[PROMISC] = true};
    memcpy(v->config + C_MAC, n->mac, MAC_LEN);
    rc = attach(n, e);
    store_le16(v->config + C_STATUS, link_is_up(n) ? STATUS_LINK_UP : 0);
    if (rc < 0) {
        loop_event_destroy(n->cleared);
        virtio_finish(v);
        return rc;
    }
    n->frame = g_malloc(NET_FRAME_MAX);
    rc = virtio_proxy_plug(&n->proxy, 0x0200, e);
    if (rc < 0) {
        detach(n);
    }
    return rc;
}

static void net_reset(struct device *d)
{
    virtio_proxy_reset(d);
    forget_waiting((struct virtio_net *)d);
}

static void net_unrealize(struct device *d)
{
    struct virtio_net *n = (struct virtio_net *)d;
    netdev_unplug(n->netdev);
    virtio_proxy_unplug(&n->proxy);
    loop_event_destroy(take(n->cleared));
    while (n->noting) {
        co_queue_wait(&n->idle);
    }
    detach(n);
}

/* The address that the card has now, whoever gave it. */
static void net_make_up(const struct device *d, struct json_object *o)
{
    const struct virtio_net *n = (const struct virtio_net *)d;
    CLEANUP_FREE char *text = mac_text(n->proxy.vdev.config + C_MAC);
    json_object_object_del(o, "mac");
    json_object_object_add(o, "mac", json_object_new_string(text));
}

/* --- state -------------------------------------------------------------------------------------------------------- */

struct net_state {
    struct virtio_pci_state bus;
    struct filter filter;
};

static const struct state_field filter_fields[] = {
    STATE_BOOLS(struct filter, mode,
                .help = "promiscuous, all multicasts, all unicasts, no multicasts, no unicasts ..."),
    STATE_U32(struct filter, unicast, .max = ADDRS_MAX, .help = "addresses in the table"),
    STATE_U32(struct filter, multicast, .max = ADDRS_MAX, .help = "addresses behind them"),
    STATE_BOOLS(struct filter, overflow, .help = "unicast, multicast: more than the table holds"),
    STATE_BYTES(struct filter, table),
    {0},
};

#define FILTER STATE_ONE_(STATE_TYPE_STRUCT, struct net_state, filter, .sub = filter_fields)
static const struct state_field pci_fields[] = {VIRTIO_PCI_FIELDS(struct net_state, bus), FILTER, {0}};
static const struct state_field mmio_fields[] = {VIRTIO_MMIO_FIELDS(struct net_state, bus), FILTER, {0}};

static void state_get(void *object, void *st)
{
    struct virtio_net *n = object;
    struct net_state *s = st;
    virtio_proxy_state_get(&n->proxy, &s->bus);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&n->proxy.vdev.mutex);
    memcpy(&s->filter, &n->filter, sizeof(n->filter));
}

static int state_check(void *object, const void *st, struct err *e)
{
    struct virtio_net *n = object;
    const struct net_state *s = st;
    if (s->filter.unicast > ADDRS_MAX || s->filter.multicast > ADDRS_MAX) {
        return err_set(e, EINVAL, "its table cannot hold %u and %u addresses", s->filter.unicast, s->filter.multicast);
    }
    return virtio_proxy_state_check(&n->proxy, &s->bus, e);
}

static void state_put(void *object, const void *st)
{
    struct virtio_net *n = object;
    const struct net_state *s = st;
    forget_waiting(n);
    virtio_proxy_state_put(&n->proxy, &s->bus);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&n->proxy.vdev.mutex);
    memcpy(&n->filter, &s->filter, sizeof(n->filter));
}

static const char *const derived[] = {VIRTIO_DERIVED, "pci.intx", "pci.status.interrupt", "waiting", NULL};

static const struct state_section pci_state = {
    VIRTIO_PROXY_SECTION("virtio-net-pci", struct net_state, pci_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

static const struct state_section mmio_state = {
    VIRTIO_PROXY_SECTION("virtio-net-mmio", struct net_state, mmio_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

/* --- classes ------------------------------------------------------------------------------------------------------ */

static const struct device_prop *const pci_tables[] = {net_props, virtio_proxy_props, virtio_pci_props, NULL};
static const struct device_prop *const mmio_tables[] = {net_props, virtio_proxy_props, virtio_proxy_mmio_props, NULL};

const struct device_class virtio_net_pci_class = {
    .name = "virtio-net-pci",
    .alias = "virtio-net",
    VIRTIO_PROXY_PCI_CLASS(struct virtio_net, pci_tables),
    .category = "network",
    .realize = net_realize,
    .unrealize = net_unrealize,
    .reset = net_reset,
    .pause = virtio_proxy_pause,
    .resume = virtio_proxy_resume,
    .make_up = net_make_up,
    .state = &pci_state,
};

const struct device_class virtio_net_mmio_class = {
    .name = "virtio-net-device",
    VIRTIO_PROXY_MMIO_CLASS(struct virtio_net, mmio_tables),
    .category = "network",
    .realize = net_realize,
    .unrealize = net_unrealize,
    .reset = net_reset,
    .pause = virtio_proxy_pause,
    .resume = virtio_proxy_resume,
    .make_up = net_make_up,
    .state = &mmio_state,
};
