/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Tier `syscall`: bpf(2) as it returns, for machines where fentry programs may not be loaded. It sees what user space
 * writes; what BPF programs write is for the sweep.
 *
 * It reads the arguments after the fact, from the memory of the caller, as the kernel did before. A caller that
 * changes them meanwhile from another thread, or closes the fd, is counted as unreadable where that can be noticed.
 *
 * Not seen: x32 calls, and bpf(2) made inside the kernel (light skeletons, bpf_sys_bpf). io_uring has no bpf(2).
 * 32-bit tasks on x86 are seen: union bpf_attr has the same layout for them.
 */
#ifndef MAPMESH_CAPTURE_SYSCALL_H
#define MAPMESH_CAPTURE_SYSCALL_H

#include "capture-common.h"

/* asm/unistd_{64,32}.h, asm-generic/unistd.h */
#define MM_NR_BPF_X86_64 321
#define MM_NR_BPF_X86_32 357
#define MM_NR_BPF_ARM64 280
/* asm/thread_info.h on x86: the current system call is a 32-bit one. */
#define MM_TS_COMPAT 0x0002

#define MM_ENOENT 2
#define MM_EFAULT 14

/* Function bpf_map_release: what tells a map's file from others. bpf_map_fops itself is data, which /proc/kallsyms
 * lists only with CONFIG_KALLSYMS_ALL. */
extern const void bpf_map_release __ksym __weak;

/* The parts of union bpf_attr (linux/bpf.h, stable) that the commands below use. */
struct mm_attr {
	union {
		struct {
			__u32 map_fd;
			__u32 pad;
			__u64 key;
			__u64 value;
		} elem;
		struct {
			__u64 in_batch;
			__u64 out_batch;
			__u64 keys;
			__u64 values;
			__u32 count;
			__u32 map_fd;
		} batch;
	};
};

struct mm_call {
	__u32 cmd;
	__u32 size;
	const void *attr;
};

/*
 * The arguments of the call that is returning. @returns false if it is not bpf(2): that is all that other system calls
 * cost.
 */
static __always_inline bool mm_bpf_call(struct pt_regs *regs, struct mm_call *call)
{
#if defined(__TARGET_ARCH_arm64)
	if (regs->syscallno != MM_NR_BPF_ARM64)
		return false;
	call->cmd = regs->orig_x0;
	call->attr = (const void *)regs->regs[1];
	call->size = regs->regs[2];
#else
	unsigned long number = regs->orig_ax;

	if (number != MM_NR_BPF_X86_64 && number != MM_NR_BPF_X86_32)
		return false;
	bool compat = bpf_get_current_task_btf()->thread_info.status & MM_TS_COMPAT;

	if (compat != (number == MM_NR_BPF_X86_32))
		return false;
	call->cmd = compat ? regs->bx : regs->di;
	call->attr = (const void *)(compat ? (__u32)regs->cx : regs->si);
	call->size = regs->dx;
#endif
	return true;
}

static __always_inline bool mm_is_batch(__u32 cmd)
{
	return cmd == BPF_MAP_UPDATE_BATCH || cmd == BPF_MAP_DELETE_BATCH || cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH;
}

/*
 * The map behind an fd of the current task, or NULL if it is (now) something else. Loads through typed pointers cost
 * far less than bpf_probe_read_kernel; from the array of files on, pointers have no type any more.
 */
static __always_inline struct bpf_map *mm_map_of_fd(__u32 fd)
{
	struct fdtable *table = bpf_get_current_task_btf()->files->fdt;
	struct file **files = table->fd;
	struct file *file = NULL;

	if (fd >= table->max_fds)
		return NULL;
	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd) || !file)
		return NULL;
	if (BPF_CORE_READ(file, f_op, release) != &bpf_map_release)
		return NULL;
	return BPF_CORE_READ(file, private_data);
}

/* One element of a batch: what bpf_loop hands from call to call. */
struct mm_batch {
	struct mm_change change;
	__u32 value_step; /* bytes from one value to the next */
};

static long mm_batch_element(__u32 index, void *context)
{
	struct mm_batch *batch = context;
	struct mm_change change = batch->change;

	/*
	 * 6.1 takes two ways into this callback that differ only in a constant on the caller's stack for one, looks at
	 * one and removes the branches that it does not take: updates then came without their value. So op becomes
	 * something that the verifier cannot know. (Callbacks were reworked in 6.7, commit ab5cfac139ab.)
	 */
	change.op |= READ_ONCE(mm_shared.zero);
	change.key += (__u64)index * change.key_bytes;
	change.value += (__u64)index * batch->value_step;
	change.from_user = true;
	mm_emit(&change, MM_PROGRAM_SYS_EXIT);
	return 0;
}

