/**
 * The state of one replicated map on this node: its registers (core/registers.ts), and what comes to them, goes from them and
 * waits. Pure: it touches no kernel map and no network, and asks nobody for the time.
 *
 * Local writes enter by {@link Replica.writeLocal} and leave in signed batches (core/outbox.ts); batches of others
 * enter by {@link Replica.receive}. Whatever won and is not in a kernel map yet waits in that one's mirror (core/mirror.ts).
 */
import {
  type BatchView,
  coverOf,
  decodeBatch,
  ItemTag,
  itemKeyOffset,
  itemStampHi,
  itemStampLo,
  itemTag,
  signedBytes,
  wire,
} from './batch.js';
import { BatchNumbers } from './batch-numbers.js';
import { toHex } from './bytes.js';
import { MapmeshError } from './errors.js';
import type { Foundings } from './foundings.js';
import type { HybridClock } from './hybrid-clock.js';
import { isNoKey } from './key-range.js';
import { isCanonicalLpmKey } from './lpm-key.js';
import { isArrayKind, type MapShape } from './map-port.js';
import { type Cover, rootOf } from './merkle.js';
import { Mirror } from './mirror.js';
import { ORIGIN_SELF } from './origins.js';
import { Outbox } from './outbox.js';
import { EntryFlag } from './register-table.js';
import { Registers, type RegistersComponents, type RegistersOptions } from './registers.js';
import { type Stamp, stampAfter, stampTimeUs } from './stamp.js';
import { Writers } from './writers.js';

/** Most states of an entry that are kept while the log is replayed: the log settles all of them every 100 ms as a rule. */
const PRIORS_MAX = 256;

/** Where a change of a register came from. */
export type ChangeSource = 'local' | 'remote' | 'sweep' | 'expiry';

export interface ReplicaComponents extends RegistersComponents {
  readonly hlc: HybridClock;
  /** Signs with this node's key: 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array;
  verify(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean;
}

export interface ReplicaOptions extends RegistersOptions {
  readonly mapId: Uint8Array;
  /** Number of the first batch; must be greater than every number used before. */
  readonly firstSeq: number;
}

/** What became of a received batch. */
export interface Received {
  /** Number of the origin; -1 if the batch was not checked, since it brings nothing. */
  readonly origin: number;
  readonly seq: number;
  /** Registers that won, that were known or older, that were held back for their stamp. */
  readonly won: number;
  readonly stale: number;
  readonly heldBack: number;
  /** Those whose origin may not write the map. */
  readonly refused: number;
  /** The batch without what was held back, refused or had been deleted: what is to be kept, if any won. */
  readonly frame: Uint8Array;
}

/** Keys, by their hex, that a kernel map has refused, and whether it had nothing in their place. */
export type Refused = ReadonlyMap<string, boolean>;

/** What became of a write made on this node. */
export interface LocalWrite {
  readonly entry: number;
  readonly won: boolean;
  readonly isRefused: boolean;
}

export class Replica extends Registers {
  readonly shape: MapShape;
  readonly mapId: Uint8Array;
  /** Which batches are here, this node's own included. */
  readonly batches = new BatchNumbers();
  /**
   * While the log is replayed: the states that a register in doubt replaced, null for none. Tells an apply that the last
   * run did not get round to from a change made in the kernel map since.
   */
  readonly priors = new Map<number, (Uint8Array | null)[]>();
  /** Registers of others, writes made here, and registers dropped, that did not count by the list of writers. */
  refused = 0;
  /** Told of every register that changed; for `watch`. Null when nobody listens. */
  onChange: ((entry: number, source: ChangeSource) => void) | null = null;
  /** Which meshes this is of; none before the map has gone live. What follows from it: core/foundings.ts. */
  foundings: Foundings = [];
  /** Told when they, and with them the horizon, have changed; for the log. */
  onFoundings: (() => void) | null = null;
  /** Told of every key whose register is dropped; for the log. */
  onDrop: ((key: Uint8Array) => void) | null = null;

  readonly #components: ReplicaComponents;
  readonly #outbox: Outbox;
  readonly #mirrors: Mirror[] = [];
  #isRestoring = false;
  #horizonUs = 0;
  /** Newest batch of this node's own that the log had. */
  #restoredSeq = 0;
  #lackingUs = 0;
  #writers: Writers;
  #heldBackUs = Number.POSITIVE_INFINITY;
  #othersUs = 0;

