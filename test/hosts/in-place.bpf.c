// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Adds 1 to each of the first KEYS entries through the pointer that a look-up gives: a write that calls no map function. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define KEYS 16

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
#pragma unroll
	for (int n = 0; n < KEYS; n++) {
		__u32 key = n;
		__u64 *value = bpf_map_lookup_elem(&counters, &key);

		if (value)
			__sync_fetch_and_add(value, 1);
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
