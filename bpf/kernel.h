/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few kernel structs that the programs look into (CO-RE: fields are found by name in the running kernel's BTF,
 * so order and padding here mean nothing), and one named helper per kernel quirk.
 */
#ifndef MAPMESH_KERNEL_H
#define MAPMESH_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct btf_record;

struct bpf_map {
	enum bpf_map_type map_type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 id;
	/* 6.1 and later; see mm_has_special_fields(). */
	struct btf_record *record;
};

struct bpf_map___before_record {
	int spin_lock_off;
	int timer_off;
};

struct bpf_htab {
	struct bpf_map map;
	void *elems;
	__u32 elem_size;
};

struct bpf_lru_node {
	__u8 ref;
};

struct htab_elem {
	struct bpf_lru_node lru_node;
	char key[0];
};

struct file_operations {
	void *release;
};

struct file {
	const struct file_operations *f_op;
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct thread_info {
	__u32 status;
};

struct task_struct {
	struct files_struct *files;
	struct thread_info thread_info;
};

/* PREEMPT_RT keeps the softirq count in the task. */
struct task_struct___preempt_rt {
	int softirq_disable_cnt;
};

#if defined(__TARGET_ARCH_arm64)
struct thread_info___arm64 {
	struct {
		__u32 count;
	} preempt;
};

struct task_struct___arm64 {
	struct thread_info___arm64 thread_info;
};

struct pt_regs {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
};
#else
struct pt_regs {
	unsigned long bx;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
};

/* x86 kept the preempt count in a struct of hot per-CPU data from 6.2 (commit 64701838bf05) to 6.14. */
struct pcpu_hot___local {
	int preempt_count;
};
#endif

#pragma clang attribute pop

/*
 * Whether the current context is the task's own, and not an interrupt that borrowed it.
 *
 * Bits of the preempt count as in include/linux/preempt.h, unchanged since 2.6.28: softirq 8-15 (bit 8 alone says
 * "serving", the others "disabled", which a task may do), hardirq 16-19, NMI 20-23. Where the count lives as in
 * get_preempt_count() of tools/testing/selftests/bpf/bpf_experimental.h.
 */
#define MM_SERVING_SOFTIRQ 0x00000100
#define MM_SERVING_HARDIRQ 0x000f0000
#define MM_SERVING_NMI 0x00f00000

enum mm_context {
	MM_CONTEXT_TASK = 0,
	MM_CONTEXT_SOFTIRQ = 1,
	MM_CONTEXT_HARDIRQ = 2,
	MM_CONTEXT_NMI = 3,
	MM_CONTEXT_UNKNOWN = 4,
};

#if !defined(__TARGET_ARCH_arm64)
extern const int __preempt_count __ksym __weak;
extern const struct pcpu_hot___local pcpu_hot __ksym __weak;
#endif

static __always_inline enum mm_context mm_current_context(void)
{
	__u32 count;

#if defined(__TARGET_ARCH_arm64)
	struct task_struct___arm64 *task = (void *)bpf_get_current_task();

	if (!bpf_core_field_exists(task->thread_info.preempt.count))
		return MM_CONTEXT_UNKNOWN;
	count = BPF_CORE_READ(task, thread_info.preempt.count);
#else
	if (&__preempt_count)
		count = *(const int *)bpf_this_cpu_ptr(&__preempt_count);
	else if (&pcpu_hot)
		count = ((const struct pcpu_hot___local *)bpf_this_cpu_ptr(&pcpu_hot))->preempt_count;
	else
		return MM_CONTEXT_UNKNOWN;
#endif
	if (count & MM_SERVING_NMI)
		return MM_CONTEXT_NMI;
	if (count & MM_SERVING_HARDIRQ)
		return MM_CONTEXT_HARDIRQ;
	if (count & MM_SERVING_SOFTIRQ)
		return MM_CONTEXT_SOFTIRQ;

	struct task_struct___preempt_rt *rt = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(rt->softirq_disable_cnt) &&
	    (BPF_CORE_READ(rt, softirq_disable_cnt) & MM_SERVING_SOFTIRQ))
		return MM_CONTEXT_SOFTIRQ;
	return MM_CONTEXT_TASK;
}

/*
 * Whether values of the map hold fields that the kernel keeps to itself (spin lock, timer, kptr ...): bpf(2) shows
 * them as zeros and leaves them alone on update, so that the bytes a writer passed are not the bytes a reader sees.
 * `record` since 6.1 (commit aa3496accc41), two offsets before.
 */
static __always_inline bool mm_has_special_fields(struct bpf_map *map)
{
	struct bpf_map___before_record *old = (void *)map;

	if (bpf_core_field_exists(map->record))
		return BPF_CORE_READ(map, record) != NULL;
	if (bpf_core_field_exists(old->spin_lock_off) && BPF_CORE_READ(old, spin_lock_off) >= 0)
		return true;
	return bpf_core_field_exists(old->timer_off) && BPF_CORE_READ(old, timer_off) >= 0;
}

/* Bits of bpf_map.map_type that bpf(2) shows with one value per CPU. */
static __always_inline bool mm_is_per_cpu(__u32 map_type)
{
	return map_type == BPF_MAP_TYPE_PERCPU_HASH || map_type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	       map_type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

/*
 * The key of the element that an LRU node is part of: container_of(node, struct htab_elem, lru_node)->key.
 * Both sit in the element since LRU maps exist (4.10, commit 29ba732acbee).
 */
static __always_inline const void *mm_lru_node_key(const struct bpf_lru_node *node)
{
	return (const char *)node - bpf_core_field_offset(struct htab_elem, lru_node) +
	       bpf_core_field_offset(struct htab_elem, key);
}

/*
 * Whether an address lies in the preallocated elements of a hash map. A program may pass a pointer that it got from a
 * lookup as the new value (`v = lookup(k); v->n++; update(k, v)`): the update frees that very element, and by the time
 * our hook reads the value it may be another's. There are max_entries, and one spare element per possible CPU except
 * in LRU maps (prealloc_init, htab_has_extra_elems).
 * Elements that are not preallocated cannot be told; reuse then takes an interrupt on this CPU that updates the same
 * map within the same microsecond, and the sweep finds the difference.
 */
static __always_inline bool mm_in_own_elements(struct bpf_map *map, const void *address, __u32 cpus_possible)
{
	struct bpf_htab *htab = (void *)map;
	__u64 elements = (__u64)BPF_CORE_READ(htab, elems);
	__u64 spare = map->map_type == BPF_MAP_TYPE_HASH ? cpus_possible : 0;
	__u64 bytes = (__u64)BPF_CORE_READ(htab, elem_size) * ((__u64)map->max_entries + spare);

	return elements && (__u64)address - elements < bytes;
}

/*
 * A size with a bound that the verifier sees on the very register that is used next. A plain `if` will not do: clang
 * checks one register and passes another, and 6.1 then answers "R2 unbounded memory access".
 */
#define mm_bounded(size, max)                                                                                          \
	({                                                                                                             \
		__u64 size__ = (size);                                                                                 \
		asm volatile("if %0 <= %1 goto +1\n\t%0 = %1" : "+r"(size__) : "i"(max));                               \
		size__;                                                                                                \
	})

#endif
