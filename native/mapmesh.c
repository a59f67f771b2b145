// SPDX-License-Identifier: Apache-2.0
/* Errors, the ABI check, and everything on maps. Capture is in capture.c. */
#define _GNU_SOURCE
#include "mapmesh.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/types.h>

#include "../bpf/capture.h"

/* The kernel's own, not in errno.h: the map kind has no such operation. */
#define MM_ENOTSUPP 524

/* ---- errors ---- */

/* A verifier log can be megabytes; its start names the program and its end the reason. */
#define MM_ERROR_HEAD 4096
#define MM_ERROR_TAIL 12288

static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static char error_text[MM_ERROR_HEAD + MM_ERROR_TAIL + 1];
static uint32_t error_bytes;

static void error_append(const char *text, uint32_t bytes)
{
	if (bytes > MM_ERROR_TAIL) {
		text += bytes - MM_ERROR_TAIL;
		bytes = MM_ERROR_TAIL;
	}
	if (error_bytes + bytes > MM_ERROR_HEAD + MM_ERROR_TAIL) {
		uint32_t drop = error_bytes + bytes - (MM_ERROR_HEAD + MM_ERROR_TAIL);

		memmove(error_text + MM_ERROR_HEAD, error_text + MM_ERROR_HEAD + drop,
			error_bytes - MM_ERROR_HEAD - drop);
		error_bytes -= drop;
	}
	memcpy(error_text + error_bytes, text, bytes);
	error_bytes += bytes;
}

static int on_libbpf_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char *line = NULL;
	int bytes;

	if (level != LIBBPF_WARN)
		return 0;
	bytes = vasprintf(&line, format, arguments);
	if (bytes < 0)
		return 0;
	pthread_mutex_lock(&error_lock);
	error_append(line, bytes);
	pthread_mutex_unlock(&error_lock);
	free(line);
	return bytes;
}

int mm_last_error(char *out, uint32_t out_bytes)
{
	uint32_t bytes;

	pthread_mutex_lock(&error_lock);
	bytes = error_bytes < out_bytes ? error_bytes : out_bytes;
	memcpy(out, error_text, bytes);
	pthread_mutex_unlock(&error_lock);
	return bytes;
}

void mm_clear_error(void)
{
	pthread_mutex_lock(&error_lock);
	error_bytes = 0;
	pthread_mutex_unlock(&error_lock);
}

__attribute__((constructor)) static void on_load(void)
{
	libbpf_set_print(on_libbpf_print);
}

_Static_assert(sizeof(struct mm_record) == 40, "src/core/ring-record.ts decodes this layout");
_Static_assert(sizeof(struct mm_map_info) == 48, "src/kernel/kernel-map.ts decodes this layout");

int mm_abi(struct mm_abi *out, uint32_t out_bytes)
{
	if (out_bytes != sizeof(*out))
		return -EINVAL;
	*out = (struct mm_abi){
		.version = MM_ABI_VERSION,
		.record_bytes = sizeof(struct mm_record),
		.map_info_bytes = sizeof(struct mm_map_info),
		.dump_bytes = sizeof(struct mm_dump),
		.record_bytes_max = MM_RECORD_BYTES_MAX,
		.key_bytes_max = MM_KEY_BYTES_MAX,
		.value_bytes_max = MM_VALUE_BYTES_MAX,
		.slots = MM_SLOTS,
	};
	return 0;
}

/* ---- opening ---- */

static int or_errno(int result)
{
	return result < 0 ? -errno : result;
}

int mm_map_open_pin(const char *path)
{
	return or_errno(bpf_obj_get(path));
}

int mm_map_open_id(uint32_t id)
{
	return or_errno(bpf_map_get_fd_by_id(id));
}

int mm_map_next_id(uint32_t id, uint32_t *next)
{
	return or_errno(bpf_map_get_next_id(id, next));
}

/* bpf_map_info does not tell; fdinfo does ("frozen:\t1"), and also whether the fd is a map at all. */
static int read_fdinfo(int fd, bool *is_map, bool *frozen)
{
	char path[64], line[128];
	FILE *file;

	*is_map = *frozen = false;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, "map_type:", 9) == 0)
			*is_map = true;
		else if (strncmp(line, "frozen:", 7) == 0)
			*frozen = strchr(line, '1') != NULL;
	}
	fclose(file);
	return 0;
}

