// SPDX-License-Identifier: Apache-2.0
/*
 * Who uses a map: the programs that were loaded with it, and the processes that have it open. Not to be seen from here are
 * other pins, maps that hold it as an inner map, memory mappings whose fd is closed, threads with a table of fds of their
 * own (/proc/PID/task), and processes of other pid namespaces.
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

/* What there is to say of an fd or a process; or -errno, if we could not look for reasons of our own (EMFILE, ENOMEM). */
enum finding { HAS_NOT, HAS, HIDDEN };

/*
 * What to make of a file of /proc that cannot be read: its process has ended or closed the fd, or we may not look. All
 * else says nothing of the process: taken for either, a map would be let go that is in use.
 */
static int unread(int error)
{
	switch (error) {
	case ENOENT:
	case ESRCH:
		return HAS_NOT;
	case EACCES:
	case EPERM:
		return HIDDEN;
	default:
		return -error;
	}
}

static int fd_is_of(int process_fd, const char *fd, uint32_t map_id)
{
	char path[300], line[128];
	int info, finding = HAS_NOT;
	FILE *file;

	snprintf(path, sizeof(path), "fdinfo/%s", fd);
	info = openat(process_fd, path, O_RDONLY | O_CLOEXEC);
	file = info < 0 ? NULL : fdopen(info, "r");
	if (!file) {
		finding = unread(errno);
		if (info >= 0)
			close(info);
		return finding;
	}
	while (finding != HAS && fgets(line, sizeof(line), file))
		if (strncmp(line, "map_id:", 7) == 0 && strtoul(line + 7, NULL, 10) == map_id)
			finding = HAS;
	if (finding != HAS && ferror(file))
		finding = unread(errno);
	fclose(file);
	return finding;
}

static int entry_is_of(int process_fd, int fds_fd, const char *fd, uint32_t map_id)
{
	static const char map_link[] = "anon_inode:bpf-map";
	char link[sizeof(map_link)];
	ssize_t length = readlinkat(fds_fd, fd, link, sizeof(link));

	/* A path longer than a page, so that of a file. */
	if (length < 0 && errno == ENAMETOOLONG)
		return HAS_NOT;
	if (length < 0)
		return unread(errno);
	if (length != sizeof(map_link) - 1 || memcmp(link, map_link, length))
		return HAS_NOT;
	return fd_is_of(process_fd, fd, map_id);
}

/* NULL after the last entry, *error = 0; or NULL and *error = -errno. */
static struct dirent *next_entry(DIR *directory, int *error)
{
	struct dirent *entry;

	errno = 0;
	entry = readdir(directory);
	*error = entry ? 0 : -errno;
	return entry;
}

/* HAS and -errno count more than HIDDEN, and HIDDEN more than HAS_NOT. */
static int look_through(DIR *fds, int process_fd, uint32_t map_id)
{
	int finding = HAS_NOT, error, unseen;
	struct dirent *entry;

	while ((entry = next_entry(fds, &error))) {
		int found = entry->d_name[0] == '.' ? HAS_NOT :
						      entry_is_of(process_fd, dirfd(fds), entry->d_name, map_id);

		if (found < 0 || found == HAS)
			return found;
		if (found == HIDDEN)
			finding = HIDDEN;
	}
	unseen = error ? unread(-error) : HAS_NOT;
	return unseen == HAS_NOT ? finding : unseen;
}

static int process_has(int proc_fd, const char *pid, uint32_t map_id)
{
	int process_fd = openat(proc_fd, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fds_fd = process_fd < 0 ? -1 : openat(process_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *fds = fds_fd < 0 ? NULL : fdopendir(fds_fd);
	int finding = fds ? look_through(fds, process_fd, map_id) : unread(errno);

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
	int error = 0;

	*hidden = 0;
	if (!proc)
		return -errno;
	while (!error && count < count_max && (entry = next_entry(proc, &error))) {
		int finding;

		saw_first = saw_first || strcmp(entry->d_name, "1") == 0;
		if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid())
			continue;
		finding = process_has(dirfd(proc), entry->d_name, map_id);
		if (finding == HAS)
			pids[count++] = strtoul(entry->d_name, NULL, 10);
		else if (finding == HIDDEN)
			++*hidden;
		else if (finding < 0)
			error = finding;
	}
	closedir(proc);
	if (error)
		return error;
	/* Mounted with hidepid=, /proc does not even name what we may not look at; there always is a process 1. */
	if (!saw_first)
		++*hidden;
	if (may_look_at_all())
		*hidden = 0;
	return count;
}