  constructor(components: ReplicaComponents, options: ReplicaOptions) {
    super(components, options);
    this.#components = components;
    this.shape = options.shape;
    this.mapId = options.mapId;
    const { hash, origins, sign } = components;
    const { mapId, table, provenance, batches } = this;
    this.#writers = new Writers(origins, [], 0);
    this.#outbox = new Outbox(
      { mapId, table, provenance, batches, mirrors: this.#mirrors, origins, hash, sign },
      options.firstSeq,
    );
  }

  /**
   * Tombstones up to this time have been dropped: a key without a register counts as deleted then. So a register up to
   * it of a key that is unknown here is one that was deleted since, and is not taken (I9). See core/stability.ts.
   */
  get horizonUs(): number {
    return this.#horizonUs;
  }

  /** Something is lacking of the time up to this: the horizon does not rise to less ({@link forgetHorizon}). */
  get lackingUs(): number {
    return this.#lackingUs;
  }

  /** The latest time of a register that another node made and that was taken: its clock, or one like it, had come to that. */
  get othersUs(): number {
    return this.#othersUs;
  }

  /** Earliest stamp of a register that was held back since the last {@link forgetHeldBack}; infinite if none was. */
  get heldBackUs(): number {
    return this.#heldBackUs;
  }

  /** Who may write. Registers that do not count by a new list go by {@link dropUncounted}. */
  get writers(): Writers {
    return this.#writers;
  }

  set writers(writers: Writers) {
    this.#writers = writers;
    if (this.isWriter) return;
    // Nothing that this node could say of them would count.
    for (const mirror of this.#mirrors) {
      for (let entry = mirror.held.shift(); entry >= 0; entry = mirror.held.shift()) mirror.push(entry);
    }
  }

  /** Whether this node may write. */
  get isWriter(): boolean {
    return this.#writers.mayWrite(ORIGIN_SELF);
  }

  /** Kernel maps in which the replica is mirrored, oldest first. */
  get mirrors(): readonly Mirror[] {
    return this.#mirrors;
  }

  /** Local writes that no batch carries yet. */
  get unsent(): number {
    return this.#outbox.size;
  }

  /** Number of the last batch made here; {@link ReplicaOptions.firstSeq} - 1 before the first. */
  get seq(): number {
    return this.#outbox.seq;
  }

  /** Mirrors the replica in one more kernel map, which a sweep `initial` has to compare with it first. */
  attach(): Mirror {
    const mirror = new Mirror(this.table);
    this.#mirrors.push(mirror);
    return mirror;
  }

  /** Mirrors the replica in that kernel map no longer. */
  detach(mirror: Mirror): void {
    this.#mirrors.splice(this.#mirrors.indexOf(mirror), 1);
  }

  /** Whether the register counts by the list of writers. */
  counts(entry: number): boolean {
    const { table } = this;
    return this.#writers.counts(table.origin(entry), stampTimeUs(table.stampHi(entry), table.stampLo(entry)));
  }

  /** Whether an expiry of the live register, made here, would count. */
  mayExpire(entry: number): boolean {
    const { hi, lo } = stampAfter(this.stamp(entry));
    return this.#writers.counts(ORIGIN_SELF, stampTimeUs(hi, lo));
  }

  /**
   * Takes in a write made on this node.
   * @param value null for a delete.
   * @param eventUs wall time at which it happened.
   * @param after the register that the writer could have seen: the write's stamp will be greater.
   * @param madeIn the kernel map that has it already; null: all are to take it.
   * @returns the entry; `won` is false if a register with a greater stamp is there and stays. `isRefused`: this node may not
   *   write, so the kernel map is to get the register back, or to lose an entry that has none (-1).
   */
  writeLocal(
    keyBytes: Uint8Array,
    keyAt: number,
    value: Uint8Array | null,
    valueAt: number,
    eventUs: number,
    after: Stamp | undefined,
    source: ChangeSource,
    madeIn: Mirror | null,
  ): LocalWrite {
    const stamp = this.#components.hlc.issue(eventUs, after);
    const found = this.table.find(keyBytes, keyAt);
    if (!this.#writers.counts(ORIGIN_SELF, stampTimeUs(stamp.hi, stamp.lo))) {
      this.refused++;
      this.#putBack(found, keyBytes, keyAt, madeIn);
      return { entry: found, won: false, isRefused: true };
    }
    if (found >= 0 && this.compare(found, stamp.hi, stamp.lo, ORIGIN_SELF, value, valueAt) >= 0) {
      return { entry: found, won: false, isRefused: false };
    }
    const before = this.#mirrors.length > 1 ? this.#kernelValue(found) : null;
    const entry = this.#put(found, keyBytes, keyAt, value, valueAt, stamp.hi, stamp.lo, ORIGIN_SELF);
    this.#outbox.push(entry);
    this.#toMirrors(entry, madeIn, before);
    if (this.priors.size > 0) this.priors.delete(entry);
    this.onChange?.(entry, source);
    return { entry, won: true, isRefused: false };
  }

