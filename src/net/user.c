/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "user": a network of its own behind this process, by libslirp: DHCP, DNS, and connections that this process makes for
 * the guest. What the library wants to wait for is told to one epoll instance, which the loop watches; whatever
 * happens, the library is asked again what it waits for.
 */
#include "net/net.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <arpa/inet.h>
#include <libslirp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull

struct user {
    struct netdev *d;
    struct loop *loop;
    Slirp *slirp;
    struct in_addr net, mask;
    int epoll;
    struct fd_watch *watch;
    GArray *fds; /* struct pollfd: what the library waits for */
    struct timer timer;
    bool asked; /* it is to be asked again, soon */
};

/* A timer of the library's. */
struct slirp_timer {
    struct user *u;
    struct timer timer;
    SlirpTimerId id;
    void *opaque;
};

/* --- waiting ------------------------------------------------------------------------------------------------------ */

static int to_slirp(short events)
{
    return (events & POLLIN ? SLIRP_POLL_IN : 0) | (events & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (events & POLLPRI ? SLIRP_POLL_PRI : 0) | (events & POLLERR ? SLIRP_POLL_ERR : 0) |
           (events & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int add_poll(int fd, int events, void *opaque)
{
    struct user *u = opaque;
    struct pollfd p = {.fd = fd};
    p.events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                       (events & SLIRP_POLL_PRI ? POLLPRI : 0));
    g_array_append_val(u->fds, p);
    return (int)u->fds->len - 1;
}

static int get_revents(int i, void *opaque)
{
    struct user *u = opaque;
    return i >= 0 && (guint)i < u->fds->len ? to_slirp(g_array_index(u->fds, struct pollfd, i).revents) : 0;
}

static bool waits_for(const GArray *fds, int fd)
{
    for (guint i = 0; i < fds->len; i++) {
        if (g_array_index(fds, struct pollfd, i).fd == fd) {
            return true;
        }
    }
    return false;
}

/* A number may be another socket's by now: each is told anew, and those that are not known to be gone are taken out. */
static void tell_epoll(struct user *u, const GArray *before)
{
    for (guint i = 0; i < before->len; i++) {
        int fd = g_array_index(before, struct pollfd, i).fd;
        if (!waits_for(u->fds, fd)) {
            epoll_ctl(u->epoll, EPOLL_CTL_DEL, fd, NULL);
        }
    }
    for (guint i = 0; i < u->fds->len; i++) {
        const struct pollfd *p = &g_array_index(u->fds, struct pollfd, i);
        struct epoll_event ev = {.events = (uint32_t)p->events}; /* the bits are the same */
        if (epoll_ctl(u->epoll, EPOLL_CTL_MOD, p->fd, &ev) < 0 && epoll_ctl(u->epoll, EPOLL_CTL_ADD, p->fd, &ev) < 0) {
            log_warn(net_log(u->d->net), "netdev '%s': waiting for a socket: %s", u->d->id, g_strerror(errno));
        }
    }
}

/* Asks the library what it waits for, and for how long at most. */
static void ask(void *opaque)
{
    struct user *u = opaque;
    g_autoptr(GArray) before = u->fds;
    uint32_t timeout = UINT32_MAX;
    u->asked = false;
    u->fds = g_array_new(false, true, sizeof(struct pollfd));
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    tell_epoll(u, before);
    if (timeout == UINT32_MAX) {
        timer_cancel(&u->timer);
    } else {
        timer_arm(&u->timer, loop_now_ns() + timeout * NS_PER_MS);
    }
}

/* Something is ready, or it is time. */
static void work(void *opaque)
{
    struct user *u = opaque;
    int n = poll((struct pollfd *)(void *)u->fds->data, u->fds->len, 0);
    slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
    ask(u);
}

static void on_ready(void *opaque, short revents)
{
    work(opaque);
}

/* After the guest or the library did something: not within its own calls. */
static void ask_soon(struct user *u)
{
    if (!u->asked) {
        u->asked = true;
        timer_arm(&u->timer, 0);
    }
}

/* --- what the library calls ----------------------------------------------------------------------------------------
 */

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
    struct user *u = opaque;
    netdev_receive(u->d, buf, len);
    return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
    struct user *u = opaque;
    log_warn(net_log(u->d->net), "netdev '%s': the guest made a mistake: %s", u->d->id, msg);
}

static int64_t clock_ns(void *opaque)
{
    return (int64_t)loop_now_ns();
}

static void on_slirp_timer(void *opaque)
{
    struct slirp_timer *t = opaque;
    slirp_handle_timer(t->u->slirp, t->id, t->opaque);
    ask_soon(t->u);
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct user *u = opaque;
    struct slirp_timer *t = g_new0(struct slirp_timer, 1);
    *t = (struct slirp_timer){.u = u, .id = id, .opaque = cb_opaque};
    timer_init(&t->timer, u->loop, on_slirp_timer, t);
    return t;
}

static void timer_free(void *timer, void *opaque)
{
    struct slirp_timer *t = timer;
    timer_cancel(&t->timer);
    g_free(t);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    struct slirp_timer *t = timer;
    timer_arm(&t->timer, expire_ms < 0 ? 0 : (uint64_t)expire_ms * NS_PER_MS);
}

static void poll_fd(int fd, void *opaque)
{
    ask_soon(opaque);
}

static void notify(void *opaque)
{
    ask_soon(opaque);
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_ns,
    .timer_new_opaque = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd,
    .unregister_poll_fd = poll_fd,
    .notify = notify,
};

/* --- options ------------------------------------------------------------------------------------------------------ */

static int parse_addr(const char *key, const char *text, struct in_addr *out, struct err *e)
{
    return !text || inet_pton(AF_INET, text, out) == 1
               ? 0
               : err_set(e, EINVAL, "Parameter '%s' expects an IPv4 address, not '%s'", key, text);
}

/* "10.0.2.0/24", "10.0.2.0/255.255.255.0"; the addresses in it follow. */
static int parse_net(const char *text, SlirpConfig *c, struct err *e)
{
    g_auto(GStrv) part = g_strsplit(text ? text : "10.0.2.0/24", "/", 2);
    guint64 bits = 24;
    if (parse_addr("net", part[0], &c->vnetwork, e) < 0) {
        return -EINVAL;
    }
    c->vnetmask.s_addr = htonl(0xffffff00);
    if (part[1] && g_ascii_string_to_unsigned(part[1], 10, 4, 30, &bits, NULL)) {
        c->vnetmask.s_addr = htonl(~0u << (32 - bits));
    } else if (part[1] && inet_pton(AF_INET, part[1], &c->vnetmask) != 1) {
        return err_set(e, EINVAL, "Parameter 'net' expects ADDRESS/BITS (4 to 30) or ADDRESS/MASK, not '%s'", text);
    }
    in_addr_t mask = c->vnetmask.s_addr;
    c->vnetwork.s_addr &= mask;
    c->vhost.s_addr = c->vnetwork.s_addr | (htonl(0x0202) & ~mask);
    c->vnameserver.s_addr = c->vnetwork.s_addr | (htonl(0x0203) & ~mask);
    c->vdhcp_start.s_addr = c->vnetwork.s_addr | (htonl(0x020f) & ~mask);
    return 0;
}

static int check_inside(const SlirpConfig *c, const char *key, struct in_addr a, struct err *e)
{
    return (a.s_addr & c->vnetmask.s_addr) == c->vnetwork.s_addr
               ? 0
               : err_set(e, EINVAL, "Parameter '%s': %s is outside of the network", key, inet_ntoa(a));
}

static int parse_config(struct json_object *opts, SlirpConfig *c, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    *c = (SlirpConfig){.version = 4};
    c->restricted = jread_bool_or(&r, "restrict", false);
    c->in_enabled = jread_bool_or(&r, "ipv4", true);
    c->in6_enabled = jread_bool_or(&r, "ipv6", true);
    c->vhostname = jread_str_or(&r, "hostname", NULL);
    c->vdomainname = jread_str_or(&r, "domainname", NULL);
    c->tftp_path = jread_str_or(&r, "tftp", NULL);
    c->bootfile = jread_str_or(&r, "bootfile", NULL);
    const char *net = jread_str_or(&r, "net", NULL), *host = jread_str_or(&r, "host", NULL),
               *dhcp = jread_str_or(&r, "dhcpstart", NULL), *dns = jread_str_or(&r, "dns", NULL);
    int rc = jread_end_lax(&r);
    rc = rc < 0 ? rc : parse_net(net, c, e);
    rc = rc < 0 ? rc : parse_addr("host", host, &c->vhost, e);
    rc = rc < 0 ? rc : parse_addr("dhcpstart", dhcp, &c->vdhcp_start, e);
    rc = rc < 0 ? rc : parse_addr("dns", dns, &c->vnameserver, e);
    rc = rc < 0 ? rc : check_inside(c, "host", c->vhost, e);
    rc = rc < 0 ? rc : check_inside(c, "dhcpstart", c->vdhcp_start, e);
    rc = rc < 0 ? rc : check_inside(c, "dns", c->vnameserver, e);
    if (rc == 0 && !c->in_enabled && !c->in6_enabled) {
        rc = err_set(e, EINVAL, "IPv4 and IPv6 disabled");
    }
    inet_pton(AF_INET6, "fec0::", &c->vprefix_addr6);
    c->vprefix_len = 64;
    inet_pton(AF_INET6, "fec0::2", &c->vhost6);
    inet_pton(AF_INET6, "fec0::3", &c->vnameserver6);
    return rc;
}

/* [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport */
static int parse_end(char **part, unsigned first, struct in_addr *a, guint64 *port)
{
    bool any = !*part[first];
    return (any || inet_pton(AF_INET, part[first], a) == 1) &&
                   g_ascii_string_to_unsigned(part[first + 1], 10, 1, 65535, port, NULL)
               ? 0
               : -EINVAL;
}

static int forward(struct user *u, const char *rule, struct err *e)
{
    const char *dash = strchr(rule, '-');
    CLEANUP_FREE char *left = dash ? g_strndup(rule, (size_t)(dash - rule)) : g_strdup("");
    g_auto(GStrv) host = g_strsplit(left, ":", 4);
    g_auto(GStrv) guest = g_strsplit(dash ? dash + 1 : "", ":", 3);
    struct in_addr ha = {INADDR_ANY}, ga = {INADDR_ANY};
    guint64 hp, gp;
    bool udp = host[0] && !strcmp(host[0], "udp");
    if (g_strv_length(host) != 3 || g_strv_length(guest) != 2 || (!udp && *host[0] && strcmp(host[0], "tcp") != 0) ||
        parse_end(host, 1, &ha, &hp) < 0 || parse_end(guest, 0, &ga, &gp) < 0) {
        return err_set(e, EINVAL,
                       "Invalid host forwarding rule '%s': it is [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
                       rule);
    }
    if (slirp_add_hostfwd(u->slirp, udp, ha, (int)hp, ga, (int)gp) < 0) {
        return err_set_errno(e, errno, "Could not set up host forwarding rule '%s'", rule);
    }
    return 0;
}

static int forward_all(struct user *u, struct json_object *list, struct err *e)
{
    int rc = 0;
    if (list && !json_object_is_type(list, json_type_array)) {
        return err_set(e, EINVAL, "Invalid parameter type for 'hostfwd', expected: array");
    }
    for (size_t i = 0; list && rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *text = NULL, *o = json_object_array_get_idx(list, i);
        if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, "str", &text)) {
            return err_set(e, EINVAL, "Parameter 'hostfwd[%zu].str' is missing", i);
        }
        rc = forward(u, json_object_get_string(text), e);
    }
    return rc;
}

