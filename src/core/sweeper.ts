/**
 * The sweep: dumps the whole kernel map, diffs it with the replica, and repairs both ways. It finds what no hook sees
 * (I7) and whatever events missed (I6), and it is the only capture of the `sweep` tier.
 *
 * A dump takes time, and the map changes meanwhile. So a difference is only a suspicion at first; when enough suspects
 * have come together and the ring was drained, each is looked at again, and only what differs still is acted on.
 *
 * ```
 * begin -> step ... step -> [drain the ring] -> confirm ... confirm -> step ... -> result
 * ```
 * What a difference means depends on whether this node has a history of the map (mode):
 * - `periodic`: the kernel changed without an event. It becomes a local write. An entry that is gone is a missed delete,
 *   except in an LRU map, where it is an eviction and concerns nobody else (I8).
 * - `initial`: the agent has just joined and knows nothing of the kernel map's past. The mesh wins where both have an
 *   opinion, so nothing deleted comes back; entries only the kernel has are taken in as local writes.
 * - `restart`: the agent knows from its log what it had left in the kernel map. What differs was changed while it was
 *   down, and becomes a local write; but an entry that still has the state before the last logged register is one that
 *   the last run did not get round to applying.
 */

import { compareBytes, isZero } from './bytes.js';
import type { Clock } from './clock.js';
import type { MapCounters } from './counters.js';
import { canonicalLpmKey } from './lpm-key.js';
import { isArrayKind, isLruKind, type MapDump, type MapPort } from './map-port.js';
import { EntryFlag } from './register-table.js';
import type { Replica } from './replica.js';

export type SweepMode = 'periodic' | 'initial' | 'restart';

export interface SweepResult {
  /** Entries seen in the kernel map. */
  readonly entries: number;
  /** Kernel changes that nobody had noticed, now local writes. */
  readonly capturedSets: number;
  readonly capturedDeletes: number;
  /** Registers that the kernel map lacked or had otherwise, now waiting to be applied. */
  readonly appliedSets: number;
  readonly appliedDeletes: number;
  /** Missing entries that are too many to be believed deletes (I8). */
  readonly heldDeletes: number;
}

/** Entries per step: 0.3 to 0.5 ms of dump and about as much of comparison. */
const STEP_ENTRIES = 1024;
/** Suspects looked at per step: one bpf(2) look-up each. */
const CONFIRM_ENTRIES = 512;
/** Suspects that are gathered before they are looked at: bounds the memory of a sweep. */
const SUSPECTS_MAX = 4096;
/** A sweep that misses more than this share of a map with more than this many entries does not believe that they were
 * deleted: the map was emptied or is another one. */
const DELETE_GUARD_SHARE = 0.5;
const DELETE_GUARD_ENTRIES = 100;

export class Sweeper {
  readonly #replica: Replica;
  readonly #port: MapPort;
  readonly #clock: Clock;
  readonly #counters: MapCounters;
  readonly #keys: Uint8Array;
  readonly #values: Uint8Array;
  #mode: SweepMode = 'periodic';
  #dump: MapDump | null = null;
  #suspects: Uint8Array[] = [];
  #suspectAt = 0;
  #missingAt = 0;
  #missing: number[] | null = null;
  #gone: number[] = [];
  #goneAt = 0;
  #result: { -readonly [K in keyof SweepResult]: SweepResult[K] } = emptyResult();

  constructor(replica: Replica, port: MapPort, clock: Clock, counters: MapCounters) {
    this.#replica = replica;
    this.#port = port;
    this.#clock = clock;
    this.#counters = counters;
    this.#keys = new Uint8Array(stepEntries(port) * port.info.keyBytes);
    this.#values = new Uint8Array(stepEntries(port) * port.info.valueBytes);
  }

  begin(mode: SweepMode): void {
    this.close();
    this.#mode = mode;
    this.#dump = this.#port.dump();
    this.#suspects = [];
    this.#suspectAt = 0;
    this.#missingAt = 0;
    this.#missing = null;
    this.#gone = [];
    this.#goneAt = 0;
    this.#result = emptyResult();
  }

  /** Gives up a sweep in progress. */
  close(): void {
    this.#dump?.close();
    this.#dump = null;
  }

