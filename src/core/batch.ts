/**
 * The signed batch: registers of one map, written by one origin. The same bytes travel by gossip, stand in a join
 * stream and rest on disk; whole when fresh, with superseded registers pruned to hashes when relayed later.
 *
 * ```
 * offset bytes
 *      0     1  format version, 1
 *      1     1  frame type, 1 = batch
 *      2     2  leafCount: registers that the origin signed, 1..1024
 *      4     2  itemCount: items that follow, 1..leafCount
 *      6     2  0
 *      8     8  seq: the origin's number of the batch within the map (u64, up to 2^53)
 *     16    16  map id: names cluster, map and shape (mapIdOf)
 *     32    32  origin: raw Ed25519 public key
 *     64    64  Ed25519 signature over signedBytes()
 *    128        items, left to right
 *
 * item: u8 tag, then
 *   0 value       u64 stamp, key, value
 *   1 tombstone   u64 stamp, key
 *   2+L subtree   16-byte hash of a node at level L (0..5)
 * ```
 * All integers little endian. The item's bytes, tag included, are what its leaf hash covers (core/merkle.ts).
 */
import { readUint32 } from './bytes.js';
import { MapmeshError } from './errors.js';
import { FRAME_BYTES_MAX } from './limits.js';
import type { MapShape } from './map-port.js';
import { type Cover, HASH_BYTES, type Hash, LEAVES_MAX, leavesUnder, rootLevel } from './merkle.js';
import { ORIGIN_KEY_BYTES } from './origins.js';

export const WIRE_VERSION = 1;
export const MAP_ID_BYTES = 16;
export const SIGNATURE_BYTES = 64;
export const BATCH_HEADER_BYTES = 128;

/** First two bytes of every frame are version and type. */
export const FrameType = {
  BATCH: 1,
  PROBE: 2,
  STATE: 3,
  SINCE: 4,
  ASK: 5,
  SUMS: 6,
  LIST: 7,
  WANT: 8,
  BUNDLE: 9,
  END: 10,
  VECTOR: 11,
} as const;

export const ItemTag = { VALUE: 0, TOMBSTONE: 1, SUBTREE: 2 } as const;

const STAMP_BYTES = 8;
const SIGNATURE_CONTEXT = new TextEncoder().encode('mapmesh batch 1\0');

/**
 * What a map is called in frames: a hash of cluster, name and shape, so that maps that differ never mix (I12).
 * @param generation how many maps of the name there have been: one that was removed and added again is another, of which
 * nobody may bring back what the first one had.
 */
export function mapIdOf(
  cluster: string,
  name: string,
  shape: MapShape,
  hash: Hash,
  generation = 1,
): Uint8Array {
  const { kind, keyBytes, valueBytes } = shape;
  const first = `mapmesh map 1\0${cluster}\0${name}\0${kind}\0${keyBytes}\0${valueBytes}`;
  const text = generation === 1 ? first : `${first}\0${generation}`;
  return hash(new TextEncoder().encode(text)).slice(0, MAP_ID_BYTES);
}

/** Size of an item that carries a register. */
function itemBytes(keyBytes: number, valueBytes: number, tombstone: boolean): number {
  return 1 + STAMP_BYTES + keyBytes + (tombstone ? 0 : valueBytes);
}

/** What the origin signs: who, which map, which batch, and the root over its registers. */
export function signedBytes(frame: Uint8Array, root: Uint8Array): Uint8Array {
  const fixed = SIGNATURE_CONTEXT.length;
  const out = new Uint8Array(fixed + 4 + 8 + MAP_ID_BYTES + ORIGIN_KEY_BYTES + HASH_BYTES);
  out.set(SIGNATURE_CONTEXT, 0);
  out.set(frame.subarray(0, 4), fixed);
  out.set(frame.subarray(8, 64), fixed + 4);
  out.set(root.subarray(0, HASH_BYTES), fixed + 60);
  return out;
}

