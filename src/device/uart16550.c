/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/uart16550.h"

#include "base/cleanup.h"
#include "char/char.h"

#include <string.h>

#define FIFO_SIZE 16
#define TX_RING   4096u

enum { IER_RDI = 1, IER_THRI = 2, IER_RLSI = 4, IER_MSI = 8 };
enum { IIR_NONE = 1, IIR_MSI = 0, IIR_THRI = 2, IIR_RDI = 4, IIR_RLSI = 6, IIR_TIMEOUT = 12, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 16, LSR_THRE = 32, LSR_TEMT = 64 };
enum { MSR_CTS = 16, MSR_DSR = 32, MSR_RI = 64, MSR_DCD = 128 };

struct uart {
    struct board *board;
    uint64_t gpa;
    struct irq_line irq;
    pthread_mutex_t mutex;
    /* guest state */
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm;
    bool thr_irq; /* the transmitter became empty and nobody has looked */
    uint8_t rx[FIFO_SIZE];
    unsigned rx_head, rx_len;
    uint8_t tx[TX_RING]; /* still to be taken by the host side */
    unsigned tx_head, tx_len;
    /* host state */
    struct chardev_port port;
    struct loop_event *tx_event, *rx_event;
    bool rx_starved; /* the host side waits for room */
};

static unsigned rx_capacity(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

static bool tx_ready(const struct uart *u)
{
    return TX_RING - u->tx_len >= FIFO_SIZE;
}

static uint8_t interrupt_id(const struct uart *u)
{
    if ((u->ier & IER_RLSI) && (u->lsr & (LSR_OE | LSR_BI))) {
        return IIR_RLSI;
    }
    if ((u->ier & IER_RDI) && u->rx_len) {
        return u->rx_len >= rx_trigger(u) ? IIR_RDI : IIR_TIMEOUT;
    }
    if ((u->ier & IER_THRI) && u->thr_irq) {
        return IIR_THRI;
    }
    if ((u->ier & IER_MSI) && (u->msr & 0x0f)) {
        return IIR_MSI;
    }
    return IIR_NONE;
}

static void update_irq(struct uart *u)
{
    irq_set(&u->irq, interrupt_id(u) != IIR_NONE);
}

static uint8_t line_status(const struct uart *u)
{
    return (uint8_t)(u->lsr | (u->rx_len ? LSR_DR : 0) | (tx_ready(u) ? LSR_THRE | LSR_TEMT : 0));
}

static void rx_put(struct uart *u, uint8_t byte)
{
    if (u->rx_len >= rx_capacity(u)) {
        u->lsr |= LSR_OE;
        return;
    }
    u->rx[(u->rx_head + u->rx_len++) % FIFO_SIZE] = byte;
}

static uint8_t rx_get(struct uart *u)
{
    uint8_t byte = 0;
    if (u->rx_len) {
        byte = u->rx[u->rx_head];
        u->rx_head = (u->rx_head + 1) % FIFO_SIZE;
        u->rx_len--;
    }
    if (!u->rx_len && u->rx_starved) {
        u->rx_starved = false;
        loop_event_set(u->rx_event);
    }
    return byte;
}

static void tx_put(struct uart *u, uint8_t byte)
{
    if (u->tx_len < TX_RING) {
        u->tx[(u->tx_head + u->tx_len++) % TX_RING] = byte;
    }
    if (u->tx_len == 1) {
        loop_event_set(u->tx_event);
    }
}

/* In loopback the modem control outputs are the modem status inputs. */
static void update_modem(struct uart *u)
{
    uint8_t in = MSR_DCD | MSR_DSR | MSR_CTS;
    if (u->mcr & MCR_LOOP) {
        in = (uint8_t)((u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_RTS ? MSR_CTS : 0) |
                       (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
    }
    uint8_t changed = (uint8_t)((u->msr ^ in) >> 4) & 0x0b;
    if ((u->msr & MSR_RI) && !(in & MSR_RI)) {
        changed |= 4;
    }
    u->msr = (uint8_t)(in | (u->msr & 0x0f) | changed);
}

static void write_thr(struct uart *u, uint8_t byte)
{
    u->thr_irq = false;
    if (u->mcr & MCR_LOOP) {
        rx_put(u, byte);
    } else {
        tx_put(u, byte);
    }
    u->thr_irq = tx_ready(u);
}

static void write_fcr(struct uart *u, uint8_t val)
{
    if ((val ^ u->fcr) & FCR_ENABLE) {
        val |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    }
    if (val & FCR_CLEAR_RX) {
        u->rx_len = 0;
        if (u->rx_starved) {
            u->rx_starved = false;
            loop_event_set(u->rx_event);
        }
    }
    if (val & FCR_CLEAR_TX) {
        u->thr_irq = tx_ready(u); /* what is in the ring counts as sent */
    }
    u->fcr = val & 0xc9;
}

static uint64_t uart_read(void *opaque, uint64_t off, unsigned size)
{
    struct uart *u = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    uint8_t val = 0;
    switch (off) {
    case 0:
        if (u->lcr & LCR_DLAB) {
            return u->dll;
        }
        val = rx_get(u);
        break;
    case 1:
        return u->lcr & LCR_DLAB ? u->dlm : u->ier;
    case 2:
        val = interrupt_id(u);
        if (val == IIR_THRI) {
            u->thr_irq = false;
        }
        val |= u->fcr & FCR_ENABLE ? IIR_FIFO : 0;
        break;
    case 3:
        return u->lcr;
    case 4:
        return u->mcr;
    case 5:
        val = line_status(u);
        u->lsr &= (uint8_t) ~(LSR_OE | LSR_BI);
        break;
    case 6:
        val = u->msr;
        u->msr &= 0xf0;
        break;
    case 7:
        return u->scr;
    default:
        return 0;
    }
    update_irq(u);
    return val;
}

static void write_ier(struct uart *u, uint8_t val)
{
    /* Enabling the transmitter's interrupt while it is empty interrupts. */
    if ((val & IER_THRI) && !(u->ier & IER_THRI)) {
        u->thr_irq = tx_ready(u);
    }
    u->ier = val & 0x0f;
}

static void uart_write(void *opaque, uint64_t off, uint64_t val64, unsigned size)
{
    struct uart *u = opaque;
    uint8_t val = (uint8_t)val64;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    switch (off) {
    case 0:
        if (u->lcr & LCR_DLAB) {
            u->dll = val;
            return;
        }
        write_thr(u, val);
        break;
    case 1:
        if (u->lcr & LCR_DLAB) {
            u->dlm = val;
            return;
        }
        write_ier(u, val);
        break;
    case 2:
        write_fcr(u, val);
        break;
    case 3:
        u->lcr = val;
        return;
    case 4:
        u->mcr = val & 0x1f;
        update_modem(u);
        break;
    case 7:
        u->scr = val;
        return;
    default:
        return;
    }
    update_irq(u);
}

static const struct mmio_ops uart_ops = {uart_read, uart_write, 1, 8};

/* --- host side: loop thread ----------------------------------------------------------------------------------- */

/* Copies out what waits; the ring keeps it until tx_done(). */
static size_t tx_peek(struct uart *u, uint8_t *buf, size_t len)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    size_t n = u->tx_len < len ? u->tx_len : len;
    for (size_t i = 0; i < n; i++) {
        buf[i] = u->tx[(u->tx_head + i) % TX_RING];
    }
    return n;
}

static void tx_done(struct uart *u, size_t n)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    bool was_ready = tx_ready(u);
    u->tx_head = (unsigned)((u->tx_head + n) % TX_RING);
    u->tx_len -= (unsigned)n;
    if (!was_ready && tx_ready(u)) {
        u->thr_irq = true;
        update_irq(u);
    }
}

/* Hands the ring to the chardev; stops when that takes no more (it calls again when it does). */
static void tx_pump(void *opaque)
{
    struct uart *u = opaque;
    uint8_t buf[512];
    size_t n;
    while ((n = tx_peek(u, buf, sizeof(buf))) > 0) {
        size_t taken = u->port.c ? chardev_write(&u->port, buf, n) : n;
        tx_done(u, taken);
        if (taken < n) {
            return;
        }
    }
}

static void rx_room(void *opaque)
{
    struct uart *u = opaque;
    if (u->port.c) {
        chardev_accept_input(&u->port);
    }
}

size_t uart_can_receive(struct uart *u)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    size_t room = u->mcr & MCR_LOOP || u->rx_len >= rx_capacity(u) ? 0 : rx_capacity(u) - u->rx_len;
    u->rx_starved = room == 0;
    return room;
}

