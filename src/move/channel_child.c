/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/channel_child.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "move/channel_int.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOK_NS = 100000000, PATIENCE = 10 }; /* looks */

int channel_await_child(struct channel *ch)
{
    CLEANUP_CLOSE int fd = (int)syscall(SYS_pidfd_open, ch->child, 0);
    int status = 0;
    for (unsigned looks = 0; waitpid(ch->child, &status, WNOHANG) == 0; looks += ch->broken) {
        if (looks >= PATIENCE) {
            kill(ch->child, SIGKILL);
        }
        if (fd >= 0) {
            co_poll(fd, POLLIN, LOOK_NS);
        } else {
            co_sleep(LOOK_NS);
        }
    }
    ch->child = 0;
    return status;
}
