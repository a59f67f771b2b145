// SPDX-License-Identifier: Apache-2.0
/*
 * `program-owner OBJECT MAP PIN FIRST RATE`: loads a BPF object on the map that is pinned at PIN instead of its own map MAP,
 * and runs its program RATE times a second, with the numbers from FIRST on. "r" on its input: loads it anew, on whatever is
 * pinned there now, and goes on with that. End of input: stops. Says on each of these, in one line of JSON, which number
 * comes next, and how many runs have failed.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define TICKS 100 /* a second */

static struct bpf_object *load(const char *path, const char *map, const char *pin)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	int fd = bpf_obj_get(pin);

	if (!object || fd < 0 || bpf_map__reuse_fd(bpf_object__find_map_by_name(object, map), fd) ||
	    bpf_object__load(object)) {
		perror("program-owner: cannot load");
		exit(1);
	}
	close(fd);
	return object;
}

static int program_of(struct bpf_object *object)
{
	return bpf_program__fd(bpf_object__next_program(object, NULL));
}

static int run(int program, unsigned long long n)
{
	unsigned long long args[1] = { n };
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = args, .ctx_size_in = sizeof(args));

	return bpf_prog_test_run_opts(program, &options) || options.retval;
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct bpf_object *object;
	unsigned long long first, n, rate;
	unsigned long failed = 0;
	double start_s;

	if (argc != 6)
		return 2;
	object = load(argv[1], argv[2], argv[3]);
	first = n = strtoull(argv[4], NULL, 0);
	rate = strtoull(argv[5], NULL, 0);
	start_s = now_s();
	for (;;) {
		char command;

		while (n - first < (now_s() - start_s) * rate)
			failed += run(program_of(object), n++);
		if (!poll(&input, 1, 1000 / TICKS))
			continue;
		if (read(0, &command, 1) != 1)
			break;
		if (command == 'r') {
			struct bpf_object *old = object;

			object = load(argv[1], argv[2], argv[3]);
			bpf_object__close(old);
			printf("{\"next\":%llu,\"failed\":%lu}\n", n, failed);
			fflush(stdout);
		}
	}
	bpf_object__close(object);
	printf("{\"next\":%llu,\"failed\":%lu}\n", n, failed);
	return 0;
}
