/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of a session share: monitor.c (chardev, output), qmp.c, hmp_session.c, qmp_control.c. */
#pragma once

#include "monitor/monitor.h"
#include "monitor/readline.h"
#include "monitor/wire.h"

struct monitor {
    struct mon_env *env;
    struct chardev *chr;
    struct chardev_port port;
    enum monitor_mode mode;
    bool pretty, open;
    bool dead;           /* destroyed, but a command still runs */
    unsigned generation; /* counts connections: an answer is for the one that asked */
    GString *out;        /* not yet taken by the chardev */
    unsigned long dropped_events;
    GHashTable *fds; /* name -> fd + 1 */
    struct loop_event *done_event;
    GQueue done;     /* struct request * of which the coroutine has ended */
    unsigned active; /* coroutines that have not */
    bool busy;       /* a command runs that others wait for */

    /* QMP */
    struct wire_parser parser;
    GQueue requests; /* struct request * that wait */
    bool negotiated, oob;
    void (*heir)(void *opaque, int fd); /* who gets the connection when the command that runs has been answered */
    void *heir_opaque;

    /* human */
    struct readline *readline;
    bool greet_later; /* it opened while the keyboard was elsewhere */
    unsigned cpu;     /* by the command `cpu` */
};

/* monitor.c */
void session_write(struct monitor *m, const char *s, size_t n); /* as it is */
void session_flush(struct monitor *m);
bool session_choked(const struct monitor *m);
void session_inherit(struct monitor *m); /* gives the connection to m->heir, if there is one */

/* qmp.c */
void qmp_session_opened(struct monitor *m);
void qmp_session_closed(struct monitor *m);
void qmp_session_event(struct monitor *m, const char *name, struct json_object *data);
/* Starts what may start. Not from inside a coroutine. */
void qmp_session_next(struct monitor *m);
void qmp_session_done(struct monitor *m); /* answers what is in m->done */
void qmp_message(void *opaque, struct json_object *msg, struct err *e);

/* hmp_session.c */
int hmp_session_init(struct monitor *m, struct err *e);
void hmp_session_finish(struct monitor *m);
void hmp_session_opened(struct monitor *m);
void hmp_session_focus(struct monitor *m);
void hmp_session_read(struct monitor *m, const uint8_t *buf, size_t n);
void hmp_session_done(struct monitor *m);
/* A finished session: the last coroutine has gone. */
void session_free(struct monitor *m);
