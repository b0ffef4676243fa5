/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Networks: back ends ("netdevs", what -netdev and netdev_add make) and the cards that are plugged into them, one each.
 * Ethernet frames without checksum go both ways; what cannot be taken is lost, as on a wire. Loop thread.
 */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "loop/loop.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_FRAME_MAX 65536 /* longer ones are dropped */

struct net; /* all netdevs of a VM */
struct netdev;

/* A kind of back end; const. */
struct netdev_kind {
    const char *name;
    const char *const *props; /* what it takes besides "type" and "id"; NULL-terminated */
    int (*create)(struct netdev *d, struct json_object *opts, struct err *e);
    void (*destroy)(struct netdev *d);                                /* after create succeeded */
    void (*send)(struct netdev *d, const uint8_t *frame, size_t len); /* out of the guest */
    char *(*info)(const struct netdev *d);                            /* one line for `info network`; g_malloc'd */
};
extern const struct netdev_kind netdev_user;

/* A card, as its back end sees it. */
struct net_card_ops {
    void (*receive)(void *card, const uint8_t *frame, size_t len); /* into the guest */
    void (*link_changed)(void *card);                              /* ask netdev_link_up() */
    void (*gone)(void *card);                                      /* the netdev was deleted; it is NULL from now on */
};

struct netdev {
    const struct netdev_kind *kind;
    struct net *net;
    char *id;
    struct json_object *opts; /* as given; owned */
    bool link_down;
    const struct net_card_ops *card_ops; /* NULL: no card */
    void *card;
    char *card_name; /* id or path of the device */
    void *priv;      /* the kind's */
};

struct net *net_create(struct loop *l, struct log *log);
void net_destroy(struct net *n); /* all cards are gone; NULL is fine */
struct loop *net_loop(const struct net *n);
struct log *net_log(const struct net *n);
/* The i-th default address of a card: 52:54:00:12:34:56 and on, each given out once. */
void net_next_mac(struct net *n, uint8_t mac[6]);

/* `opts`: "type", "id" and what the kind takes; values may be text as on the command line. */
int netdev_add(struct net *n, struct json_object *opts, struct err *e);
/* As netdev_add() of "TYPE,key=value,…", where hostfwd= may come more than once. */
int netdev_add_text(struct net *n, const char *text, struct err *e);
int netdev_del(struct net *n, const char *id, struct err *e);
struct netdev *netdev_find(struct net *n, const char *id);
struct netdev *netdev_get(struct net *n, unsigned i); /* NULL past the end */
/* By the netdev's or its card's name. */
int net_set_link(struct net *n, const char *name, bool up, struct err *e);

/* --- for cards ---------------------------------------------------------------------------------------------------- */

int netdev_plug(struct netdev *d, const struct net_card_ops *ops, void *card, const char *name, struct err *e);
void netdev_unplug(struct netdev *d); /* NULL is fine */
bool netdev_link_up(const struct netdev *d);
void netdev_send(struct netdev *d, const uint8_t *frame, size_t len); /* NULL: the frame is lost */

/* --- for kinds ---------------------------------------------------------------------------------------------------- */

void netdev_receive(struct netdev *d, const uint8_t *frame, size_t len);
