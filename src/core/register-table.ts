/**
 * Storage of the registers of one map: open addressing over ArrayBuffers, no object per entry.
 *
 * Entries live in chunks that never move, so an entry keeps its number until it is removed:
 * ```
 * chunk: key+value bytes | stamp hi, lo | key hash | batch, leaf | origin | flags
 * ```
 * The index that finds an entry by key is split into {@link SEGMENTS} segments that grow one at a time (linear probing,
 * power-of-two sizes, at most 3/4 full), so that growing never stalls the event loop; one tag byte per slot spares
 * most comparisons of keys. Removed entries go to a free list.
 *
 * About 98 bytes per register with a 16-byte key and a 32-byte value, index included.
 */
import { copyRange, rangesEqual } from './bytes.js';
import { invariant } from './errors.js';
import type { KeyedHash } from './keyed-hash.js';

const SEGMENTS = 64;
const SEGMENT_SLOTS_MIN = 16;
/** Key and value bytes per chunk, about: small maps stay small, big ones need few chunks. */
const CHUNK_BYTES_TARGET = 128 * 1024;

/** What is known of an entry beside its bytes and stamp; a bit set per entry. What is known of it in a kernel map: core/mirror.ts. */
export const EntryFlag = {
  /** The slot holds a register. */
  USED: 1,
  /** The register is a tombstone; the value bytes are meaningless. */
  TOMBSTONE: 2,
  /** A local write that no batch carries yet. */
  UNSENT: 4,
} as const;

class Chunk {
  readonly data: Uint8Array;
  readonly stampHi: Uint32Array;
  readonly stampLo: Uint32Array;
  readonly keyHash: Uint32Array;
  readonly batch: Uint32Array;
  readonly leaf: Uint16Array;
  readonly origin: Uint16Array;
  readonly flags: Uint8Array;

  constructor(entries: number, entryBytes: number) {
    this.data = new Uint8Array(entries * entryBytes);
    this.stampHi = new Uint32Array(entries);
    this.stampLo = new Uint32Array(entries);
    this.keyHash = new Uint32Array(entries);
    this.batch = new Uint32Array(entries);
    this.leaf = new Uint16Array(entries);
    this.origin = new Uint16Array(entries);
    this.flags = new Uint8Array(entries);
  }
}

class Segment {
  slots = new Uint32Array(SEGMENT_SLOTS_MIN);
  tags = new Uint8Array(SEGMENT_SLOTS_MIN);
  used = 0;
}

export class RegisterTable {
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly #entryBytes: number;
  readonly #hash: KeyedHash;
  readonly #chunkShift: number;
  readonly #chunkMask: number;
  readonly #chunks: Chunk[] = [];
  readonly #segments: (Segment | undefined)[] = new Array<Segment | undefined>(SEGMENTS).fill(undefined);
  readonly #free: number[] = [];
  /** Of {@link findMany}. */
  #hashes = new Uint32Array(0);
  #touched = 0;
  #end = 0;
  #size = 0;

