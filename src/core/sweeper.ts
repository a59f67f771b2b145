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
 *   except in an LRU map, where it is an eviction and concerns nobody else, and except where so many are gone that
 *   somebody must have emptied the map: those are held back (I8). What is held or evicted already is left alone.
 * - `initial`: the agent has just joined, or the kernel map is another one than before, and nothing is known of its past.
 *   The mesh wins where both have an opinion, so nothing deleted comes back; entries only the kernel has are taken in as
 *   local writes; whatever the replica has and the kernel map has not is put there.
 * - `forgetful`: as `initial`, but the mesh has dropped tombstones and this node remembers nothing: an entry that only the
 *   kernel map has may be one that was deleted long ago, and is removed (I9).
 * - `restart`: the agent knows from its log what it had left in the kernel map. What differs was changed while it was
 *   down, and becomes a local write; but an entry that still has the state before the last logged register is one that
 *   the last run did not get round to applying.
 */

import { compareBytes, copyRange, isZero, toHex } from './bytes.js';
import type { Clock } from './clock.js';
import type { MapCounters } from './counters.js';
import type { DeleteGuard } from './delete-guard.js';
import { removeUnknown } from './forget.js';
import { canonicalLpmKey } from './lpm-key.js';
import { isArrayKind, isLruKind, type MapDump, type MapPort } from './map-port.js';
import { type Mirror, MirrorFlag } from './mirror.js';
import type { Replica } from './replica.js';
import { RestorePacer } from './restore-pacer.js';

export type SweepMode = 'periodic' | 'initial' | 'forgetful' | 'restart';

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
/** Suspects looked at per step: one bpf(2) look-up each, and for most a register that is new; while a large table grows
 * (one of its 64 segments after the other) each few hundred of those cost 5 ms more. */
const CONFIRM_ENTRIES = 128;
/** Suspects that are gathered before they are looked at: bounds the memory of a sweep. */
const SUSPECTS_MAX = 4096;
const SUSPECTS_BYTES_MIN = 1024;
/** Table entries passed over per step: about half a millisecond. */
const WALK_ENTRIES = 16_384;

/** Entries that have nothing to do with what is missing in the kernel map. */
const NOT_MISSED =
  MirrorFlag.SWEPT |
  MirrorFlag.APPLY |
  MirrorFlag.PENDING |
  MirrorFlag.UNLOGGED |
  MirrorFlag.HELD |
  MirrorFlag.EVICTED;
/** The same when the map is filled: then whatever the replica has is to be there. */
const NOT_MISSED_INITIALLY = NOT_MISSED & ~(MirrorFlag.HELD | MirrorFlag.EVICTED);
const MARKS = MirrorFlag.SWEPT | MirrorFlag.GONE;

/**
 * What a sweep is at. `clear`: taking off the marks of one that was given up; `dump`: of the kernel map; `missing`:
 * finding and counting what the dump did not show; `act`: on what is gone; `restore`: of evicted entries.
 */
type Phase = 'clear' | 'dump' | 'missing' | 'act' | 'restore';

export class Sweeper {
  /** Evicted entries are put back as far as there is room (policy `restore`), instead of left where they are. */
  restoresEvicted = false;
  readonly #replica: Replica;
  readonly #mirror: Mirror;
  readonly #port: MapPort;
  readonly #guard: DeleteGuard;
  readonly #clock: Clock;
  readonly #counters: MapCounters;
  readonly #keys: Uint8Array;
  readonly #values: Uint8Array;
  /** The key being looked at: one array for all, since the kernel takes an address. */
  readonly #key: Uint8Array;
  /** For each key that was dumped: its entry in the table, or -1. */
  readonly #found: Int32Array;
  /** ... and whether it had another name in a trie. */
  readonly #isRenamed: Uint8Array;
  #touched = 0;
  readonly #pacer = new RestorePacer();
  #mode: SweepMode = 'periodic';
  #phase: Phase = 'clear';
  /** Entries may bear marks of a sweep that was given up, also by an earlier sweeper of the table. */
  #hasMarks = true;
  #dump: MapDump | null = null;
  /** Keys of suspects, packed; {@link SUSPECTS_MAX} and a step's worth at most. */
  #suspects = new Uint8Array(0);
  #suspectCount = 0;
  #suspectAt = 0;
  /** Where the walk through the table stands. */
  #at = 0;
  #goneCount = 0;
  #isMass = false;
  /** Free entries of the kernel map: an LRU map is not to evict what it has for what it had. */
  #room = 0;
  #result: { -readonly [K in keyof SweepResult]: SweepResult[K] } = emptyResult();

