/**
 * The state of one replicated map on this node: a last-writer-wins register per key, its digest, and the proof of who
 * wrote it. Pure: it touches no kernel map and no network, and asks nobody for the time.
 *
 * Local writes enter by {@link Replica.writeLocal} and leave in signed batches ({@link Replica.nextBatch}); batches of others
 * enter by {@link Replica.receive}. Whatever won and is not in a kernel map yet waits in that one's mirror (core/mirror.ts).
 *
 * The winner of two writes is decided by stamp, then origin (public key), then value bytes, a tombstone before every
 * value: a total order, so that merging is commutative, associative and idempotent (I2).
 * Source: Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data Types", 2011, 3.2.1.
 */
import {
  BATCH_HEADER_BYTES,
  type BatchView,
  BatchWriter,
  coverOf,
  decodeBatch,
  ItemTag,
  itemKeyOffset,
  itemStampHi,
  itemStampLo,
  itemTag,
  signedBytes,
} from './batch.js';
import { BatchNumbers } from './batch-numbers.js';
import { compareBytes } from './bytes.js';
import { Digest } from './digest.js';
import { EntryQueue } from './entry-queue.js';
import { MapmeshError } from './errors.js';
import type { HybridClock } from './hybrid-clock.js';
import { KeyedHash } from './keyed-hash.js';
import { BATCH_BYTES_TARGET } from './limits.js';
import { isArrayKind, type MapShape } from './map-port.js';
import { type Cover, HASH_BYTES, type Hash, LEAVES_MAX, rootOf } from './merkle.js';
import { Mirror } from './mirror.js';
import { ORIGIN_SELF, type Origins } from './origins.js';
import { Provenance } from './provenance.js';
import { RegisterHash } from './register-hash.js';
import { EntryFlag, RegisterTable } from './register-table.js';
import { compareStamps, type Stamp, stampAfter, stampTimeUs } from './stamp.js';

/** Most states of an entry that are kept while the log is replayed: the log settles all of them every 100 ms as a rule. */
const PRIORS_MAX = 256;

/** Where a change of a register came from. */
export type ChangeSource = 'local' | 'remote' | 'sweep' | 'expiry';

export interface ReplicaComponents {
  readonly hlc: HybridClock;
  readonly origins: Origins;
  readonly hash: Hash;
  /** Signs with this node's key: 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array;
  verify(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean;
}

export interface ReplicaOptions {
  readonly mapId: Uint8Array;
  readonly shape: MapShape;
  /** 16 bytes, the same on every node of the cluster. */
  readonly digestKey: Uint8Array;
  /** 16 bytes, of this process alone. */
  readonly indexKey: Uint8Array;
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
  /** The batch without what was held back or had been deleted: what is to be kept, if any won. */
  readonly frame: Uint8Array;
}

export class Replica {
  readonly shape: MapShape;
  readonly mapId: Uint8Array;
  readonly table: RegisterTable;
  readonly digest = new Digest();
  readonly provenance: Provenance;
  /** Which batches are here, this node's own included. */
  readonly batches = new BatchNumbers();
  /**
   * While the log is replayed: the states that a register in doubt replaced, null for a tombstone. Tells an apply that the
   * last run did not get round to from a change made in the kernel map since.
   */
  readonly priors = new Map<number, (Uint8Array | null)[]>();
  /** Told of every register that changed; for `watch`. Null when nobody listens. */
  onChange: ((entry: number, source: ChangeSource) => void) | null = null;
  /** Told of every key whose register is dropped; for the log. */
  onDrop: ((key: Uint8Array) => void) | null = null;

  readonly #components: ReplicaComponents;
  readonly #registers: RegisterHash;
  readonly #unsent: EntryQueue;
  readonly #mirrors: Mirror[] = [];
  readonly #writer = new BatchWriter();
  #seq: number;
  #isRestoring = false;
  #tombstones = 0;
  #horizonUs = 0;
  #heldBackUs = Number.POSITIVE_INFINITY;
  #othersUs = 0;

