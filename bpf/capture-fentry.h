/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Tier `fentry`: the functions that change a map, per type, at their exit and only if they succeeded.
 *
 * Not on bpf_map_update_elem and the like: the verifier replaces a program's call of those helpers by a direct call
 * of the function of the map's type. Which of the programs below are loaded is decided in native/capture-programs.c, which
 * looks their targets up in the running kernel's BTF.
 *
 * Return values are int up to 6.1 and long from 6.6: the low 32 bits mean the same in both.
 *
 * The hooks run outside of the bucket lock, so on two CPUs the order of records is not the order of commits. Not seen
 * at all: writes through a pointer that a lookup returned, atomics, mmapped arrays. Those are for the sweep.
 */
#ifndef MAPMESH_CAPTURE_FENTRY_H
#define MAPMESH_CAPTURE_FENTRY_H

#include "capture-common.h"

#include <bpf/bpf_tracing.h>

/* Fills in a change of a watched map. @returns false if the map is not watched here or the write is the agent's own. */
static __always_inline bool mm_begin(struct mm_change *change, struct bpf_map *map, enum mm_op op)
{
	int slot = mm_find_slot(map->id, MM_TIER_FENTRY);

	if (slot < 0)
		return false;
	change->map = map;
	change->slot = slot;
	change->map_id = map->id;
	change->key_bytes = map->key_size;
	change->value_bytes = map->value_size;
	change->op = op;
	return true;
}

static __always_inline int mm_on_update(struct bpf_map *map, const void *key, const void *value, int ret, bool is_htab,
					enum mm_program program)
{
	struct mm_change change = {};

	if (ret || !mm_begin(&change, map, MM_OP_UPDATE) || mm_is_own_apply(mm_current_context(), &change.flags))
		return 0;
	change.key = key;
	change.value = value;
	if (mm_is_per_cpu(map->map_type) || mm_has_special_fields(map) ||
	    (is_htab && mm_in_own_elements(map, value, mm_settings.cpus_possible)))
		change.op = MM_OP_DIRTY_KEY;
	mm_emit(&change, program);
	return 0;
}

/*
 * Deletes. The key may be part of the very element that is deleted (the key argument of a bpf_for_each_map_elem
 * callback is), and that element may be in use for another key before our exit hook runs. So the entry hook keeps a
 * copy, and the exit hook uses it if it is still that of the same call: same task, same map, same key address. It is
 * not if another task deleted on this CPU in between, or the task moved to another CPU: then the map is dirty.
 * One place per CPU and level of interruption.
 */
struct mm_delete {
	__u64 task;
	__u64 map;
	__u64 key_address;
	__u8 key[MM_KEY_BYTES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MM_CONTEXT_UNKNOWN);
	__type(key, __u32);
	__type(value, struct mm_delete);
} mm_deletes SEC(".maps");

static __always_inline struct mm_delete *mm_delete_of(enum mm_context context)
{
	__u32 index = context == MM_CONTEXT_UNKNOWN ? MM_CONTEXT_TASK : context;

	return bpf_map_lookup_elem(&mm_deletes, &index);
}

static __always_inline int mm_on_delete_entry(struct bpf_map *map, const void *key)
{
	struct mm_delete *delete;

	if (mm_find_slot(map->id, MM_TIER_FENTRY) < 0)
		return 0;
	delete = mm_delete_of(mm_current_context());
	if (!delete)
		return 0;
	delete->task = 0;
	if (bpf_probe_read_kernel(delete->key, mm_bounded(map->key_size, MM_KEY_BYTES_MAX), key))
		return 0;
	delete->map = (__u64)map;
	delete->key_address = (__u64)key;
	delete->task = bpf_get_current_task();
	return 0;
}

static __always_inline int mm_on_delete_exit(struct bpf_map *map, const void *key, int ret, enum mm_program program)
{
	struct mm_change change = {};
	enum mm_context context;
	struct mm_delete *delete;

	if (ret || !mm_begin(&change, map, MM_OP_DELETE))
		return 0;
	context = mm_current_context();
	if (mm_is_own_apply(context, &change.flags))
		return 0;
	delete = mm_delete_of(context);
	if (!delete)
		return 0;
	if (delete->task != bpf_get_current_task() || delete->map != (__u64)map ||
	    delete->key_address != (__u64)key) {
		mm_emit_dirty_map(&change, program);
		return 0;
	}
	change.key = delete->key;
	mm_emit(&change, program);
	delete->task = 0;
	return 0;
}

SEC("fexit/htab_map_update_elem")
int BPF_PROG(mm_htab_update, struct bpf_map *map, void *key, void *value, __u64 flags, long ret)
{
	return mm_on_update(map, key, value, ret, true, MM_PROGRAM_HTAB_UPDATE);
}

SEC("fexit/htab_lru_map_update_elem")
int BPF_PROG(mm_lru_update, struct bpf_map *map, void *key, void *value, __u64 flags, long ret)
{
	return mm_on_update(map, key, value, ret, true, MM_PROGRAM_LRU_UPDATE);
}

/* Per-CPU hash, up to 6.15: both what programs and what bpf(2) call end here. */
SEC("fexit/__htab_percpu_map_update_elem")
int BPF_PROG(mm_percpu_update, struct bpf_map *map, void *key, void *value, __u64 flags, __u64 onallcpus, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_PERCPU_UPDATE);
}