  constructor(
    replica: Replica,
    mirror: Mirror,
    port: MapPort,
    guard: DeleteGuard,
    clock: Clock,
    counters: MapCounters,
  ) {
    this.#replica = replica;
    this.#mirror = mirror;
    this.#port = port;
    this.#guard = guard;
    this.#clock = clock;
    this.#counters = counters;
    this.#keys = new Uint8Array(stepEntries(port) * port.info.keyBytes);
    this.#values = new Uint8Array(stepEntries(port) * port.info.valueBytes);
    this.#key = new Uint8Array(port.info.keyBytes);
    this.#found = new Int32Array(stepEntries(port));
    this.#isRenamed = new Uint8Array(stepEntries(port));
  }

  begin(mode: SweepMode): void {
    this.close();
    this.#mode = mode;
    this.#enter(this.#hasMarks ? 'clear' : 'dump');
    this.#hasMarks = true;
    this.#dump = this.#port.dump();
    this.#suspectCount = 0;
    this.#suspectAt = 0;
    this.#goneCount = 0;
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
    if (this.#phase === 'clear') {
      if (this.#walk((entry) => this.#clearMarks(entry))) this.#enter('dump');
      return 'more';
    }
    if (this.#suspectCount >= SUSPECTS_MAX) return 'confirm';
    const { keyBytes, valueBytes } = this.#port.info;
    const count = this.#dump?.next(this.#keys, this.#values, stepEntries(this.#port)) ?? 0;
    if (count === 0) {
      this.close();
      return 'confirm';
    }
    this.#result.entries += count;
    this.#find(count);
    for (let i = 0; i < count; i++) this.#compare(this.#found[i]!, i * keyBytes, i * valueBytes);
    return 'more';
  }

  /**
   * Looks at some suspects again and acts on them; after the dump, at what is missing.
   * @returns `more`: call it again; `step`: the dump goes on; else the result of the whole sweep.
   */
  confirm(): 'more' | 'step' | SweepResult {
    if (this.#suspectCount > 0) {
      this.#confirmSuspects();
      return 'more';
    }
    switch (this.#phase) {
      case 'clear':
      case 'dump':
        if (this.#dump !== null) return 'step';
        this.#room = this.#port.info.maxEntries - this.#result.entries;
        this.#enter('missing');
        return 'more';
      case 'missing':
        if (this.#walk((entry) => this.#checkMissing(entry))) this.#judge();
        return 'more';
      case 'act':
        if (this.#walk((entry) => this.#checkGone(entry))) this.#enter('restore');
        return 'more';
      case 'restore':
        return this.#restore() ? this.#finish() : 'more';
    }
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    this.#at = 0;
  }

  /**
   * Visits further entries of the table, as many as make up a step.
   * @param visit says whether it looked into the kernel map.
   * @returns whether the end was reached.
   */
  #walk(visit: (entry: number) => boolean): boolean {
    const { table } = this.#replica;
    let lookups = 0;
    const end = Math.min(table.end, this.#at + WALK_ENTRIES);
    while (this.#at < end && lookups < CONFIRM_ENTRIES) if (visit(this.#at++)) lookups++;
    return this.#at >= table.end;
  }

  #clearMarks(entry: number): false {
    this.#mirror.clearFlag(entry, MARKS);
    return false;
  }

  #confirmSuspects(): void {
    const { keyBytes } = this.#port.info;
    const end = Math.min(this.#suspectCount, this.#suspectAt + CONFIRM_ENTRIES);
    for (; this.#suspectAt < end; this.#suspectAt++) {
      const at = this.#suspectAt * keyBytes;
      copyRange(this.#suspects, at, at + keyBytes, this.#key, 0);
      this.#confirmDifferent(this.#key);
    }
    if (this.#suspectAt < this.#suspectCount) return;
    this.#suspectCount = 0;
    this.#suspectAt = 0;
  }

  #suspect(keyAt: number): void {
    const { keyBytes } = this.#port.info;
    const at = this.#suspectCount++ * keyBytes;
    if (at + keyBytes > this.#suspects.length) {
      const old = this.#suspects;
      this.#suspects = new Uint8Array(Math.max(SUSPECTS_BYTES_MIN, old.length * 2));
      this.#suspects.set(old);
    }
    copyRange(this.#keys, keyAt, keyAt + keyBytes, this.#suspects, at);
  }

  /** Whether the kernel map has the entry; its key is in `#key` afterwards, its value in `#values`. */
  #isInKernel(entry: number): boolean {
    const { table } = this.#replica;
    const at = table.keyOffset(entry);
    copyRange(table.data(entry), at, at + table.keyBytes, this.#key, 0);
    return this.#port.lookup(this.#key, this.#values);
  }

  /** Finds the entries of the keys that were dumped. Those of a trie get the names that registers have for them. */
  #find(count: number): void {
    const { keyBytes, kind } = this.#port.info;
    for (let i = 0; kind === 'lpm_trie' && i < count; i++)
      this.#isRenamed[i] = Number(canonicalLpmKey(this.#keys, i * keyBytes, keyBytes));
    this.#replica.table.findMany(this.#keys, count, this.#found);
    // As in findMany: the mirror's state of all of them is fetched before the first is looked at.
    for (let i = 0; i < count; i++)
      if (this.#found[i]! >= 0) this.#touched |= this.#mirror.flags(this.#found[i]!);
  }

  /** Compares the entry of the dump at these offsets with its register. */
  #compare(entry: number, keyAt: number, valueAt: number): void {
    const { keyBytes, valueBytes, kind } = this.#port.info;
    const { table } = this.#replica;
    const canonical = this.#isRenamed[keyAt / keyBytes] === 0;
    if (entry < 0) {
      if (isArrayKind(kind) && isZero(this.#values, valueAt, valueAt + valueBytes)) return;
    } else {
      this.#mirror.setFlag(entry, MirrorFlag.SWEPT);
      const same = !this.#replica.isTombstone(entry) && table.valueIs(entry, this.#values, valueAt);
      if (same) this.#mirror.markPresent(entry);
      if (same && canonical) this.#mirror.markApplied(entry);
      else if (same) this.#mirror.push(entry);
      if (same) return;
    }
    this.#suspect(keyAt);
  }

  #finish(): SweepResult {
    this.#hasMarks = false;
    this.#mirror.isSwept = true;
    this.#suspects = new Uint8Array(0);
    this.#counters.repaired += repairsOf(this.#result);
    this.#counters.heldDeletes += this.#result.heldDeletes;
    return this.#result;
  }

  /**
   * Is a live register that the dump did not show still missing, or did it come in meanwhile? Clears the mark of the dump.
   * @returns whether it looked into the kernel map.
   */
  #checkMissing(entry: number): boolean {
    const mirror = this.#mirror;
    const flags = mirror.flags(entry);
    mirror.clearFlag(entry, MirrorFlag.SWEPT);
    const isInitial = this.#isInitial;
    if (!this.#replica.isLive(entry)) return false;
    if ((flags & (isInitial ? NOT_MISSED_INITIALLY : NOT_MISSED)) !== 0) return false;
    if (this.#isInKernel(entry)) return true;
    if (isInitial) {
      this.#fill(entry);
    } else {
      mirror.setFlag(entry, MirrorFlag.GONE);
      this.#goneCount++;
    }
    return true;
  }

  /** All that is gone has been counted: can it be believed? An LRU map evicts many, but never all. */
  #judge(): void {
    const isEmptied = this.#result.entries === 0 || !isLruKind(this.#port.info.kind);
    this.#isMass = isEmptied && this.#guard.isMass(this.#goneCount, this.#present);
    this.#enter(this.#goneCount > 0 ? 'act' : 'restore');
  }

  /** What vanishing means depends on the kind of map and on how many vanished (I8). */
  #checkGone(entry: number): boolean {
    const mirror = this.#mirror;
    const flags = mirror.flags(entry);
    if ((flags & MirrorFlag.GONE) === 0) return false;
    mirror.clearFlag(entry, MirrorFlag.GONE);
    if (!this.#replica.isLive(entry)) return false;
    if ((flags & NOT_MISSED) !== 0 || this.#isInKernel(entry)) return true;
    if (!this.#isMass && isLruKind(this.#port.info.kind)) {
      mirror.markEvicted(entry);
      this.#counters.evicted++;
    } else if (this.#replica.isWriter && this.#isUnbelievable()) {
      mirror.hold(entry);
      this.#result.heldDeletes++;
    } else {
      this.#localWrite(this.#key, null, entry);
    }
    return true;
  }

  /** Whether one more entry that is gone was hardly deleted. What a node deletes that may not write is put back, however much. */
  #isUnbelievable(): boolean {
    return this.#isMass || this.#guard.deleted(this.#clock.monotonicUs(), this.#present);
  }

  #confirmDifferent(key: Uint8Array): void {
    const { table } = this.#replica;
    if (!this.#port.lookup(key, this.#values)) return; // gone since: its event, or the next sweep, tells
    const entry = table.find(key, 0);
    if (entry >= 0) {
      if (this.#mirror.isUnapplied(entry) && !this.#isChangedThere(entry)) return;
      if (!this.#replica.isTombstone(entry) && table.valueIs(entry, this.#values, 0)) {
        this.#mirror.markPresent(entry);
        return;
      }
      if (this.#isInitial) {
        this.#apply(entry);
        return;
      }
    } else if (this.#mirror.removals.has(toHex(key))) {
      return; // on its way out
    } else if (this.#mode === 'forgetful') {
      removeUnknown(this.#replica, this.#mirror, key);
      this.#result.appliedDeletes++;
      return;
    }
    this.#localWrite(key, this.#values, entry);
  }

  get #present(): number {
    return this.#mirror.presentOf(this.#replica.entries);
  }

  /** Nothing is known of the kernel map's past: it is to have what the replica has. */
  get #isInitial(): boolean {
    return this.#mode === 'initial' || this.#mode === 'forgetful';
  }

  /** The register waits to be applied; what the kernel has instead, and was just read, is not what it is to replace. */
  #isChangedThere(entry: number): boolean {
    const value = this.#values.subarray(0, this.#port.info.valueBytes);
    return this.#mirror.isUnexpected(entry, value) || this.#isChangedSinceLog(entry);
  }

  /** In a restart: the kernel has neither the register in doubt nor any that it replaced. The value was just read. */
  #isChangedSinceLog(entry: number): boolean {
    if (this.#mode !== 'restart') return false;
    const priors = this.#replica.priors.get(entry);
    if (priors === undefined) return false;
    return !priors.some(
      (prior) => prior !== null && compareBytes(prior, this.#values.subarray(0, prior.length)) === 0,
    );
  }

  /** A map that is being filled lacks a live entry. An LRU map takes what there is room for. */
  #fill(entry: number): void {
    const isLru = isLruKind(this.#port.info.kind);
    if (isLru && this.#room <= 0) {
      this.#mirror.markEvicted(entry);
      return;
    }
    this.#room--;
    this.#apply(entry);
  }

  /** Puts evicted entries back if that is the policy and there is room. @returns whether it is done. */
  #restore(): boolean {
    if (!this.restoresEvicted || this.#mirror.evicted === 0) return true;
    if (this.#at === 0) this.#room = this.#pacer.budget(this.#room, this.#counters.evicted);
    if (this.#room === 0) return true;
    const isDone = this.#walk((entry) => this.#restoreEvicted(entry));
    if (this.#result.appliedSets > 0) this.#pacer.restored(this.#counters.evicted);
    return isDone;
  }

  #restoreEvicted(entry: number): boolean {
    if (this.#room === 0 || !this.#mirror.has(entry, MirrorFlag.EVICTED) || this.#mirror.isUnapplied(entry))
      return false;
    if (this.#isInKernel(entry)) return true; // its event, or the next sweep, tells
    this.#room--;
    this.#apply(entry);
    return true;
  }

  /** The kernel's state of a key becomes a local write of now: when exactly it was made nobody knows. */
  #localWrite(key: Uint8Array, value: Uint8Array | null, known: number): void {
    const replica = this.#replica;
    const after = known >= 0 ? replica.stamp(known) : undefined;
    const { entry, isRefused } = replica.writeLocal(
      key,
      0,
      value,
      0,
      this.#clock.wallUs(),
      after,
      'sweep',
      this.#mirror,
    );
    if (isRefused) {
      if (known >= 0 && replica.isLive(known)) this.#result.appliedSets++;
      else this.#result.appliedDeletes++;
      return;
    }
    this.#mirror.captured(entry);
    if (value === null) this.#result.capturedDeletes++;
    else this.#result.capturedSets++;
  }

  /** The kernel is to take the register's state. */
  #apply(entry: number): void {
    this.#mirror.markPresent(entry);
    this.#mirror.push(entry);
    if (this.#replica.isTombstone(entry)) this.#result.appliedDeletes++;
    else this.#result.appliedSets++;
  }
}

/** Differences that a sweep found, either way. */
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
