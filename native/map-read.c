// SPDX-License-Identifier: Apache-2.0
/* Reading a map: one entry, or all of them, a part at a time, while others change it. */
#include "mapmesh.h"

#include <errno.h>
#include <string.h>

#include <bpf/bpf.h>

#include "../bpf/capture.h"

/* ---- one entry ---- */

int mm_map_lookup(int fd, const void *key, void *value)
{
	return mm_or_errno(bpf_map_lookup_elem(fd, key, value));
}

int mm_lpm_lookup(int fd, const void *key, void *value, uint32_t key_bytes)
{
	uint8_t first[MM_KEY_BYTES_MAX], next[MM_KEY_BYTES_MAX];

	/* After a key that is not there, the walk starts over: the first key comes "next" (trie_get_next_key). */
	if (bpf_map_get_next_key(fd, NULL, first))
		return mm_or_errno(-1);
	if (!bpf_map_get_next_key(fd, key, next)) {
		if (!memcmp(first, next, key_bytes))
			return -ENOENT;
	} else if (errno != ENOENT) {
		return mm_or_errno(-1);
	}
	return mm_or_errno(bpf_map_lookup_elem(fd, key, value));
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
