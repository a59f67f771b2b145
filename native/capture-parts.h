/* SPDX-License-Identifier: Apache-2.0 */
/* An open capture, for the three files that work on it: capture-programs.c loads, capture-ring.c drains and waits,
 * capture.c keeps the handles and says which maps are watched. */
#ifndef MAPMESH_CAPTURE_PARTS_H
#define MAPMESH_CAPTURE_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/types.h>

#include "mapmesh.h"

#include "../bpf/capture.h"

enum hook {
	HOOK_HTAB_UPDATE,
	HOOK_HTAB_DELETE_ENTRY,
	HOOK_HTAB_DELETE,
	HOOK_LRU_UPDATE,
	HOOK_LRU_DELETE_ENTRY,
	HOOK_LRU_DELETE,
	HOOK_LRU_EVICT,
	HOOK_PERCPU_UPDATE,
	HOOK_IN_PLACE_UPDATE,
	HOOK_LRU_PERCPU_UPDATE,
	HOOK_LOOKUP_AND_DELETE,
	HOOK_LOOKUP_AND_DELETE_BATCH,
	HOOK_ARRAY_UPDATE,
	HOOK_PERCPU_ARRAY_UPDATE,
	HOOK_TRIE_UPDATE,
	HOOK_TRIE_DELETE_ENTRY,
	HOOK_TRIE_DELETE,
	HOOKS,
};

struct ring {
	size_t page_bytes;
	size_t data_bytes;
	unsigned long *consumer; /* a page of ours */
	unsigned long *producer; /* a page of the kernel's, and the data twice after it */
	const uint8_t *data;
};

struct watched {
	uint32_t id;
	uint32_t type;
	uint32_t key_bytes;
	uint32_t slot;
	uint32_t tier;
};

struct capture {
	int handle;
	uint32_t users; /* calls inside; protected by captures_lock */
	bool closing;
	bool found;     /* something was drained since the last wait */
	struct bpf_object *object;
	struct bpf_link *links[HOOKS];
	struct bpf_program *sys_exit;
	struct bpf_link *sys_exit_link;
	int identify_fd; /* -1 if programs of type `syscall` cannot be loaded */
	uint32_t hooks;  /* those attached */
	struct mm_shared *shared;
	size_t shared_bytes;
	int ring_fd;
	int wake_fd;
	struct ring ring;
	struct watched watched[MM_SLOTS];
	uint32_t watched_count;
};

/* Among these files only, not of the library. */
#pragma GCC visibility push(hidden)

/* ---- capture-programs.c ---- */

/* Loads the programs of a tier and readies the ring's map; nothing is attached yet. 0 or -errno. */
int load_tier(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes);
/* Attaches what the tier needs from the start. */
int attach_tier(struct capture *capture, uint32_t tier);
/* Attaches the hook of bpf(2), for a map whose kind has no others. Safe to call again. */
int attach_sys_exit(struct capture *capture);
void detach_programs(struct capture *capture);
/* Whether the attached hooks see every operation that the kind has. */
bool kind_has_hooks(uint32_t map_type, uint32_t hooks);
/* Runs of the programs of a tier that the kernel skipped because one was running on that CPU already. */
double count_skipped(struct capture *capture, uint32_t tier);

/* ---- capture-ring.c ---- */

int map_ring(struct capture *capture, size_t ring_bytes);
void unmap_ring(struct ring *ring);
/* Copies whole records; returns bytes. One caller at a time. */
int drain_ring(struct capture *capture, uint8_t *out, uint32_t out_bytes);
/* As mm_capture_wait(). */
int wait_for_records(struct capture *capture, int64_t timeout_us, uint32_t quiet_us);
/* Ends a wait under way, or the next one. */
void interrupt_wait(struct capture *capture);

#pragma GCC visibility pop

#endif