/*
 * What a batch did, from its result and the count that the kernel wrote back.
 * - Update and delete do their elements in order and stop at the first that fails; the count says how many are done.
 *   A call refused at once (EINVAL, EPERM ...) may leave the caller's own count in place. So after an error the keys
 *   counted are dirty: reading them back is right in either case.
 * - Lookup-and-delete writes out the keys it unlinked, and says ENOENT when it came to the end of the map. After
 *   EFAULT elements are gone and nobody was told which. With other errors nothing was unlinked.
 */
static __always_inline void mm_on_batch(struct mm_batch *batch, __u32 cmd, __u32 count, long ret, bool has_loop)
{
	struct mm_change *change = &batch->change;

	if (cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH) {
		if (ret == -MM_EFAULT)
			change->op = MM_OP_DIRTY_MAP;
		else if (ret < 0 && ret != -MM_ENOENT)
			return;
	} else if (ret < 0) {
		change->op = MM_OP_DIRTY_KEY;
	}
	if (count == 0 && change->op != MM_OP_DIRTY_MAP)
		return;
	/* More than would fit into half of the ring is cheaper to sweep. */
	if (!has_loop || change->op == MM_OP_DIRTY_MAP ||
	    (__u64)count * (sizeof(struct mm_record) + change->key_bytes + change->value_bytes) >
		    mm_settings.ring_bytes / 2)
		mm_emit_dirty_map(change, MM_PROGRAM_SYS_EXIT);
	else
		bpf_loop(count, mm_batch_element, batch, 0);
}

static __always_inline bool mm_is_single(__u32 cmd)
{
	return cmd == BPF_MAP_UPDATE_ELEM || cmd == BPF_MAP_DELETE_ELEM || cmd == BPF_MAP_LOOKUP_AND_DELETE_ELEM;
}

/* A call that changes maps, and did so unless it is a batch, which may have failed half way. */
static __always_inline int mm_on_write(struct mm_call call, long ret, bool has_loop)
{
	struct mm_batch batch = {};
	struct mm_change *change = &batch.change;
	struct mm_attr attr = {};
	bool is_batch = mm_is_batch(call.cmd);
	struct bpf_map *map;
	int slot;

	if (mm_is_own_apply(MM_CONTEXT_TASK, &change->flags))
		return 0;

	/* A call that succeeded with arguments that cannot be read now: not even the map is known. */
	if (bpf_probe_read_user(&attr, mm_bounded(call.size, sizeof(attr)), call.attr)) {
		if (ret >= 0)
			__sync_fetch_and_add(&mm_shared.unreadable_any, 1);
		return 0;
	}
	map = mm_map_of_fd(is_batch ? attr.batch.map_fd : attr.elem.map_fd);
	if (!map) {
		if (ret >= 0)
			__sync_fetch_and_add(&mm_shared.unreadable_any, 1);
		return 0;
	}
	change->map_id = BPF_CORE_READ(map, id);
	slot = mm_find_slot(change->map_id, MM_TIER_SYSCALL);
	if (slot < 0)
		return 0;
	change->slot = slot;
	change->map = map;
	change->key_bytes = BPF_CORE_READ(map, key_size);
	change->value_bytes = BPF_CORE_READ(map, value_size);
	change->from_user = true;
	batch.value_step = change->value_bytes;

	if (call.cmd != BPF_MAP_UPDATE_ELEM && call.cmd != BPF_MAP_UPDATE_BATCH)
		change->op = MM_OP_DELETE;
	else if (mm_is_per_cpu(BPF_CORE_READ(map, map_type)) || mm_has_special_fields(map))
		change->op = MM_OP_DIRTY_KEY;
	else
		change->op = MM_OP_UPDATE;

	change->key = (const void *)(is_batch ? attr.batch.keys : attr.elem.key);
	change->value = (const void *)(is_batch ? attr.batch.values : attr.elem.value);
	if (is_batch)
		mm_on_batch(&batch, call.cmd, attr.batch.count, ret, has_loop);
	else
		mm_emit(change, MM_PROGRAM_SYS_EXIT);
	return 0;
}

static __always_inline int mm_on_sys_exit(__u64 *context, bool has_loop)
{
	struct mm_call call;
	long ret = context[1];

	if (!mm_bpf_call((struct pt_regs *)context[0], &call))
		return 0;
	if (!mm_is_batch(call.cmd) && (ret < 0 || !mm_is_single(call.cmd)))
		return 0;
	return mm_on_write(call, ret, has_loop);
}

/* Two programs, of which one is loaded: bpf_loop exists from 5.17 on. Without it a batch makes its map dirty. */
SEC("tp_btf/sys_exit")
int mm_sys_exit(__u64 *context)
{
	return mm_on_sys_exit(context, true);
}

SEC("tp_btf/sys_exit")
int mm_sys_exit_without_loop(__u64 *context)
{
	return mm_on_sys_exit(context, false);
}

#endif