  constructor(components: ReplicaComponents, options: ReplicaOptions) {
    this.#components = components;
    this.shape = options.shape;
    this.mapId = options.mapId;
    this.provenance = new Provenance(components.hash);
    this.table = new RegisterTable(
      options.shape.keyBytes,
      options.shape.valueBytes,
      new KeyedHash(options.indexKey),
    );
    this.#registers = new RegisterHash(this.table, this.digest, components.origins, options.digestKey);
    this.#unsent = new EntryQueue(this.table, EntryFlag.UNSENT);
    this.#seq = options.firstSeq - 1;
    this.batches.completeTo(ORIGIN_SELF, this.#seq);
  }

  /** Live registers. */
  get entries(): number {
    return this.table.size - this.#tombstones;
  }

  get tombstones(): number {
    return this.#tombstones;
  }

  /**
   * Tombstones up to this time have been dropped: a key without a register counts as deleted then. So a register up to
   * it of a key that is unknown here is one that was deleted since, and is not taken (I9). See core/stability.ts.
   */
  get horizonUs(): number {
    return this.#horizonUs;
  }

  /** The latest time of a register that another node made and that was taken: its clock, or one like it, had come to that. */
  get othersUs(): number {
    return this.#othersUs;
  }

  /** Earliest stamp of a register that was held back since the last {@link forgetHeldBack}; infinite if none was. */
  get heldBackUs(): number {
    return this.#heldBackUs;
  }

  /** Kernel maps in which the replica is mirrored, oldest first. */
  get mirrors(): readonly Mirror[] {
    return this.#mirrors;
  }

  /** Local writes that no batch carries yet. */
  get unsent(): number {
    return this.#unsent.size;
  }

  /** Number of the last batch made here; {@link ReplicaOptions.firstSeq} - 1 before the first. */
  get seq(): number {
    return this.#seq;
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

  /** Public key of an origin by its local number. */
  originKey(origin: number): Uint8Array {
    return this.#components.origins.key(origin);
  }

  /** Whether the entry holds a register with a value. */
  isLive(entry: number): boolean {
    return (this.table.flags(entry) & (EntryFlag.USED | EntryFlag.TOMBSTONE)) === EntryFlag.USED;
  }

  isTombstone(entry: number): boolean {
    return this.table.has(entry, EntryFlag.TOMBSTONE);
  }

  stamp(entry: number): Stamp {
    return { hi: this.table.stampHi(entry), lo: this.table.stampLo(entry) };
  }

  /**
   * Takes in a write made on this node.
   * @param value null for a delete.
   * @param eventUs wall time at which it happened.
   * @param after the register that the writer could have seen: the write's stamp will be greater.
   * @param madeIn the kernel map that has it already; null: all are to take it.
   * @returns the entry; `won` is false if a register with a greater stamp is there and stays.
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
  ): { entry: number; won: boolean } {
    const stamp = this.#components.hlc.issue(eventUs, after);
    const found = this.table.find(keyBytes, keyAt);
    if (found >= 0 && this.#compare(found, stamp.hi, stamp.lo, ORIGIN_SELF, value, valueAt) >= 0) {
      return { entry: found, won: false };
    }
    const before = this.#mirrors.length > 1 ? this.#kernelValue(found) : null;
    const entry = this.#store(found, keyBytes, keyAt, value, valueAt, stamp.hi, stamp.lo, ORIGIN_SELF);
    this.#unsent.push(entry);
    this.#toMirrors(entry, madeIn, before);
    if (this.priors.size > 0) this.priors.delete(entry);
    this.onChange?.(entry, source);
    return { entry, won: true };
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
    if (skipsKnown && this.#bringsNothing(frame, view)) {
      return { origin: -1, seq: view.seq, won: 0, stale: view.itemCount, heldBack: 0, frame };
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
    if (origin === ORIGIN_SELF) this.batches.completeTo(origin, seq);
  }

  /** Everything restored so far is known to have reached the kernel map. */
  settleRestored(): void {
    for (const mirror of this.#mirrors) mirror.settled();
    this.priors.clear();
  }

  /**
   * Everybody has the tombstones up to `timeUs`, or never will: they may be dropped (core/forget.ts). Never lowers it.
   * What is written here from now on is later: it must not count as deleted.
   */
  raiseHorizon(timeUs: number): void {
    if (timeUs <= this.#horizonUs) return;
    this.#horizonUs = timeUs;
    this.#components.hlc.stayAbove(timeUs);
  }

  /** A horizon beyond `timeUs` was a clock's mistake. To be called with {@link HybridClock.setBack}. */
  setHorizonBack(timeUs: number): void {
    this.#horizonUs = Math.min(this.#horizonUs, timeUs);
  }

  /** Batches up to this number may have been made in an earlier run: none of them is made again. */
  skipBatchesTo(seq: number): void {
    if (seq <= this.#seq) return;
    this.#seq = seq;
    this.batches.completeTo(ORIGIN_SELF, seq);
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
    this.#registers.fold(entry, -1);
    this.#release(entry);
    this.table.setStamp(entry, hi, lo, ORIGIN_SELF);
    this.#registers.fold(entry, 1);
    this.#unsent.push(entry);
  }

  /** Replaces a live register by a tombstone that follows it at once (core/expiry.ts). */
  expire(entry: number): void {
    const { hi, lo } = stampAfter(this.stamp(entry));
    this.#store(entry, this.table.key(entry), 0, null, 0, hi, lo, ORIGIN_SELF);
    this.#unsent.push(entry);
    // What vanishes from a kernel map before the log says why would be taken for a delete of somebody's after a kill -9.
    for (const mirror of this.#mirrors) mirror.pushUnlogged(entry);
    if (this.priors.size > 0) this.priors.delete(entry);
    this.onChange?.(entry, 'expiry');
  }

  /** Takes the entry out of everything, without a trace (core/forget.ts says when). */
  remove(entry: number): void {
    for (const mirror of this.#mirrors) mirror.forget(entry);
    this.priors.delete(entry);
    this.#unsent.cancel(entry);
    this.#registers.fold(entry, -1);
    this.#drop(entry);
    this.table.remove(entry);
  }

  /** Signs the next batch of local writes, newest state only. @returns its frame, or null if there are none. */
  nextBatch(): Uint8Array | null {
    if (this.#unsent.size === 0) return null;
    const { hash, origins, sign } = this.#components;
    const { table } = this;
    const writer = this.#writer;
    writer.reset(this.mapId, origins.key(ORIGIN_SELF), this.#seq + 1);
    const entries: number[] = [];
    const hashes = new Uint8Array(LEAVES_MAX * HASH_BYTES);
    while (entries.length < LEAVES_MAX && writer.length < BATCH_BYTES_TARGET) {
      const entry = this.#unsent.shift();
      if (entry < 0) break;
      const at = this.#append(entry);
      hashes.set(hash(writer.tail(at)).subarray(0, HASH_BYTES), entries.length * HASH_BYTES);
      entries.push(entry);
    }
    if (entries.length === 0) return null;
    this.#seq++;
    this.batches.completeTo(ORIGIN_SELF, this.#seq);
    const leafCount = entries.length;
    const cover = { levels: new Uint8Array(leafCount), hashes: hashes.slice(0, leafCount * HASH_BYTES) };
    const root = rootOf(cover, leafCount, hash);
    const frame = writer.finish(leafCount, (header) => sign(signedBytes(header, root)));
    const slot = this.provenance.add(
      { origin: ORIGIN_SELF, seq: this.#seq, leafCount, signature: frame.subarray(64, BATCH_HEADER_BYTES) },
      cover,
    );
    for (let leaf = 0; leaf < leafCount; leaf++) {
      table.setBatch(entries[leaf]!, slot, leaf);
      this.provenance.retain(slot, leaf);
      for (const mirror of this.#mirrors) mirror.batched(entries[leaf]!);
    }
    return frame;
  }

  /**
   * The registers of one kept batch as a frame that proves its origin.
   * @param entries in the order of their leaves, all current registers of that batch.
   */
  relay(slot: number, entries: readonly number[]): Uint8Array {
    const { origins } = this.#components;
    const batch = this.provenance.get(slot);
    const writer = this.#writer;
    writer.reset(this.mapId, origins.key(batch.origin), batch.seq);
    const byLeaf = new Map(entries.map((entry) => [this.table.leaf(entry), entry]));
    const cover = this.provenance.proof(slot, (leaf) => byLeaf.has(leaf));
    if (cover === null) {
      this.#append(entries[0]!);
    } else {
      let leaf = 0;
      for (let i = 0; i < cover.levels.length; i++) {
        const level = cover.levels[i]!;
        const entry = level === 0 ? byLeaf.get(leaf) : undefined;
        if (entry !== undefined) this.#append(entry);
        else writer.subtree(level, cover.hashes, i * HASH_BYTES);
        leaf += 4 ** level;
      }
    }
    return writer.finish(batch.leafCount, batch.signature);
  }

  /** Whether every register of the batch is here, or has lost already. */
  #bringsNothing(frame: Uint8Array, view: BatchView): boolean {
    const { table, shape } = this;
    for (let i = 0; i < view.itemCount; i++) {
      const tag = itemTag(view, i);
      if (tag >= ItemTag.SUBTREE) continue;
      const keyAt = itemKeyOffset(view, i);
      const found = table.find(frame, keyAt);
      if (found < 0) return false;
      const hi = itemStampHi(view, i);
      const lo = itemStampLo(view, i);
      const order = compareStamps(table.stampHi(found), table.stampLo(found), hi, lo);
      if (order > 0) continue;
      if (order < 0 || compareBytes(this.originKey(table.origin(found)), view.origin) !== 0) return false;
      if (this.isTombstone(found) !== (tag === ItemTag.TOMBSTONE)) return false;
      if (tag === ItemTag.VALUE && !table.valueIs(found, frame, keyAt + shape.keyBytes)) return false;
    }
    return true;
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
    const kept: number[] = [];
    for (let i = 0; i < view.itemCount; i++) {
      const tag = itemTag(view, i);
      if (tag >= ItemTag.SUBTREE) continue;
      const hi = itemStampHi(view, i);
      const lo = itemStampLo(view, i);
      const timeUs = stampTimeUs(hi, lo);
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
        refused++;
        continue;
      }
      if (found >= 0 && this.#compare(found, hi, lo, origin, value, valueAt) >= 0) {
        stale++;
        // The log has it after the mark that settled it: in doubt again.
        if (this.#isRestoring && this.#compare(found, hi, lo, origin, value, valueAt) === 0) {
          for (const mirror of this.#mirrors) mirror.push(found);
        }
        continue;
      }
      if (this.#isRestoring && found >= 0) this.#keepPrior(found);
      const entry = this.#store(found, frame, keyAt, value, valueAt, hi, lo, origin);
      this.#unsent.cancel(entry);
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
    if (origin === ORIGIN_SELF && view.seq > this.#seq) this.#seq = view.seq;
    const isPartly = won > 0 && heldBack + refused > 0;
    return { origin, seq: view.seq, won, stale, heldBack, frame: isPartly ? this.relay(slot, kept) : frame };
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

  /** Appends the entry's register to the frame being written. @returns the offset of the item. */
  #append(entry: number): number {
    const { table, shape } = this;
    return this.#writer.register(
      table.stampHi(entry),
      table.stampLo(entry),
      table.data(entry),
      table.keyOffset(entry),
      shape.keyBytes,
      table.valueOffset(entry),
      shape.valueBytes,
      this.isTombstone(entry),
    );
  }

  /** Positive if the register in the table comes after (wins over) the other one, 0 if they are the same. */
  #compare(entry: number, hi: number, lo: number, origin: number, value: Uint8Array | null, valueAt: number) {
    const { table } = this;
    const byStamp = compareStamps(table.stampHi(entry), table.stampLo(entry), hi, lo);
    if (byStamp !== 0) return byStamp;
    const byOrigin = this.#components.origins.compare(table.origin(entry), origin);
    if (byOrigin !== 0) return byOrigin;
    const isTombstone = this.isTombstone(entry);
    if (isTombstone || value === null) return Number(value === null) - Number(isTombstone);
    const data = table.data(entry);
    const at = table.valueOffset(entry);
    for (let i = 0; i < table.valueBytes; i++) {
      const difference = data[at + i]! - value[valueAt + i]!;
      if (difference !== 0) return difference;
    }
    return 0;
  }

  /** Replaces or adds a register. What the new one has to do with kernel and network is the caller's to say. */
  #store(
    found: number,
    keyBytes: Uint8Array,
    keyAt: number,
    value: Uint8Array | null,
    valueAt: number,
    hi: number,
    lo: number,
    origin: number,
  ): number {
    const { table } = this;
    let entry = found;
    if (entry < 0) {
      entry = table.insert(keyBytes, keyAt);
      table.setKeyHash(entry, this.#registers.keyHash(keyBytes, keyAt).a);
      table.setBatch(entry, 0, 0);
      for (const mirror of this.#mirrors) mirror.added(entry);
    } else {
      this.#registers.fold(entry, -1);
      this.#drop(entry);
    }
    table.setStamp(entry, hi, lo, origin);
    if (value === null) {
      table.setFlag(entry, EntryFlag.TOMBSTONE);
      this.#tombstones++;
    } else {
      table.clearFlag(entry, EntryFlag.TOMBSTONE);
      table.setValue(entry, value, valueAt);
    }
    for (const mirror of this.#mirrors) mirror.markPresent(entry);
    this.#registers.fold(entry, 1);
    return entry;
  }

  /** Undoes what {@link #store} counted for the entry's present register. */
  #drop(entry: number): void {
    this.#release(entry);
    if (this.isTombstone(entry)) this.#tombstones--;
  }

  /** No batch proves the entry's register any more. */
  #release(entry: number): void {
    const slot = this.table.batch(entry);
    if (slot !== 0) this.provenance.release(slot, this.table.leaf(entry));
    this.table.setBatch(entry, 0, 0);
  }

  /** What names the entry's register in a comparison with a peer ({@link RegisterHash.fingerprint}). */
  fingerprint(entry: number): { tag: number; check: number } {
    return this.#registers.fingerprint(entry);
  }
}
