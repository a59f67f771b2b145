/**
 * The registers of one replicated map: the last writer's per key. Their digest and the proofs of who wrote them are kept in
 * step with every change.
 *
 * The winner of two writes is decided by stamp, then origin (public key), then value bytes, a tombstone before every
 * value: a total order, so that merging is commutative, associative and idempotent (I2).
 * Source: Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data Types", 2011, 3.2.1.
 */
import { type BatchView, ItemTag, itemKeyOffset, itemStampHi, itemStampLo, itemTag } from './batch.js';
import { compareBytes } from './bytes.js';
import { Digest } from './digest.js';
import { KeyedHash } from './keyed-hash.js';
import type { MapShape } from './map-port.js';
import type { Hash } from './merkle.js';
import type { Origins } from './origins.js';
import { Provenance } from './provenance.js';
import { RegisterHash } from './register-hash.js';
import { EntryFlag, RegisterTable } from './register-table.js';
import { compareStamps, type Stamp } from './stamp.js';

export interface RegistersComponents {
  readonly origins: Origins;
  readonly hash: Hash;
}

export interface RegistersOptions {
  readonly shape: MapShape;
  /** 16 bytes, the same on every node of the cluster. */
  readonly digestKey: Uint8Array;
  /** 16 bytes, of this process alone. */
  readonly indexKey: Uint8Array;
}

export class Registers {
  readonly table: RegisterTable;
  readonly digest = new Digest();
  readonly provenance: Provenance;
  readonly #origins: Origins;
  readonly #hashes: RegisterHash;
  #tombstones = 0;

  constructor({ origins, hash }: RegistersComponents, { shape, digestKey, indexKey }: RegistersOptions) {
    this.#origins = origins;
    this.provenance = new Provenance(hash);
    this.table = new RegisterTable(shape.keyBytes, shape.valueBytes, new KeyedHash(indexKey));
    this.#hashes = new RegisterHash(this.table, this.digest, origins, digestKey);
  }

  /** Live registers. */
  get entries(): number {
    return this.table.size - this.#tombstones;
  }

  get tombstones(): number {
    return this.#tombstones;
  }

  /** Public key of an origin by its local number. */
  originKey(origin: number): Uint8Array {
    return this.#origins.key(origin);
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

  /** What names the entry's register in a comparison with a peer ({@link RegisterHash.fingerprint}). */
  fingerprint(entry: number): { tag: number; check: number } {
    return this.#hashes.fingerprint(entry);
  }

  /** Whether every register of the batch is here, or has lost already. */
  protected knows(frame: Uint8Array, view: BatchView): boolean {
    const { table } = this;
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
      if (tag === ItemTag.VALUE && !table.valueIs(found, frame, keyAt + table.keyBytes)) return false;
    }
    return true;
  }

  /** Positive if the register in the table comes after (wins over) the other one, 0 if they are the same. */
  protected compare(
    entry: number,
    hi: number,
    lo: number,
    origin: number,
    value: Uint8Array | null,
    valueAt: number,
  ) {
    const { table } = this;
    const byStamp = compareStamps(table.stampHi(entry), table.stampLo(entry), hi, lo);
    if (byStamp !== 0) return byStamp;
    const byOrigin = this.#origins.compare(table.origin(entry), origin);
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

  /**
   * Replaces or adds a register. What the new one has to do with kernel and network is the caller's to say.
   * @param found the entry of the key, -1 if there is none
   * @param value null for a tombstone
   * @returns the entry
   */
  protected store(
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
      table.setKeyHash(entry, this.#hashes.keyHash(keyBytes, keyAt).a);
      table.setBatch(entry, 0, 0);
    } else {
      this.#hashes.fold(entry, -1);
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
    this.#hashes.fold(entry, 1);
    return entry;
  }

  /** Gives the register another stamp: no batch proves that. */
  protected setStamp(entry: number, hi: number, lo: number, origin: number): void {
    this.#hashes.fold(entry, -1);
    this.#release(entry);
    this.table.setStamp(entry, hi, lo, origin);
    this.#hashes.fold(entry, 1);
  }

  /** Takes the register out, and frees its entry. */
  protected discard(entry: number): void {
    this.#hashes.fold(entry, -1);
    this.#drop(entry);
    this.table.remove(entry);
  }

  /** Undoes what {@link store} counted for the entry's present register. */
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
}
