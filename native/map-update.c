// SPDX-License-Identifier: Apache-2.0
/*
 * Many changes of a map in one call: in batches where the kind has them, else entry by entry, and once more where trying
 * again helps.
 */
#include "mapmesh.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include <bpf/bpf.h>
#include <linux/bpf.h>

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
