/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entries that map-writer writes and map-meter looks for, and opening the map they are in.
 *
 * Entry number n has the key n (little endian, zeros after it; for an LPM trie a full-length prefix with n as a big
 * endian number at its end) and a value that repeats a 64-bit little endian word.
 */
#ifndef MAPMESH_MAP_ENTRIES_H
#define MAPMESH_MAP_ENTRIES_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

/* Ends the program with its own name (glibc's) in front of what is wrong. */
static inline void die(int code, const char *what)
{
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
	exit(code);
}

static inline uint64_t parse_number(const char *text)
{
	char *end;
	uint64_t number;

	errno = 0;
	number = strtoull(text, &end, 0);
	if (errno || *text == '\0' || *end != '\0' || *text == '-')
		die(2, "a number was expected (see --help)");
	return number;
}

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static inline uint32_t round_up_8(uint32_t bytes)
{
	return (bytes + 7) / 8 * 8;
}

/* Bytes of a value as bpf(2) sees it. */
static inline uint32_t value_bytes_of(const struct bpf_map_info *info)
{
	int cpus = libbpf_num_possible_cpus();

	if (cpus < 0)
		die(1, "cannot tell how many CPUs there may be");
	if (info->type == BPF_MAP_TYPE_PERCPU_HASH || info->type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	    info->type == BPF_MAP_TYPE_PERCPU_ARRAY)
		return round_up_8(info->value_size) * cpus;
	return info->value_size;
}

static inline void make_key(const struct bpf_map_info *info, uint64_t number, uint8_t *key)
{
	uint32_t bytes = info->key_size, low = bytes < 8 ? bytes : 8;

	memset(key, 0, bytes);
	if (info->type == BPF_MAP_TYPE_LPM_TRIE) {
		uint32_t prefix_bits = (bytes - 4) * 8;

		memcpy(key, &prefix_bits, 4);
		for (uint32_t at = bytes; at-- > 4 && number; number >>= 8)
			key[at] = number;
	} else {
		memcpy(key, &number, low);
	}
}

#endif
