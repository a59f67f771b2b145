/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Maps whose keys and values have the types that real programs use: what test/kernel/map-types.test.ts reads back. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum verdict { PASS, DROP, LIMIT = 7 };

struct flow {
	__be32 saddr;
	struct in_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 padding[3];
};

struct state {
	__u64 packets;
	__s32 balance;
	enum verdict verdict;
	__u32 syn : 1, ack : 1, window_scale : 4, rest : 26;
	union {
		__u32 mark;
		__u8 class[4];
	};
	struct in6_addr gateway;
	__u32 next_hops[2];
	__u8 mac[6];
	_Bool is_nat;
	char interface[9];
	struct {
		__u32 rate;
		__be32 spi;
	} limits[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, struct flow);
	__type(value, struct state);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, __be32);
	__type(value, __u64);
} blocklist SEC(".maps");

SEC("xdp")
int uses_maps(struct xdp_md *context)
{
	struct flow flow = {};
	__u32 key = 0;

	return bpf_map_lookup_elem(&flows, &flow) || bpf_map_lookup_elem(&counts, &key) ||
	       bpf_map_lookup_elem(&blocklist, &key) ? XDP_DROP : XDP_PASS;
}
