# SPDX-License-Identifier: BSD-2-Clause
"""When no program could run, as the host had taken all processors away: that holds up a test as nothing under test can.

On each processor a process of the highest priority does nothing but sleep for short times. How much longer than that it took is what everybody
had to wait there; only what was lost on all of them counts. Where such a priority may not be had (it is root's), nothing is noted and nothing excused.
"""
import os, subprocess, sys, tempfile, time

NAP = 0.002
NOTED = 0.002  # less is not written down
PRIORITY = 50


class Standstills:
    """with Standstills() as s: …; then s.during(begin, end): seconds of this time (time.monotonic()) in which no processor was there."""

    def __enter__(self):
        self.noted = tempfile.TemporaryFile("w+")
        self.sleepers = [subprocess.Popen([sys.executable, __file__, str(i), str(cpu)], stdout=self.noted, stderr=subprocess.DEVNULL)
                         for i, cpu in enumerate(sorted(os.sched_getaffinity(0)))]
        return self

    def __exit__(self, *_):
        for s in self.sleepers:
            s.kill()
            s.wait()
        self.noted.seek(0)
        self.late = [(int(cpu), float(at), float(took)) for cpu, at, took in (line.split() for line in self.noted if line.endswith("\n"))]

    def pieces(self, begin, end):
        """Seconds of each time within these in which no processor was there."""
        turns = sorted(turn for _, at, took in self.late if at > begin and at - took < end for turn in ((max(at - took, begin), 1), (min(at, end), -1)))
        away, since = 0, 0
        for when, step in turns:
            if away == len(self.sleepers):
                yield when - since
            away += step
            since = when

    def during(self, begin, end):
        return sum(self.pieces(begin, end))


def sleep_and_note(number, cpu):
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    parent = os.getppid()
    last = time.monotonic()
    while os.getppid() == parent:
        time.sleep(NAP)
        now = time.monotonic()
        if now - last - NAP > NOTED:
            os.write(1, f"{number} {now:.4f} {now - last - NAP:.4f}\n".encode())
        last = now


if __name__ == "__main__":
    sleep_and_note(int(sys.argv[1]), int(sys.argv[2]))