/** Builds one frame in a buffer of its own; {@link reset} starts the next. */
export class BatchWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #length = 0;
  #items = 0;

  /** @param bytesMax largest frame; a single register must fit. */
  constructor(bytesMax = FRAME_BYTES_MAX) {
    this.#bytes = new Uint8Array(bytesMax);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get items(): number {
    return this.#items;
  }

  get length(): number {
    return this.#length;
  }

  reset(mapId: Uint8Array, origin: Uint8Array, seq: number): void {
    this.#bytes.fill(0, 0, BATCH_HEADER_BYTES);
    this.#bytes[0] = WIRE_VERSION;
    this.#bytes[1] = FrameType.BATCH;
    this.#view.setBigUint64(8, BigInt(seq), true);
    this.#bytes.set(mapId, 16);
    this.#bytes.set(origin, 32);
    this.#length = BATCH_HEADER_BYTES;
    this.#items = 0;
  }

  /** Appends a register. @returns the offset of its item. */
  register(
    hi: number,
    lo: number,
    data: Uint8Array,
    keyAt: number,
    keyBytes: number,
    valueAt: number,
    valueBytes: number,
    tombstone: boolean,
  ): number {
    const at = this.#length;
    const bytes = this.#bytes;
    bytes[at] = tombstone ? ItemTag.TOMBSTONE : ItemTag.VALUE;
    this.#view.setUint32(at + 1, lo, true);
    this.#view.setUint32(at + 5, hi, true);
    let end = at + 9;
    bytes.set(data.subarray(keyAt, keyAt + keyBytes), end);
    end += keyBytes;
    if (!tombstone) {
      bytes.set(data.subarray(valueAt, valueAt + valueBytes), end);
      end += valueBytes;
    }
    this.#length = end;
    this.#items++;
    return at;
  }

  /** Appends the hash of a pruned subtree. */
  subtree(level: number, hashes: Uint8Array, at: number): void {
    this.#bytes[this.#length] = ItemTag.SUBTREE + level;
    this.#bytes.set(hashes.subarray(at, at + HASH_BYTES), this.#length + 1);
    this.#length += 1 + HASH_BYTES;
    this.#items++;
  }

  /** The bytes of the item that starts at `at` and ends where the frame ends so far. */
  tail(at: number): Uint8Array {
    return this.#bytes.subarray(at, this.#length);
  }

  /** Fills in the counts and the signature. @returns a copy that the caller owns. */
  finish(leafCount: number, signature: Uint8Array | ((header: Uint8Array) => Uint8Array)): Uint8Array {
    this.#view.setUint16(2, leafCount, true);
    this.#view.setUint16(4, this.#items, true);
    const signed = typeof signature === 'function' ? signature(this.#bytes) : signature;
    this.#bytes.set(signed, 64);
    return this.#bytes.slice(0, this.#length);
  }
}

/** A decoded batch. Offsets point into `bytes`, which the view borrows. */
export interface BatchView {
  readonly bytes: Uint8Array;
  readonly leafCount: number;
  readonly seq: number;
  readonly origin: Uint8Array;
  readonly signature: Uint8Array;
  readonly itemCount: number;
  /** Per item: where it starts, and the first leaf it stands for. */
  readonly itemOffsets: Uint32Array;
  readonly itemLeaves: Uint16Array;
}

/** Tag of item `i`. */
export function itemTag(view: BatchView, i: number): number {
  return view.bytes[view.itemOffsets[i]!]!;
}

export function itemStampLo(view: BatchView, i: number): number {
  return readUint32(view.bytes, view.itemOffsets[i]! + 1);
}

export function itemStampHi(view: BatchView, i: number): number {
  return readUint32(view.bytes, view.itemOffsets[i]! + 5);
}

export function itemKeyOffset(view: BatchView, i: number): number {
  return view.itemOffsets[i]! + 9;
}

/** Checks and returns version and type of a frame. @throws MapmeshError ERR_WIRE */
export function frameType(bytes: Uint8Array): number {
  if (bytes.length < 2) throw wire(`${bytes.length} bytes`, 'at least a version and a type');
  if (bytes[0] !== WIRE_VERSION) throw wire(`format version ${bytes[0]}`, `${WIRE_VERSION}`);
  return bytes[1]!;
}

/**
 * Decodes a batch of the map. Every length is checked before it is used; what is returned is well formed, but not yet
 * proven: call {@link coverOf} and verify the signature.
 * @throws MapmeshError ERR_WIRE
 */
