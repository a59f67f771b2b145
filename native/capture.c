// SPDX-License-Identifier: Apache-2.0
/* Loads the capture programs, drains their ring, waits for it. */
#define _GNU_SOURCE
#include "mapmesh.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/types.h>

#include "../bpf/capture.h"

/* ---- which programs ---- */

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

/* The kernel function of each program, and the number of its parameters that the program relies on (the result comes
 * after them). A kernel whose function looks otherwise does not have the hook. */
static const struct {
	const char *program;
	const char *function;
	int parameters;
} hooks[HOOKS] = {
	[HOOK_HTAB_UPDATE] = { "mm_htab_update", "htab_map_update_elem", 4 },
	[HOOK_HTAB_DELETE_ENTRY] = { "mm_htab_delete_entry", "htab_map_delete_elem", 2 },
	[HOOK_HTAB_DELETE] = { "mm_htab_delete", "htab_map_delete_elem", 2 },
	[HOOK_LRU_UPDATE] = { "mm_lru_update", "htab_lru_map_update_elem", 4 },
	[HOOK_LRU_DELETE_ENTRY] = { "mm_lru_delete_entry", "htab_lru_map_delete_elem", 2 },
	[HOOK_LRU_DELETE] = { "mm_lru_delete", "htab_lru_map_delete_elem", 2 },
	[HOOK_LRU_EVICT] = { "mm_lru_evict", "htab_lru_map_delete_node", 2 },
	[HOOK_PERCPU_UPDATE] = { "mm_percpu_update", "__htab_percpu_map_update_elem", 5 },
	[HOOK_IN_PLACE_UPDATE] = { "mm_in_place_update", "htab_map_update_elem_in_place", 6 },
	[HOOK_LRU_PERCPU_UPDATE] = { "mm_lru_percpu_update", "__htab_lru_percpu_map_update_elem", 5 },
	[HOOK_LOOKUP_AND_DELETE] = { "mm_lookup_and_delete", "__htab_map_lookup_and_delete_elem", 6 },
	[HOOK_LOOKUP_AND_DELETE_BATCH] = { "mm_lookup_and_delete_batch", "__htab_map_lookup_and_delete_batch", 6 },
	[HOOK_ARRAY_UPDATE] = { "mm_array_update", "array_map_update_elem", 4 },
	[HOOK_PERCPU_ARRAY_UPDATE] = { "mm_percpu_array_update", "bpf_percpu_array_update", 4 },
	[HOOK_TRIE_UPDATE] = { "mm_trie_update", "trie_update_elem", 4 },
	[HOOK_TRIE_DELETE_ENTRY] = { "mm_trie_delete_entry", "trie_delete_elem", 2 },
	[HOOK_TRIE_DELETE] = { "mm_trie_delete", "trie_delete_elem", 2 },
};

#define BIT(hook) (1u << (hook))
#define NEEDS_MAX 4

/* What a kind needs for tier fentry: one hook of each set. Lookup-and-delete is in none of them: kernels without those
 * functions may not have the operation either, and what they miss the sweep finds. */
