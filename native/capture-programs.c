// SPDX-License-Identifier: Apache-2.0
/* Which capture programs a kernel can have, loading and attaching them. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include "capture-parts.h"

/* The kernel function of each program, and the number of its parameters that the program relies on (the result comes
 * after them). A kernel whose function looks otherwise does not have the hook. */
static const struct {
	const char *program;
	const char *function;
	int parameters;
} hooks[HOOKS] = {
	[HOOK_HTAB_UPDATE] = { "mm_htab_update", "htab_map_update_elem", 4 },
	[HOOK_HTAB_DELETE_ENTRY] = { "mm_htab_delete_entry", "htab_map_delete_elem", 2 },
	[HOOK_HTAB_DELETE] = { "mm_htab_delete", "htab_map_delete_elem", 2 },
	[HOOK_LRU_UPDATE] = { "mm_lru_update", "htab_lru_map_update_elem", 4 },
	[HOOK_LRU_DELETE_ENTRY] = { "mm_lru_delete_entry", "htab_lru_map_delete_elem", 2 },
	[HOOK_LRU_DELETE] = { "mm_lru_delete", "htab_lru_map_delete_elem", 2 },
	[HOOK_LRU_EVICT] = { "mm_lru_evict", "htab_lru_map_delete_node", 2 },
	[HOOK_PERCPU_UPDATE] = { "mm_percpu_update", "__htab_percpu_map_update_elem", 5 },
	[HOOK_IN_PLACE_UPDATE] = { "mm_in_place_update", "htab_map_update_elem_in_place", 6 },
	[HOOK_LRU_PERCPU_UPDATE] = { "mm_lru_percpu_update", "__htab_lru_percpu_map_update_elem", 5 },
	[HOOK_LOOKUP_AND_DELETE] = { "mm_lookup_and_delete", "__htab_map_lookup_and_delete_elem", 6 },
	[HOOK_LOOKUP_AND_DELETE_BATCH] = { "mm_lookup_and_delete_batch", "__htab_map_lookup_and_delete_batch", 6 },
	[HOOK_ARRAY_UPDATE] = { "mm_array_update", "array_map_update_elem", 4 },
	[HOOK_PERCPU_ARRAY_UPDATE] = { "mm_percpu_array_update", "bpf_percpu_array_update", 4 },
	[HOOK_TRIE_UPDATE] = { "mm_trie_update", "trie_update_elem", 4 },
	[HOOK_TRIE_DELETE_ENTRY] = { "mm_trie_delete_entry", "trie_delete_elem", 2 },
	[HOOK_TRIE_DELETE] = { "mm_trie_delete", "trie_delete_elem", 2 },
};

#define BIT(hook) (1u << (hook))
#define NEEDS_MAX 4

/* What a kind needs for tier fentry: one hook of each set. Lookup-and-delete is in none of them: kernels without those
 * functions may not have the operation either, and what they miss the sweep finds. */
