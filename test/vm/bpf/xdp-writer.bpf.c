// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Writes map entries in softirq: one for each packet, numbered from 0. xdp_stats counts what the kernel accepted and
 * what it refused, through pointers, so that the test knows the exact number.
 */
#include <linux/bpf.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>

#define KEYS 1024

struct bpf_map;

struct stats {
	__u64 packets;
	__u64 written;
	__u64 deleted;
	__u64 refused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stats);
} xdp_stats SEC(".maps");

/* Room for KEYS keys of the packets and as many of the test itself. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4 * KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_lru_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4 * KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 4 * KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_lru_percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KEYS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_percpu_array SEC(".maps");

static __always_inline struct stats *stats(void)
{
	__u32 slot = 0;

	return bpf_map_lookup_elem(&xdp_stats, &slot);
}

static __always_inline int write(void *map)
{
	struct stats *counts = stats();
	__u64 number;
	__u32 key;

	if (!counts)
		return XDP_ABORTED;
	number = __sync_fetch_and_add(&counts->packets, 1);
	key = number % KEYS;
	if (bpf_map_update_elem(map, &key, &number, BPF_ANY))
		__sync_fetch_and_add(&counts->refused, 1);
	else
		__sync_fetch_and_add(&counts->written, 1);
	return XDP_DROP;
}

SEC("xdp")
int write_hash(struct xdp_md *packet)
{
	return write(&xdp_hash);
}

SEC("xdp")
int write_lru_hash(struct xdp_md *packet)
{
	return write(&xdp_lru_hash);
}

SEC("xdp")
int write_percpu_hash(struct xdp_md *packet)
{
	return write(&xdp_percpu_hash);
}

SEC("xdp")
int write_lru_percpu(struct xdp_md *packet)
{
	return write(&xdp_lru_percpu);
}

SEC("xdp")
int write_array(struct xdp_md *packet)
{
	return write(&xdp_array);
}

SEC("xdp")
int write_percpu_array(struct xdp_md *packet)
{
	return write(&xdp_percpu_array);
}

/* Each packet deletes a key, one after the other from 0. */
SEC("xdp")
int erase_hash(struct xdp_md *packet)
{
	struct stats *counts = stats();
	__u32 key;

	if (!counts)
		return XDP_ABORTED;
	key = __sync_fetch_and_add(&counts->packets, 1) % KEYS;
	if (!bpf_map_delete_elem(&xdp_hash, &key))
		__sync_fetch_and_add(&counts->deleted, 1);
	return XDP_DROP;
}

/* Packets come in pairs: the first of a pair writes a key, the second deletes it. */
SEC("xdp")
int toggle_hash(struct xdp_md *packet)
{
	struct stats *counts = stats();
	__u64 number;
	__u32 key;

	if (!counts)
		return XDP_ABORTED;
	number = __sync_fetch_and_add(&counts->packets, 1);
	key = number / 2 % KEYS;
	if (number % 2 == 0) {
		if (bpf_map_update_elem(&xdp_hash, &key, &number, BPF_ANY))
			__sync_fetch_and_add(&counts->refused, 1);
		else
			__sync_fetch_and_add(&counts->written, 1);
	} else if (bpf_map_delete_elem(&xdp_hash, &key) == 0) {
		__sync_fetch_and_add(&counts->deleted, 1);
	}
	return XDP_DROP;
}

/* Updates a key with the value that a lookup of that same key points to: the update frees that element. */
SEC("xdp")
int rewrite_hash(struct xdp_md *packet)
{
	struct stats *counts = stats();
	__u32 key = 0;
	__u64 *value;

	if (!counts)
		return XDP_ABORTED;
	__sync_fetch_and_add(&counts->packets, 1);
	value = bpf_map_lookup_elem(&xdp_hash, &key);
	if (!value)
		return XDP_DROP;
	*value += 1;
	if (bpf_map_update_elem(&xdp_hash, &key, value, BPF_ANY) == 0)
		__sync_fetch_and_add(&counts->written, 1);
	return XDP_DROP;
}

static long prune(struct bpf_map *map, const __u32 *key, __u64 *value, void *context)
{
	struct stats *counts = stats();

	if (counts && bpf_map_delete_elem(map, key) == 0)
		__sync_fetch_and_add(&counts->deleted, 1);
	return 0;
}

/* Deletes everything; the key that is passed to the delete lies in the element that it frees. */
SEC("xdp")
int prune_hash(struct xdp_md *packet)
{
	struct stats *counts = stats();

	if (!counts)
		return XDP_ABORTED;
	__sync_fetch_and_add(&counts->packets, 1);
	bpf_for_each_map_elem(&xdp_hash, prune, NULL, 0);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