static const struct {
	uint32_t type;
	uint32_t needs[NEEDS_MAX];
} kinds[] = {
	{ BPF_MAP_TYPE_HASH, { BIT(HOOK_HTAB_UPDATE), BIT(HOOK_HTAB_DELETE_ENTRY), BIT(HOOK_HTAB_DELETE) } },
	{ BPF_MAP_TYPE_LRU_HASH,
	  { BIT(HOOK_LRU_UPDATE), BIT(HOOK_LRU_DELETE_ENTRY), BIT(HOOK_LRU_DELETE), BIT(HOOK_LRU_EVICT) } },
	{ BPF_MAP_TYPE_PERCPU_HASH,
	  { BIT(HOOK_PERCPU_UPDATE) | BIT(HOOK_IN_PLACE_UPDATE), BIT(HOOK_HTAB_DELETE_ENTRY), BIT(HOOK_HTAB_DELETE) } },
	{ BPF_MAP_TYPE_LRU_PERCPU_HASH,
	  { BIT(HOOK_LRU_PERCPU_UPDATE), BIT(HOOK_LRU_DELETE_ENTRY), BIT(HOOK_LRU_DELETE), BIT(HOOK_LRU_EVICT) } },
	{ BPF_MAP_TYPE_ARRAY, { BIT(HOOK_ARRAY_UPDATE) } },
	{ BPF_MAP_TYPE_PERCPU_ARRAY, { BIT(HOOK_ARRAY_UPDATE), BIT(HOOK_PERCPU_ARRAY_UPDATE) } },
	{ BPF_MAP_TYPE_LPM_TRIE, { BIT(HOOK_TRIE_UPDATE), BIT(HOOK_TRIE_DELETE_ENTRY), BIT(HOOK_TRIE_DELETE) } },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static bool kind_has_hooks(uint32_t type, uint32_t have)
{
	for (size_t i = 0; i < KINDS; i++) {
		if (kinds[i].type != type)
			continue;
		for (int need = 0; need < NEEDS_MAX && kinds[i].needs[need]; need++)
			if (!(kinds[i].needs[need] & have))
				return false;
		return true;
	}
	return false;
}

static bool all_kinds_have_hooks(uint32_t have)
{
	for (size_t i = 0; i < KINDS; i++)
		if (!kind_has_hooks(kinds[i].type, have))
			return false;
	return true;
}

/* Which hooks this kernel's BTF has targets for. */
static uint32_t find_hooks(void)
{
	struct btf *btf = btf__load_vmlinux_btf();
	uint32_t have = 0;

	if (!btf)
		return 0;
	for (int hook = 0; hook < HOOKS; hook++) {
		int id = btf__find_by_name_kind(btf, hooks[hook].function, BTF_KIND_FUNC);
		const struct btf_type *function = id > 0 ? btf__type_by_id(btf, id) : NULL;
		const struct btf_type *prototype = function ? btf__type_by_id(btf, function->type) : NULL;

		if (prototype && btf_vlen(prototype) == hooks[hook].parameters)
			have |= BIT(hook);
	}
	btf__free(btf);
	return have;
}

/* ---- open captures ---- */

#define CAPTURES_MAX 16

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

static void unmap_ring(struct ring *ring)
{
	if (ring->consumer)
		munmap(ring->consumer, ring->page_bytes);
	if (ring->producer)
		munmap(ring->producer, ring->page_bytes + 2 * ring->data_bytes);
}

static void destroy(struct capture *capture)
{
	for (int hook = 0; hook < HOOKS; hook++)
		bpf_link__destroy(capture->links[hook]);
	bpf_link__destroy(capture->sys_exit_link);
	unmap_ring(&capture->ring);
	if (capture->shared)
		munmap(capture->shared, capture->shared_bytes);
	if (capture->wake_fd >= 0)
		close(capture->wake_fd);
	bpf_object__close(capture->object);
	free(capture);
}

/* The layout is that of kernel/bpf/ringbuf.c: consumer page (writable), producer page, data mapped twice in a row. */
static int map_ring(struct capture *capture, size_t ring_bytes)
{
	struct ring *ring = &capture->ring;
	void *at;

	ring->page_bytes = sysconf(_SC_PAGESIZE);
	ring->data_bytes = ring_bytes;
	at = mmap(NULL, ring->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, capture->ring_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	ring->consumer = at;
	at = mmap(NULL, ring->page_bytes + 2 * ring_bytes, PROT_READ, MAP_SHARED, capture->ring_fd, ring->page_bytes);
	if (at == MAP_FAILED)
		return -errno;
	ring->producer = at;
	ring->data = (const uint8_t *)at + ring->page_bytes;
	return 0;
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

static int configure(struct capture *capture, uint32_t ring_bytes)
{
	struct bpf_map *ring = bpf_object__find_map_by_name(capture->object, "mm_ring");
	struct bpf_map *rodata = bpf_object__find_map_by_name(capture->object, ".rodata");
	int cpus = libbpf_num_possible_cpus();
	struct mm_settings settings = { .ring_bytes = ring_bytes, .cpus_possible = cpus };

	if (cpus < 0)
		return cpus;
	if (!ring || !rodata || bpf_map__set_initial_value(rodata, &settings, sizeof(settings)))
		return -ENOEXEC;
	return bpf_map__set_max_entries(ring, ring_bytes);
}

/* Loads the hooks asked for, and what goes with the tier. */
static void select_programs(struct capture *capture, uint32_t tier, uint32_t wanted_hooks)
{
	bool has_loop = libbpf_probe_bpf_helper(BPF_PROG_TYPE_XDP, BPF_FUNC_loop, NULL) == 1;
	bool has_syscall = libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SYSCALL, NULL) == 1;
	bool wants_sys_exit = tier == MM_TIER_SYSCALL || !all_kinds_have_hooks(wanted_hooks);
	const char *sys_exit = has_loop ? "mm_sys_exit" : "mm_sys_exit_without_loop";
	struct bpf_program *program;

	bpf_object__for_each_program(program, capture->object) {
		const char *name = bpf_program__name(program);
		bool load = false;

		for (int hook = 0; hook < HOOKS; hook++)
			if (strcmp(name, hooks[hook].program) == 0)
				load = wanted_hooks & BIT(hook);
		if (strcmp(name, sys_exit) == 0 && wants_sys_exit) {
			capture->sys_exit = program;
			load = true;
		}
		if (strcmp(name, "mm_identify") == 0)
			load = has_syscall;
		bpf_program__set_autoload(program, load);
	}
}

static int attach_sys_exit(struct capture *capture)
{
	if (capture->sys_exit_link)
		return 0;
	if (!capture->sys_exit)
		return -ENOENT;
	capture->sys_exit_link = bpf_program__attach(capture->sys_exit);
	return capture->sys_exit_link ? 0 : -errno;
}

static int attach(struct capture *capture, uint32_t tier)
{
	int error = 0;

	if (tier == MM_TIER_SYSCALL)
		return attach_sys_exit(capture);
	for (int hook = 0; hook < HOOKS; hook++) {
		struct bpf_program *program =
			bpf_object__find_program_by_name(capture->object, hooks[hook].program);

		if (!program || !bpf_program__autoload(program))
			continue;
		/* A function that is in BTF may still be one that cannot be attached to: its kinds fall a tier. */
		capture->links[hook] = bpf_program__attach(program);
		if (capture->links[hook])
			capture->hooks |= BIT(hook);
		else
			error = -errno;
	}
	return capture->hooks ? 0 : error;
}

static int load_object(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes,
		       uint32_t wanted_hooks)
{
	int error;

	capture->object = bpf_object__open_file(object_path, NULL);
	if (!capture->object)
		return -errno;
	select_programs(capture, tier, wanted_hooks);
	error = configure(capture, ring_bytes);
	if (!error)
		error = bpf_object__load(capture->object);
	if (error) {
		bpf_object__close(capture->object);
		capture->object = NULL;
		capture->sys_exit = NULL;
	}
	return error;
}

/*
 * Which hooks load when tried one by one. A function in BTF can still have no address (inlined everywhere), and a
 * verifier can dislike one program: that costs the kinds that need it their tier, not all kinds.
 */
static uint32_t loadable_hooks(const char *object_path, uint32_t wanted_hooks)
{
	uint32_t loadable = 0;

	for (int hook = 0; hook < HOOKS; hook++) {
		struct bpf_object *object = wanted_hooks & BIT(hook) ? bpf_object__open_file(object_path, NULL) : NULL;
		struct bpf_program *program;

		if (!object)
			continue;
		bpf_object__for_each_program(program, object)
			bpf_program__set_autoload(program, strcmp(bpf_program__name(program), hooks[hook].program) == 0);
		if (bpf_object__load(object) == 0)
			loadable |= BIT(hook);
		bpf_object__close(object);
	}
	return loadable;
}

static int load_tier(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes)
{
	uint32_t wanted = tier == MM_TIER_FENTRY ? find_hooks() : 0;
	int error;

	if (tier == MM_TIER_FENTRY && !wanted)
		return -ENOENT;
	error = load_object(capture, object_path, tier, ring_bytes, wanted);
	/* Refused by policy: no need to try them all. */
	if (!error || error == -EPERM || tier != MM_TIER_FENTRY)
		return error;
	wanted = loadable_hooks(object_path, wanted);
	return wanted ? load_object(capture, object_path, tier, ring_bytes, wanted) : error;
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
	return error ? error : attach(capture, tier);
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

static void interrupt_wait(struct capture *capture)
{
	uint64_t one = 1;
	ssize_t written = write(capture->wake_fd, &one, sizeof(one));

	(void)written; /* fails only if the counter is at its end: then it is readable anyway */
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

/* Runs of the programs of a tier that the kernel skipped because one was running on that CPU already. */
static double count_skipped(struct capture *capture, uint32_t tier)
{
	double skipped = 0;

	for (int hook = 0; hook <= HOOKS; hook++) {
		const struct bpf_program *program = hook == HOOKS ? capture->sys_exit : NULL;
		struct bpf_prog_info info = {};
		uint32_t bytes = sizeof(info);

		if ((hook == HOOKS) != (tier == MM_TIER_SYSCALL))
			continue;
		if (hook < HOOKS && capture->links[hook])
			program = bpf_object__find_program_by_name(capture->object, hooks[hook].program);
		if (program && bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &bytes) == 0)
			skipped += info.recursion_misses;
	}
	return skipped;
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

/* ---- draining ---- */

#define RECORD_AT(ring, position) ((const uint32_t *)((ring)->data + ((position) & ((ring)->data_bytes - 1))))

static int drain(struct capture *capture, uint8_t *out, uint32_t out_bytes)
{
	struct ring *ring = &capture->ring;
	unsigned long consumer = *ring->consumer;
	unsigned long producer = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	uint32_t copied = 0;

	while (consumer < producer) {
		const uint32_t *header = RECORD_AT(ring, consumer);
		uint32_t length = __atomic_load_n(header, __ATOMIC_ACQUIRE);
		uint32_t bytes = length & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break;
		if (!(length & BPF_RINGBUF_DISCARD_BIT)) {
			if (bytes > out_bytes - copied)
				break;
			memcpy(out + copied, (const uint8_t *)header + BPF_RINGBUF_HDR_SZ, bytes);
			copied += bytes;
		}
		consumer += (bytes + BPF_RINGBUF_HDR_SZ + 7) & ~7ul;
	}
	__atomic_store_n(ring->consumer, consumer, __ATOMIC_RELEASE);
	if (copied > 0)
		__atomic_store_n(&capture->found, true, __ATOMIC_RELAXED);
	return copied;
}

int mm_capture_drain(int handle, void *out, uint32_t out_bytes)
{
	struct capture *capture = acquire(handle);
	int result;

	if (!capture)
		return -EBADF;
	result = out_bytes < MM_RECORD_BYTES_MAX ? -EINVAL : drain(capture, out, out_bytes);
	release(capture);
	return result;
}

/* ---- waiting ---- */

enum ring_state { RING_EMPTY, RING_READY, RING_BUSY };

/* Busy: the next record is being written. That takes well under a microsecond, unless its writer was preempted. */
static enum ring_state look_at(const struct ring *ring)
{
	unsigned long consumer = *(volatile unsigned long *)ring->consumer;

	if (__atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) == consumer)
		return RING_EMPTY;
	return __atomic_load_n(RECORD_AT(ring, consumer), __ATOMIC_ACQUIRE) & BPF_RINGBUF_BUSY_BIT ? RING_BUSY :
												     RING_READY;
}

#define MM_BUSY_PAUSE_US 50

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

/* Sleeps until the time is over, the wait is interrupted (returns true), or the ring has something if it is asked. */
static bool sleep_us(struct capture *capture, int64_t us, bool or_ring)
{
	struct pollfd fds[2] = {
		{ .fd = capture->wake_fd, .events = POLLIN },
		{ .fd = capture->ring_fd, .events = POLLIN },
	};
	struct timespec timeout = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
	uint64_t count;

	if (us <= 0 || ppoll(fds, or_ring ? 2 : 1, &timeout, NULL) <= 0)
		return false;
	/* When it closes, every wait is to see that: the event stays. */
	return __atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST) ||
	       read(capture->wake_fd, &count, sizeof(count)) > 0;
}

/* See capture-common.h for the other half of this protocol. */
static bool sleep_until_woken(struct capture *capture, int64_t us)
{
	uint32_t *waiting = &capture->shared->consumer_waiting;
	bool interrupted = false;

	__atomic_store_n(waiting, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (look_at(&capture->ring) == RING_EMPTY)
		interrupted = sleep_us(capture, us, true);
	__atomic_store_n(waiting, 0, __ATOMIC_SEQ_CST);
	return interrupted;
}

static int wait_for_records(struct capture *capture, int64_t timeout_us, uint32_t quiet_us)
{
	int64_t end = now_us() + timeout_us;
	bool interrupted = false;

	if (__atomic_exchange_n(&capture->found, false, __ATOMIC_RELAXED) && quiet_us)
		interrupted = sleep_us(capture, quiet_us < timeout_us ? quiet_us : timeout_us, false);
	while (!interrupted && !__atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST)) {
		enum ring_state state = look_at(&capture->ring);
		int64_t left = end - now_us();

		if (state == RING_READY)
			return 1;
		if (left <= 0)
			return 0;
		if (state == RING_BUSY)
			interrupted = sleep_us(capture, MM_BUSY_PAUSE_US, false);
		else
			interrupted = sleep_until_woken(capture, left);
	}
	return __atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST) ? -EBADF : 0;
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

int mm_capture_wake(int handle)
{
	struct capture *capture = acquire(handle);

	if (!capture)
		return -EBADF;
	interrupt_wait(capture);
	release(capture);
	return 0;
}
