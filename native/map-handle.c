// SPDX-License-Identifier: Apache-2.0
/* Maps as wholes: opening, making, pinning and freezing them, and what they are like. */
#include "mapmesh.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

int mm_map_open_pin(const char *path)
{
	return mm_or_errno(bpf_obj_get(path));
}

int mm_map_open_id(uint32_t id)
{
	return mm_or_errno(bpf_map_get_fd_by_id(id));
}

int mm_map_next_id(uint32_t id, uint32_t *next)
{
	return mm_or_errno(bpf_map_get_next_id(id, next));
}

/* bpf_map_info does not tell; fdinfo does ("frozen:\t1"), and also whether the fd is a map at all. */
static int read_fdinfo(int fd, bool *is_map, bool *frozen)
{
	char path[64], line[128];
	FILE *file;

	*is_map = *frozen = false;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, "map_type:", 9) == 0)
			*is_map = true;
		else if (strncmp(line, "frozen:", 7) == 0)
			*frozen = strchr(line, '1') != NULL;
	}
	fclose(file);
	return 0;
}

static bool is_per_cpu(uint32_t type)
{
	return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
	       type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

int mm_map_info(int fd, struct mm_map_info *out)
{
	struct bpf_map_info info = {};
	uint32_t bytes = sizeof(info);
	bool is_map, frozen;
	int cpus, error = read_fdinfo(fd, &is_map, &frozen);

	if (error)
		return error;
	if (!is_map)
		return -EINVAL;
	if (bpf_obj_get_info_by_fd(fd, &info, &bytes))
		return -errno;
	cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return cpus;
	*out = (struct mm_map_info){
		.type = info.type,
		.id = info.id,
		.key_bytes = info.key_size,
		.value_bytes = is_per_cpu(info.type) ? ((info.value_size + 7) & ~7u) * cpus : info.value_size,
		.max_entries = info.max_entries,
		.flags = info.map_flags,
		.frozen = frozen,
		.possible_cpus = cpus,
	};
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

int mm_map_create(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
		  uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);

	return mm_or_errno(bpf_map_create(type, name, key_bytes, value_bytes, max_entries, &options));
}

int mm_map_types(int fd, struct mm_map_types *out, void *btf, uint32_t btf_bytes)
{
	struct bpf_map_info map = {};
	struct bpf_btf_info info = { .btf = (__u64)(uintptr_t)btf, .btf_size = btf_bytes };
	uint32_t map_bytes = sizeof(map), info_bytes = sizeof(info);
	int btf_fd, error;

	if (bpf_obj_get_info_by_fd(fd, &map, &map_bytes))
		return -errno;
	if (map.btf_id == 0 || map.btf_key_type_id == 0)
		return -ENOENT;
	btf_fd = bpf_btf_get_fd_by_id(map.btf_id);
	if (btf_fd < 0)
		return -errno;
	error = bpf_obj_get_info_by_fd(btf_fd, &info, &info_bytes) ? -errno : 0;
	close(btf_fd);
	/* The kernel copies as much as fits and says so. */
	if (error && error != -ENOSPC)
		return error;
	*out = (struct mm_map_types){ info.btf_size, map.btf_key_type_id, map.btf_value_type_id };
	return 0;
}

int mm_map_create_typed(uint32_t type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t max_entries,
			uint32_t flags, const void *btf, const struct mm_map_types *types)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags, .btf_key_type_id = types->key_type,
		    .btf_value_type_id = types->value_type);
	int fd, btf_fd = bpf_btf_load(btf, types->btf_bytes, NULL);

	if (btf_fd < 0)
		return -errno;
	options.btf_fd = btf_fd;
	fd = mm_or_errno(bpf_map_create(type, name, key_bytes, value_bytes, max_entries, &options));
	close(btf_fd);
	return fd;
}

int mm_map_create_like(int fd, uint32_t max_entries)
{
	/* These belong to one fd, or need to be told what the kernel does not say again. */
	const uint32_t not_copied = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_NUMA_NODE;
	struct bpf_map_info info = {};
	uint32_t bytes = sizeof(info);
	LIBBPF_OPTS(bpf_map_create_opts, options);
	int made;

	if (bpf_obj_get_info_by_fd(fd, &info, &bytes))
		return -errno;
	options.map_flags = info.map_flags & ~not_copied;
	options.map_extra = info.map_extra;
	if (info.btf_id && info.btf_value_type_id) {
		options.btf_fd = bpf_btf_get_fd_by_id(info.btf_id);
		if ((int)options.btf_fd < 0)
			return -errno;
		options.btf_key_type_id = info.btf_key_type_id;
		options.btf_value_type_id = info.btf_value_type_id;
	}
	made = mm_or_errno(bpf_map_create(info.type, info.name, info.key_size, info.value_size, max_entries, &options));
	if (options.btf_fd)
		close(options.btf_fd);
	return made;
}

int mm_map_freeze(int fd)
{
	return mm_or_errno(bpf_map_freeze(fd));
}

int mm_pin(int fd, const char *path)
{
	return mm_or_errno(bpf_obj_pin(fd, path));
}

int mm_close(int fd)
{
	return mm_or_errno(close(fd));
}