void uart_receive(struct uart *u, const uint8_t *buf, size_t len)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    for (size_t i = 0; i < len; i++) {
        rx_put(u, buf[i]);
    }
    update_irq(u);
}

size_t uart_console_write(struct uart *u, const uint8_t *buf, size_t len)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    size_t n = 0;
    for (; n < len && u->tx_len < TX_RING; n++) {
        tx_put(u, buf[n]);
    }
    return n;
}

size_t uart_console_read(struct uart *u, uint8_t *buf, size_t len)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    size_t n = 0;
    while (n < len && u->rx_len) {
        buf[n++] = rx_get(u);
    }
    update_irq(u);
    return n;
}

static size_t port_can_read(void *opaque)
{
    return uart_can_receive(opaque);
}

static void port_read(void *opaque, const uint8_t *buf, size_t n)
{
    uart_receive(opaque, buf, n);
}

static void port_event(void *opaque, enum chardev_event ev)
{
    struct uart *u = opaque;
    if (ev == CHARDEV_BREAK) {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
        u->lsr |= LSR_BI;
        rx_put(u, 0);
        update_irq(u);
    }
}

static const struct chardev_ops port_ops = {
    .can_read = port_can_read,
    .read = port_read,
    .event = port_event,
    .writable = tx_pump,
};

