/**
 * What is known of one kernel map in which a replica is mirrored, register by register: what it does not have yet, what it
 * refused, evicted or lost, when it was last written. A replica has one mirror as a rule, and two while a map is being
 * resized: then the same register may be in one kernel map and still wait for the other.
 *
 * All state is by entry of the register table, in chunks that grow with it: 6 bytes an entry.
 */
import { compareBytes } from './bytes.js';
import { EntryQueue } from './entry-queue.js';
import type { RegisterTable } from './register-table.js';

/** A bit set per entry and mirror. */
export const MirrorFlag = {
  /** The kernel map does not have the register's state yet: it waits to be applied. */
  APPLY: 1,
  /** The kernel refused the last apply; it is retried with backoff. */
  PENDING: 2,
  /** Capture wants to compare the kernel's value with the register once the ring is drained. */
  SETTLE: 4,
  /** Seen by the sweep in progress. */
  SWEPT: 8,
  /** An LRU map evicted the entry here: a local fact, never spread. */
  EVICTED: 16,
  /** A delete that is held back: the kernel map does not have the entry, the replica keeps it, and neither is it spread
   * nor put back until it is released or written anew. */
  HELD: 32,
  /** The sweep in progress did not find it in the kernel map. */
  GONE: 64,
  /** A write made in another kernel map of this node: it waits to be applied until a batch carries it. */
  UNLOGGED: 128,
} as const;

const UNAPPLIED = MirrorFlag.APPLY | MirrorFlag.PENDING | MirrorFlag.UNLOGGED;

const CHUNK_SHIFT = 12;
const CHUNK_ENTRIES = 1 << CHUNK_SHIFT;
const CHUNK_MASK = CHUNK_ENTRIES - 1;

class Chunk {
  readonly tick = new Uint32Array(CHUNK_ENTRIES);
  readonly flags = new Uint8Array(CHUNK_ENTRIES);
  readonly cpu = new Uint8Array(CHUNK_ENTRIES);
}

export class Mirror {
  /** Registers whose state the kernel map does not have yet. */
  readonly applyQueue = new EntryQueue(this, MirrorFlag.APPLY);
  /** Registers that the kernel refused to take; they are tried again with backoff (I11). */
  readonly pending = new EntryQueue(this, MirrorFlag.PENDING);
  /** Entries whose value capture is to read back. */
  readonly settle = new EntryQueue(this, MirrorFlag.SETTLE);
  /** Deletes that are held back: released by {@link ReplicatedMap.releaseHeld}, forgotten when the entry is seen again. */
  readonly held = new EntryQueue(this, MirrorFlag.HELD);
  /** Keys that the kernel map is to lose although no register says so any more (core/forget.ts), by their hex. */
  readonly removals = new Map<string, Uint8Array>();
  /** Those that were taken out of the kernel map a short while ago, and in which write window: hooks may run late. */
  readonly removed = new Map<string, number>();
  /**
   * What the kernel map had before a write in an older map that now waits to be applied, null for nothing. If it has
   * something else by then, it was written as well, later than the older map, without being seen.
   */
  readonly expected = new Map<number, Uint8Array | null>();
  /** Told of every entry that is held back from now on, so that a restart does not forget it. */
  onHold: ((entry: number) => void) | null = null;
  /** The kernel map is left alone for now: what it has and lacks is of no account. */
  isStandby = false;
  /** A sweep has been through: apart from what waits, the kernel map had what the replica has. */
  isSwept = false;
  readonly #chunks: Chunk[] = [];
  #evicted = 0;