static bool is_per_cpu(uint32_t type)
{
	return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

int mm_map_info(int fd, struct mm_map_info *out)
{
	struct bpf_map_info info = {};
	uint32_t bytes = sizeof(info);
	bool is_map, frozen;
	int cpus, error = read_fdinfo(fd, &is_map, &frozen);

	if (error)
		return error;
	if (!is_map)
		return -EINVAL;
	if (bpf_obj_get_info_by_fd(fd, &info, &bytes))
		return -errno;
	cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return cpus;
	*out = (struct mm_map_info){
		.type = info.type,
		.id = info.id,
		.key_bytes = info.key_size,
		.value_bytes = is_per_cpu(info.type) ? ((info.value_size + 7) & ~7u) * cpus : info.value_size,
		.max_entries = info.max_entries,
		.flags = info.map_flags,
		.frozen = frozen,
		.possible_cpus = cpus,
	};
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

int mm_map_create(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
		  uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);

	return or_errno(bpf_map_create(type, name, key_bytes, value_bytes, max_entries, &options));
}

int mm_map_types(int fd, struct mm_map_types *out, void *btf, uint32_t btf_bytes)
{
	struct bpf_map_info map = {};
	struct bpf_btf_info info = { .btf = (__u64)(uintptr_t)btf, .btf_size = btf_bytes };
	uint32_t map_bytes = sizeof(map), info_bytes = sizeof(info);
	int btf_fd, error;

	if (bpf_obj_get_info_by_fd(fd, &map, &map_bytes))
		return -errno;
	if (map.btf_id == 0 || map.btf_key_type_id == 0)
		return -ENOENT;
	btf_fd = bpf_btf_get_fd_by_id(map.btf_id);
	if (btf_fd < 0)
		return -errno;
	error = bpf_obj_get_info_by_fd(btf_fd, &info, &info_bytes) ? -errno : 0;
	close(btf_fd);
	/* The kernel copies as much as fits and says so. */
	if (error && error != -ENOSPC)
		return error;
	*out = (struct mm_map_types){ info.btf_size, map.btf_key_type_id, map.btf_value_type_id };
	return 0;
}

int mm_map_create_typed(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
			uint32_t flags, const void *btf, const struct mm_map_types *types)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags, .btf_key_type_id = types->key_type,
		    .btf_value_type_id = types->value_type);
	int fd, btf_fd = bpf_btf_load(btf, types->btf_bytes, NULL);

	if (btf_fd < 0)
		return -errno;
	options.btf_fd = btf_fd;
	fd = or_errno(bpf_map_create(type, name, key_bytes, value_bytes, max_entries, &options));
	close(btf_fd);
	return fd;
}

int mm_map_create_like(int fd, uint32_t max_entries)
{
	/* These belong to one fd, or need to be told what the kernel does not say again. */
	const uint32_t not_copied = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_NUMA_NODE;
	struct bpf_map_info info = {};
	uint32_t bytes = sizeof(info);
	LIBBPF_OPTS(bpf_map_create_opts, options);
	int made;

	if (bpf_obj_get_info_by_fd(fd, &info, &bytes))
		return -errno;
	options.map_flags = info.map_flags & ~not_copied;
	options.map_extra = info.map_extra;
	if (info.btf_id && info.btf_value_type_id) {
		options.btf_fd = bpf_btf_get_fd_by_id(info.btf_id);
		if ((int)options.btf_fd < 0)
			return -errno;
		options.btf_key_type_id = info.btf_key_type_id;
		options.btf_value_type_id = info.btf_value_type_id;
	}
	made = or_errno(bpf_map_create(info.type, info.name, info.key_size, info.value_size, max_entries, &options));
	if (options.btf_fd)
		close(options.btf_fd);
	return made;
}

int mm_map_freeze(int fd)
{
	return or_errno(bpf_map_freeze(fd));
}

int mm_pin(int fd, const char *path)
{
	return or_errno(bpf_obj_pin(fd, path));
}

int mm_close(int fd)
{
	return or_errno(close(fd));
}

/* ---- reading and writing ---- */

int mm_map_lookup(int fd, const void *key, void *value)
{
	return or_errno(bpf_map_lookup_elem(fd, key, value));
}