int uart_connect(struct uart *u, struct chardev *c, struct err *e)
{
    chardev_detach(&u->port);
    int rc = c ? chardev_attach(c, &u->port, &port_ops, u, e) : 0;
    if (rc == 0) {
        loop_event_set(u->tx_event);
    }
    return rc;
}

/* --- life ------------------------------------------------------------------------------------------------------ */

void uart_reset(struct uart *u)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    u->ier = u->fcr = u->lcr = u->scr = u->dlm = u->lsr = 0;
    u->dll = 12; /* 9600 baud */
    u->mcr = MCR_OUT2;
    u->msr = MSR_DCD | MSR_DSR | MSR_CTS;
    u->thr_irq = false;
    u->rx_len = 0;
    if (u->rx_starved) {
        u->rx_starved = false;
        loop_event_set(u->rx_event);
    }
    update_irq(u);
}

struct uart *uart_create(struct board *b, uint64_t gpa, struct irq_line irq, struct err *e)
{
    struct uart *u = g_new0(struct uart, 1);
    u->board = b;
    u->irq = irq;
    pthread_mutex_init(&u->mutex, NULL);
    u->tx_event = loop_event_create(b->loop, tx_pump, u);
    u->rx_event = loop_event_create(b->loop, rx_room, u);
    const struct mmio_region r = {"serial", gpa, 0x100, &uart_ops, u};
    if (mmio_add(b->mem, &r, e) < 0) {
        uart_destroy(u);
        return NULL;
    }
    u->gpa = gpa;
    uart_reset(u);
    return u;
}

void uart_destroy(struct uart *u)
{
    if (!u) {
        return;
    }
    if (u->gpa) {
        mmio_remove(u->board->mem, &uart_ops, u, u->gpa);
    }
    chardev_detach(&u->port);
    loop_event_destroy(u->tx_event);
    loop_event_destroy(u->rx_event);
    pthread_mutex_destroy(&u->mutex);
    g_free(u);
}