/* --- the kind ------------------------------------------------------------------------------------------------------
 */

static void user_destroy(struct netdev *d)
{
    struct user *u = d->priv;
    fd_watch_destroy(u->watch);
    if (u->slirp) {
        slirp_cleanup(u->slirp);
    }
    timer_cancel(&u->timer);
    close(u->epoll);
    g_array_free(u->fds, true);
    g_free(u);
}

static void on_timer(void *opaque)
{
    struct user *u = opaque;
    if (u->asked) {
        ask(u);
    } else {
        work(u);
    }
}

static int user_create(struct netdev *d, struct json_object *opts, struct err *e)
{
    SlirpConfig c;
    int rc = parse_config(opts, &c, e);
    if (rc < 0) {
        return rc;
    }
    struct user *u = d->priv = g_new0(struct user, 1);
    u->d = d;
    u->loop = net_loop(d->net);
    u->net = c.vnetwork;
    u->mask = c.vnetmask;
    u->fds = g_array_new(false, true, sizeof(struct pollfd));
    timer_init(&u->timer, u->loop, on_timer, u);
    u->epoll = epoll_create1(EPOLL_CLOEXEC);
    u->watch = fd_watch_create(u->loop, u->epoll, POLLIN, on_ready, u);
    u->slirp = slirp_new(&c, &callbacks, u);
    rc = u->slirp && u->watch ? 0 : err_set(e, EINVAL, "netdev '%s': libslirp refuses this network", d->id);
    rc = rc < 0 ? rc : forward_all(u, json_object_object_get(opts, "hostfwd"), e);
    if (rc < 0) {
        user_destroy(d);
        return rc;
    }
    ask_soon(u);
    return 0;
}

static void user_send(struct netdev *d, const uint8_t *frame, size_t len)
{
    struct user *u = d->priv;
    slirp_input(u->slirp, frame, (int)len);
    ask_soon(u);
}

static char *user_info(const struct netdev *d)
{
    const struct user *u = d->priv;
    char net[INET_ADDRSTRLEN], mask[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &u->net, net, sizeof(net));
    inet_ntop(AF_INET, &u->mask, mask, sizeof(mask));
    struct json_object *restricted = json_object_object_get(d->opts, "restrict");
    const char *text = restricted ? json_object_get_string(restricted) : "off";
    return g_strdup_printf("net=%s,mask=%s,restrict=%s", net, mask, !strcmp(text, "true") ? "on" : text);
}

static const char *const props[] = {
    "restrict", "ipv4", "ipv6",      "hostname", "domainname", "tftp", "bootfile",
    "net",      "host", "dhcpstart", "dns",      "hostfwd",    NULL,
};

const struct netdev_kind netdev_user = {
    .name = "user",
    .props = props,
    .create = user_create,
    .destroy = user_destroy,
    .send = user_send,
    .info = user_info,
};