static const struct {
	uint32_t type;
	uint32_t needs[NEEDS_MAX];
} kinds[] = {
	{ BPF_MAP_TYPE_HASH, { BIT(HOOK_HTAB_UPDATE), BIT(HOOK_HTAB_DELETE_ENTRY), BIT(HOOK_HTAB_DELETE) } },
	{ BPF_MAP_TYPE_LRU_HASH,
	  { BIT(HOOK_LRU_UPDATE), BIT(HOOK_LRU_DELETE_ENTRY), BIT(HOOK_LRU_DELETE), BIT(HOOK_LRU_EVICT) } },
	{ BPF_MAP_TYPE_PERCPU_HASH,
	  { BIT(HOOK_PERCPU_UPDATE) | BIT(HOOK_IN_PLACE_UPDATE), BIT(HOOK_HTAB_DELETE_ENTRY), BIT(HOOK_HTAB_DELETE) } },
	{ BPF_MAP_TYPE_LRU_PERCPU_HASH,
	  { BIT(HOOK_LRU_PERCPU_UPDATE), BIT(HOOK_LRU_DELETE_ENTRY), BIT(HOOK_LRU_DELETE), BIT(HOOK_LRU_EVICT) } },
	{ BPF_MAP_TYPE_ARRAY, { BIT(HOOK_ARRAY_UPDATE) } },
	{ BPF_MAP_TYPE_PERCPU_ARRAY, { BIT(HOOK_ARRAY_UPDATE), BIT(HOOK_PERCPU_ARRAY_UPDATE) } },
	{ BPF_MAP_TYPE_LPM_TRIE, { BIT(HOOK_TRIE_UPDATE), BIT(HOOK_TRIE_DELETE_ENTRY), BIT(HOOK_TRIE_DELETE) } },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

bool kind_has_hooks(uint32_t type, uint32_t have)
{
	for (size_t i = 0; i < KINDS; i++) {
		if (kinds[i].type != type)
			continue;
		for (int need = 0; need < NEEDS_MAX && kinds[i].needs[need]; need++)
			if (!(kinds[i].needs[need] & have))
				return false;
		return true;
	}
	return false;
}

static bool all_kinds_have_hooks(uint32_t have)
{
	for (size_t i = 0; i < KINDS; i++)
		if (!kind_has_hooks(kinds[i].type, have))
			return false;
	return true;
}

/* Which hooks this kernel's BTF has targets for. */
static uint32_t find_hooks(void)
{
	struct btf *btf = btf__load_vmlinux_btf();
	uint32_t have = 0;

	if (!btf)
		return 0;
	for (int hook = 0; hook < HOOKS; hook++) {
		int id = btf__find_by_name_kind(btf, hooks[hook].function, BTF_KIND_FUNC);
		const struct btf_type *function = id > 0 ? btf__type_by_id(btf, id) : NULL;
		const struct btf_type *prototype = function ? btf__type_by_id(btf, function->type) : NULL;

		if (prototype && btf_vlen(prototype) == hooks[hook].parameters)
			have |= BIT(hook);
	}
	btf__free(btf);
	return have;
}

static int configure(struct capture *capture, uint32_t ring_bytes)
{
	struct bpf_map *ring = bpf_object__find_map_by_name(capture->object, "mm_ring");
	struct bpf_map *rodata = bpf_object__find_map_by_name(capture->object, ".rodata");
	int cpus = libbpf_num_possible_cpus();
	struct mm_settings settings = { .ring_bytes = ring_bytes, .cpus_possible = cpus };

	if (cpus < 0)
		return cpus;
	if (!ring || !rodata || bpf_map__set_initial_value(rodata, &settings, sizeof(settings)))
		return -ENOEXEC;
	return bpf_map__set_max_entries(ring, ring_bytes);
}

/* Loads the hooks asked for, and what goes with the tier. */
static void select_programs(struct capture *capture, uint32_t tier, uint32_t wanted_hooks)
{
	bool has_loop = libbpf_probe_bpf_helper(BPF_PROG_TYPE_XDP, BPF_FUNC_loop, NULL) == 1;
	bool has_syscall = libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SYSCALL, NULL) == 1;
	bool wants_sys_exit = tier == MM_TIER_SYSCALL || !all_kinds_have_hooks(wanted_hooks);
	const char *sys_exit = has_loop ? "mm_sys_exit" : "mm_sys_exit_without_loop";
	struct bpf_program *program;

	bpf_object__for_each_program(program, capture->object) {
		const char *name = bpf_program__name(program);
		bool load = false;

		for (int hook = 0; hook < HOOKS; hook++)
			if (strcmp(name, hooks[hook].program) == 0)
				load = wanted_hooks & BIT(hook);
		if (strcmp(name, sys_exit) == 0 && wants_sys_exit) {
			capture->sys_exit = program;
			load = true;
		}
		if (strcmp(name, "mm_identify") == 0)
			load = has_syscall;
		bpf_program__set_autoload(program, load);
	}
}