/* The same from 6.16 on. */
SEC("fexit/htab_map_update_elem_in_place")
int BPF_PROG(mm_in_place_update, struct bpf_map *map, void *key, void *value, __u64 flags, __u64 percpu,
	     __u64 onallcpus, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_IN_PLACE_UPDATE);
}

SEC("fexit/__htab_lru_percpu_map_update_elem")
int BPF_PROG(mm_lru_percpu_update, struct bpf_map *map, void *key, void *value, __u64 flags, __u64 onallcpus, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_LRU_PERCPU_UPDATE);
}

/* Arrays, and per-CPU arrays as programs write them. */
SEC("fexit/array_map_update_elem")
int BPF_PROG(mm_array_update, struct bpf_map *map, void *key, void *value, __u64 flags, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_ARRAY_UPDATE);
}

/* Per-CPU arrays as bpf(2) writes them. */
SEC("fexit/bpf_percpu_array_update")
int BPF_PROG(mm_percpu_array_update, struct bpf_map *map, void *key, void *value, __u64 flags, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_PERCPU_ARRAY_UPDATE);
}

SEC("fexit/trie_update_elem")
int BPF_PROG(mm_trie_update, struct bpf_map *map, void *key, void *value, __u64 flags, long ret)
{
	return mm_on_update(map, key, value, ret, false, MM_PROGRAM_TRIE_UPDATE);
}

SEC("fentry/htab_map_delete_elem")
int BPF_PROG(mm_htab_delete_entry, struct bpf_map *map, void *key)
{
	return mm_on_delete_entry(map, key);
}

SEC("fexit/htab_map_delete_elem")
int BPF_PROG(mm_htab_delete, struct bpf_map *map, void *key, long ret)
{
	return mm_on_delete_exit(map, key, ret, MM_PROGRAM_HTAB_DELETE);
}

SEC("fentry/htab_lru_map_delete_elem")
int BPF_PROG(mm_lru_delete_entry, struct bpf_map *map, void *key)
{
	return mm_on_delete_entry(map, key);
}

SEC("fexit/htab_lru_map_delete_elem")
int BPF_PROG(mm_lru_delete, struct bpf_map *map, void *key, long ret)
{
	return mm_on_delete_exit(map, key, ret, MM_PROGRAM_LRU_DELETE);
}

SEC("fentry/trie_delete_elem")
int BPF_PROG(mm_trie_delete_entry, struct bpf_map *map, void *key)
{
	return mm_on_delete_entry(map, key);
}

SEC("fexit/trie_delete_elem")
int BPF_PROG(mm_trie_delete, struct bpf_map *map, void *key, long ret)
{
	return mm_on_delete_exit(map, key, ret, MM_PROGRAM_TRIE_DELETE);
}

/*
 * An LRU map makes room. `arg` is the struct bpf_htab (bpf_lru_init), the result a bool: true if the element was
 * unlinked. The element is handed to the caller of the hooked function only after it returned, so its key is intact.
 * Also when our own apply made the kernel evict: what we wrote is known to us, what it pushed out is not.
 */
SEC("fexit/htab_lru_map_delete_node")
int BPF_PROG(mm_lru_evict, struct bpf_htab *htab, struct bpf_lru_node *node, __u64 ret)
{
	struct mm_change change = {};
	__u32 map_id = BPF_CORE_READ(htab, map.id);
	int slot;

	if (!(__u8)ret)
		return 0;
	slot = mm_find_slot(map_id, MM_TIER_FENTRY);
	if (slot < 0)
		return 0;
	change.slot = slot;
	change.map_id = map_id;
	change.key_bytes = BPF_CORE_READ(htab, map.key_size);
	change.key = mm_lru_node_key(node);
	change.op = MM_OP_EVICT;
	mm_emit(&change, MM_PROGRAM_LRU_EVICT);
	return 0;
}

/*
 * BPF_MAP_LOOKUP_AND_DELETE_ELEM unlinks without calling the delete function. Only bpf(2) gets here, with a copy of
 * the key that outlives the call.
 */
SEC("fexit/__htab_map_lookup_and_delete_elem")
int BPF_PROG(mm_lookup_and_delete, struct bpf_map *map, void *key, void *value, __u64 is_lru_map, __u64 is_percpu,
	     __u64 flags, long ret)
{
	struct mm_change change = {};

	if ((int)ret || !mm_begin(&change, map, MM_OP_DELETE) || mm_is_own_apply(mm_current_context(), &change.flags))
		return 0;
	change.key = key;
	mm_emit(&change, MM_PROGRAM_LOOKUP_AND_DELETE);
	return 0;
}

/* Batches of the same unlink whole buckets; which keys went can only be found out by a sweep. An error may come late. */
SEC("fexit/__htab_map_lookup_and_delete_batch")
int BPF_PROG(mm_lookup_and_delete_batch, struct bpf_map *map, void *attr, void *uattr, __u64 do_delete,
	     __u64 is_lru_map, __u64 is_percpu, long ret)
{
	struct mm_change change = {};

	if (!(__u8)do_delete || !mm_begin(&change, map, MM_OP_DIRTY_MAP) ||
	    mm_is_own_apply(mm_current_context(), &change.flags))
		return 0;
	mm_emit_dirty_map(&change, MM_PROGRAM_LOOKUP_AND_DELETE_BATCH);
	return 0;
}

#endif