  /**
   * Takes in a signed batch of this or another origin, fresh or pruned.
   * @param stampUsMax registers with a later stamp are held back: not merged, only counted (I14).
   * @param skipsKnown a batch that brings nothing is not checked either: who reconciles gets many of those. Its
   *   number proves nothing then.
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE; then nothing was merged.
   */
  receive(frame: Uint8Array, stampUsMax: number, skipsKnown = false): Received {
    const view = decodeBatch(frame, this.mapId, this.shape);
    const { hash, verify } = this.#components;
    this.#checkKeys(view);
    if (skipsKnown && this.knows(frame, view)) {
      return { origin: -1, seq: view.seq, won: 0, stale: view.itemCount, heldBack: 0, refused: 0, frame };
    }
    const cover = coverOf(view, hash);
    const root = rootOf(cover, view.leafCount, hash);
    if (!verify(view.origin, signedBytes(frame, root), view.signature)) {
      throw new MapmeshError('ERR_SIGNATURE', 'Cannot accept batch: its signature does not match its origin');
    }
    return this.#merge(frame, view, cover, stampUsMax);
  }

  /**
   * Takes in a batch from this node's own log, whose checksum vouches for it. Whether the kernel map has its registers is
   * in doubt until {@link settleRestored}: they wait to be applied.
   * @throws MapmeshError ERR_WIRE
   */
  restore(frame: Uint8Array): void {
    const view = decodeBatch(frame, this.mapId, this.shape);
    const cover = coverOf(view, this.#components.hash);
    const { origin, seq } = this.#mergeRestored(frame, view, cover);
    this.batches.note(origin, seq, false);
    if (origin !== ORIGIN_SELF) return;
    this.batches.completeTo(origin, seq);
    this.#restoredSeq = Math.max(this.#restoredSeq, seq);
  }

  /** The log may have lost its end: others may have batches of this node that it does not know of any more. */
  doubtRestoredEnd(): void {
    this.batches.doubtOwnAfter(this.#restoredSeq);
  }

  /** Everything restored so far is known to have reached the kernel maps. @param refused but for this, of each */
  settleRestored(refused: ReadonlyMap<Mirror, Refused> = new Map()): void {
    const before = new Map(this.priors);
    this.priors.clear();
    const found = new Map<number, (Uint8Array | null)[] | undefined>();
    for (const mirror of this.#mirrors) {
      mirror.settled();
      for (const [key, isLacked] of refused.get(mirror) ?? []) {
        const entry = this.table.find(Buffer.from(key, 'hex'), 0);
        if (entry < 0) continue;
        mirror.push(entry);
        const priors = isLacked ? [null] : before.get(entry);
        // Of two kernel maps each may have something else: what either has is no write of a program.
        const others = found.has(entry) ? found.get(entry) : [];
        found.set(entry, priors && others && [...others, ...priors]);
      }
    }
    for (const [entry, priors] of found) if (priors !== undefined) this.priors.set(entry, priors);
  }

  /**
   * Everybody has the tombstones up to `timeUs`, or never will: they may be dropped (core/forget.ts). Never lowers it.
   * What is written here from now on is later: it must not count as deleted.
   */
  raiseHorizon(timeUs: number): void {
    if (timeUs <= this.#horizonUs || timeUs < this.#lackingUs) return;
    this.#horizonUs = timeUs;
    this.#components.hlc.stayAbove(timeUs);
  }

  /** A horizon beyond `timeUs` was a clock's mistake. To be called with {@link HybridClock.setBack}. */
  setHorizonBack(timeUs: number): void {
    this.#horizonUs = Math.min(this.#horizonUs, timeUs);
    this.#lackingUs = Math.min(this.#lackingUs, timeUs);
  }

  /**
   * Registers were given up for others that did not count ({@link dropUncounted}), or another mesh has others
   * (core/foundings.ts): that a key is unknown here says nothing any more, until everybody has everything up to `nowUs`.
   */
  forgetHorizon(nowUs: number): void {
    this.#horizonUs = 0;
    this.#lackingUs = nowUs;
  }

  /** As {@link Outbox.skipTo}. */
  skipBatchesTo(seq: number): void {
    this.#outbox.skipTo(seq);
  }

  /** What was held back has come in meanwhile, or will be seen again. */
  forgetHeldBack(): void {
    this.#heldBackUs = Number.POSITIVE_INFINITY;
  }

  /** What was restored so far was in another kernel map than what follows: whether this one has it is in doubt. */
  doubtRestored(mirror: Mirror): void {
    for (let entry = 0; entry < this.table.end; entry++) {
      if (this.table.has(entry, EntryFlag.USED)) mirror.push(entry);
    }
    if (this.#mirrors.length === 1) this.priors.clear();
  }

  /** The log says that the delete of this key was held back: the kernel map is known not to have the entry. */
  restoreHeld(mirror: Mirror, keyBytes: Uint8Array, keyAt: number): void {
    const entry = this.table.find(keyBytes, keyAt);
    if (entry < 0 || this.isTombstone(entry)) return;
    mirror.markApplied(entry);
    mirror.hold(entry);
  }

  /** Gives an own register a new stamp, the next one from `timeUs` on and after `after`; it is to go into a batch again. */
  restamp(entry: number, timeUs: number, after: Stamp): void {
    const { hi, lo } = this.#components.hlc.issue(timeUs, after);
    this.setStamp(entry, hi, lo, ORIGIN_SELF);
    this.#outbox.push(entry);
  }

  /** Replaces a live register by a tombstone that follows it at once (core/expiry.ts). */
  expire(entry: number): void {
    const { hi, lo } = stampAfter(this.stamp(entry));
    this.#put(entry, this.table.key(entry), 0, null, 0, hi, lo, ORIGIN_SELF);
    this.#outbox.push(entry);
    // What vanishes from a kernel map before the log says why would be taken for a delete of somebody's after a kill -9.
    for (const mirror of this.#mirrors) mirror.pushUnlogged(entry);
    if (this.priors.size > 0) this.priors.delete(entry);
    this.onChange?.(entry, 'expiry');
  }

  /** Takes the entry out of everything, without a trace (core/forget.ts says when). */
  remove(entry: number): void {
    for (const mirror of this.#mirrors) mirror.forget(entry);
    this.priors.delete(entry);
    this.#outbox.cancel(entry);
    this.discard(entry);
  }

  /** As {@link Outbox.next}. */
  nextBatch(): Uint8Array | null {
    return this.#outbox.next();
  }

  /** As {@link Outbox.relay}. */
  relay(slot: number, entries: readonly number[]): Uint8Array {
    return this.#outbox.relay(slot, entries);
  }

  /**
   * An entry that no kernel can hold would wait on every node for ever. A delete of one, which an earlier version may have let
   * in, is taken. An entry by another name than its own would have two registers.
   * @throws MapmeshError ERR_WIRE
   */
  #checkKeys(view: BatchView): void {
    const { kind, keyBytes } = this.shape;
    if (kind !== 'lpm_trie') return;
    for (let i = 0; i < view.itemCount; i++) {
      const tag = itemTag(view, i);
      if (tag >= ItemTag.SUBTREE) continue;
      const at = itemKeyOffset(view, i);
      if (tag === ItemTag.VALUE && isNoKey(this.shape, view.bytes, at))
        throw wire('a prefix that is longer than the address', 'one that fits');
      if (!isCanonicalLpmKey(view.bytes, at, keyBytes))
        throw wire('address bits beyond the prefix', 'zeros there');
    }
  }

  /** An error must not leave a replica that takes every batch for one of its log. */
  #mergeRestored(frame: Uint8Array, view: BatchView, cover: Cover): Received {
    this.#isRestoring = true;
    try {
      return this.#merge(frame, view, cover, Number.POSITIVE_INFINITY);
    } finally {
      this.#isRestoring = false;
    }
  }

  #merge(frame: Uint8Array, view: BatchView, cover: Cover, stampUsMax: number): Received {
    const origin = this.#components.origins.intern(view.origin);
    const slot = this.provenance.add(
      { origin, seq: view.seq, leafCount: view.leafCount, signature: view.signature },
      cover,
    );
    let won = 0;
    let stale = 0;
    let heldBack = 0;
    let refused = 0;
    let forgotten = 0;
    const kept: number[] = [];
    for (let i = 0; i < view.itemCount; i++) {
      const tag = itemTag(view, i);
      if (tag >= ItemTag.SUBTREE) continue;
      const hi = itemStampHi(view, i);
      const lo = itemStampLo(view, i);
      const timeUs = stampTimeUs(hi, lo);
      // What the log has was taken in by another list, perhaps: it is looked at when all of it is here.
      if (!this.#isRestoring && !this.#writers.counts(origin, timeUs)) {
        refused++;
        continue;
      }
      if (timeUs > stampUsMax) {
        heldBack++;
        this.#heldBackUs = Math.min(this.#heldBackUs, timeUs);
        continue;
      }
      const keyAt = itemKeyOffset(view, i);
      const value = tag === ItemTag.VALUE ? frame : null;
      const valueAt = keyAt + this.shape.keyBytes;
      const found = this.table.find(frame, keyAt);
      if (found < 0 && timeUs <= this.#horizonUs && !this.#isRestoring) {
        stale++;
        forgotten++;
        continue;
      }
      if (found >= 0 && this.compare(found, hi, lo, origin, value, valueAt) >= 0) {
        stale++;
        // The log has it after the mark that settled it: in doubt again.
        if (this.#isRestoring && this.compare(found, hi, lo, origin, value, valueAt) === 0) {
          for (const mirror of this.#mirrors) mirror.push(found);
        }
        continue;
      }
      if (this.#isRestoring && found >= 0) this.#keepPrior(found);
      const entry = this.#put(found, frame, keyAt, value, valueAt, hi, lo, origin);
      this.#outbox.cancel(entry);
      const leaf = view.itemLeaves[i]!;
      this.table.setBatch(entry, slot, leaf);
      this.provenance.retain(slot, leaf);
      for (const mirror of this.#mirrors) mirror.push(entry);
      this.onChange?.(entry, 'remote');
      if (origin === ORIGIN_SELF) this.#components.hlc.skipTo({ hi, lo });
      else if (timeUs > this.#othersUs) this.#othersUs = timeUs;
      kept.push(entry);
      won++;
    }
    this.provenance.settle(slot);
    if (origin === ORIGIN_SELF) this.#outbox.made(view.seq);
    this.refused += refused;
    const isPartly = won > 0 && heldBack + refused + forgotten > 0;
    return {
      ...{ origin, seq: view.seq, won, stale, heldBack, refused },
      frame: isPartly ? this.relay(slot, kept) : frame,
    };
  }

  /** A write in a kernel map does not count. @param found its register, -1 for none. @param madeIn null: in any */
  #putBack(found: number, keyBytes: Uint8Array, keyAt: number, madeIn: Mirror | null): void {
    const key = keyBytes.slice(keyAt, keyAt + this.shape.keyBytes);
    for (const mirror of madeIn === null ? this.#mirrors : [madeIn]) {
      if (found < 0) mirror.removals.set(toHex(key), key);
      else if (!mirror.isUnapplied(found)) mirror.push(found);
    }
  }

  /** What a kernel map has where this register, or none (-1), is applied: null for nothing. */
  #kernelValue(entry: number): Uint8Array | null {
    if (entry >= 0 && this.isLive(entry)) return this.table.value(entry);
    return isArrayKind(this.shape.kind) ? new Uint8Array(this.shape.valueBytes) : null;
  }

  /** A local write has to get to the kernel maps that do not have it. @param before what stood in its place, null for nothing. */
  #toMirrors(entry: number, madeIn: Mirror | null, before: Uint8Array | null): void {
    const mirrors = this.#mirrors;
    let isNewer = false;
    for (const mirror of mirrors) {
      if (mirror === madeIn) {
        isNewer = true;
      } else if (mirrors.length === 1) {
        mirror.push(entry);
      } else {
        if (isNewer && mirror.isSwept && !mirror.isUnapplied(entry)) mirror.expected.set(entry, before);
        mirror.pushUnlogged(entry);
      }
    }
  }

  /** Any of the states that the log gives an entry one after the other may be the one that was applied last. */
  #keepPrior(entry: number): void {
    const priors = this.priors.get(entry) ?? [];
    priors.push(this.isTombstone(entry) ? null : this.table.value(entry));
    if (priors.length > PRIORS_MAX) priors.shift();
    this.priors.set(entry, priors);
  }

  /** As {@link Registers.store}; every kernel map has the entry from now on, or is about to. */
  #put(
    found: number,
    keyBytes: Uint8Array,
    keyAt: number,
    value: Uint8Array | null,
    valueAt: number,
    hi: number,
    lo: number,
    origin: number,
  ): number {
    const entry = this.store(found, keyBytes, keyAt, value, valueAt, hi, lo, origin);
    for (const mirror of this.#mirrors) {
      if (found < 0) mirror.added(entry);
      mirror.markPresent(entry);
    }
    return entry;
  }
}