/* --- state ------------------------------------------------------------------------------------------------------- */

struct uart_st {
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm;
    bool thr_irq;
    uint32_t rx_len, tx_len;
    uint8_t rx[FIFO_SIZE], tx[TX_RING];
};

static const struct state_field fields[] = {
    STATE_U8(struct uart_st, ier, .max = 0x0f),
    STATE_U8(struct uart_st, fcr, .max = 0xc9),
    STATE_U8(struct uart_st, lcr),
    STATE_U8(struct uart_st, mcr, .max = 0x1f),
    STATE_U8(struct uart_st, lsr, .max = LSR_OE | LSR_BI, .help = "without the bits that follow from the FIFOs"),
    STATE_U8(struct uart_st, msr),
    STATE_U8(struct uart_st, scr),
    STATE_U8(struct uart_st, dll),
    STATE_U8(struct uart_st, dlm),
    STATE_BOOL(struct uart_st, thr_irq, .help = "the transmitter became empty and nobody has looked"),
    STATE_U32(struct uart_st, rx_len, .max = FIFO_SIZE),
    STATE_BYTES(struct uart_st, rx, .used = STATE_AT(struct uart_st, rx_len), .help = "received, not yet read"),
    STATE_U32(struct uart_st, tx_len, .max = TX_RING),
    STATE_BYTES(struct uart_st, tx, .used = STATE_AT(struct uart_st, tx_len),
                .help = "sent, not yet taken by the host"),
    {0},
};
static const char *const derived[] = {"iir", "lsr.dr", "lsr.thre", "lsr.temt", "irq", NULL};

static void state_get(void *object, void *st)
{
    struct uart *u = object;
    struct uart_st *s = st;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    *s = (struct uart_st){u->ier, u->fcr, u->lcr, u->mcr,     u->lsr,    u->msr,
                          u->scr, u->dll, u->dlm, u->thr_irq, u->rx_len, u->tx_len};
    for (unsigned i = 0; i < u->rx_len; i++) {
        s->rx[i] = u->rx[(u->rx_head + i) % FIFO_SIZE];
    }
    for (unsigned i = 0; i < u->tx_len; i++) {
        s->tx[i] = u->tx[(u->tx_head + i) % TX_RING];
    }
}

static int state_check(void *object, const void *st, struct err *e)
{
    const struct uart_st *s = st;
    if (s->rx_len > (s->fcr & FCR_ENABLE ? FIFO_SIZE : 1u) || s->tx_len > TX_RING) {
        return err_set(e, EINVAL, "%u bytes received and %u sent are more than it holds", s->rx_len, s->tx_len);
    }
    if (s->ier & ~0x0f || s->fcr & ~0xc9 || s->mcr & ~0x1f || s->lsr & ~(LSR_OE | LSR_BI)) {
        return err_set(e, EINVAL, "bits in IER, FCR, MCR or LSR that it does not have");
    }
    return 0;
}

static void state_put(void *object, const void *st)
{
    struct uart *u = object;
    const struct uart_st *s = st;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&u->mutex);
    u->ier = s->ier;
    u->fcr = s->fcr;
    u->lcr = s->lcr;
    u->mcr = s->mcr;
    u->lsr = s->lsr;
    u->msr = s->msr;
    u->scr = s->scr;
    u->dll = s->dll;
    u->dlm = s->dlm;
    u->thr_irq = s->thr_irq;
    u->rx_head = u->tx_head = 0;
    u->rx_len = s->rx_len;
    u->tx_len = s->tx_len;
    memcpy(u->rx, s->rx, s->rx_len);
    memcpy(u->tx, s->tx, s->tx_len);
    u->rx_starved = false;
    loop_event_set(u->rx_event); /* there may be room, and bytes to send, where there were none */
    loop_event_set(u->tx_event);
    update_irq(u);
}

const struct state_section uart_state = {
    .name = "uart16550",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct uart_st),
    .fields = fields,
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};