int mm_lpm_lookup(int fd, const void *key, void *value, uint32_t key_bytes)
{
	uint8_t first[MM_KEY_BYTES_MAX], next[MM_KEY_BYTES_MAX];

	/* After a key that is not there, the walk starts over: the first key comes "next" (trie_get_next_key). */
	if (bpf_map_get_next_key(fd, NULL, first))
		return or_errno(-1);
	if (!bpf_map_get_next_key(fd, key, next)) {
		if (!memcmp(first, next, key_bytes))
			return -ENOENT;
	} else if (errno != ENOENT) {
		return or_errno(-1);
	}
	return or_errno(bpf_map_lookup_elem(fd, key, value));
}

/* Tries again for one entry; contention is over within microseconds, a cache refill within a tick or so. */
#define MM_RETRIES_MAX 6
#define MM_RETRY_NS 20000
/* And for one call, so that a map without memory does not hold the event loop: 20 ms at the very most. */
#define MM_RETRIES_PER_CALL 32

struct write {
	int fd;
	bool is_delete;
	const uint8_t *keys;
	const uint8_t *values;
	uint32_t key_bytes;
	uint32_t value_bytes;
	uint32_t retries_left;
};

static bool worth_retrying(struct write *write, int error, uint32_t attempt)
{
	struct timespec pause = { .tv_nsec = MM_RETRY_NS << attempt };

	if (attempt >= MM_RETRIES_MAX || write->retries_left == 0 ||
	    (error != EBUSY && error != EAGAIN && error != ENOMEM))
		return false;
	write->retries_left--;
	if (attempt > 0)
		nanosleep(&pause, NULL);
	return true;
}

/* One entry. Returns 0 or a positive errno. */
static int write_one(struct write *write, uint32_t index)
{
	const uint8_t *key = write->keys + (size_t)index * write->key_bytes;
	const uint8_t *value = write->values + (size_t)index * write->value_bytes;

	for (uint32_t attempt = 0;; attempt++) {
		int error;
		int result = write->is_delete ? bpf_map_delete_elem(write->fd, key) :
						bpf_map_update_elem(write->fd, key, value, BPF_ANY);

		if (result == 0 || (write->is_delete && errno == ENOENT))
			return 0;
		error = errno;
		if (worth_retrying(write, error, attempt))
			continue;
		/* A full LPM trie says ENOSPC where other kinds say E2BIG. */
		return error == ENOSPC ? E2BIG : error;
	}
}

/*
 * One batch of entries [from, to). Returns how many were done before the first that failed, whose errno goes to
 * *error; *error = 0 if all were. *error = ENOTSUPP if the kind has no batches.
 */
static uint32_t write_batch(const struct write *write, uint32_t from, uint32_t to, int *error)
{
	const uint8_t *keys = write->keys + (size_t)from * write->key_bytes;
	const uint8_t *values = write->values + (size_t)from * write->value_bytes;
	uint32_t count = to - from;
	int result = write->is_delete ? bpf_map_delete_batch(write->fd, keys, &count, NULL) :
					bpf_map_update_batch(write->fd, keys, values, &count, NULL);

	if (result == 0) {
		*error = 0;
		return to - from;
	}
	*error = errno;
	/* Refused at once: the count is still ours (or, in kernels from 6.8, may be). Entry by entry tells the truth. */
	if (count >= to - from)
		*error = MM_ENOTSUPP;
	return *error == MM_ENOTSUPP ? 0 : count;
}

/* Returns the number of entries that failed. */
static int write_all(struct write *write, uint32_t count, int32_t *errnos)
{
	uint32_t at = 0;
	bool batches = count > 1;
	int failed = 0;

	memset(errnos, 0, count * sizeof(*errnos));
	while (at < count) {
		int error = 0;

		if (batches)
			at += write_batch(write, at, count, &error);
		if (batches && error == 0)
			break;
		batches = batches && error != MM_ENOTSUPP;
		/* The entry that stopped the batch, or any entry of a kind without batches. */
		errnos[at] = write_one(write, at);
		failed += errnos[at] != 0;
		at++;
	}
	return failed;
}

static double monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int write_as_agent(struct write *write, uint32_t count, int32_t *errnos, double window_us[2])
{
	int failed;

	mm_apply_begin();
	window_us[0] = monotonic_us();
	failed = write_all(write, count, errnos);
	window_us[1] = monotonic_us();
	mm_apply_end();
	return failed;
}