export function decodeBatch(bytes: Uint8Array, mapId: Uint8Array, shape: MapShape): BatchView {
  if (bytes.length > FRAME_BYTES_MAX) throw wire(`${bytes.length} bytes`, `at most ${FRAME_BYTES_MAX}`);
  if (frameType(bytes) !== FrameType.BATCH) throw wire(`frame type ${bytes[1]}`, 'a batch');
  if (bytes.length <= BATCH_HEADER_BYTES) throw wire(`${bytes.length} bytes`, 'a header and items');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const leafCount = view.getUint16(2, true);
  const itemCount = view.getUint16(4, true);
  if (leafCount < 1 || leafCount > LEAVES_MAX) throw wire(`${leafCount} leaves`, `1 to ${LEAVES_MAX}`);
  if (itemCount < 1 || itemCount > leafCount) throw wire(`${itemCount} items`, `1 to ${leafCount}`);
  if (view.getUint16(6, true) !== 0) throw wire('reserved bytes set', 'zero');
  const seq = Number(view.getBigUint64(8, true));
  if (!Number.isSafeInteger(seq)) throw wire('a batch number over 2^53', 'a smaller one');
  for (let i = 0; i < MAP_ID_BYTES; i++) {
    if (bytes[16 + i] !== mapId[i]) throw wire('a batch of another map', 'one of the topic it came on');
  }

  const itemOffsets = new Uint32Array(itemCount);
  const itemLeaves = new Uint16Array(itemCount);
  const valueItemBytes = itemBytes(shape.keyBytes, shape.valueBytes, false);
  const tombstoneItemBytes = itemBytes(shape.keyBytes, shape.valueBytes, true);
  const levelMax = rootLevel(leafCount);
  let at = BATCH_HEADER_BYTES;
  let leaf = 0;
  for (let i = 0; i < itemCount; i++) {
    if (at >= bytes.length || leaf >= leafCount) throw wire('items that do not fit the leaves', 'a cover');
    itemOffsets[i] = at;
    itemLeaves[i] = leaf;
    const tag = bytes[at]!;
    if (tag === ItemTag.VALUE) {
      at += valueItemBytes;
      leaf++;
    } else if (tag === ItemTag.TOMBSTONE) {
      at += tombstoneItemBytes;
      leaf++;
    } else {
      const level = tag - ItemTag.SUBTREE;
      const span = leavesUnder(level);
      if (level > levelMax || leaf % span !== 0) throw wire(`a subtree of level ${level}`, 'one of the tree');
      at += 1 + HASH_BYTES;
      leaf = Math.min(leaf + span, leafCount);
    }
  }
  if (leaf !== leafCount || at !== bytes.length) throw wire('items that do not fit the leaves', 'a cover');
  return {
    bytes,
    leafCount,
    seq,
    origin: bytes.subarray(32, 32 + ORIGIN_KEY_BYTES),
    signature: bytes.subarray(64, 64 + SIGNATURE_BYTES),
    itemCount,
    itemOffsets,
    itemLeaves,
  };
}

/** The hash of each item: of the register's bytes, or the pruned subtree's as sent. */
export function coverOf(view: BatchView, hash: Hash): Cover {
  const { bytes, itemOffsets, itemCount } = view;
  const levels = new Uint8Array(itemCount);
  const hashes = new Uint8Array(itemCount * HASH_BYTES);
  for (let i = 0; i < itemCount; i++) {
    const at = itemOffsets[i]!;
    const end = i + 1 < itemCount ? itemOffsets[i + 1]! : bytes.length;
    const tag = bytes[at]!;
    if (tag >= ItemTag.SUBTREE) {
      levels[i] = tag - ItemTag.SUBTREE;
      hashes.set(bytes.subarray(at + 1, at + 1 + HASH_BYTES), i * HASH_BYTES);
    } else {
      hashes.set(hash(bytes.subarray(at, end)).subarray(0, HASH_BYTES), i * HASH_BYTES);
    }
  }
  return { levels, hashes };
}

export function wire(found: string, wanted: string): MapmeshError {
  return new MapmeshError('ERR_WIRE', `Cannot decode frame: ${found}, expected ${wanted}`);
}
