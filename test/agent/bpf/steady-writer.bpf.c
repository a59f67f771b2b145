// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * A program that writes to a map: each run has a number n. Seven of eight make a new entry (key n, value n + 1); the eighth
 * sets one of 32 entries that are there already to n, in place: a write that calls no map function.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define IN_PLACE 0x80000000u
#define NODE_BITS 0x0f000000u

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

/* Returns whether the kernel refused. */
SEC("raw_tp")
int write_one(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 n = ctx->args[0];
	__u32 key = n;
	__u64 value = n + 1, *there;

	if ((n & 7) == 7) {
		key = IN_PLACE | (n & NODE_BITS) | ((n >> 3) & 31);
		there = bpf_map_lookup_elem(&flows, &key);
		if (there) {
			*(volatile __u64 *)there = n;
			return 0;
		}
		value = n;
	}
	return bpf_map_update_elem(&flows, &key, &value, BPF_ANY) != 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
