// SPDX-License-Identifier: Apache-2.0
/*
 * One bpf(2) command on a pinned map, from a process of its own: `map-ops PIN COMMAND ARGUMENT...`. Prints the errno
 * of each system call that failed, and how many succeeded.
 *
 *   update FIRST COUNT VALUE [noexist|exist]   one call per key
 *   delete FIRST COUNT
 *   pop FIRST COUNT                            lookup-and-delete
 *   update-batch FIRST COUNT VALUE             one call
 *   delete-batch FIRST COUNT
 *   pop-batch COUNT                            lookup-and-delete, whatever comes first
 *   time COUNT                                 nanoseconds per update of key 0
 *
 * A key is its number in the first four bytes and zeros after them (for an LPM trie: prefix length 32, then the
 * number); a value is its number repeated every eight bytes, for all CPUs.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct bpf_map_info info;
static uint32_t value_bytes;

static void set_key(void *key, uint32_t number)
{
	memset(key, 0, info.key_size);
	if (info.type == BPF_MAP_TYPE_LPM_TRIE) {
		*(uint32_t *)key = 32;
		memcpy((char *)key + 4, &number, sizeof(number));
	} else {
		memcpy(key, &number, info.key_size < 4 ? info.key_size : 4);
	}
}

static void set_value(void *value, uint64_t number)
{
	for (uint32_t at = 0; at < value_bytes; at += 8)
		memcpy((char *)value + at, &number, value_bytes - at < 8 ? value_bytes - at : 8);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

int main(int argc, char **argv)
{
	uint32_t info_bytes = sizeof(info), done = 0;
	int fd = argc > 3 ? bpf_obj_get(argv[1]) : -EINVAL;

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &info_bytes)) {
		fprintf(stderr, "map-ops: cannot open %s\n", argc > 1 ? argv[1] : "nothing");
		return 2;
	}
	value_bytes = info.value_size;
	if (info.type == BPF_MAP_TYPE_PERCPU_HASH || info.type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	    info.type == BPF_MAP_TYPE_PERCPU_ARRAY)
		value_bytes = (value_bytes + 7) / 8 * 8 * libbpf_num_possible_cpus();

	const char *command = argv[2];
	int is_count_first = !strcmp(command, "pop-batch") || !strcmp(command, "time");
	uint32_t first = is_count_first ? 0 : strtoul(argv[3], NULL, 0);
	uint32_t count = strtoul(is_count_first || argc < 5 ? argv[3] : argv[4], NULL, 0);
	uint64_t number = argc > 5 ? strtoull(argv[5], NULL, 0) : 0;
	uint64_t flags = argc > 6 ? (strcmp(argv[6], "exist") ? BPF_NOEXIST : BPF_EXIST) : BPF_ANY;
	char *keys = calloc(count + 1, info.key_size), *values = calloc(count + 1, value_bytes);
	int is_batch = strstr(command, "-batch") != NULL;

	for (uint32_t i = 0; i < count; i++) {
		set_key(keys + (size_t)i * info.key_size, first + i);
		set_value(values + (size_t)i * value_bytes, number);
	}
	if (!strcmp(command, "time")) {
		uint64_t start_ns = now_ns();

		for (uint32_t i = 0; i < count; i++)
			done += !bpf_map_update_elem(fd, keys, values, BPF_ANY);
		printf("%.0f\n", (double)(now_ns() - start_ns) / count);
		return done == count ? 0 : 1;
	}
	for (uint32_t i = 0; i < (is_batch ? 1 : count); i++) {
		char *key = keys + (size_t)i * info.key_size, *value = values + (size_t)i * value_bytes;
		/* One key more than the batch holds: the kernel writes its cursor there. */
		char *cursor = calloc(1, info.key_size + 8);
		uint32_t batch = count;
		int err;

		if (!strcmp(command, "update"))
			err = bpf_map_update_elem(fd, key, value, flags);
		else if (!strcmp(command, "delete"))
			err = bpf_map_delete_elem(fd, key);
		else if (!strcmp(command, "pop"))
			err = bpf_map_lookup_and_delete_elem(fd, key, value);
		else if (!strcmp(command, "update-batch"))
			err = bpf_map_update_batch(fd, keys, values, &batch, NULL);
		else if (!strcmp(command, "delete-batch"))
			err = bpf_map_delete_batch(fd, keys, &batch, NULL);
		else if (!strcmp(command, "pop-batch"))
			err = bpf_map_lookup_and_delete_batch(fd, NULL, cursor, keys, values, &batch, NULL);
		else
			return 2;
		if (is_batch)
			done = batch;
		else
			done += !err;
		/* ENOENT at the end of a pop-batch means "that was the last bucket". */
		if (err && !(errno == ENOENT && !strcmp(command, "pop-batch")))
			printf("errno %d\n", errno);
		free(cursor);
	}
	printf("done %u\n", done);
	return 0;
}
