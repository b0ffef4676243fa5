# SPDX-License-Identifier: BSD-2-Clause
"""What happens when something is done to a disk to which something else is being done: the table, from which scripts/matrix.py
makes docs/matrix.md and which tests/cli/sterna/test_matrix.py tries, pair by pair."""

# Name → what it is, for the document.
OPERATIONS = {
    "mirror": "`blockdev-mirror` of the disk, then `job-complete`",
    "block_copy": "`block_copy` of the disk, which switches by itself",
    "stream": "`block-stream` of all layers into the disk's image",
    "commit": "`block-commit` of all layers into the lowest, then `job-complete`",
    "commit below": "`block-commit` of a layer in the middle of the chain into the one below it",
    "backup": "`blockdev-backup` of the disk",
    "internal snapshot": "`blockdev-snapshot-internal-sync`",
    "machine snapshot": "`snapshot-save` of the machine with the disk",
    "external snapshot": "`blockdev-snapshot-sync`",
    "resize": "`block_resize`, larger",
    "unplug": "`device_del`, then `blockdev-del`",
}
JOBS = ("mirror", "block_copy", "stream", "commit", "commit below", "backup")

# (the first, the second) → the second is refused, and why it cannot be right. Every other pair: both proceed.
REFUSED = {}


def refuse(firsts, seconds, why):
    for first in firsts:
        for second in seconds:
            REFUSED[first, second] = why


GONE = "a commit leaves nothing of the images that it empties: what is done to them is lost"
refuse(["stream"], ["stream"], "it is being done already")
refuse(["stream"], ["commit"], GONE)
refuse(["commit"], ["stream", "commit", "commit below"], GONE)
refuse(["commit below"], ["commit", "commit below"], GONE)
refuse(["internal snapshot", "machine snapshot"], ["commit"], "the snapshot needs the images below, which the job would write to")
refuse(["mirror", "block_copy", "commit", "backup"], ["resize"], "the target has the size that the disk had")
refuse(["block_copy"], ["block_copy"], "it is being done already")
refuse(["unplug"], ["unplug"], "it is being done already")
refuse(["unplug"], ["block_copy"], "it copies a device's disk")
refuse([j for j in JOBS if j != "commit below"], ["unplug"], "the device goes, but its image (`blockdev-del`) not before the job has ended")

# Both proceed, but the first does not end before the second's snapshot is deleted.
WAITS = {("commit", s) for s in ("internal snapshot", "machine snapshot")}


def outcome(first, second):
    """Why the second is refused; None: both proceed."""
    return REFUSED.get((first, second))