  /** @param hash keyed per process, so that nobody can choose keys that collide here. */
  constructor(keyBytes: number, valueBytes: number, hash: KeyedHash) {
    this.keyBytes = keyBytes;
    this.valueBytes = valueBytes;
    this.#entryBytes = keyBytes + valueBytes;
    this.#hash = hash;
    const shift = Math.floor(Math.log2(CHUNK_BYTES_TARGET / this.#entryBytes));
    this.#chunkShift = Math.min(13, Math.max(3, shift));
    this.#chunkMask = (1 << this.#chunkShift) - 1;
  }

  /** Registers held, tombstones included. */
  get size(): number {
    return this.#size;
  }

  /** One past the greatest entry number in use: entries are `[0, end)`, those without USED are free. */
  get end(): number {
    return this.#end;
  }

  /** @returns the entry with the key at `bytes[at, at + keyBytes)`, or -1. */
  find(bytes: Uint8Array, at: number): number {
    const hash = this.#hashOf(bytes, at);
    const segment = this.#segments[hash >>> 26];
    if (segment === undefined) return -1;
    const { slots, tags } = segment;
    const mask = slots.length - 1;
    const tag = (hash >>> 18) & 0xff;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const entryPlusOne = slots[slot]!;
      if (entryPlusOne === 0) return -1;
      if (tags[slot] === tag && this.#keyIs(entryPlusOne - 1, bytes, at)) return entryPlusOne - 1;
    }
  }

  /**
   * As {@link find}, for `count` keys that stand one after the other in `bytes`; into `out`. A look-up in a large table
   * waits for memory, and the next one begins after that; here the waits overlap: the slots of all, then the keys of all.
   * Source: group prefetching (Chen et al., Improving Hash Join Performance through Prefetching, 2004).
   */
  findMany(bytes: Uint8Array, count: number, out: Int32Array): void {
    const { keyBytes } = this;
    if (this.#hashes.length < count) this.#hashes = new Uint32Array(count);
    const hashes = this.#hashes;
    for (let i = 0; i < count; i++) hashes[i] = this.#hashOf(bytes, i * keyBytes);
    for (let i = 0; i < count; i++) out[i] = this.#firstOfTag(hashes[i]!);
    for (let i = 0; i < count; i++) if (out[i]! >= 0) this.#touch(out[i]!);
    for (let i = 0; i < count; i++) {
      const entry = out[i]!;
      if (entry >= 0 && !this.#keyIs(entry, bytes, i * keyBytes)) out[i] = this.find(bytes, i * keyBytes);
    }
  }

  /** Adds an entry for a key that {@link find} did not find. All its fields but the key are zero. */
  insert(bytes: Uint8Array, at: number): number {
    const entry = this.#free.pop() ?? this.#append();
    const chunk = this.#chunk(entry);
    const i = entry & this.#chunkMask;
    copyRange(bytes, at, at + this.keyBytes, chunk.data, i * this.#entryBytes);
    chunk.flags[i] = EntryFlag.USED;
    const hash = this.#hashOf(bytes, at);
    let segment = this.#segments[hash >>> 26];
    if (segment === undefined) {
      segment = new Segment();
      this.#segments[hash >>> 26] = segment;
    } else if ((segment.used + 1) * 4 > segment.slots.length * 3) {
      this.#grow(segment);
    }
    place(segment, hash, entry);
    segment.used++;
    this.#size++;
    return entry;
  }

  /** Frees an entry. The slots after it move up, so that no gravestones slow down later look-ups. */
  remove(entry: number): void {
    const data = this.data(entry);
    const hash = this.#hashOf(data, this.keyOffset(entry));
    const segment = this.#segments[hash >>> 26];
    invariant(segment !== undefined, 'a used entry is in the index');
    const { slots, tags } = segment;
    const mask = slots.length - 1;
    let hole = hash & mask;
    while (slots[hole] !== entry + 1) {
      invariant(slots[hole] !== 0, 'a used entry is in the index');
      hole = (hole + 1) & mask;
    }
    for (let slot = (hole + 1) & mask; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const other = slots[slot]! - 1;
      const home = this.#hashOf(this.data(other), this.keyOffset(other)) & mask;
      if (((slot - home) & mask) >= ((slot - hole) & mask)) {
        slots[hole] = slots[slot]!;
        tags[hole] = tags[slot]!;
        hole = slot;
      }
    }
    slots[hole] = 0;
    segment.used--;
    const chunk = this.#chunk(entry);
    const i = entry & this.#chunkMask;
    chunk.flags[i] = 0;
    chunk.batch[i] = 0;
    this.#free.push(entry);
    this.#size--;
  }

  /** The chunk bytes in which the entry's key and value stand. */
  data(entry: number): Uint8Array {
    return this.#chunk(entry).data;
  }

  keyOffset(entry: number): number {
    return (entry & this.#chunkMask) * this.#entryBytes;
  }

  valueOffset(entry: number): number {
    return (entry & this.#chunkMask) * this.#entryBytes + this.keyBytes;
  }

  /** A copy of the key. */
  key(entry: number): Uint8Array {
    const at = this.keyOffset(entry);
    return this.data(entry).slice(at, at + this.keyBytes);
  }

  /** A copy of the value; meaningless for a tombstone. */
  value(entry: number): Uint8Array {
    const at = this.valueOffset(entry);
    return this.data(entry).slice(at, at + this.valueBytes);
  }

  setValue(entry: number, from: Uint8Array, at: number): void {
    copyRange(from, at, at + this.valueBytes, this.data(entry), this.valueOffset(entry));
  }

  valueIs(entry: number, bytes: Uint8Array, at: number): boolean {
    return rangesEqual(this.data(entry), this.valueOffset(entry), bytes, at, this.valueBytes);
  }

  flags(entry: number): number {
    return this.#chunk(entry).flags[entry & this.#chunkMask]!;
  }

  has(entry: number, flag: number): boolean {
    return (this.flags(entry) & flag) !== 0;
  }

  setFlag(entry: number, flag: number): void {
    const chunk = this.#chunk(entry);
    chunk.flags[entry & this.#chunkMask]! |= flag;
  }

  clearFlag(entry: number, flag: number): void {
    const chunk = this.#chunk(entry);
    chunk.flags[entry & this.#chunkMask]! &= ~flag;
  }

  stampHi(entry: number): number {
    return this.#chunk(entry).stampHi[entry & this.#chunkMask]!;
  }

  stampLo(entry: number): number {
    return this.#chunk(entry).stampLo[entry & this.#chunkMask]!;
  }

  origin(entry: number): number {
    return this.#chunk(entry).origin[entry & this.#chunkMask]!;
  }

  setStamp(entry: number, hi: number, lo: number, origin: number): void {
    const chunk = this.#chunk(entry);
    const i = entry & this.#chunkMask;
    chunk.stampHi[i] = hi;
    chunk.stampLo[i] = lo;
    chunk.origin[i] = origin;
  }

  /** Digest hash of the key (keyed per cluster); its top bits choose the digest bucket. */
  keyHash(entry: number): number {
    return this.#chunk(entry).keyHash[entry & this.#chunkMask]!;
  }

  setKeyHash(entry: number, hash: number): void {
    this.#chunk(entry).keyHash[entry & this.#chunkMask] = hash;
  }

  /** Signed batch that proves the register (a slot of core/provenance.ts), 0 if none yet. */
  batch(entry: number): number {
    return this.#chunk(entry).batch[entry & this.#chunkMask]!;
  }

  /** Leaf of {@link batch} that is this register. */
  leaf(entry: number): number {
    return this.#chunk(entry).leaf[entry & this.#chunkMask]!;
  }

  setBatch(entry: number, batch: number, leaf: number): void {
    const chunk = this.#chunk(entry);
    const i = entry & this.#chunkMask;
    chunk.batch[i] = batch;
    chunk.leaf[i] = leaf;
  }

  #hashOf(bytes: Uint8Array, at: number): number {
    const hash = this.#hash;
    hash.begin();
    hash.range(bytes, at, at + this.keyBytes);
    hash.finish();
    return hash.a;
  }

  /** The first entry on the way of the hash that may have its key; -1: none has. */
  #firstOfTag(hash: number): number {
    const segment = this.#segments[hash >>> 26];
    if (segment === undefined) return -1;
    const { slots, tags } = segment;
    const mask = slots.length - 1;
    const tag = (hash >>> 18) & 0xff;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const entryPlusOne = slots[slot]!;
      if (entryPlusOne === 0 || tags[slot] === tag) return entryPlusOne - 1;
    }
  }

  /** Has the entry's bytes brought into the cache. The sum is kept, or the reads would be left out. */
  #touch(entry: number): void {
    const { data, flags } = this.#chunk(entry);
    const i = entry & this.#chunkMask;
    const at = i * this.#entryBytes;
    this.#touched = (this.#touched + data[at]! + data[at + this.#entryBytes - 1]! + flags[i]!) | 0;
  }

  #chunk(entry: number): Chunk {
    return this.#chunks[entry >>> this.#chunkShift]!;
  }

  #keyIs(entry: number, bytes: Uint8Array, at: number): boolean {
    return rangesEqual(this.data(entry), this.keyOffset(entry), bytes, at, this.keyBytes);
  }

  #append(): number {
    if ((this.#end & this.#chunkMask) === 0) {
      this.#chunks.push(new Chunk(1 << this.#chunkShift, this.#entryBytes));
    }
    return this.#end++;
  }

  #grow(segment: Segment): void {
    const old = segment.slots;
    segment.slots = new Uint32Array(old.length * 2);
    segment.tags = new Uint8Array(old.length * 2);
    for (const entryPlusOne of old) {
      if (entryPlusOne === 0) continue;
      const entry = entryPlusOne - 1;
      place(segment, this.#hashOf(this.data(entry), this.keyOffset(entry)), entry);
    }
  }
}

function place(segment: Segment, hash: number, entry: number): void {
  const mask = segment.slots.length - 1;
  let slot = hash & mask;
  while (segment.slots[slot] !== 0) slot = (slot + 1) & mask;
  segment.slots[slot] = entry + 1;
  segment.tags[slot] = (hash >>> 18) & 0xff;
}
