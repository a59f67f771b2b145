/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the capture programs and user space share: the ring record, the watch table, the counters.
 * src/core/ring-record.ts decodes the record; native/mapmesh.c checks the sizes at load (MM_ABI).
 */
#ifndef MAPMESH_CAPTURE_H
#define MAPMESH_CAPTURE_H

#define MM_KEY_BYTES_MAX 512
#define MM_VALUE_BYTES_MAX 4096

/* Watched maps at once, and the size of the open-addressed id table that finds their slot. */
#define MM_SLOTS 64
#define MM_WATCH_TABLE 256

enum mm_op {
	MM_OP_UPDATE = 1,    /* key and value follow */
	MM_OP_DELETE = 2,    /* key follows */
	MM_OP_DIRTY_KEY = 3, /* key follows; the value must be read back (too large, per-CPU, not readable here) */
	MM_OP_DIRTY_MAP = 4, /* nothing follows: some entries changed, only a sweep can tell which */
	MM_OP_EVICT = 5,     /* key follows: an LRU map evicted it; a local fact, never a delete */
};

enum mm_record_flag {
	/* The writer was in process context and is this agent. Only set where that cannot be told for sure in the
	 * kernel (otherwise the agent's own writes never reach the ring): user space compares the content. */
	MM_FLAG_MAYBE_SELF = 1 << 0,
};

/* 40 bytes, then the key padded to 8, then the value padded to 8. Little endian as the host. */
struct mm_record {
	__u32 record_bytes; /* header + padded key + padded value */
	__u32 map_id;
	__u64 ktime_ns;     /* CLOCK_MONOTONIC, taken after the operation succeeded */
	__u64 seq;          /* over all watched maps; a jump means records were lost */
	__u16 op;
	__u16 flags;
	__u16 cpu;
	__u16 key_bytes;
	__u32 value_bytes;
	__u32 pid;          /* tgid of the current task: a hint only, wrong in softirq */
};

#endif
