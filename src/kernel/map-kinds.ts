/**
 * Every map type of the kernel (`enum bpf_map_type`): replicated as which kind, or refused and why (invariant I12).
 */
import type { MapKind } from '../core/map-port.js';

export interface KernelMapType {
  /** The kernel's name in lower case, as bpftool prints it. */
  readonly name: string;
  /** The kind it is replicated as; null if it is refused. */
  readonly kind: MapKind | null;
  /** Why it is refused, to go after "it is a <name> map: "; "" otherwise. */
  readonly refusal: string;
}

const FDS = 'its values are file descriptors or references that mean something on this host only';
const SOCKETS = 'it holds sockets of this host';
const DEVICES = 'its values name network devices, CPUs or queues of this host';
const STORAGE = 'its entries belong to objects of this host (sockets, inodes, tasks, cgroups)';
const QUEUE = 'it has no keys';
const NOT_A_TABLE = 'it is a channel or memory area, not a table of entries';

function replicated(name: MapKind): KernelMapType {
  return { name, kind: name, refusal: '' };
}

function refused(name: string, refusal: string): KernelMapType {
  return { name, kind: null, refusal };
}

/** Indexed by the kernel's number. */
const TYPES: readonly KernelMapType[] = [
  refused('unspec', 'the kernel does not say what it is'),
  replicated('hash'),
  replicated('array'),
  refused('prog_array', FDS),
  refused('perf_event_array', FDS),
  replicated('percpu_hash'),
  replicated('percpu_array'),
  refused('stack_trace', 'stack ids and addresses mean something on this host only'),
  refused('cgroup_array', FDS),
  replicated('lru_hash'),
  replicated('lru_percpu_hash'),
  replicated('lpm_trie'),
  refused('array_of_maps', FDS),
  refused('hash_of_maps', FDS),
  refused('devmap', DEVICES),
  refused('sockmap', SOCKETS),
  refused('cpumap', DEVICES),
  refused('xskmap', SOCKETS),
  refused('sockhash', SOCKETS),
  refused('cgroup_storage', STORAGE),
  refused('reuseport_sockarray', SOCKETS),
  refused('percpu_cgroup_storage', STORAGE),
  refused('queue', QUEUE),
  refused('stack', QUEUE),
  refused('sk_storage', STORAGE),
  refused('devmap_hash', DEVICES),
  refused('struct_ops', 'it holds pointers to functions of this kernel'),
  refused('ringbuf', NOT_A_TABLE),
  refused('inode_storage', STORAGE),
  refused('task_storage', STORAGE),
  refused('bloom_filter', 'its entries cannot be read back'),
  refused('user_ringbuf', NOT_A_TABLE),
  refused('cgrp_storage', STORAGE),
  refused('arena', NOT_A_TABLE),
  refused('insn_array', 'it holds addresses in programs of this kernel'),
];

/** The row for a type number; a type newer than this table is refused. */
export function kernelMapType(type: number): KernelMapType {
  return TYPES[type] ?? refused(`type ${type}`, 'this version of mapmesh does not know it');
}

/** The kernel's number of a kind. */
export function kernelTypeOf(kind: MapKind): number {
  return TYPES.findIndex((type) => type.kind === kind);
}

/** How many types the table knows; for its test. */
export const KERNEL_MAP_TYPES = TYPES.length;
