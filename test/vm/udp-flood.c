// SPDX-License-Identifier: Apache-2.0
/*
 * `udp-flood ADDRESS COUNT CPU`: sends small datagrams as fast as one CPU can. (The kernel's pktgen would be faster, but
 * its shared packets make generic XDP of 6.1 panic in pskb_expand_head.)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	cpu_set_t cpus;

	if (argc != 4 || fd < 0 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "udp-flood: expected ADDRESS COUNT CPU\n");
		return 2;
	}
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[3]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		perror("udp-flood");
		return 1;
	}
	for (long left = atol(argv[2]); left > 0; left--) {
		/* ECONNREFUSED and ENOBUFS say that a packet was dropped: the receiver counts, not we. */
		if (send(fd, "x", 1, 0) < 0)
			continue;
	}
	return 0;
}