  /**
   * Dumps and compares some entries.
   * @returns `more`: call it again; `confirm`: drain the ring, call {@link confirm} until it is done, then go on.
   */
  step(): 'more' | 'confirm' {
    if (this.#suspects.length >= SUSPECTS_MAX) return 'confirm';
    const { keyBytes, valueBytes } = this.#port.info;
    const count = this.#dump?.next(this.#keys, this.#values, stepEntries(this.#port)) ?? 0;
    if (count === 0) {
      this.close();
      return 'confirm';
    }
    this.#result.entries += count;
    for (let i = 0; i < count; i++) this.#compare(i * keyBytes, i * valueBytes);
    return 'more';
  }

  /**
   * Looks at some suspects again and acts on them.
   * @returns `more`: call it again; `step`: the dump goes on; else the result of the whole sweep.
   */
  confirm(): 'more' | 'step' | SweepResult {
    for (let i = 0; i < CONFIRM_ENTRIES; i++) {
      const key = this.#suspects[this.#suspectAt];
      if (key !== undefined) {
        this.#suspectAt++;
        this.#confirmDifferent(key);
        continue;
      }
      this.#suspects = [];
      this.#suspectAt = 0;
      if (this.#dump !== null) return 'step';
      this.#missing ??= this.#collectMissing();
      const entry = this.#missing[this.#missingAt];
      if (entry !== undefined) {
        this.#missingAt++;
        if (this.#isGone(entry)) this.#gone.push(entry);
        continue;
      }
      const gone = this.#gone[this.#goneAt];
      if (gone === undefined) return this.#finish();
      this.#goneAt++;
      this.#actOnGone(gone);
    }
    return 'more';
  }

  /** Compares the entry of the dump at these offsets with its register. */
  #compare(keyAt: number, valueAt: number): void {
    const { keyBytes, valueBytes, kind } = this.#port.info;
    const { table } = this.#replica;
    const canonical = kind !== 'lpm_trie' || !canonicalLpmKey(this.#keys, keyAt, keyBytes);
    const entry = table.find(this.#keys, keyAt);
    if (entry < 0) {
      if (isArrayKind(kind) && isZero(this.#values, valueAt, valueAt + valueBytes)) return;
    } else {
      table.setFlag(entry, EntryFlag.SWEPT);
      const same = !this.#replica.isTombstone(entry) && table.valueIs(entry, this.#values, valueAt);
      if (same && canonical) this.#replica.markApplied(entry);
      else if (same) this.#replica.applyQueue.push(entry);
      if (same) return;
    }
    this.#suspects.push(this.#keys.slice(keyAt, keyAt + keyBytes));
  }

  #finish(): SweepResult {
    this.#gone = [];
    this.#suspects = [];
    this.#missing = null;
    this.#counters.repaired += repairsOf(this.#result);
    this.#counters.heldDeletes = this.#result.heldDeletes;
    return this.#result;
  }

  /** Live registers that the dump did not show; some came in while it ran. Clears the marks of this sweep. */
  #collectMissing(): number[] {
    const replica = this.#replica;
    const { table } = replica;
    const ignored =
      EntryFlag.SWEPT | EntryFlag.TOMBSTONE | EntryFlag.APPLY | EntryFlag.PENDING | EntryFlag.EVICTED;
    const missing: number[] = [];
    for (let entry = 0; entry < table.end; entry++) {
      const flags = table.flags(entry);
      if ((flags & EntryFlag.USED) === 0) continue;
      if ((flags & ignored) === 0) missing.push(entry);
      table.clearFlag(entry, EntryFlag.SWEPT);
    }
    return missing;
  }

  #confirmDifferent(key: Uint8Array): void {
    const { table } = this.#replica;
    if (!this.#port.lookup(key, this.#values)) return; // gone since: its event, or the next sweep, tells
    const entry = table.find(key, 0);
    if (entry >= 0) {
      if (this.#replica.isUnapplied(entry) && !this.#isChangedSinceLog(entry)) return;
      if (!this.#replica.isTombstone(entry) && table.valueIs(entry, this.#values, 0)) return;
      if (this.#mode === 'initial') {
        this.#apply(entry);
        return;
      }
    }
    this.#localWrite(key, this.#values, entry);
  }

  /** In a restart: the kernel has neither the register in doubt nor what that replaced. The value was just read. */
  #isChangedSinceLog(entry: number): boolean {
    if (this.#mode !== 'restart') return false;
    const prior = this.#replica.priors.get(entry);
    return (
      prior !== undefined &&
      (prior === null || compareBytes(prior, this.#values.subarray(0, prior.length)) !== 0)
    );
  }

  /** Whether the kernel map still does not have an entry that it should have. */
  #isGone(entry: number): boolean {
    const { table } = this.#replica;
    if (!table.has(entry, EntryFlag.USED) || this.#replica.isTombstone(entry)) return false;
    if (this.#replica.isUnapplied(entry) || table.has(entry, EntryFlag.EVICTED)) return false;
    return !this.#port.lookup(table.key(entry), this.#values);
  }

  /** What vanishing means depends on the kind of map, the mode, and how many vanished (I8). */
  #actOnGone(entry: number): void {
    const { entries, table } = this.#replica;
    const isMass = entries > DELETE_GUARD_ENTRIES && this.#gone.length > entries * DELETE_GUARD_SHARE;
    if (this.#mode === 'initial') {
      this.#apply(entry);
    } else if (isLruKind(this.#port.info.kind)) {
      table.setFlag(entry, EntryFlag.EVICTED);
      this.#counters.evicted++;
    } else if (isMass) {
      this.#result.heldDeletes++;
    } else {
      this.#localWrite(table.key(entry), null, entry);
    }
  }

  /** The kernel's state of a key becomes a local write of now: when exactly it was made nobody knows. */
  #localWrite(key: Uint8Array, value: Uint8Array | null, known: number): void {
    const replica = this.#replica;
    const after = known >= 0 ? replica.stamp(known) : undefined;
    const { entry } = replica.writeLocal(key, 0, value, 0, this.#clock.wallUs(), after, 'sweep');
    replica.markApplied(entry);
    replica.table.setTick(entry, 0);
    if (value === null) this.#result.capturedDeletes++;
    else this.#result.capturedSets++;
  }

  /** The kernel is to take the register's state. */
  #apply(entry: number): void {
    this.#replica.applyQueue.push(entry);
    if (this.#replica.isTombstone(entry)) this.#result.appliedDeletes++;
    else this.#result.appliedSets++;
  }
}

/** Differences that a sweep mended, either way. */
export function repairsOf(result: SweepResult): number {
  return result.capturedSets + result.capturedDeletes + result.appliedSets + result.appliedDeletes;
}

export function emptyResult(): SweepResult {
  return {
    entries: 0,
    capturedSets: 0,
    capturedDeletes: 0,
    appliedSets: 0,
    appliedDeletes: 0,
    heldDeletes: 0,
  };
}

/** Fewer entries per step when values are large, so that a step copies at most a megabyte. */
function stepEntries(port: MapPort): number {
  return Math.max(1, Math.min(STEP_ENTRIES, Math.floor((1024 * 1024) / port.info.valueBytes)));
}
