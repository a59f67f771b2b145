// SPDX-License-Identifier: Apache-2.0
/* Open captures by their handles, the maps that they watch, and marking our own writes. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "capture-parts.h"

#define CAPTURES_MAX 16

static pthread_mutex_t captures_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t captures_left = PTHREAD_COND_INITIALIZER;
static struct capture *captures[CAPTURES_MAX];
static uint32_t generation;

static struct capture *acquire(int handle)
{
	struct capture *capture;

	pthread_mutex_lock(&captures_lock);
	capture = handle < 0 ? NULL : captures[handle % CAPTURES_MAX];
	if (capture && capture->handle == handle)
		capture->users++;
	else
		capture = NULL;
	pthread_mutex_unlock(&captures_lock);
	return capture;
}

static void release(struct capture *capture)
{
	pthread_mutex_lock(&captures_lock);
	if (--capture->users == 0)
		pthread_cond_broadcast(&captures_left);
	pthread_mutex_unlock(&captures_lock);
}

static int publish(struct capture *capture)
{
	int result = -EMFILE;

	pthread_mutex_lock(&captures_lock);
	for (int index = 0; index < CAPTURES_MAX; index++) {
		if (captures[index])
			continue;
		/* Positive, and not the same again before 2^27 opens. */
		generation = (generation + 1) & (INT32_MAX / CAPTURES_MAX);
		result = capture->handle = generation * CAPTURES_MAX + index;
		captures[index] = capture;
		break;
	}
	pthread_mutex_unlock(&captures_lock);
	return result;
}

/* ---- our own writes ---- */

/* One thread applies at a time: the marker in the shared page has room for one. */
static pthread_mutex_t apply_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread uint32_t kernel_tid;

/* In the initial pid namespace, whose inode number is fixed (PROC_PID_INIT_INO), gettid(2) tells the kernel's id. */
#define MM_PID_NS_INIT_INODE 0xEFFFFFFCu

static uint32_t tid_in_kernel(struct capture *capture)
{
	struct stat ns;

	if (kernel_tid)
		return kernel_tid;
	if (capture->identify_fd >= 0) {
		LIBBPF_OPTS(bpf_test_run_opts, options);

		if (bpf_prog_test_run_opts(capture->identify_fd, &options) == 0)
			return kernel_tid = (uint32_t)capture->shared->identity;
	}
	if (stat("/proc/self/ns/pid", &ns) == 0 && ns.st_ino == MM_PID_NS_INIT_INODE)
		return kernel_tid = (uint32_t)syscall(SYS_gettid);
	return MM_APPLY_TID_UNKNOWN;
}

static void mark_apply(bool begin)
{
	pthread_mutex_lock(&captures_lock);
	for (int index = 0; index < CAPTURES_MAX; index++)
		if (captures[index])
			__atomic_store_n(&captures[index]->shared->apply_tid,
					 begin ? tid_in_kernel(captures[index]) : 0, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&captures_lock);
}

void mm_apply_begin(void)
{
	pthread_mutex_lock(&apply_lock);
	mark_apply(true);
}

void mm_apply_end(void)
{
	mark_apply(false);
	pthread_mutex_unlock(&apply_lock);
}

/* ---- opening and closing ---- */

static void destroy(struct capture *capture)
{
	detach_programs(capture);
	unmap_ring(&capture->ring);
	if (capture->shared)
		munmap(capture->shared, capture->shared_bytes);
	if (capture->wake_fd >= 0)
		close(capture->wake_fd);
	bpf_object__close(capture->object);
	free(capture);
}

static int map_shared(struct capture *capture)
{
	struct bpf_map *bss = bpf_object__find_map_by_name(capture->object, ".bss");
	size_t page = sysconf(_SC_PAGESIZE);
	void *at;

	if (!bss || bpf_map__value_size(bss) < sizeof(struct mm_shared))
		return -ENOEXEC;
	capture->shared_bytes = (sizeof(struct mm_shared) + page - 1) / page * page;
	at = mmap(NULL, capture->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(bss), 0);
	if (at == MAP_FAILED)
		return -errno;
	capture->shared = at;
	return 0;
}

static int open_capture(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes)
{
	struct bpf_program *identify;
	int error = load_tier(capture, object_path, tier, ring_bytes);

	if (error)
		return error;
	identify = bpf_object__find_program_by_name(capture->object, "mm_identify");
	if (identify && bpf_program__autoload(identify))
		capture->identify_fd = bpf_program__fd(identify);
	capture->ring_fd = bpf_object__find_map_fd_by_name(capture->object, "mm_ring");
	capture->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (capture->wake_fd < 0)
		return -errno;
	error = map_shared(capture);
	if (!error)
		error = map_ring(capture, ring_bytes);
	return error ? error : attach_tier(capture, tier);
}

int mm_capture_open(const char *object_path, uint32_t tier, uint32_t ring_bytes)
{
	struct capture *capture;
	int result;

	if (tier != MM_TIER_FENTRY && tier != MM_TIER_SYSCALL)
		return -EINVAL;
	if (ring_bytes < sysconf(_SC_PAGESIZE) || (ring_bytes & (ring_bytes - 1)))
		return -EINVAL;
	capture = calloc(1, sizeof(*capture));
	if (!capture)
		return -ENOMEM;
	capture->wake_fd = capture->identify_fd = capture->ring_fd = -1;
	result = open_capture(capture, object_path, tier, ring_bytes);
	if (!result)
		result = publish(capture);
	if (result < 0)
		destroy(capture);
	return result;
}

