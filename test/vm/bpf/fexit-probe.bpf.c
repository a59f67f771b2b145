// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts successful hash map updates: shows that this kernel takes fexit programs at all. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} probe_updates SEC(".maps");

SEC("fexit/htab_map_update_elem")
int BPF_PROG(probe_update, void *map, void *key, void *value, __u64 flags, int err)
{
	__u32 slot = 0;
	__u64 *updates = bpf_map_lookup_elem(&probe_updates, &slot);

	if (err == 0 && updates)
		__sync_fetch_and_add(updates, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
