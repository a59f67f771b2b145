// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Writes to a map while a capture hook is putting the record of another write of that map into the ring: the kernel
 * does not run the hook a second time on the same CPU, and only counts (`recursion_misses`).
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} reenter SEC(".maps");

__u64 nested;

SEC("fentry/bpf_ringbuf_output")
int BPF_PROG(write_inside)
{
	__u32 key = 63;

	nested++;
	bpf_map_update_elem(&reenter, &key, &nested, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