int attach_sys_exit(struct capture *capture)
{
	if (capture->sys_exit_link)
		return 0;
	if (!capture->sys_exit)
		return -ENOENT;
	capture->sys_exit_link = bpf_program__attach(capture->sys_exit);
	return capture->sys_exit_link ? 0 : -errno;
}

int attach_tier(struct capture *capture, uint32_t tier)
{
	int error = 0;

	if (tier == MM_TIER_SYSCALL)
		return attach_sys_exit(capture);
	for (int hook = 0; hook < HOOKS; hook++) {
		struct bpf_program *program =
			bpf_object__find_program_by_name(capture->object, hooks[hook].program);

		if (!program || !bpf_program__autoload(program))
			continue;
		/* A function that is in BTF may still be one that cannot be attached to: its kinds fall a tier. */
		capture->links[hook] = bpf_program__attach(program);
		if (capture->links[hook])
			capture->hooks |= BIT(hook);
		else
			error = -errno;
	}
	return capture->hooks ? 0 : error;
}

static int load_object(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes,
		       uint32_t wanted_hooks)
{
	int error;

	capture->object = bpf_object__open_file(object_path, NULL);
	if (!capture->object)
		return -errno;
	select_programs(capture, tier, wanted_hooks);
	error = configure(capture, ring_bytes);
	if (!error)
		error = bpf_object__load(capture->object);
	if (error) {
		bpf_object__close(capture->object);
		capture->object = NULL;
		capture->sys_exit = NULL;
	}
	return error;
}

/*
 * Which hooks load when tried one by one. A function in BTF can still have no address (inlined everywhere), and a
 * verifier can dislike one program: that costs the kinds that need it their tier, not all kinds.
 */
static uint32_t loadable_hooks(const char *object_path, uint32_t wanted_hooks)
{
	uint32_t loadable = 0;

	for (int hook = 0; hook < HOOKS; hook++) {
		struct bpf_object *object = wanted_hooks & BIT(hook) ? bpf_object__open_file(object_path, NULL) : NULL;
		struct bpf_program *program;

		if (!object)
			continue;
		bpf_object__for_each_program(program, object)
			bpf_program__set_autoload(program, strcmp(bpf_program__name(program), hooks[hook].program) == 0);
		if (bpf_object__load(object) == 0)
			loadable |= BIT(hook);
		bpf_object__close(object);
	}
	return loadable;
}

int load_tier(struct capture *capture, const char *object_path, uint32_t tier, uint32_t ring_bytes)
{
	uint32_t wanted = tier == MM_TIER_FENTRY ? find_hooks() : 0;
	int error;

	if (tier == MM_TIER_FENTRY && !wanted)
		return -ENOENT;
	error = load_object(capture, object_path, tier, ring_bytes, wanted);
	/* Refused by policy: no need to try them all. */
	if (!error || error == -EPERM || tier != MM_TIER_FENTRY)
		return error;
	wanted = loadable_hooks(object_path, wanted);
	return wanted ? load_object(capture, object_path, tier, ring_bytes, wanted) : error;
}

void detach_programs(struct capture *capture)
{
	for (int hook = 0; hook < HOOKS; hook++)
		bpf_link__destroy(capture->links[hook]);
	bpf_link__destroy(capture->sys_exit_link);
}

double count_skipped(struct capture *capture, uint32_t tier)
{
	double skipped = 0;

	for (int hook = 0; hook <= HOOKS; hook++) {
		const struct bpf_program *program = hook == HOOKS ? capture->sys_exit : NULL;
		struct bpf_prog_info info = {};
		uint32_t bytes = sizeof(info);

		if ((hook == HOOKS) != (tier == MM_TIER_SYSCALL))
			continue;
		if (hook < HOOKS && capture->links[hook])
			program = bpf_object__find_program_by_name(capture->object, hooks[hook].program);
		if (program && bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &bytes) == 0)
			skipped += info.recursion_misses;
	}
	return skipped;
}
