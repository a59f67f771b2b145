// SPDX-License-Identifier: Apache-2.0
/*
 * Who uses a map: the programs that were loaded with it, and the processes that have it open. Not to be seen from here are
 * other pins, maps that hold it as an inner map, memory mappings whose fd is closed, and processes of other pid namespaces.
 * Programs are only shown to CAP_SYS_ADMIN, and fds of other processes to CAP_SYS_PTRACE (or whoever has all that they have).
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
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

	while (count < count_max && !error) {
		int fd;

		if (bpf_prog_get_next_id(id, &id)) {
			error = errno == ENOENT ? 0 : -errno; /* only ENOENT is the end of the list */
			break;
		}
		fd = bpf_prog_get_fd_by_id(id);
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

enum finding { HAS_NOT, HAS, HIDDEN };

/* What to make of a file of /proc that cannot be read: its process has ended or closed the fd, or we may not look. */
static enum finding unread(void)
{
	return errno == ENOENT || errno == ESRCH ? HAS_NOT : HIDDEN;
}

static enum finding fd_is_of(int process_fd, const char *fd, uint32_t map_id)
{
	char path[300], line[128];
	enum finding finding = HAS_NOT;
	int info;
	FILE *file;

	snprintf(path, sizeof(path), "fdinfo/%s", fd);
	info = openat(process_fd, path, O_RDONLY | O_CLOEXEC);
	file = info < 0 ? NULL : fdopen(info, "r");
	if (!file) {
		finding = unread();
		if (info >= 0)
			close(info);
		return finding;
	}
	while (finding != HAS && fgets(line, sizeof(line), file))
		if (strncmp(line, "map_id:", 7) == 0 && strtoul(line + 7, NULL, 10) == map_id)
			finding = HAS;
	fclose(file);
	return finding;
}

static enum finding entry_is_of(int process_fd, int fds_fd, const char *fd, uint32_t map_id)
{
	static const char map_link[] = "anon_inode:bpf-map";
	char link[sizeof(map_link)];
	ssize_t length = readlinkat(fds_fd, fd, link, sizeof(link));

	if (length < 0)
		return unread();
	if (length != sizeof(map_link) - 1 || memcmp(link, map_link, length))
		return HAS_NOT;
	return fd_is_of(process_fd, fd, map_id);
}

static enum finding process_has(int proc_fd, const char *pid, uint32_t map_id)
{
	enum finding finding = HAS_NOT;
	int process_fd = openat(proc_fd, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fds_fd = process_fd < 0 ? -1 : openat(process_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *fds = fds_fd < 0 ? NULL : fdopendir(fds_fd);
	struct dirent *entry;

	if (!fds)
		finding = unread();
	while (fds && finding != HAS && (entry = readdir(fds))) {
		enum finding found =
			entry->d_name[0] == '.' ? HAS_NOT : entry_is_of(process_fd, fds_fd, entry->d_name, map_id);

		if (found != HAS_NOT)
			finding = found;
	}
	if (fds)
		closedir(fds);
	else if (fds_fd >= 0)
		close(fds_fd);
	if (process_fd >= 0)
		close(process_fd);
	return finding;
}

/*
 * Whether we have CAP_SYS_PTRACE. What is hidden even then is so by a rule of the host (a security module, say) that no
 * privilege of ours changes: like processes of other pid namespaces it can never be seen, and nothing may wait for it.
 */
static bool may_look_at_all(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};

	if (syscall(SYS_capget, &header, data))
		return false;
	return data[CAP_TO_INDEX(CAP_SYS_PTRACE)].effective & CAP_TO_MASK(CAP_SYS_PTRACE);
}

int mm_map_processes(uint32_t map_id, uint32_t *pids, uint32_t count_max, uint32_t *hidden)
{
	DIR *proc = opendir("/proc");
	bool saw_first = false;
	uint32_t count = 0;
	struct dirent *entry;

	*hidden = 0;
	if (!proc)
		return -errno;
	while (count < count_max && (entry = readdir(proc))) {
		enum finding finding;

		saw_first = saw_first || strcmp(entry->d_name, "1") == 0;
		if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid())
			continue;
		finding = process_has(dirfd(proc), entry->d_name, map_id);
		if (finding == HAS)
			pids[count++] = strtoul(entry->d_name, NULL, 10);
		else if (finding == HIDDEN)
			++*hidden;
	}
	closedir(proc);
	/* Mounted with hidepid=, /proc does not even name what we may not look at; there always is a process 1. */
	if (!saw_first)
		++*hidden;
	if (may_look_at_all())
		*hidden = 0;
	return count;
}
