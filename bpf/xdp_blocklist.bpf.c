/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A small firewall to show mapmesh with: drops IPv4 packets whose source address is a key of `blocklist`, and keeps
 * count of each source. Nothing in here knows of mapmesh; the map is replicated from the outside.
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

enum verdict { PASSED, DROPPED, VERDICTS };

/* What became of one source's packets. Times are bpf_ktime_get_ns(), that is CLOCK_MONOTONIC. */
struct source {
	__u64 packets[VERDICTS];
	__u64 last_ns[VERDICTS];
	/* First packet that met the verdict which the last one met. */
	__u64 turned_ns;
};

/* Per source address. Local to the host: to be read, not to be replicated. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, struct source);
} sources SEC(".maps");

/*
 * Packet counts are exact. Times assume that a source's packets come one after the other, as those of one flow do: two
 * CPUs at the same moment may note each other's.
 */
static __always_inline void count(__be32 address, enum verdict verdict)
{
	__u32 other = (verdict + 1) % VERDICTS;
	__u64 now = bpf_ktime_get_ns();
	struct source *source = bpf_map_lookup_elem(&sources, &address);

	if (!source) {
		struct source fresh = {};

		bpf_map_update_elem(&sources, &address, &fresh, BPF_NOEXIST);
		source = bpf_map_lookup_elem(&sources, &address);
		if (!source)
			return;
	}
	__sync_fetch_and_add(&source->packets[verdict], 1);
	if (source->last_ns[other] >= source->last_ns[verdict])
		source->turned_ns = now;
	source->last_ns[verdict] = now;
}

SEC("xdp")
int xdp_blocklist(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = (void *)(long)context->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	__be32 source;
	enum verdict verdict;

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	source = ip->saddr;
	verdict = bpf_map_lookup_elem(&blocklist, &source) ? DROPPED : PASSED;
	count(source, verdict);
	return verdict == DROPPED ? XDP_DROP : XDP_PASS;
}
