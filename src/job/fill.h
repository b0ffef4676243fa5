/* SPDX-License-Identifier: BSD-2-Clause */
/* What a stream does for snapshots inside of the image that it fills: they need what is below it as well. */
#pragma once

#include "job/job.h"

/*
 * Snapshots of `top`, which itself needs nothing more of the images between it and `base` (NULL: all that are below),
 * get what they read from them. Inside run(); `top` is an image for which node_can_fill_snapshots() and has none in the
 * making. 0 also when the job is cancelled: they are as they were then. [co]
 */
int job_fill_snapshots(struct job *j, struct node *top, struct node *base, struct err *e);