int mm_capture_close(int handle)
{
	struct capture *capture = NULL;

	pthread_mutex_lock(&captures_lock);
	if (handle >= 0 && captures[handle % CAPTURES_MAX] && captures[handle % CAPTURES_MAX]->handle == handle) {
		capture = captures[handle % CAPTURES_MAX];
		captures[handle % CAPTURES_MAX] = NULL;
		__atomic_store_n(&capture->closing, true, __ATOMIC_SEQ_CST);
		interrupt_wait(capture);
		while (capture->users > 0)
			pthread_cond_wait(&captures_left, &captures_lock);
	}
	pthread_mutex_unlock(&captures_lock);
	if (!capture)
		return -EBADF;
	destroy(capture);
	return 0;
}

/* ---- watching ---- */

static uint32_t first_probe(uint32_t map_id)
{
	return (map_id * 2654435761u) >> (32 - MM_WATCH_TABLE_BITS);
}

static struct watched *find_watched(struct capture *capture, uint32_t map_id)
{
	for (uint32_t i = 0; i < capture->watched_count; i++)
		if (capture->watched[i].id == map_id)
			return &capture->watched[i];
	return NULL;
}

static int find_free_slot(const struct mm_shared *shared, uint32_t map_id)
{
	for (uint32_t probe = 0; probe < MM_WATCH_PROBES; probe++) {
		uint32_t slot = (first_probe(map_id) + probe) % MM_WATCH_TABLE;

		if (shared->watch_id[slot] == 0 || shared->watch_id[slot] == MM_WATCH_REMOVED)
			return slot;
	}
	return -ENOSPC;
}

static int watch(struct capture *capture, uint32_t map_id, uint32_t map_type, uint32_t key_bytes)
{
	struct mm_shared *shared = capture->shared;
	struct watched *watched = find_watched(capture, map_id);
	uint32_t tier = MM_TIER_FENTRY;
	int slot;

	if (watched)
		return watched->tier;
	if (capture->watched_count == MM_SLOTS || key_bytes > MM_KEY_BYTES_MAX)
		return -ENOSPC;
	if (!kind_has_hooks(map_type, capture->hooks)) {
		if (attach_sys_exit(capture))
			return 0;
		tier = MM_TIER_SYSCALL;
	}
	slot = find_free_slot(shared, map_id);
	if (slot < 0)
		return slot;
	capture->watched[capture->watched_count++] = (struct watched){ map_id, map_type, key_bytes, slot, tier };
	memset(&shared->counters[slot], 0, sizeof(shared->counters[slot]));
	shared->watch_tier[slot] = tier;
	__atomic_store_n(&shared->watch_id[slot], map_id, __ATOMIC_SEQ_CST);
	return tier;
}

int mm_capture_watch(int handle, uint32_t map_id, uint32_t map_type, uint32_t key_bytes)
{
	struct capture *capture = acquire(handle);
	int result;

	if (!capture)
		return -EBADF;
	result = watch(capture, map_id, map_type, key_bytes);
	release(capture);
	return result;
}

int mm_capture_unwatch(int handle, uint32_t map_id)
{
	struct capture *capture = acquire(handle);
	struct watched *watched;

	if (!capture)
		return -EBADF;
	watched = find_watched(capture, map_id);
	if (watched) {
		__atomic_store_n(&capture->shared->watch_id[watched->slot], MM_WATCH_REMOVED, __ATOMIC_SEQ_CST);
		*watched = capture->watched[--capture->watched_count];
	}
	release(capture);
	return watched ? 0 : -ENOENT;
}

int mm_capture_losses(int handle, uint32_t map_id, struct mm_losses *out)
{
	struct capture *capture = acquire(handle);
	struct watched *watched;

	if (!capture)
		return -EBADF;
	watched = find_watched(capture, map_id);
	if (watched) {
		struct mm_counters *counters = &capture->shared->counters[watched->slot];

		out->ring_full = __atomic_load_n(&counters->ring_full, __ATOMIC_RELAXED);
		out->unreadable = __atomic_load_n(&counters->unreadable, __ATOMIC_RELAXED);
		out->unreadable += watched->tier == MM_TIER_SYSCALL ?
					   __atomic_load_n(&capture->shared->unreadable_any, __ATOMIC_RELAXED) :
					   0;
		out->skipped = count_skipped(capture, watched->tier);
	}
	release(capture);
	return watched ? 0 : -ENOENT;
}

/* ---- draining and waiting ---- */

int mm_capture_drain(int handle, void *out, uint32_t out_bytes)
{
	struct capture *capture = acquire(handle);
	int result;

	if (!capture)
		return -EBADF;
	result = out_bytes < MM_RECORD_BYTES_MAX ? -EINVAL : drain_ring(capture, out, out_bytes);
	release(capture);
	return result;
}

int mm_capture_wait(int handle, int timeout_ms, uint32_t quiet_us)
{
	struct capture *capture = acquire(handle);
	int result;

	if (!capture)
		return -EBADF;
	result = wait_for_records(capture, timeout_ms * 1000ll, quiet_us);
	release(capture);
	return result;
}
