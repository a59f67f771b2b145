/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmapmesh.so: a thin shim on libbpf that moves many entries or records per call.
 *
 * Rules: every function returns 0, a count or an fd, or -errno; nothing calls back into JavaScript; the caller owns
 * every buffer. Keys and values are packed, sizes are those that bpf(2) uses (for per-CPU kinds the value is
 * roundup8(value_size) x possible CPUs). What libbpf or the kernel had to say about the last failure of this thread's
 * process is in mm_last_error().
 */
#ifndef MAPMESH_NATIVE_H
#define MAPMESH_NATIVE_H

#include <errno.h>
#include <stdint.h>

/* Layout version and sizes, so that a library of another build is refused: see struct mm_abi. */
struct mm_abi {
	uint32_t version;
	uint32_t record_bytes;
	uint32_t map_info_bytes;
	uint32_t dump_bytes;
	uint32_t record_bytes_max;
	uint32_t key_bytes_max;
	uint32_t value_bytes_max;
	uint32_t slots;
};
int mm_abi(struct mm_abi *out, uint32_t out_bytes);

/* Copies the text of libbpf's and the kernel's complaints since the last mm_clear_error(); returns its length. */
int mm_last_error(char *out, uint32_t out_bytes);
void mm_clear_error(void);

/* ---- maps ---- */

struct mm_map_info {
	uint32_t type;       /* enum bpf_map_type */
	uint32_t id;
	uint32_t key_bytes;
	uint32_t value_bytes; /* as bpf(2) sees it */
	uint32_t max_entries;
	uint32_t flags;
	uint32_t frozen;     /* bpf(2) may not write it any more */
	uint32_t possible_cpus;
	char name[16];
};

int mm_map_open_pin(const char *path);
int mm_map_open_id(uint32_t id);
/* The next map id after `id`; -ENOENT after the last. */
int mm_map_next_id(uint32_t id, uint32_t *next);
/* -EINVAL if the fd is not that of a map. */
int mm_map_info(int fd, struct mm_map_info *out);
/* What types a map's keys and values are declared with. */
struct mm_map_types {
	uint32_t btf_bytes;
	uint32_t key_type; /* ids in that BTF */
	uint32_t value_type;
};
/*
 * Copies the map's BTF if it fits into `btf_bytes`; out->btf_bytes says how large it is in any case. -ENOENT if the map
 * was made without any.
 */
int mm_map_types(int fd, struct mm_map_types *out, void *btf, uint32_t btf_bytes);
int mm_map_create(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
		  uint32_t flags);
/* The same with types. */
int mm_map_create_typed(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
			uint32_t flags, const void *btf, const struct mm_map_types *types);
/* A map like this one (kind, sizes, flags, name, types) with another number of entries. */
int mm_map_create_like(int fd, uint32_t max_entries);
int mm_map_freeze(int fd);
int mm_pin(int fd, const char *path);
int mm_close(int fd);

int mm_map_lookup(int fd, const void *key, void *value);
/* The same for an LPM trie, and exactly: a look-up in a trie answers with the longest prefix that matches the key. */
int mm_lpm_lookup(int fd, const void *key, void *value, uint32_t key_bytes);

/*
 * Upserts or deletes `count` packed entries. errnos[i] becomes 0 or the positive errno of entry i; the others are
 * carried out all the same. Returns the number of entries that failed, or -errno if nothing can be done at all.
 * EBUSY, EAGAIN and ENOMEM (the kernel refills its element cache in the background) are tried again a few times.
 * window_us: CLOCK_MONOTONIC before and after, in microseconds.
 * For as long as it runs, changes made by this thread count as the agent's own in every open capture.
 */
int mm_map_update_many(int fd, const void *keys, const void *values, uint32_t count, uint32_t key_bytes,
		       uint32_t value_bytes, int32_t *errnos, double window_us[2]);
/* A key that is not there counts as deleted. */
int mm_map_delete_many(int fd, const void *keys, uint32_t count, uint32_t key_bytes, int32_t *errnos,
		       double window_us[2]);

/* Where a dump is. Owned by the caller, all zero at the start, nothing to free. */
struct mm_dump {
	uint32_t phase;
	uint32_t restarts;
	uint64_t walked;
	uint8_t cursor[512];
	uint8_t first[512];
};
/*
 * The next up to `count` entries; 0 when the dump is complete. Keys that vanish meanwhile are skipped, keys may repeat.
 * -ENOSPC: one hash bucket holds more than `count` entries, call again with more room.
 * -EAGAIN: the map changes faster than it can be walked.
 */
int mm_map_dump_next(int fd, struct mm_dump *dump, void *keys, void *values, uint32_t count, uint32_t key_bytes,
		     uint32_t value_bytes, uint32_t max_entries);

/*
 * The ids of programs that were loaded with the map, up to `count_max`; returns how many. -EPERM without CAP_SYS_ADMIN: then
 * nothing is known of any.
 */
int mm_map_programs(uint32_t map_id, uint32_t *ids, uint32_t count_max);
/*
 * Likewise the processes, this one left out, that have it open. Looks at every fd of the host: may take a while.
 * hidden: of so many we may not know it; 0 with CAP_SYS_PTRACE. -EMFILE, -ENFILE or -ENOMEM if there are no means left to
 * look: then nothing is known of any, either.
 */
int mm_map_processes(uint32_t map_id, uint32_t *pids, uint32_t count_max, uint32_t *hidden);

/* ---- capture ---- */

/*
 * Loads and attaches the capture programs. tier: enum mm_tier. ring_bytes: a power of two, at least a page.
 * Returns a handle. Handles are never reused, so a call after mm_capture_close() gets -EBADF.
 */
int mm_capture_open(const char *object_path, uint32_t tier, uint32_t ring_bytes);
/* Starts capturing a map (kind = its bpf_map_type). Returns the enum mm_tier that it got, 0 if no hook covers it. */
int mm_capture_watch(int handle, uint32_t map_id, uint32_t map_type, uint32_t key_bytes);
int mm_capture_unwatch(int handle, uint32_t map_id);
/* Copies whole records; returns bytes. `out` holds at least MM_RECORD_BYTES_MAX. */
int mm_capture_drain(int handle, void *out, uint32_t out_bytes);
/*
 * Blocks until the ring holds something (returns 1), or the time is over or mm_capture_close was called (0; -EBADF if it
 * was called before). If records were drained since the last wait it first lets more gather for quiet_us.
 * One wait at a time: consumer_waiting has room for one consumer.
 */
int mm_capture_wait(int handle, int timeout_ms, uint32_t quiet_us);

struct mm_losses {
	double ring_full;
	double skipped;
	double unreadable;
};
int mm_capture_losses(int handle, uint32_t map_id, struct mm_losses *out);
/* Detaches and frees. Returns when a pending mm_capture_wait has left. */
int mm_capture_close(int handle);

/* ---- internal: among the files of the library ---- */

/* The kernel's own ENOTSUPP, not in errno.h: the map kind has no such operation. */
#define MM_ENOTSUPP 524

/* What libbpf's wrappers of bpf(2) return, as the functions here return it. */
static inline int mm_or_errno(int result)
{
	return result < 0 ? -errno : result;
}

/* Marks every open capture as "this thread applies". Calls nest in no way; end must follow begin. */
void mm_apply_begin(void);
void mm_apply_end(void);

#endif
