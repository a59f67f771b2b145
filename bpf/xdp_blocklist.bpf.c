/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A small firewall to show mapmesh with: drops IPv4 packets whose source address is a key of `blocklist`.
 * Nothing in here knows of mapmesh; the map is replicated from the outside.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Source address in network byte order -> whatever the operator noted (when it was blocked, why). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __be32);
	__type(value, __u64);
} blocklist SEC(".maps");

enum { STAT_PASSED, STAT_DROPPED, STATS };

/* Packets by what became of them. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STATS);
	__type(key, __u32);
	__type(value, __u64);
} blocklist_stats SEC(".maps");

static __always_inline int count(__u32 stat, int verdict)
{
	__u64 *packets = bpf_map_lookup_elem(&blocklist_stats, &stat);

	if (packets)
		*packets += 1;
	return verdict;
}

SEC("xdp")
int xdp_blocklist(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = (void *)(long)context->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	__be32 source;

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return count(STAT_PASSED, XDP_PASS);
	source = ip->saddr;
	if (bpf_map_lookup_elem(&blocklist, &source))
		return count(STAT_DROPPED, XDP_DROP);
	return count(STAT_PASSED, XDP_PASS);
}
