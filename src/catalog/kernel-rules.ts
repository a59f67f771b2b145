/**
 * What every kernel refuses to make, known before it is asked: a map that is added is made on other hosts later, where nobody
 * looks. Source: htab_map_alloc_check (kernel/bpf/hashtab.c), array_map_alloc_check (arraymap.c), trie_alloc (lpm_trie.c).
 */
import { isArrayKind, isLruKind, isPerCpuKind, type MapKind } from '../core/map-port.js';
import type { MapSpec } from './map-spec.js';

const BPF_F_NO_PREALLOC = 1 << 0;
const BPF_F_NO_COMMON_LRU = 1 << 1;
const BPF_F_NUMA_NODE = 1 << 2;
const BPF_F_RDONLY = 1 << 3;
const BPF_F_WRONLY = 1 << 4;
const BPF_F_ZERO_SEED = 1 << 6;
const BPF_F_RDONLY_PROG = 1 << 7;
const BPF_F_WRONLY_PROG = 1 << 8;
const BPF_F_MMAPABLE = 1 << 10;
const BPF_F_INNER_MAP = 1 << 12;

const ACCESS_FLAGS = BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
/** Of two that exclude each other. */
const EXCLUSIVE_FLAGS = [BPF_F_RDONLY | BPF_F_WRONLY, BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG];
const FLAGS: Readonly<Record<MapKind, number>> = {
  hash: ACCESS_FLAGS | BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_ZERO_SEED,
  percpu_hash: ACCESS_FLAGS | BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
  lru_hash: ACCESS_FLAGS | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | BPF_F_ZERO_SEED,
  lru_percpu_hash: ACCESS_FLAGS | BPF_F_NO_COMMON_LRU | BPF_F_ZERO_SEED,
  array: ACCESS_FLAGS | BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_INNER_MAP,
  percpu_array: ACCESS_FLAGS,
  lpm_trie: ACCESS_FLAGS | BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE,
};

const ARRAY_KEY_BYTES = 4;
/** PCPU_MIN_UNIT_SIZE: the most that one CPU's part of an allocation can have. */
const PER_CPU_VALUE_BYTES_MAX = 32 * 1024;
/** A u32 of prefix length, then 1 to 256 bytes (LPM_DATA_SIZE_MAX). */
const LPM_KEY_BYTES_MIN = 5;
const LPM_KEY_BYTES_MAX = 260;

/** The spec with the flags that its kind cannot do without. */
export function withNeededFlags(spec: MapSpec): MapSpec {
  return spec.kind === 'lpm_trie' ? { ...spec, flags: (spec.flags | BPF_F_NO_PREALLOC) >>> 0 } : spec;
}

/** Everything for which the kernel would refuse to make the map, as sentences. */
export function kernelRefusals({ kind, keyBytes, valueBytes, flags }: MapSpec): string[] {
  const out: string[] = [];
  if (isArrayKind(kind) && keyBytes !== ARRAY_KEY_BYTES)
    out.push(`keys of ${kind} maps have ${ARRAY_KEY_BYTES} bytes, not ${keyBytes}`);
  if (kind === 'lpm_trie' && (keyBytes < LPM_KEY_BYTES_MIN || keyBytes > LPM_KEY_BYTES_MAX))
    out.push(
      `keys of lpm_trie maps have ${LPM_KEY_BYTES_MIN} to ${LPM_KEY_BYTES_MAX} bytes, not ${keyBytes}`,
    );
  if (isPerCpuKind(kind) && valueBytes > PER_CPU_VALUE_BYTES_MAX)
    out.push(`values of ${kind} maps have at most ${PER_CPU_VALUE_BYTES_MAX} bytes, not ${valueBytes}`);
  const unknown = (flags & ~FLAGS[kind]) >>> 0;
  if (unknown !== 0) {
    const why =
      isLruKind(kind) && (unknown & BPF_F_NO_PREALLOC) !== 0 ? ' (they are always preallocated)' : '';
    out.push(`${kind} maps do not take flags 0x${unknown.toString(16)}${why}`);
  }
  for (const pair of EXCLUSIVE_FLAGS)
    if ((flags & pair) === pair) out.push(`flags 0x${pair.toString(16)} exclude each other`);
  return out;
}
