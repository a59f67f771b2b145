// SPDX-License-Identifier: Apache-2.0
/*
 * map-meter: watches kernel maps for entries that map-writer --stamp writes elsewhere, and tells when each was there.
 *
 * Looks at the entries in the order of writing, in every map by itself: at one that is there it goes on to the next,
 * so it costs one look-up (1 us) per entry and a look now and then while it waits. When it is through, every entry
 * that it was asked for has been seen with its value. The stamp in the value is on the clock of this machine.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <stdbool.h>
#include <sys/prctl.h>

#include "map-entries.h"

static const char USAGE[] =
	"usage: map-meter --pin PATH [--pin PATH ...] [options]\n"
	"\n"
	"  --count N       entries in a round (default 1)\n"
	"  --first N       number of the first entry (default 0)\n"
	"  --step N        look at every Nth entry of a round (default 1)\n"
	"  --rounds N      rounds over the same entries (default 1)\n"
	"  --value N       as given to the writer (default 0)\n"
	"  --poll-us N     pause between two looks while nothing comes (default 20)\n"
	"  --timeout-ms N  give up when nothing has come for so long (default 10000)\n"
	"\n"
	"Prints \"watching\" to standard error once it is. Standard output: 24 bytes for each entry seen, little endian:\n"
	"u32 number of the map (as given), u32 position in the order of writing (counted in steps), u64 stamp in ns,\n"
	"u64 time seen in ns. An entry that was overwritten before it was seen has the stamp of its successor.\n"
	"Exit code: 0 all seen, 1 cannot use a map, 2 usage, 3 gave up.\n";

#define MAPS_MAX 64
/* The first word of a value is the stamp, the second the entry's own. */
#define VALUE_BYTES_MIN 16
/* Those of mapmesh. Newer kernels let hash maps have larger ones. */
#define KEY_BYTES_MAX 512
/* Few writes, so that the reader is rarely woken. */
#define OUTPUT_BUFFER_BYTES (256 * 1024)

struct options {
	const char *pins[MAPS_MAX];
	uint32_t maps;
	uint64_t count, first, step, rounds, value, poll_us, timeout_ms;
};

struct watched {
	int fd;
	struct bpf_map_info info;
	uint64_t round, at;   /* of the entry that is waited for */
	uint32_t position;
};

struct sighting {
	uint32_t map, position;
	uint64_t stamp_ns, seen_ns;
};

static struct options parse_options(int argc, char **argv)
{
	static const struct option LONG[] = {
		{ "pin", 1, 0, 'p' },	 { "count", 1, 0, 'n' },   { "first", 1, 0, 'f' },
		{ "step", 1, 0, 's' },	 { "rounds", 1, 0, 'r' },  { "value", 1, 0, 'v' },
		{ "poll-us", 1, 0, 'u' }, { "timeout-ms", 1, 0, 't' }, { "help", 0, 0, 'h' },
		{ 0, 0, 0, 0 },
	};
	struct options options = { .count = 1, .step = 1, .rounds = 1, .poll_us = 20, .timeout_ms = 10000 };
	int option;

	while ((option = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
		switch (option) {
		case 'p':
			if (options.maps == MAPS_MAX)
				die(2, "too many maps (see --help)");
			options.pins[options.maps++] = optarg;
			break;
		case 'n': options.count = parse_number(optarg); break;
		case 'f': options.first = parse_number(optarg); break;
		case 's': options.step = parse_number(optarg); break;
		case 'r': options.rounds = parse_number(optarg); break;
		case 'v': options.value = parse_number(optarg); break;
		case 'u': options.poll_us = parse_number(optarg); break;
		case 't': options.timeout_ms = parse_number(optarg); break;
		case 'h': fputs(USAGE, stdout); exit(0);
		default: exit(2);
		}
	}
	if (optind != argc || options.maps == 0 || options.step == 0)
		die(2, "a --pin and a --step from 1 were expected (see --help)");
	return options;
}

static struct watched open_map(const char *pin)
{
	struct watched map = { .fd = bpf_obj_get(pin) };
	uint32_t bytes = sizeof(map.info);

	if (map.fd < 0 || bpf_obj_get_info_by_fd(map.fd, &map.info, &bytes))
		die(1, strerror(errno));
	if (value_bytes_of(&map.info) != map.info.value_size || map.info.value_size < VALUE_BYTES_MIN)
		die(1, "a map with values of at least 16 bytes, not per CPU, was expected");
	if (map.info.key_size > KEY_BYTES_MAX)
		die(1, "a map with keys of at most 512 bytes was expected");
	return map;
}

/* Whether the entry that the map waits for is there, or one that has overwritten it since. */
static bool is_there(const struct options *options, const struct watched *map, uint8_t *value, uint64_t *stamp_ns)
{
	uint8_t key[KEY_BYTES_MAX];
	uint64_t number = options->first + map->at, word;

	make_key(&map->info, number, key);
	if (bpf_map_lookup_elem(map->fd, key, value))
		return false;
	memcpy(stamp_ns, value, 8);
	memcpy(&word, value + 8, 8);
	return word >= number + options->value && word - number - options->value >= map->round;
}

static void advance(const struct options *options, struct watched *map)
{
	map->position++;
	map->at += options->step;
	if (map->at >= options->count) {
		map->at = 0;
		map->round++;
	}
}

/* Looks at one map until what it waits for is not there. Returns how many were. */
static uint64_t look(const struct options *options, struct watched *map, uint32_t number, uint8_t *value)
{
	struct sighting sighting = { .map = number };
	uint64_t seen = 0;

	/* Bounded, so that a map that is being filled does not keep the others from being looked at. */
	while (seen < 256 && map->round < options->rounds && is_there(options, map, value, &sighting.stamp_ns)) {
		sighting.position = map->position;
		sighting.seen_ns = now_ns();
		if (fwrite(&sighting, sizeof(sighting), 1, stdout) != 1)
			die(1, "standard output is closed");
		advance(options, map);
		seen++;
	}
	return seen;
}

int main(int argc, char **argv)
{
	struct options options = parse_options(argc, argv);
	struct watched maps[MAPS_MAX];
	uint64_t last_ns, value_bytes_max = 0;
	uint32_t left = options.count && options.rounds ? options.maps : 0;
	uint8_t *value;

	for (uint32_t i = 0; i < options.maps; i++) {
		maps[i] = open_map(options.pins[i]);
		if (maps[i].info.value_size > value_bytes_max)
			value_bytes_max = maps[i].info.value_size;
	}
	value = malloc(value_bytes_max);
	if (!value)
		die(1, "no memory for a value of this size");
	setvbuf(stdout, NULL, _IOFBF, OUTPUT_BUFFER_BYTES);
	/* Else each pause is 50 us longer. */
	prctl(PR_SET_TIMERSLACK, 1);
	fputs("watching\n", stderr);
	last_ns = now_ns();
	while (left > 0) {
		uint64_t seen = 0;

		for (uint32_t i = 0; i < options.maps; i++) {
			if (maps[i].round >= options.rounds)
				continue;
			seen += look(&options, &maps[i], i, value);
			if (maps[i].round >= options.rounds)
				left--;
		}
		if (seen > 0) {
			last_ns = now_ns();
		} else {
			struct timespec pause = { .tv_sec = options.poll_us / 1000000,
						  .tv_nsec = options.poll_us % 1000000 * 1000 };

			if (now_ns() - last_ns > options.timeout_ms * 1000000)
				break;
			nanosleep(&pause, NULL);
		}
	}
	if (fflush(stdout))
		die(1, "standard output is closed");
	return left == 0 ? 0 : 3;
}
