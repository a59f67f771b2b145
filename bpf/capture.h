/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the capture programs and user space share: the ring record, the shared page, the settings.
 *
 * src/core/ring-record.ts decodes the record. native/mapmesh.c includes this file, and src/kernel/native.ts
 * checks at load that both were built from the same version of it (MM_ABI_VERSION).
 */
#ifndef MAPMESH_CAPTURE_H
#define MAPMESH_CAPTURE_H

/* Raise when anything in this file or the signature of a function in native/mapmesh.h changes. */
#define MM_ABI_VERSION 3

#define MM_KEY_BYTES_MAX 512
/* Larger values are announced by MM_OP_DIRTY_KEY and read back: they are never cut short. */
#define MM_VALUE_BYTES_MAX 4096

/* Watched maps at once. The table that finds them has four times the room, so that chains stay short. */
#define MM_SLOTS 64
#define MM_WATCH_TABLE 256
#define MM_WATCH_TABLE_BITS 8
/* Places looked at for one map id. User space refuses to watch a map that finds none of them free. */
#define MM_WATCH_PROBES 8
/* A place that was used once: a search goes on past it. Map ids are positive ints, so this is none of them. */
#define MM_WATCH_REMOVED 0xffffffffu

enum mm_op {
	MM_OP_UPDATE = 1,    /* key and value follow */
	MM_OP_DELETE = 2,    /* key follows */
	MM_OP_DIRTY_KEY = 3, /* key follows; the value must be read back (too large, per-CPU, not readable here) */
	MM_OP_DIRTY_MAP = 4, /* nothing follows: some entries changed, only a sweep can tell which */
	MM_OP_EVICT = 5,     /* key follows: an LRU map evicted it; a local fact, never a delete */
};

enum mm_record_flag {
	/* The writer may be this agent. Only set where that cannot be told for sure in the kernel (otherwise the
	 * agent's own writes never reach the ring): user space compares the content. */
	MM_FLAG_MAYBE_SELF = 1 << 0,
};

/* 40 bytes, then the key padded to 8, then the value padded to 8. Little endian as the host. */
struct mm_record {
	__u32 record_bytes; /* header + padded key + padded value */
	__u32 map_id;
	__u64 ktime_ns;     /* CLOCK_MONOTONIC, taken after the operation succeeded */
	__u64 seq;          /* over all watched maps; missing numbers are lost records, neighbours of two CPUs may swap */
	__u16 op;
	__u16 flags;
	__u16 cpu;
	__u16 key_bytes;
	__u32 value_bytes;
	__u32 pid;          /* tgid of the current task: a hint only, wrong in softirq */
};

#define MM_RECORD_BYTES_MAX (40 + MM_KEY_BYTES_MAX + MM_VALUE_BYTES_MAX)

/* What captures a map; the numbers are also those of `mm_capture_open`. */
enum mm_tier {
	MM_TIER_FENTRY = 1,
	MM_TIER_SYSCALL = 2,
};

struct mm_counters {
	__u64 ring_full;  /* records the ring had no room for */
	__u64 unreadable; /* changes seen whose key or value could not be read */
};

/* Apply in progress, by a thread whose id as the kernel sees it is not known. */
#define MM_APPLY_TID_UNKNOWN 0xffffffffu

/*
 * The .bss of the capture object, mapped by user space. Hot words have a cache line each: the first is read on
 * every map operation of the host, the others are written by every captured one.
 */
struct mm_shared {
	/* Open-addressed by map id; written by user space. The index of an id is the map's slot. */
	__u32 watch_id[MM_WATCH_TABLE];
	/* enum mm_tier per slot: a map is reported by the hooks of one tier only. */
	__u32 watch_tier[MM_WATCH_TABLE];
	struct mm_counters counters[MM_WATCH_TABLE];

	/* Changes seen of which not even the map could be told. */
	__u64 unreadable_any;
	/* bpf_get_current_pid_tgid() of whoever last ran the program `mm_identify`. */
	__u64 identity;
	/* Always 0, which the verifier does not know. */
	__u64 zero;
	__u64 pad0[5];

	/* Set by user space just before it sleeps, cleared by the producer that wakes it. */
	__u32 consumer_waiting;
	__u32 pad1[15];

	/* Kernel thread id of the agent's thread that is applying right now; 0 if none is. */
	__u32 apply_tid;
	__u32 pad2[15];

	__u64 seq;
	__u64 pad3[7];
};

/* The .rodata of the capture object, written by user space before it is loaded. */
struct mm_settings {
	__u32 ring_bytes;
	__u32 cpus_possible;
};

#endif
