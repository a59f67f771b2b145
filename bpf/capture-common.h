/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What both tiers share: is the map watched, was it our own write, and the way of a record into the ring.
 *
 * Wake-up: user space stores consumer_waiting = 1, then looks at the ring once more, then sleeps. A producer puts its
 * record into the ring, then looks at consumer_waiting. A full barrier lies between the two on both sides (here it is
 * the xchg in the kernel's bpf_ringbuf_commit), so one of the two sees the other: nobody sleeps over a record, and a
 * busy consumer is never woken.
 */
#ifndef MAPMESH_CAPTURE_COMMON_H
#define MAPMESH_CAPTURE_COMMON_H

#include "kernel.h"

#include "capture.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct mm_shared mm_shared = {};                        /* the whole .bss */
const volatile struct mm_settings mm_settings = {}; /* the whole .rodata */

/* One per program that makes records. */
enum mm_program {
	MM_PROGRAM_HTAB_UPDATE,
	MM_PROGRAM_HTAB_DELETE,
	MM_PROGRAM_LRU_UPDATE,
	MM_PROGRAM_LRU_DELETE,
	MM_PROGRAM_LRU_EVICT,
	MM_PROGRAM_PERCPU_UPDATE,
	MM_PROGRAM_IN_PLACE_UPDATE,
	MM_PROGRAM_LRU_PERCPU_UPDATE,
	MM_PROGRAM_LOOKUP_AND_DELETE,
	MM_PROGRAM_LOOKUP_AND_DELETE_BATCH,
	MM_PROGRAM_ARRAY_UPDATE,
	MM_PROGRAM_PERCPU_ARRAY_UPDATE,
	MM_PROGRAM_TRIE_UPDATE,
	MM_PROGRAM_TRIE_DELETE,
	MM_PROGRAM_SYS_EXIT,
	MM_PROGRAMS,
};

/* The 8 bytes after each part are where its padding is zeroed before it is copied. */
#define MM_DATA_BYTES (MM_KEY_BYTES_MAX + 8 + MM_VALUE_BYTES_MAX + 8)

struct mm_scratch {
	struct mm_record record;
	__u8 data[MM_DATA_BYTES];
};

/*
 * Where a record of variable size is put together (bpf_ringbuf_reserve only takes constant sizes). One per CPU and
 * program: the kernel never runs one program twice at once on a CPU (it skips and counts in `recursion_misses`,
 * which user space reads), but it does run one hook inside another.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MM_PROGRAMS);
	__type(key, __u32);
	__type(value, struct mm_scratch);
} mm_scratch SEC(".maps");

/* max_entries is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} mm_ring SEC(".maps");

/* A change on its way into the ring. Fields are set by the hook, then `mm_emit` sends it. */
struct mm_change {
	struct bpf_map *map;
	__u32 slot;
	__u32 map_id;
	__u32 key_bytes;
	__u32 value_bytes; /* 0 unless op is MM_OP_UPDATE */
	const void *key;
	const void *value;
	enum mm_op op;
	__u16 flags;
	bool from_user;    /* key and value are user addresses */
};

/*
 * The slot of a map, or -1. This is all that an unwatched map costs. User space fills the table; a place once used
 * never becomes 0 again, so a search can stop at the first 0.
 */
static __always_inline int mm_find_slot(__u32 map_id, enum mm_tier tier)
{
	__u32 at = (map_id * 2654435761u) >> (32 - MM_WATCH_TABLE_BITS);

	for (int probe = 0; probe < MM_WATCH_PROBES; probe++) {
		__u32 slot = (at + probe) & (MM_WATCH_TABLE - 1);
		__u32 id = READ_ONCE(mm_shared.watch_id[slot]);

		if (id == map_id)
			return mm_shared.watch_tier[slot] == tier ? (int)slot : -1;
		if (id == 0)
			return -1;
	}
	return -1;
}

/*
 * Whether the change was made by the agent as it applied a remote write: its applying thread says so in `apply_tid`
 * for as long as it is in bpf(2). In an interrupt the current task is whoever was interrupted, so there the id proves
 * nothing and the write is somebody else's. Programs that run in the agent's own context (a cgroup hook on its
 * packets) do so outside of bpf(2), and are captured.
 *
 * Sets MM_FLAG_MAYBE_SELF where it cannot be told.
 */
static __always_inline bool mm_is_own_apply(enum mm_context context, __u16 *flags)
{
	__u32 tid = READ_ONCE(mm_shared.apply_tid);

	if (tid == 0 || (context != MM_CONTEXT_TASK && context != MM_CONTEXT_UNKNOWN))
		return false;
	if (tid == MM_APPLY_TID_UNKNOWN) {
		*flags |= MM_FLAG_MAYBE_SELF;
		return false;
	}
	if (tid != (__u32)bpf_get_current_pid_tgid())
		return false;
	if (context == MM_CONTEXT_TASK)
		return true;
	*flags |= MM_FLAG_MAYBE_SELF;
	return false;
}

static __always_inline void mm_count_unreadable(__u32 slot)
{
	__sync_fetch_and_add(&mm_shared.counters[slot & (MM_WATCH_TABLE - 1)].unreadable, 1);
}

static __always_inline int mm_copy(void *to, __u32 bytes, const void *from, bool from_user)
{
	return from_user ? bpf_probe_read_user(to, bytes, from) : bpf_probe_read_kernel(to, bytes, from);
}

/*
 * Wakes a consumer that went to sleep between our look at consumer_waiting and our record: an empty record does it.
 * Without room even for that, the next producer has to.
 */
static __always_inline void mm_wake(void)
{
	void *nothing = bpf_ringbuf_reserve(&mm_ring, 8, 0);

	/* Two branches: 6.1 loses the reservation out of sight ("Unreleased reference") if its test is also a value. */
	if (!nothing) {
		WRITE_ONCE(mm_shared.consumer_waiting, 1);
		return;
	}
	WRITE_ONCE(mm_shared.consumer_waiting, 0);
	bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void mm_output(struct mm_scratch *scratch, __u32 slot, __u64 bytes)
{
	__u64 wakeup = BPF_RB_NO_WAKEUP;
	struct mm_record *record = &scratch->record;

	record->record_bytes = bytes;
	record->ktime_ns = bpf_ktime_get_ns();
	record->cpu = bpf_get_smp_processor_id();
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->seq = __sync_fetch_and_add(&mm_shared.seq, 1);

	if (READ_ONCE(mm_shared.consumer_waiting)) {
		WRITE_ONCE(mm_shared.consumer_waiting, 0);
		wakeup = BPF_RB_FORCE_WAKEUP;
	}
	if (bpf_ringbuf_output(&mm_ring, scratch, mm_bounded(bytes, sizeof(*scratch)), wakeup)) {
		__sync_fetch_and_add(&mm_shared.counters[slot & (MM_WATCH_TABLE - 1)].ring_full, 1);
		/* Had we promised a wake-up, it must still come: the consumer may be asleep for good otherwise. */
		if (wakeup == BPF_RB_FORCE_WAKEUP)
			mm_wake();
		return;
	}
	if (wakeup == BPF_RB_NO_WAKEUP && READ_ONCE(mm_shared.consumer_waiting))
		mm_wake();
}

static __always_inline void mm_emit_dirty_map(struct mm_change *change, enum mm_program program)
{
	__u32 index = program;
	struct mm_scratch *scratch = bpf_map_lookup_elem(&mm_scratch, &index);

	if (!scratch)
		return;
	scratch->record.map_id = change->map_id;
	scratch->record.op = MM_OP_DIRTY_MAP;
	scratch->record.flags = change->flags;
	scratch->record.key_bytes = 0;
	scratch->record.value_bytes = 0;
	mm_output(scratch, change->slot, sizeof(struct mm_record));
}

/* Copies key and value and sends them. What cannot be read becomes a coarser record and a count, never silence. */
static __always_inline void mm_emit(struct mm_change *change, enum mm_program program)
{
	__u32 index = program;
	struct mm_scratch *scratch = bpf_map_lookup_elem(&mm_scratch, &index);
	__u64 key_bytes = change->key_bytes, value_bytes = change->value_bytes, value_offset, end;
	enum mm_op op = change->op;

	if (!scratch)
		return;
	key_bytes = mm_bounded(key_bytes, MM_KEY_BYTES_MAX);
	*(__u64 *)&scratch->data[key_bytes & ~7ull] = 0;
	if (change->key_bytes > MM_KEY_BYTES_MAX ||
	    mm_copy(scratch->data, key_bytes, change->key, change->from_user)) {
		mm_count_unreadable(change->slot);
		mm_emit_dirty_map(change, program);
		return;
	}
	value_offset = mm_bounded((key_bytes + 7) & ~7ull, MM_KEY_BYTES_MAX);
	end = value_offset;

	if (op == MM_OP_UPDATE && value_bytes > MM_VALUE_BYTES_MAX)
		op = MM_OP_DIRTY_KEY;
	if (op == MM_OP_UPDATE) {
		value_bytes = mm_bounded(value_bytes, MM_VALUE_BYTES_MAX);
		*(__u64 *)&scratch->data[value_offset + (value_bytes & ~7ull)] = 0;
		if (mm_copy(&scratch->data[value_offset], value_bytes, change->value, change->from_user)) {
			mm_count_unreadable(change->slot);
			op = MM_OP_DIRTY_KEY;
		} else {
			end = value_offset + ((value_bytes + 7) & ~7ull);
		}
	}
	scratch->record.map_id = change->map_id;
	scratch->record.op = op;
	scratch->record.flags = change->flags;
	scratch->record.key_bytes = key_bytes;
	scratch->record.value_bytes = op == MM_OP_UPDATE ? value_bytes : 0;
	mm_output(scratch, change->slot, sizeof(struct mm_record) + end);
}

/*
 * Run once by each thread that applies (BPF_PROG_TEST_RUN): the ids of a thread as the kernel knows them. In a pid
 * namespace those are not what gettid(2) says. Program type `syscall`: 5.14 and later.
 */
SEC("syscall")
int mm_identify(void *context)
{
	mm_shared.identity = bpf_get_current_pid_tgid();
	return 0;
}

#endif