int mm_map_update_many(int fd, const void *keys, const void *values, uint32_t count, uint32_t key_bytes,
		       uint32_t value_bytes, int32_t *errnos, double window_us[2])
{
	struct write write = { fd, false, keys, values, key_bytes, value_bytes, MM_RETRIES_PER_CALL };

	return write_as_agent(&write, count, errnos, window_us);
}

int mm_map_delete_many(int fd, const void *keys, uint32_t count, uint32_t key_bytes, int32_t *errnos,
		       double window_us[2])
{
	struct write write = { fd, true, keys, keys, key_bytes, 0, MM_RETRIES_PER_CALL };

	return write_as_agent(&write, count, errnos, window_us);
}

/* ---- dump ---- */

enum dump_phase { DUMP_START, DUMP_BATCHES, DUMP_KEYS, DUMP_DONE };

/* Times a walk may be thrown back to the first key because the one it stood on vanished. */
#define MM_DUMP_RESTARTS_MAX 16
/* Tries of a batch that the kernel broke off because keys vanished under it (EINTR from generic_map_lookup_batch). */
#define MM_DUMP_RETRIES_MAX 16

/* -ENOTSUPP if the kind has no lookup batches. */
static int dump_batch(int fd, struct mm_dump *dump, void *keys, void *values, uint32_t count)
{
	uint8_t next[sizeof(dump->cursor)];

	for (uint32_t attempt = 0; attempt < MM_DUMP_RETRIES_MAX; attempt++) {
		uint32_t got = count;
		void *from = dump->phase == DUMP_BATCHES ? dump->cursor : NULL;
		int error = bpf_map_lookup_batch(fd, from, next, keys, values, &got, NULL) ? errno : 0;

		if (error == ENOENT) {
			dump->phase = DUMP_DONE;
			return got;
		}
		if (error == 0 || (error == EINTR && got > 0 && got <= count)) {
			memcpy(dump->cursor, next, sizeof(next));
			dump->phase = DUMP_BATCHES;
			return got;
		}
		if (error != EINTR && error != EAGAIN && error != EBUSY)
			return -(error == EINVAL && dump->phase == DUMP_START ? MM_ENOTSUPP : error);
	}
	return -EAGAIN;
}

/*
 * Key by key. When the key it stands on was deleted, the kernel starts over at the first key: that is noticed when the
 * first key comes again, or when more keys were seen than the map can hold a few times over.
 */
static int dump_keys(int fd, struct mm_dump *dump, uint8_t *keys, uint8_t *values, uint32_t count, uint32_t key_bytes,
		     uint32_t value_bytes, uint32_t max_entries)
{
	uint32_t got = 0;

	while (got < count) {
		uint8_t *key = keys + (size_t)got * key_bytes;
		bool started = dump->walked > 0;

		if (bpf_map_get_next_key(fd, started ? dump->cursor : NULL, key)) {
			if (errno != ENOENT)
				return -errno;
			dump->phase = DUMP_DONE;
			break;
		}
		if (!started)
			memcpy(dump->first, key, key_bytes);
		else if (memcmp(dump->first, key, key_bytes) == 0)
			dump->restarts++;
		dump->walked++;
		if (dump->restarts > MM_DUMP_RESTARTS_MAX || dump->walked > 4ull * max_entries + 4096)
			return -EAGAIN;
		memcpy(dump->cursor, key, key_bytes);
		if (bpf_map_lookup_elem(fd, key, values + (size_t)got * value_bytes) == 0)
			got++;
		else if (errno != ENOENT)
			return -errno;
	}
	return got;
}

int mm_map_dump_next(int fd, struct mm_dump *dump, void *keys, void *values, uint32_t count, uint32_t key_bytes,
		     uint32_t value_bytes, uint32_t max_entries)
{
	if (count == 0 || key_bytes > sizeof(dump->cursor))
		return -EINVAL;
	while (dump->phase == DUMP_START || dump->phase == DUMP_BATCHES) {
		int got = dump_batch(fd, dump, keys, values, count);

		/* 0 means the end to the caller, but an empty batch need not be the last. */
		if (got > 0 || (got < 0 && got != -MM_ENOTSUPP))
			return got;
		if (got == -MM_ENOTSUPP)
			dump->phase = DUMP_KEYS;
	}
	if (dump->phase == DUMP_KEYS)
		return dump_keys(fd, dump, keys, values, count, key_bytes, value_bytes, max_entries);
	return 0;
}
