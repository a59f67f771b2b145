/**
 * The port through which the core reads and writes one kernel map, and the plain data that describes a map.
 *
 * Two adapters implement it, `kernel/kernel-map.ts` (bpf(2)) and `kernel/memory-map.ts` (this process), and one
 * contract suite runs against both; the simulator adds a third that misbehaves on purpose. All calls are
 * synchronous: bpf(2) is, and a batch of {@link MAP_BATCH_ENTRIES} takes about a millisecond.
 */

/** Kinds that can be replicated. Everything else the kernel knows is refused with a reason (kernel/map-kinds.ts). */
export const MAP_KINDS = [
  'hash',
  'lru_hash',
  'percpu_hash',
  'lru_percpu_hash',
  'array',
  'percpu_array',
  'lpm_trie',
] as const;

export type MapKind = (typeof MAP_KINDS)[number];

/** What two nodes must agree on before they replicate a map (invariant I12). */
export interface MapShape {
  readonly kind: MapKind;
  /** Key size in bytes. */
  readonly keyBytes: number;
  /** Size of a value as bpf(2) sees it: for per-CPU kinds that is roundUp8(value) x possible CPUs. */
  readonly valueBytes: number;
}

/** A live map: its shape, and facts that may differ between nodes. */
export interface MapInfo extends MapShape {
  readonly maxEntries: number;
  /** Kernel map id; null for a `memory:` map. */
  readonly kernelId: number | null;
  /** The kernel's map name (up to 15 bytes), or "" */
  readonly kernelName: string;
  /** BPF map flags (BPF_F_NO_PREALLOC ...). */
  readonly flags: number;
}

/** Most entries in one update or delete call: about 1 ms of bpf(2) time. */
export const MAP_BATCH_ENTRIES = 1000;

/** When a batch of writes ran, on the clock that capture events carry (CLOCK_MONOTONIC), in microseconds. */
export interface WriteWindow {
  readonly startUs: number;
  readonly endUs: number;
}

/** Cursor over a whole map. Keys can vanish or repeat while a dump runs: callers tolerate both. */
export interface MapDump {
  /**
   * Copies up to `countMax` further entries into the caller's buffers, packed.
   * @returns how many; 0 when the dump is complete.
   */
  next(keys: Uint8Array, values: Uint8Array, countMax: number): number;
  /** Frees what the cursor holds. Safe to call twice. */
  close(): void;
}

export interface MapPort {
  readonly info: MapInfo;

  /** Reads one entry into `valueOut` (valueBytes long). @returns false when the key is absent. */
  lookup(key: Uint8Array, valueOut: Uint8Array): boolean;

  /**
   * Upserts `count` packed entries. `errnos[i]` is 0 or the positive errno of entry i; one failing entry does not
   * keep the others from being written.
   */
  update(keys: Uint8Array, values: Uint8Array, count: number, errnos: Int32Array): WriteWindow;

  /** Deletes `count` packed keys. A key that is not there counts as deleted (errno 0). */
  delete(keys: Uint8Array, count: number, errnos: Int32Array): WriteWindow;

  /** Starts a dump of the whole map. */
  dump(): MapDump;

  /** What the entries mean; null if the map does not say, or {@link hidesTypes}. */
  types?(): MapTypes | null;

  /** The map has types, but this process may not read them. */
  readonly hidesTypes?: boolean;

  /** Its owner has frozen it since it was opened: no update and no delete is taken any more. */
  readonly isFrozen?: boolean;

  close(): void;
}

/** The types that a map was declared with: see core/btf.ts. */
export interface MapTypes {
  /** No more of the BTF than the two types need. */
  readonly btf: Uint8Array;
  readonly keyTypeId: number;
  readonly valueTypeId: number;
}

/** Kinds in which every key always exists, so that a delete has no meaning. */
export function isArrayKind(kind: MapKind): boolean {
  return kind === 'array' || kind === 'percpu_array';
}

/** Kinds from which the kernel itself evicts entries. */
export function isLruKind(kind: MapKind): boolean {
  return kind === 'lru_hash' || kind === 'lru_percpu_hash';
}

/** Kinds with one value per CPU; a hook sees one CPU's value at most, so capture reads the whole back. */
export function isPerCpuKind(kind: MapKind): boolean {
  return kind === 'percpu_hash' || kind === 'lru_percpu_hash' || kind === 'percpu_array';
}

/**
 * Every way in which two shapes differ, as sentences; empty when they agree.
 * @param where what the sentences call the places of the two.
 */
export function shapeDifferences(
  ours: MapShape,
  theirs: MapShape,
  [here, there]: readonly [string, string] = ['here', 'there'],
): string[] {
  const out: string[] = [];
  if (ours.kind !== theirs.kind) out.push(`kind is ${ours.kind} ${here} and ${theirs.kind} ${there}`);
  if (ours.keyBytes !== theirs.keyBytes)
    out.push(`key is ${ours.keyBytes} B ${here} and ${theirs.keyBytes} B ${there}`);
  if (ours.valueBytes !== theirs.valueBytes)
    out.push(`value is ${ours.valueBytes} B ${here} and ${theirs.valueBytes} B ${there}`);
  return out;
}
