/* SPDX-License-Identifier: BSD-2-Clause */
/* -nic: a network and its card in one option. */
#pragma once

#include "base/err.h"
#include "net/net.h"

/*
 * "user[,id=…][,model=…][,mac=…][,…]": makes the network of all but model and mac, called "nicN" unless it has an id,
 * and *card becomes device_add's options for its card, a new object. "none": nothing, and NULL.
 */
int nic_add(struct net *net, const char *text, struct json_object **card, struct err *e);
