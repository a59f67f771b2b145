// SPDX-License-Identifier: Apache-2.0
/*
 * map-writer: changes entries of a BPF map from a process of its own, as fast as it can or at a given rate.
 * Tests, the demo and the benchmarks write with it.
 *
 * What entry number n is: map-entries.h. Its word is VALUE + n.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "map-entries.h"

static const char USAGE[] =
	"usage: map-writer --pin PATH | --id ID [options]\n"
	"\n"
	"  --op OP       update (default), insert (fails if the key is there), delete, lookup-delete,\n"
	"                store (into an mmap'ed array: no system call)\n"
	"  --count N     entries in a round (default 1)\n"
	"  --first N     number of the first entry (default 0)\n"
	"  --rounds N    rounds over the same entries (default 1)\n"
	"  --value N     entry n is set to N + n, plus the number of the round (default 0)\n"
	"  --batch N     entries per system call; 1 uses the calls for single entries (default 1)\n"
	"  --rate N      entries a second (default: as fast as possible)\n"
	"  --stamp       the first 8 bytes of each value are CLOCK_MONOTONIC in ns\n"
	"  --clobber W   with --op lookup-delete: have the kernel write the value over its own argument W (fd or key),\n"
	"                so that a later look at the arguments finds something else\n"
	"  --compat      make single updates and deletes by the 32-bit system call (x86)\n"
	"\n"
	"Prints one line of JSON. lookup-delete with --batch takes whatever entries the kernel finds first.\n"
	"Exit code: 0 done (entries that the kernel refused are counted), 1 cannot use the map, 2 usage.\n";

enum op { OP_UPDATE, OP_INSERT, OP_DELETE, OP_LOOKUP_DELETE, OP_STORE };
static const char *const OP_NAMES[] = { "update", "insert", "delete", "lookup-delete", "store" };

struct options {
	const char *pin;
	uint64_t id, count, first, rounds, value, batch, rate;
	enum op op;
	bool stamp, compat;
	const char *clobber;
};

struct map {
	int fd;
	struct bpf_map_info info;
	uint32_t value_bytes; /* as bpf(2) sees it */
	uint8_t *memory; /* the values of an array, for OP_STORE */
};

struct totals {
	uint64_t entries, failed, calls;
	int first_errno;
};

static enum op parse_op(const char *text)
{
	for (size_t op = 0; op < sizeof(OP_NAMES) / sizeof(OP_NAMES[0]); op++)
		if (strcmp(text, OP_NAMES[op]) == 0)
			return op;
	die(2, "unknown --op (see --help)");
	return 0;
}

static struct options parse_options(int argc, char **argv)
{
	static const struct option LONG[] = {
		{ "pin", 1, 0, 'p' },	{ "id", 1, 0, 'i' },	{ "op", 1, 0, 'o' },	 { "count", 1, 0, 'n' },
		{ "first", 1, 0, 'f' }, { "rounds", 1, 0, 'r' }, { "value", 1, 0, 'v' },	 { "batch", 1, 0, 'b' },
		{ "rate", 1, 0, 'R' },	{ "stamp", 0, 0, 's' }, { "compat", 0, 0, 'c' }, { "help", 0, 0, 'h' },
		{ "clobber", 1, 0, 'C' },
		{ 0, 0, 0, 0 },
	};
	struct options options = { .count = 1, .rounds = 1, .batch = 1 };
	int option;

	while ((option = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
		switch (option) {
		case 'p': options.pin = optarg; break;
		case 'i': options.id = parse_number(optarg); break;
		case 'o': options.op = parse_op(optarg); break;
		case 'n': options.count = parse_number(optarg); break;
		case 'f': options.first = parse_number(optarg); break;
		case 'r': options.rounds = parse_number(optarg); break;
		case 'v': options.value = parse_number(optarg); break;
		case 'b': options.batch = parse_number(optarg); break;
		case 'R': options.rate = parse_number(optarg); break;
		case 's': options.stamp = true; break;
		case 'c': options.compat = true; break;
		case 'C': options.clobber = optarg; break;
		case 'h': fputs(USAGE, stdout); exit(0);
		default: exit(2);
		}
	}
	if (optind != argc || (options.pin != NULL) == (options.id != 0) || options.batch == 0)
		die(2, "one of --pin and --id, and a --batch from 1, were expected (see --help)");
	if (options.clobber && (options.op != OP_LOOKUP_DELETE || options.batch != 1 ||
				(strcmp(options.clobber, "fd") && strcmp(options.clobber, "key"))))
		die(2, "--clobber takes fd or key, and goes with --op lookup-delete (see --help)");
	if (options.op == OP_STORE && options.batch != 1)
		die(2, "--op store takes no --batch (see --help)");
	return options;
}

static struct map open_map(const struct options *options)
{
	struct map map = { .fd = options->pin ? bpf_obj_get(options->pin) : bpf_map_get_fd_by_id(options->id) };
	uint32_t bytes = sizeof(map.info);

