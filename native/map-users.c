// SPDX-License-Identifier: Apache-2.0
/*
 * Who uses a map: the programs that were loaded with it, and the processes that have it open. Not to be seen from here are
 * other pins, maps that hold it as an inner map, memory mappings whose fd is closed, and processes of other pid namespaces.
 */
#include <bpf/bpf.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapmesh.h"

/* MAX_USED_MAPS of the kernel: more no program can name. */
#define PROGRAM_MAPS_MAX 64

static bool program_uses(int fd, uint32_t map_id, int *error)
{
	uint32_t ids[PROGRAM_MAPS_MAX];
	struct bpf_prog_info info = { .nr_map_ids = PROGRAM_MAPS_MAX, .map_ids = (uintptr_t)ids };
	uint32_t bytes = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &bytes)) {
		*error = -errno;
		return false;
	}
	for (uint32_t i = 0; i < info.nr_map_ids && i < PROGRAM_MAPS_MAX; i++)
		if (ids[i] == map_id)
			return true;
	return false;
}

int mm_map_programs(uint32_t map_id, uint32_t *ids, uint32_t count_max)
{
	uint32_t id = 0, count = 0;
	int error = 0;

	while (count < count_max && !error && !bpf_prog_get_next_id(id, &id)) {
		int fd = bpf_prog_get_fd_by_id(id);

		if (fd < 0 && errno == ENOENT)
			continue; /* gone since */
		if (fd < 0)
			return -errno;
		if (program_uses(fd, map_id, &error))
			ids[count++] = id;
		close(fd);
	}
	return error ? error : (int)count;
}

static bool fd_is_of(int process_fd, const char *fd, uint32_t map_id)
{
	char path[300], line[128];
	bool found = false;
	int info;
	FILE *file;

	snprintf(path, sizeof(path), "fdinfo/%s", fd);
	info = openat(process_fd, path, O_RDONLY | O_CLOEXEC);
	file = info < 0 ? NULL : fdopen(info, "r");
	if (!file) {
		if (info >= 0)
			close(info);
		return false;
	}
	while (!found && fgets(line, sizeof(line), file))
		found = strncmp(line, "map_id:", 7) == 0 && strtoul(line + 7, NULL, 10) == map_id;
	fclose(file);
	return found;
}

/* A process that ends, or whose fds we may not look at, has none that we can speak of. */
static bool process_has(int proc_fd, const char *pid, uint32_t map_id)
{
	static const char map_link[] = "anon_inode:bpf-map";
	bool found = false;
	int process_fd = openat(proc_fd, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fds_fd = process_fd < 0 ? -1 : openat(process_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *fds = fds_fd < 0 ? NULL : fdopendir(fds_fd);
	struct dirent *entry;

	while (fds && !found && (entry = readdir(fds))) {
		char link[sizeof(map_link)];
		ssize_t length = readlinkat(fds_fd, entry->d_name, link, sizeof(link));

		if (length == sizeof(map_link) - 1 && !memcmp(link, map_link, length))
			found = fd_is_of(process_fd, entry->d_name, map_id);
	}
	if (fds)
		closedir(fds);
	else if (fds_fd >= 0)
		close(fds_fd);
	if (process_fd >= 0)
		close(process_fd);
	return found;
}

int mm_map_processes(uint32_t map_id, uint32_t *pids, uint32_t count_max)
{
	DIR *proc = opendir("/proc");
	uint32_t count = 0;
	struct dirent *entry;

	if (!proc)
		return -errno;
	while (count < count_max && (entry = readdir(proc))) {
		if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid())
			continue;
		if (process_has(dirfd(proc), entry->d_name, map_id))
			pids[count++] = strtoul(entry->d_name, NULL, 10);
	}
	closedir(proc);
	return count;
}