  /** Nothing waits: whatever the kernel map lacks is for a sweep to find. */
  constructor(table: RegisterTable) {
    while (this.#chunks.length * CHUNK_ENTRIES < table.end) this.#chunks.push(new Chunk());
  }

  /** Entries that an LRU map evicted here. */
  get evicted(): number {
    return this.#evicted;
  }

  /** Whether the kernel map is known not to have the register's state (yet). */
  isUnapplied(entry: number): boolean {
    return this.has(entry, UNAPPLIED);
  }

  /** Whether something has still to be done with the entry. */
  isBusy(entry: number): boolean {
    return !this.isStandby && this.has(entry, UNAPPLIED | MirrorFlag.SETTLE);
  }

  /** A new entry has been made: its number may have been another's before. */
  added(entry: number): void {
    if (entry >>> CHUNK_SHIFT === this.#chunks.length) this.#chunks.push(new Chunk());
  }

  /** The kernel map is to take the register's state. */
  push(entry: number): void {
    this.clearFlag(entry, MirrorFlag.UNLOGGED);
    if (this.expected.size > 0) this.expected.delete(entry);
    this.applyQueue.push(entry);
  }

  /**
   * As {@link push}, once a batch carries the register ({@link batched}): after a kill -9, one that is in this kernel map
   * and not in the log would be taken for a change made here, later than one made where it was written.
   */
  pushUnlogged(entry: number): void {
    this.applyQueue.cancel(entry);
    this.pending.cancel(entry);
    this.setFlag(entry, MirrorFlag.UNLOGGED);
  }

  /** A batch carries the register now. */
  batched(entry: number): void {
    if (!this.has(entry, MirrorFlag.UNLOGGED)) return;
    this.clearFlag(entry, MirrorFlag.UNLOGGED);
    this.applyQueue.push(entry);
  }

  /** Whether the kernel map, which has this, was written unseen while a write in an older one waits to be applied. */
  isUnexpected(entry: number, value: Uint8Array | null): boolean {
    const expected = this.expected.get(entry);
    if (expected === undefined) return false;
    if (expected === null || value === null) return expected !== value;
    return compareBytes(expected, value) !== 0;
  }

  /** The kernel map has the register's state: nothing is left to apply. */
  markApplied(entry: number): void {
    this.applyQueue.cancel(entry);
    this.pending.cancel(entry);
    this.clearFlag(entry, MirrorFlag.UNLOGGED);
    if (this.expected.size > 0) this.expected.delete(entry);
  }

  /** The register was written in the kernel map by somebody else. */
  captured(entry: number): void {
    this.markApplied(entry);
    this.setTick(entry, 0);
  }

  /** The kernel map has, or is about to have, the entry: it is neither evicted nor held. */
  markPresent(entry: number): void {
    if (!this.has(entry, MirrorFlag.EVICTED | MirrorFlag.HELD)) return;
    this.held.cancel(entry);
    if (!this.has(entry, MirrorFlag.EVICTED)) return;
    this.clearFlag(entry, MirrorFlag.EVICTED);
    this.#evicted--;
  }

  /** An LRU map evicted the live entry here. */
  markEvicted(entry: number): void {
    if (this.has(entry, MirrorFlag.EVICTED | MirrorFlag.HELD)) return;
    this.setFlag(entry, MirrorFlag.EVICTED);
    this.#evicted++;
  }

  /** The live entry is gone from the kernel map, and that is not believed to be a delete. */
  hold(entry: number): void {
    this.markPresent(entry);
    this.held.push(entry);
    this.onHold?.(entry);
  }

  /** The entry is about to be removed from the table. */
  forget(entry: number): void {
    this.markPresent(entry);
    this.markApplied(entry);
    this.settle.cancel(entry);
    const chunk = this.#chunk(entry);
    chunk.flags[entry & CHUNK_MASK] = 0;
    chunk.tick[entry & CHUNK_MASK] = 0;
    chunk.cpu[entry & CHUNK_MASK] = 0;
  }

  /** Everything that waited is known to have reached the kernel map. */
  settled(): void {
    while (this.applyQueue.shift() >= 0);
    this.removals.clear();
  }

  /** Live entries that the kernel map has or is to have: not evicted, not held. */
  presentOf(entries: number): number {
    return entries - this.held.size - this.#evicted;
  }

  flags(entry: number): number {
    return this.#chunk(entry).flags[entry & CHUNK_MASK]!;
  }

  has(entry: number, flag: number): boolean {
    return (this.flags(entry) & flag) !== 0;
  }

  setFlag(entry: number, flag: number): void {
    this.#chunk(entry).flags[entry & CHUNK_MASK]! |= flag;
  }

  clearFlag(entry: number, flag: number): void {
    this.#chunk(entry).flags[entry & CHUNK_MASK]! &= ~flag;
  }

  /** Number of the write window in which this node last wrote the entry to the kernel map; 0 if never or captured since. */
  tick(entry: number): number {
    return this.#chunk(entry).tick[entry & CHUNK_MASK]!;
  }

  setTick(entry: number, tick: number): void {
    this.#chunk(entry).tick[entry & CHUNK_MASK] = tick;
  }

  /** CPU (modulo 256) of the last captured write. */
  cpu(entry: number): number {
    return this.#chunk(entry).cpu[entry & CHUNK_MASK]!;
  }

  setCpu(entry: number, cpu: number): void {
    this.#chunk(entry).cpu[entry & CHUNK_MASK] = cpu;
  }

  #chunk(entry: number): Chunk {
    return this.#chunks[entry >>> CHUNK_SHIFT]!;
  }
}