	if (map.fd < 0 || bpf_obj_get_info_by_fd(map.fd, &map.info, &bytes))
		die(1, strerror(errno));
	map.value_bytes = value_bytes_of(&map.info);
	if (options->op == OP_STORE) {
		size_t bytes = (size_t)round_up_8(map.value_bytes) * map.info.max_entries;

		map.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map.fd, 0);
		if (map.memory == MAP_FAILED)
			die(1, "the map is no array with BPF_F_MMAPABLE");
	}
	return map;
}

static void make_value(const struct map *map, uint64_t word, bool stamp, uint8_t *value)
{
	for (uint32_t at = 0; at < map->value_bytes; at += 8)
		memcpy(value + at, &word, map->value_bytes - at < 8 ? map->value_bytes - at : 8);
	if (stamp && map->value_bytes >= 8) {
		uint64_t now = now_ns();

		memcpy(value, &now, 8);
	}
}

#if defined(__x86_64__)
static sigjmp_buf no_compat;

static void on_fault(int number)
{
	(void)number;
	siglongjmp(no_compat, 1);
}

/* A kernel without IA32 emulation answers int $0x80 with a fault. Asked once, with getpid. */
static bool has_compat(void)
{
	static int known = -1;
	struct sigaction before, fault = { .sa_handler = on_fault };
	long result;

	if (known >= 0)
		return known;
	sigaction(SIGSEGV, &fault, &before);
	if (sigsetjmp(no_compat, 1)) {
		known = false;
	} else {
		asm volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
		known = result > 0;
	}
	sigaction(SIGSEGV, &before, NULL);
	return known;
}

/* int $0x80: the kernel sees a 32-bit call, with addresses below 4 GiB. */
static int call_compat(const struct map *map, enum op op, const uint8_t *key, const uint8_t *value)
{
	static uint8_t *low;
	union bpf_attr *attr;
	long result;

	if (!has_compat()) {
		errno = ENOSYS;
		return -1;
	}
	if (!low)
		low = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return -1;
	attr = (union bpf_attr *)low;
	memset(attr, 0, sizeof(*attr));
	attr->map_fd = map->fd;
	attr->key = (uintptr_t)memcpy(low + 4096, key, map->info.key_size);
	if (op != OP_DELETE)
		attr->value = (uintptr_t)memcpy(low + 8192, value, map->value_bytes);
	attr->flags = op == OP_INSERT ? BPF_NOEXIST : BPF_ANY;
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(357), "b"(op == OP_DELETE ? BPF_MAP_DELETE_ELEM : BPF_MAP_UPDATE_ELEM), "c"(attr),
		       "d"(sizeof(*attr))
		     : "memory", "r8", "r9", "r10", "r11");
	if (result < 0)
		errno = -result;
	return result < 0 ? -1 : 0;
}
#else
static int call_compat(const struct map *map, enum op op, const uint8_t *key, const uint8_t *value)
{
	(void)map, (void)op, (void)key, (void)value;
	errno = ENOSYS;
	return -1;
}
#endif

static int lookup_delete_clobbering(const struct map *map, const uint8_t *key, const char *what)
{
	uint8_t *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	union bpf_attr *attr = (union bpf_attr *)page;
	long result;

	if (page == MAP_FAILED)
		return -1;
	attr->map_fd = map->fd;
	attr->key = (uintptr_t)key;
	attr->value = (uintptr_t)(strcmp(what, "fd") == 0 ? (void *)&attr->map_fd : (void *)&attr->key);
	result = syscall(SYS_bpf, BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr, sizeof(*attr));
	munmap(page, 1 << 20);
	return result;
}

static int store(const struct map *map, const uint8_t *key, const uint8_t *value)
{
	uint32_t index;

	memcpy(&index, key, sizeof(index));
	if (index >= map->info.max_entries) {
		errno = E2BIG;
		return -1;
	}
	memcpy(map->memory + (size_t)index * round_up_8(map->value_bytes), value, map->value_bytes);
	return 0;
}

