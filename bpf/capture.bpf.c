/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The capture object: the hooks of both tiers over one ring, one watch table, one set of counters. Which programs are
 * loaded is decided in user space by probing. One object, so that a map whose kind lacks hooks in the better tier
 * falls to the lower one without a second ring.
 */
#include "capture-fentry.h"
#include "capture-syscall.h"