static int write_single(const struct options *options, const struct map *map, const uint8_t *key, uint8_t *value)
{
	if (options->clobber)
		return lookup_delete_clobbering(map, key, options->clobber);
	if (options->compat)
		return call_compat(map, options->op, key, value);
	switch (options->op) {
	case OP_UPDATE: return bpf_map_update_elem(map->fd, key, value, BPF_ANY);
	case OP_INSERT: return bpf_map_update_elem(map->fd, key, value, BPF_NOEXIST);
	case OP_DELETE: return bpf_map_delete_elem(map->fd, key);
	case OP_LOOKUP_DELETE: return bpf_map_lookup_and_delete_elem(map->fd, key, value);
	case OP_STORE: return store(map, key, value);
	}
	return -1;
}

static uint8_t cursor[512];
static bool has_cursor;

/* Returns how many entries were done; fewer than asked for with errno set if one failed. */
static uint32_t write_batch(const struct options *options, const struct map *map, const uint8_t *keys, uint8_t *values,
			    uint32_t count)
{
	uint32_t done = count;
	int result;

	switch (options->op) {
	case OP_DELETE: result = bpf_map_delete_batch(map->fd, keys, &done, NULL); break;
	case OP_LOOKUP_DELETE:
		result = bpf_map_lookup_and_delete_batch(map->fd, has_cursor ? cursor : NULL, cursor, (void *)keys,
							 values, &done, NULL);
		has_cursor = result == 0;
		break;
	default: result = bpf_map_update_batch(map->fd, keys, values, &done, NULL); break;
	}
	if (result == 0)
		return count;
	return done < count ? done : 0;
}

static void count_failure(struct totals *totals)
{
	totals->failed++;
	if (!totals->first_errno)
		totals->first_errno = errno;
}

/* One call's worth of entries, from number `from`. */
static void write_some(const struct options *options, const struct map *map, uint64_t from, uint32_t count,
		       uint64_t round, uint8_t *keys, uint8_t *values, struct totals *totals)
{
	for (uint32_t i = 0; i < count; i++) {
		make_key(&map->info, from + i, keys + (size_t)i * map->info.key_size);
		make_value(map, options->value + from + i + round, options->stamp,
			   values + (size_t)i * map->value_bytes);
	}
	totals->calls++;
	if (options->batch == 1) {
		if (write_single(options, map, keys, values))
			count_failure(totals);
		else
			totals->entries++;
		return;
	}
	uint32_t done = write_batch(options, map, keys, values, count);

	totals->entries += done;
	if (done < count) {
		count_failure(totals);
		totals->failed += count - done - 1;
	}
}

/* A sleep takes 50 us too long: at high rates it pays to be a little early and sleep for a whole burst. */
#define BURST_NS 500000

static void keep_rate(uint64_t rate, uint64_t start_ns, uint64_t written)
{
	uint64_t due = start_ns + (uint64_t)((double)written * 1e9 / rate), now = now_ns();
	struct timespec until = { .tv_sec = due / 1000000000, .tv_nsec = due % 1000000000 };

	if (due <= now || (due - now < BURST_NS && 1000000000 / rate < BURST_NS))
		return;
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

int main(int argc, char **argv)
{
	struct options options = parse_options(argc, argv);
	struct map map = open_map(&options);
	struct totals totals = {};
	uint8_t *keys = calloc(options.batch, map.info.key_size);
	uint8_t *values = calloc(options.batch, map.value_bytes);
	uint64_t start_ns = now_ns(), written = 0;
	double seconds;

	if (!keys || !values)
		die(1, "no memory for a batch of this size");
	for (uint64_t round = 0; round < options.rounds; round++) {
		for (uint64_t at = 0; at < options.count; at += options.batch) {
			uint64_t left = options.count - at, count = left < options.batch ? left : options.batch;

			if (options.rate)
				keep_rate(options.rate, start_ns, written);
			write_some(&options, &map, options.first + at, count, round, keys, values, &totals);
			written += count;
		}
	}
	seconds = (now_ns() - start_ns) / 1e9;
	printf("{\"op\":\"%s\",\"entries\":%llu,\"failed\":%llu,\"firstErrno\":%d,\"calls\":%llu,\"seconds\":%.6f,"
	       "\"nsPerEntry\":%.1f}\n",
	       OP_NAMES[options.op], (unsigned long long)totals.entries, (unsigned long long)totals.failed,
	       totals.first_errno, (unsigned long long)totals.calls, seconds,
	       written ? seconds * 1e9 / written : 0.0);
	return 0;
}
